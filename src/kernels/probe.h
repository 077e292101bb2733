// Measures the machine that lathe runs on and describes it as a Device:
//
//   Device host = probe_host();   // takes about two seconds
//
// Peak rates come from independent chains of multiply-adds in registers, bandwidths from arrays of half the
// size of each cache and from at least 64 MiB for main memory. Each is the best of several repetitions, so
// that other work on the machine disturbs little. On a machine that is busy all the time the numbers of all
// threads say what the cores do when they are not disturbed.
#pragma once

#include <functional>
#include <string>

#include "core/device.h"

namespace lathe {

// What tells one machine from another: model name, stepping, usable threads, instruction sets.
std::string host_identity();

// `progress` is told the fraction done.
Device probe_host(const std::function<void(double)>& progress = nullptr);

}  // namespace lathe
