// For tests of kernels that are parametrized by instruction set:
//
//   TEST_P(EveryKernel, Adds) { Case c = make_case("Add", {a, b}, {false, true}, {}, "3 and 5"); check(c, tolerance(type)); }
//   INSTANTIATE_TEST_SUITE_P(Isa, EveryKernel, ::testing::ValuesIn(available_isas()), …);
#pragma once

#include <gtest/gtest.h>
#include <omp.h>

#include <random>

#include "kernel_case.h"
#include "kernels/isa.h"

namespace lathe {

using Ints = std::vector<int64_t>;
using testing::Case;
using testing::check;
using testing::checked;
using testing::make_case;
using testing::random_tensor;

class EveryKernel : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    force_isa(GetParam());
    checked = 0;
  }
  void TearDown() override {
    force_isa("");
    omp_set_num_threads(1);
    EXPECT_GT(checked, 0);
  }
  // bf16 rounds factors that the reference takes as they are when it has f32 weights, and results once more.
  static double tolerance(DType type) { return type == DType::kBF16 ? 2e-2 : 5e-5; }
  std::mt19937 random{7};
};

}  // namespace lathe
