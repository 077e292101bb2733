// The description of this machine, measured once and kept in
// ${XDG_CACHE_HOME:-$HOME/.cache}/lathe/device.json until the processor or the version of lathe changes.
#pragma once

#include "core/device.h"

namespace lathe::cli {

// From the cache if it is good, else measured and stored. With `refresh` measured always. A cache that
// cannot be read or written costs a note on stderr, never more.
Device host_device(bool refresh = false);

}  // namespace lathe::cli
