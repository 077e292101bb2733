// libtorch, included by this header alone, and what differs between the versions that lathe compiles against (Debian's 1.13,
// 2.x). It is the precompiled header of this folder: a file that includes it takes 12 s to compile without.
#pragma once

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#include <ATen/autocast_mode.h>
#include <torch/torch.h>
#pragma GCC diagnostic pop

#include "core/error.h"

namespace lathe {

// Products that autograd records run in bf16 while one lives, on that kind of device.
class Autocast {
 public:
  explicit Autocast(bool on, at::DeviceType device = at::kCPU) : on_(on), device_(device) {
    if (!on_) return;
    before_ = enabled(device_);
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 4)
    at::autocast::set_autocast_dtype(device_, at::kBFloat16);
#else
    if (device_ == at::kCPU) at::autocast::set_autocast_cpu_dtype(at::kBFloat16);
    else at::autocast::set_autocast_gpu_dtype(at::kBFloat16);
#endif
    enable(true);
  }
  ~Autocast() {
    if (!on_) return;
    at::autocast::clear_cache();
    enable(before_);
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 4)
  static bool enabled(at::DeviceType device) { return at::autocast::is_autocast_enabled(device); }

 private:
  void enable(bool on) const { at::autocast::set_autocast_enabled(device_, on); }
#else
  static bool enabled(at::DeviceType device) { return device == at::kCPU ? at::autocast::is_cpu_enabled() : at::autocast::is_enabled(); }

 private:
  void enable(bool on) const { device_ == at::kCPU ? at::autocast::set_cpu_enabled(on) : at::autocast::set_enabled(on); }
#endif
  bool on_, before_ = false;
  at::DeviceType device_;
};

// "cpu", "cuda" or "cuda:N". Throws kUsage for another name, and where this libtorch reaches no such device.
inline at::Device torch_device(const std::string& name) {
  const bool numbered = name.size() == 6 && name.starts_with("cuda:") && name[5] >= '0' && name[5] <= '9';
  if (name == "cpu") return at::kCPU;
  if (name != "cuda" && !numbered) fail(ErrorKind::kUsage, "a device {}: there are cpu, cuda and cuda:N", name);
  const int64_t found = torch::cuda::is_available() ? static_cast<int64_t>(torch::cuda::device_count()) : 0, wanted = numbered ? name[5] - '0' : 0;
  if (wanted >= found) fail(ErrorKind::kUsage, "{}: libtorch {} finds {} here", name, TORCH_VERSION, found == 0 ? "no CUDA device" : fmt::format("{} of them", found));
  return {at::kCUDA, static_cast<at::DeviceIndex>(wanted)};
}

}  // namespace lathe
