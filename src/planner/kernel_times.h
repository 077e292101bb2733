// Measured kernel times, kept from run to run in a small SQLite file, so that a network is tuned once a
// machine. Several processes may use the file at once. It is a cache and nothing more: a file that is
// corrupt, read-only or locked costs a notice, never a failure.
//
//   KernelTimes times(default_kernel_times_file());
//   if (auto seconds = times.find(key)) …             // one a kernel, in the order of key.kernels
//   else times.add(key, measured);
//   times.save();                                      // one transaction
#pragma once

#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

struct sqlite3;

namespace lathe {

// What a time depends on. Of the request everything but the elements of the tensors: two convolutions of
// one form share their times.
struct KernelTimesKey {
  std::string machine;  // host_identity()
  std::string build;    // kernel_build(): other kernels, other times
  int threads = 1;
  std::string request;  // operator, attributes, types and shapes
  std::string kernels;  // names, comma-separated
  auto operator<=>(const KernelTimesKey&) const = default;
};

// $LATHE_CACHE, else kernels.db in the user's cache folder; "" when there is no such folder.
std::string default_kernel_times_file();

class KernelTimes {
 public:
  // "": remembers, but keeps nothing on disk.
  explicit KernelTimes(std::string path);
  ~KernelTimes();
  KernelTimes(const KernelTimes&) = delete;
  KernelTimes& operator=(const KernelTimes&) = delete;

  // Seconds of `kernels` kernels. A stored row that does not fit (count, finite, positive) counts as absent.
  std::optional<std::vector<double>> find(const KernelTimesKey& key, size_t kernels);
  void add(const KernelTimesKey& key, std::vector<double> seconds);
  void save();
  // Why the file is not used, if it is not.
  const std::vector<std::string>& notices() const { return notices_; }

 private:
  bool check(int code);  // false after giving the file up
  void open();

  std::string path_;
  sqlite3* database_ = nullptr;
  std::map<KernelTimesKey, std::vector<double>> known_, fresh_;
  std::vector<std::string> notices_;
};

}  // namespace lathe
