// Fused attention, f32: softmax(s·Q·Kᵀ + mask)·V without ever writing the score matrix to memory. Keys of a
// head are packed [width, keys], so that a vector holds keys; scores of four queries stay in the first-level
// cache between the two products. Four queries by four vectors are 16 accumulators, which with four operands
// and the broadcast leave room in 32 registers.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "kernels/cpu/activation-inl.h"
#include "kernels/kernel.h"

#ifndef LATHE_ATTENTION_SHARED
#define LATHE_ATTENTION_SHARED
namespace lathe {
// One head. Rows of q, v and y are contiguous.
struct HeadArgs {
  const float *q, *k, *v, *mask;  // q [queries, width], k [keys, width], v [keys, value_width]
  int64_t mask_row;               // step of the mask from query to query (0: the same for all)
  float* y;                       // [queries, value_width]
  float* scratch;                 // (width + 4)·round_up(keys, 64) floats
  int64_t queries, keys, width, value_width;
  float scale;
};
constexpr int64_t kKeyBlock = 64;
inline int64_t padded_keys(int64_t keys) { return (keys + kKeyBlock - 1) / kKeyBlock * kKeyBlock; }
}  // namespace lathe
#endif

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// c[kRows, 4 vectors] = Σ_i a[row·a_row + i]·b[i·b_row + …]; b's tail past `columns` is not read.
template <int kRows>
HWY_INLINE void Product(const float* a, int64_t a_row, const float* b, int64_t b_row, float* c, int64_t c_row,
                        int64_t depth, int64_t columns) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t j = 0;
  for (; j + 4 * lanes <= columns; j += 4 * lanes) {
    V acc[kRows][4];
    for (int r = 0; r < kRows; ++r)
      for (int t = 0; t < 4; ++t) acc[r][t] = hn::Zero(d);
    for (int64_t i = 0; i < depth; ++i) {
      const float* line = b + i * b_row + j;
      V w[4];
      HWY_UNROLL(4)
      for (int t = 0; t < 4; ++t) w[t] = hn::LoadU(d, line + t * lanes);
      HWY_UNROLL(4)
      for (int r = 0; r < kRows; ++r) {
        V s = hn::Set(d, a[r * a_row + i]);
        HWY_UNROLL(4)
        for (int t = 0; t < 4; ++t) acc[r][t] = hn::MulAdd(s, w[t], acc[r][t]);
      }
    }
    for (int r = 0; r < kRows; ++r)
      for (int t = 0; t < 4; ++t) hn::StoreU(acc[r][t], d, c + r * c_row + j + t * lanes);
  }
  for (; j < columns; j += lanes) {
    auto m = hn::FirstN(d, static_cast<size_t>(std::min(lanes, columns - j)));
    V acc[kRows];
    for (int r = 0; r < kRows; ++r) acc[r] = hn::Zero(d);
    for (int64_t i = 0; i < depth; ++i) {
      V w = LoadMasked(m, d, b + i * b_row + j);
      for (int r = 0; r < kRows; ++r) acc[r] = hn::MulAdd(hn::Set(d, a[r * a_row + i]), w, acc[r]);
    }
    for (int r = 0; r < kRows; ++r) StoreMasked(acc[r], m, d, c + r * c_row + j);
  }
}

// In place over n scores; returns 1/sum, to be applied to the far fewer outputs.
HWY_INLINE float ExpRow(float* s, const float* mask, int64_t n, float scale) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const V factor = hn::Set(d, scale);
  V top = hn::Set(d, -INFINITY);
  for (int64_t i = 0; i < n; i += lanes) {
    auto m = hn::FirstN(d, static_cast<size_t>(std::min(lanes, n - i)));
    V v = hn::Mul(LoadMasked(m, d, s + i), factor);
    if (mask) v = hn::Add(v, LoadMasked(m, d, mask + i));
    StoreMasked(v, m, d, s + i);
    top = hn::IfThenElse(m, hn::Max(top, v), top);
  }
  float greatest = hn::GetLane(hn::MaxOfLanes(d, top));
  if (greatest == -INFINITY) greatest = 0;  // everything masked: the sum is 0 and the result NaN, as defined
  const V shift = hn::Set(d, greatest);
  V sum = hn::Zero(d);
  for (int64_t i = 0; i < n; i += lanes) {
    auto m = hn::FirstN(d, static_cast<size_t>(std::min(lanes, n - i)));
    V v = hn::Sub(LoadMasked(m, d, s + i), shift);
    V e = hn::IfThenZeroElse(hn::Lt(v, hn::Set(d, -87.3f)), FastExp(d, v));
    e = hn::IfThenElseZero(m, hn::IfThenElse(hn::IsNaN(v), v, e));
    sum = hn::Add(sum, e);
    StoreMasked(e, m, d, s + i);
  }
  return 1.0f / hn::GetLane(hn::SumOfLanes(d, sum));
}

template <int kRows>
HWY_INLINE void Queries(const HeadArgs& a, int64_t q0, const float* packed, float* scores, int64_t padded) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  Product<kRows>(a.q + q0 * a.width, a.width, packed, padded, scores, padded, a.width, padded);
  float scale[kRows];
  for (int r = 0; r < kRows; ++r)
    scale[r] = ExpRow(scores + r * padded, a.mask ? a.mask + (q0 + r) * a.mask_row : nullptr, a.keys, a.scale);
  float* y = a.y + q0 * a.value_width;
  Product<kRows>(scores, padded, a.v, a.value_width, y, a.value_width, a.keys, a.value_width);
  for (int r = 0; r < kRows; ++r)
    for (int64_t i = 0; i < a.value_width; i += lanes) {
      auto m = hn::FirstN(d, static_cast<size_t>(std::min(lanes, a.value_width - i)));
      float* p = y + r * a.value_width + i;
      StoreMasked(hn::Mul(LoadMasked(m, d, p), hn::Set(d, scale[r])), m, d, p);
    }
}

void AttendHead(const HeadArgs& a) {
  int64_t padded = padded_keys(a.keys);
  float *packed = a.scratch, *scores = a.scratch + a.width * padded;
  for (int64_t kb = 0; kb < padded; kb += 16)  // 16 keys at a time: whole cache lines are written
    for (int64_t i = 0; i < a.width; ++i)
      for (int64_t key = kb; key < kb + 16; ++key) packed[i * padded + key] = key < a.keys ? a.k[key * a.width + i] : 0;
  int64_t q = 0;
  for (; q + 4 <= a.queries; q += 4) Queries<4>(a, q, packed, scores, padded);
  for (; q < a.queries; ++q) Queries<1>(a, q, packed, scores, padded);
}

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(AttendHead);

namespace {

class Attention : public Kernel {
 public:
  explicit Attention(const KernelRequest& r) : threads_(omp_get_max_threads()) {
    const Shape &q = r.in_shape(0), &k = r.in_shape(1);
    per_thread_ = (q[3] + 4) * padded_keys(k[2]);
    scale_ = r.node.has("scale") ? r.node.get_float("scale") : 1.0f / std::sqrt(static_cast<float>(q[3]));
    masked_ = r.has_input(3);
    if (!masked_) return;
    // Steps of the mask along batch, head and query; 0 where it is broadcast.
    Shape m(4 - r.in_shape(3).size(), 1);
    m.insert(m.end(), r.in_shape(3).begin(), r.in_shape(3).end());
    std::vector<int64_t> strides = strides_of(m);
    for (int i = 0; i < 3; ++i) mask_steps_[i] = m[i] == 1 ? 0 : strides[i];
  }
  size_t scratch_bytes() const override { return static_cast<size_t>(threads_ * per_thread_) * sizeof(float); }
  void run(const Tensor* const* in, Tensor* const* out, void* scratch) override {
    const Shape &q = in[0]->shape(), &k = in[1]->shape(), &v = in[2]->shape();
    int64_t heads = q[0] * q[1], each = (heads + threads_ - 1) / threads_;
    bool masked = masked_;
    parallel_for(threads_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        for (int64_t h = t * each; h < std::min(heads, (t + 1) * each); ++h) {
          const float* mask = masked ? in[3]->data<float>() + h / q[1] * mask_steps_[0] + h % q[1] * mask_steps_[1] : nullptr;
          HWY_DYNAMIC_DISPATCH(AttendHead)
          ({in[0]->data<float>() + h * q[2] * q[3], in[1]->data<float>() + h * k[2] * k[3], in[2]->data<float>() + h * v[2] * v[3],
            mask, mask_steps_[2], out[0]->data<float>() + h * q[2] * v[3], static_cast<float*>(scratch) + t * per_thread_,
            q[2], k[2], q[3], v[3], scale_});
        }
    });
  }

 private:
  int64_t threads_, per_thread_ = 0;
  int64_t mask_steps_[3] = {0, 0, 0};
  bool masked_ = false;
  float scale_;
};

bool attention_supported(const KernelRequest& r) {
  const Node& n = r.node;
  if (!r.all_f32() || n.outputs.size() != 1 || n.inputs.size() > 4) return false;
  if (n.get_int("is_causal") || n.get_float("softcap") != 0) return false;
  for (size_t i = 0; i < 3; ++i)
    if (r.in_shape(i).size() != 4 || element_count(r.in_shape(i)) == 0) return false;
  if (r.has_input(3)) {
    Shape scores{r.in_shape(0)[0], r.in_shape(0)[1], r.in_shape(0)[2], r.in_shape(1)[2]};
    if (r.in_shape(3).empty() || r.in_shape(3).back() != scores[3] || broadcast(r.in_shape(3), scores) != scores) return false;
  }
  return r.in_shape(1)[1] == r.in_shape(0)[1] && r.in_shape(2)[1] == r.in_shape(0)[1];
}

}  // namespace

void register_attention(KernelRegistry& r) {
  r.add("Attention", "", {"f32.attention", attention_supported, [](const KernelRequest& q) -> std::unique_ptr<Kernel> {
          return std::make_unique<Attention>(q);
        }});
}

}  // namespace lathe
#endif
