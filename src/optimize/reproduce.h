// Reproductions: what a method's paper claims, measured here in kind. Each is one file in reproduce/ that defines
// `Reproduction NAME()` in namespace lathe::experiments, NAME being the file's with _ for -; CMake gathers them.
//
//   const Reproduction& r = find_reproduction("quantization-survey");
//   for (const Check& c : r.checks) CheckResult got = c.run(context);
//
// Nothing in a reproduction is a recorded measurement: published figures are quoted with their source, ours are measured when it runs.
#pragma once

#include <exception>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace lathe {

// Thrown out of a check that was asked to end.
struct Stopped : std::exception {
  const char* what() const noexcept override { return "stopped"; }
};

struct ReproduceContext {
  bool quick = false;      // fewer samples and models: what takes a minute
  std::string assets;      // a folder with models/ and images/imagenet/ (labels.tsv); "" or none there: checks that need them are skipped
  uint64_t seed = 1;
  int seeds = 0;           // trainings that are compared, each from a seed of its own; 0: as many as the check says
  int jobs = 0;            // trainings at once, a thread each; 0: one for each core, or one on an accelerator
  std::string device = "cpu";  // of trainings: cpu, cuda, cuda:N
  std::string keep;        // a folder for trained networks and their logs; "": none is kept
  bool resume = false;     // trainings that an earlier run left in `keep` go on where they stopped
  std::function<void(const std::string&)> progress = nullptr;  // what is done now
  std::function<bool()> stops = nullptr;  // whether to end early; called by any thread
  bool stopping() const { return stops && stops(); }
  // Throws Stopped where the caller wants the end.
  void tell(const std::string& what) const {
    if (stopping()) throw Stopped();
    if (progress) progress(what);
  }
};

struct CheckResult {
  enum class State { kPassed, kFailed, kSkipped } state = State::kFailed;
  std::string measured;  // "0.51 of the size (geometric mean of 3)"; why it was skipped
  static CheckResult of(bool passed, std::string measured) { return {passed ? State::kPassed : State::kFailed, std::move(measured)}; }
  static CheckResult skipped(std::string why) { return {State::kSkipped, std::move(why)}; }
};

struct Check {
  std::string name;       // "size"
  std::string published;  // what the paper says, and where
  std::string passes;     // "at most 0.55 of the size": the threshold in kind
  bool quick = true;      // part of --quick
  std::function<CheckResult(const ReproduceContext&)> run;
};

struct Reproduction {
  std::string key, title, source;
  std::vector<Check> checks;
};

const std::vector<Reproduction>& reproductions();
// Of both, by key; of one key, the checks of both.
std::vector<Reproduction> merged(std::vector<Reproduction> list, std::vector<Reproduction> more);
// Throws kUsage with the list of keys, and with what `missing` says of those that are not in it.
const Reproduction& find_reproduction(std::string_view key, const std::vector<Reproduction>& list = reproductions(), std::string_view missing = "");

}  // namespace lathe
