// Tests whose tensors are drawn, the same each time.
#pragma once

#include <gtest/gtest.h>

#include <random>

#include "core/tensor.h"

namespace lathe {

class NumbersTest : public ::testing::Test {
 protected:
  explicit NumbersTest(unsigned seed) : random_(seed) {}
  Tensor numbers(const Shape& shape, double low = -1, double high = 1) {
    Tensor t(DType::kF32, shape);
    std::uniform_real_distribution<double> of(low, high);
    for (int64_t i = 0; i < t.size(); ++i) t.data<float>()[i] = static_cast<float>(of(random_));
    return t;
  }

  std::mt19937 random_;
};

}  // namespace lathe
