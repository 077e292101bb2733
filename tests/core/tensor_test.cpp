#include "core/tensor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

namespace lathe {
namespace {

TEST(DType, HalfRoundsToNearestEvenAndKeepsSpecials) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    F16 h{static_cast<uint16_t>(bits)};
    float f = to_float(h);
    if (std::isnan(f)) EXPECT_TRUE(std::isnan(to_float(to_f16(f))));
    else EXPECT_EQ(to_f16(f).bits, h.bits) << bits;
  }
  EXPECT_EQ(to_f16(65519.0f).bits, 0x7bff);
  EXPECT_EQ(to_f16(65520.0f).bits, 0x7c00);
  EXPECT_EQ(to_f16(1.0f + 0x1p-11f).bits, 0x3c00);      // a tie goes to even
  EXPECT_EQ(to_f16(1.0f + 3 * 0x1p-11f).bits, 0x3c02);
}

TEST(DType, NarrowFloatsRoundTrip) {
  for (DType type : {DType::kF8E4M3FN, DType::kF8E4M3FNUZ, DType::kF8E5M2, DType::kF8E5M2FNUZ, DType::kF4E2M1}) {
    int codes = type == DType::kF4E2M1 ? 16 : 256;
    for (int code = 0; code < codes; ++code) {
      float f = narrow_to_float(type, static_cast<uint8_t>(code));
      if (std::isnan(f) || std::isinf(f)) continue;
      EXPECT_EQ(narrow_to_float(type, float_to_narrow(type, f)), f) << name_of(type) << " " << code;
    }
  }
  EXPECT_EQ(narrow_to_float(DType::kF8E4M3FN, float_to_narrow(DType::kF8E4M3FN, 1e6f)), 448.0f);
}

TEST(Tensor, BroadcastFollowsNumpy) {
  EXPECT_EQ(broadcast({3, 1}, {4}), (Shape{3, 4}));
  EXPECT_EQ(broadcast({}, {2, 0}), (Shape{2, 0}));
  EXPECT_EQ(broadcast({kUnknownDim, 1}, {5, 7}), (Shape{5, 7}));
  EXPECT_THROW(broadcast({3}, {4}), Error);
}

TEST(Tensor, RefusesImpossibleShapes) {
  EXPECT_THROW(Tensor(DType::kF32, {-1}), Error);
  EXPECT_THROW(Tensor(DType::kF32, {int64_t{1} << 40, int64_t{1} << 40}), Error);
  EXPECT_THROW(Tensor(DType::kF32, {int64_t{1} << 40}), Error);
  EXPECT_THROW(Tensor(DType::kString, {1}), Error);
}

TEST(Tensor, TransposeMovesAxes) {
  Tensor t = Tensor::of_f32({2, 3}, {0, 1, 2, 3, 4, 5});
  Tensor u = transpose(t, {1, 0});
  EXPECT_EQ(u.shape(), (Shape{3, 2}));
  EXPECT_EQ(u.to_f32(), (std::vector<float>{0, 3, 1, 4, 2, 5}));
}

TEST(Tensor, ElementsAtOddAddressesAreCopiedWhenRead) {
  std::vector<char> bytes(4 * 5 + 1);
  const float values[] = {1, -2, 3.5f, 4, 5};
  std::memcpy(bytes.data() + 1, values, sizeof values);
  const Tensor t(DType::kF32, {5}, bytes.data() + 1);
  EXPECT_EQ(t.unaligned(), bytes.data() + 1);
  const Tensor before = t.reshaped({1, 5});
  const Tensor copy = t.clone();
  EXPECT_EQ(t.unaligned(), bytes.data() + 1);  // cloning copies from where they are
  EXPECT_EQ(t.to_f32(), (std::vector<float>(values, values + 5)));
  EXPECT_NE(t.unaligned(), bytes.data() + 1);
  EXPECT_EQ(t.raw(), t.unaligned());
  EXPECT_EQ(before.to_f32(), t.to_f32());
  EXPECT_EQ(copy.to_f32(), t.to_f32());
}

TEST(Tensor, APoolCutsTensorsThatOutliveIt) {
  std::vector<Tensor> tensors;
  {
    TensorPool pool;
    const TensorPool::Scope scope(&pool);
    for (int i = 0; i < 200; ++i) {
      Tensor t(DType::kF32, {1 + i * 97 % 20000});
      for (int64_t k = 0; k < t.size(); ++k) t.data<float>()[k] = static_cast<float>(i);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(t.raw()) % 64, 0u);
      if (i % 3) tensors.push_back(t);
    }
    const Tensor large(DType::kF32, {1 << 20});  // by itself
    EXPECT_EQ(reinterpret_cast<uintptr_t>(large.raw()) % 64, 0u);
  }
  int i = 0;
  for (const Tensor& t : tensors) {
    if (i % 3 == 0) ++i;
    for (int64_t k = 0; k < t.size(); ++k) ASSERT_EQ(t.data<float>()[k], static_cast<float>(i));
    ++i;
  }
}

TEST(Tensor, IntegersStayExactOver64Bits) {
  Tensor t(DType::kI64, {1});
  t.set_int(0, (int64_t{1} << 62) + 1);
  EXPECT_EQ(cast(t, DType::kU64).get_int(0), (int64_t{1} << 62) + 1);
}

}  // namespace
}  // namespace lathe
