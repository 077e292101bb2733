// How elementwise operators of several operands walk a broadcast: adjacent axes along which every operand goes the same
// way are merged, and the innermost run becomes a row.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "core/parallel.h"
#include "kernels/kernel.h"

namespace lathe {

class Broadcast {
 public:
  static constexpr size_t kMostOperands = 3;
  using Offsets = std::array<int64_t, kMostOperands>;  // in elements

  // The first `operands` inputs of the node.
  Broadcast(const KernelRequest& r, size_t operands) {
    const Shape& y = r.out_shape();
    for (size_t i = 0; i < y.size(); ++i) {
      if (y[i] == 1) continue;
      Axis axis;
      axis.size = y[i];
      for (size_t k = 0; k < operands; ++k) {
        const Shape& s = r.in_shape(k);
        const size_t skipped = y.size() - s.size();
        axis.wide[k] = i >= skipped && s[i - skipped] != 1;
      }
      if (!axes_.empty() && axes_.back().wide == axis.wide) axes_.back().size *= y[i];
      else axes_.push_back(axis);
    }
    if (axes_.empty()) {
      axes_.emplace_back();
      axes_[0].wide.fill(true);
    }
    Offsets step;
    step.fill(1);
    for (size_t i = axes_.size(); i-- > 0;) {
      for (size_t k = 0; k < operands; ++k)
        if (axes_[i].wide[k]) {
          axes_[i].step[k] = step[k];
          step[k] *= axes_[i].size;
        }
      if (i + 1 < axes_.size()) rows_ *= axes_[i].size;
    }
  }

  // Operand k has one value for a row.
  bool single(size_t k) const { return !axes_.back().wide[k]; }

  // Calls body(offsets of the operands, offset of the result, count) for every row, on the threads at hand; a single row
  // is shared out in parts.
  template <class Body>
  void run(Body&& body) const {
    const Axis& inner = axes_.back();
    const int64_t width = inner.size;
    if (rows_ == 1) {
      parallel_for(width, kParallelGrain, [&](int64_t from, int64_t to) {
        Offsets at;
        for (size_t k = 0; k < kMostOperands; ++k) at[k] = from * inner.step[k];
        body(at, from, to - from);
      });
      return;
    }
    parallel_for(rows_, kParallelGrain / width + 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        Offsets at{};
        int64_t rest = r;
        for (size_t i = axes_.size() - 1; i-- > 0;) {
          const int64_t index = rest % axes_[i].size;
          rest /= axes_[i].size;
          for (size_t k = 0; k < kMostOperands; ++k) at[k] += index * axes_[i].step[k];
        }
        body(at, r * width, width);
      }
    });
  }

 private:
  struct Axis {
    int64_t size = 1;
    std::array<bool, kMostOperands> wide{};
    Offsets step{};
  };
  std::vector<Axis> axes_;
  int64_t rows_ = 1;
};

}  // namespace lathe
