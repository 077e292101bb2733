// Programs that others wrote, run with a limit of time.
#pragma once

#include <string>
#include <vector>

namespace lathe::mcu {

struct ProcessResult {
  int code = 0;            // of its exit; 128 + the signal that ended it
  bool timed_out = false;  // it was killed when its time was up, with all that it had started
  std::string out, err;    // at most 16 MiB of each
};

// Runs arguments[0], found along PATH, in `folder`. Throws kInput when there is no such program.
ProcessResult run_process(const std::vector<std::string>& arguments, const std::string& folder, double seconds);

// Found along PATH.
bool have_program(const std::string& name);

}  // namespace lathe::mcu
