// Times of two networks against each other: in turns, in random order, on the user's own samples, so that
// whatever else happens on the machine meets both.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "optimize/dataset.h"
#include "optimize/statistics.h"
#include "optimize/technique.h"
#include "runtime/session.h"

namespace lathe {

// A planned Candidate. Kernels are made for a number of threads and must run with it: run() sets it.
class Runner {
 public:
  Runner(const Candidate& candidate, const std::map<std::string, Shape>& input_shapes);
  const std::vector<Tensor>& run(const std::vector<Tensor>& inputs);
  Session& session() { return *session_; }
  const Plan& plan() const { return session_->plan(); }
  int threads() const { return threads_; }
  // Arena and weights. Kernels that repack weights hold a second copy, which is not in it.
  int64_t memory_bytes() const;
  // What is run, step by step: two runners of equal signature and weights take the same time.
  std::string signature() const;

 private:
  int threads_;
  std::unique_ptr<Session> session_;
};

struct PairedTimes {
  std::vector<double> first, second;  // seconds of one inference, by turn
  Interval ratio;                     // first / second, of the median turn: above 1, the second is faster
  Interval first_seconds, second_seconds;
};

struct PairedTimesOptions {
  double seconds = 2;    // at most, but for the least number of turns
  int turns = 101;       // at most
  uint64_t seed = 1;
  std::function<bool()> stop = nullptr;  // asked after each turn, once the least number is there
};

PairedTimes time_pairs(Runner& first, Runner& second, Dataset& data, const PairedTimesOptions& options);

}  // namespace lathe
