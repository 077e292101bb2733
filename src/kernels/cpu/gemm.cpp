// Convolutions and products with constant weights by our own matrix product (gemm-inl.h). It stands beside
// oneDNN's where that one is weak: activations that need exponentials, few rows, few channels.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/gemm.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <algorithm>

#include "core/parallel.h"
#include "kernels/cpu/gemm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

template <class TIn, class TOut>
void GemmOf(const GemmArgs& g) {
  const D d;
  const int64_t width = kPanelVectors * static_cast<int64_t>(hn::Lanes(d));
  int64_t rows = g.rows.count(), tiles = (rows + kTileRows - 1) / kTileRows, panels = (g.columns + width - 1) / width;
  int64_t tile_work = kTileRows * g.rows.taps() * g.depth * 2 + 64;  // vector products of a tile and panel
  auto scratch = [&] { return g.scratch + static_cast<size_t>(omp_get_thread_num()) * g.scratch_per_thread; };
  if (tiles >= 2 * omp_get_max_threads() || panels == 1) {
    parallel_for(tiles, kParallelGrain / (tile_work * panels) + 1, [&](int64_t begin, int64_t end) {
      GemmBlock<TIn, TOut>(g, begin * kTileRows, std::min(end * kTileRows, rows), 0, panels, scratch());
    });
  } else {
    parallel_for(panels, kParallelGrain / (tile_work * tiles) + 1, [&](int64_t begin, int64_t end) {
      GemmBlock<TIn, TOut>(g, 0, rows, begin, end, scratch());
    });
  }
}

void Gemm(const GemmArgs& g) {
  if (!g.bf16) return GemmOf<float, float>(g);
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
  if (g.bf16_out) return GemmOf<uint16_t, uint16_t>(g);
  return GemmOf<uint16_t, float>(g);
#endif
}

size_t PanelWidth() { return kPanelVectors * hn::Lanes(D()); }

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(Gemm);
HWY_EXPORT(PanelWidth);

namespace {

bool has_bf16_products() {
#if HWY_ARCH_X86
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

// [N / width][K][width], or for bf16 [N / width][K / 2][width][2]; columns beyond N are zero.
// `at(k, n)` is the index of the element in `w`.
template <class At>
Tensor pack_panels(const Tensor& w, int64_t k_count, int64_t n_count, At&& at) {
  auto width = static_cast<int64_t>(HWY_DYNAMIC_DISPATCH(PanelWidth)());
  int64_t panels = (n_count + width - 1) / width;
  Tensor packed(w.dtype(), {panels, k_count, width});
  auto fill = [&](auto* to, const auto* from, int64_t together) {
    for (int64_t p = 0; p < panels; ++p)
      for (int64_t k = 0; k < k_count; k += together)
        for (int64_t i = 0; i < width; ++i)
          for (int64_t j = 0; j < together; ++j)
            *to++ = p * width + i < n_count ? from[at(k + j, p * width + i)] : std::remove_cvref_t<decltype(*to)>{};
  };
  if (w.dtype() == DType::kF32) fill(packed.data<float>(), w.data<float>(), 1);
  else fill(packed.data<uint16_t>(), w.data<uint16_t>(), 2);
  return packed;
}

class Product : public Kernel {
 public:
  void run(const Tensor* const* in, Tensor* const* out, void* scratch) override {
    args_.a = in[0]->raw();
    args_.residual = residual_ ? in[3]->raw() : nullptr;
    args_.y = out[0]->raw();
    args_.scratch = static_cast<char*>(scratch);
    HWY_DYNAMIC_DISPATCH(Gemm)(args_);
  }
  size_t scratch_bytes() const override { return args_.scratch_per_thread * static_cast<size_t>(omp_get_max_threads()); }
  int in_place_input() const override { return residual_ ? 3 : -1; }

 protected:
  void prepare(const KernelRequest& r) {
    args_.activation = activation_of(r.node);
    args_.residual_first = r.node.get_int("residual_first") != 0;
    residual_ = r.has_input(3);
    if (r.has_input(2)) bias_ = r.input(2).constant;
    args_.bias = bias_.defined() ? bias_.data<float>() : nullptr;
    args_.bf16 = r.input(0).dtype == DType::kBF16;
    args_.bf16_out = r.output().dtype == DType::kBF16;
    zeros_ = Tensor(r.input(0).dtype, {args_.depth});
    std::memset(zeros_.raw(), 0, zeros_.bytes());
    args_.zeros = zeros_.raw();
    args_.packed = packed_.raw();
    auto pointers = static_cast<size_t>(kGemmBlockTiles * kMostTileRows * args_.rows.taps()) * sizeof(void*);
    args_.scratch_per_thread = (pointers + 63) / 64 * 64;
  }

  GemmArgs args_;
  Tensor packed_, bias_, zeros_;
  bool residual_ = false;
};

class GemmConv : public Product {
 public:
  explicit GemmConv(const KernelRequest& r) {
    const Shape &x = r.in_shape(), &w = r.in_shape(1), &y = r.out_shape();
    const auto &strides = r.node.get_ints("strides"), &pads = r.node.get_ints("pads"), &dilations = r.node.get_ints("dilations");
    args_.rows = {x[0], x[1], x[2], x[3], y[1], y[2], strides[0], strides[1], pads[0], pads[1], dilations[0], dilations[1], w[2], w[3]};
    args_.depth = x[3];
    args_.columns = w[0];
    int64_t channels = x[3], taps = w[2] * w[3];
    packed_ = pack_panels(r.input(1).constant, taps * channels, w[0], [&](int64_t k, int64_t n) {
      return (n * channels + k % channels) * taps + k / channels;
    });
    prepare(r);
  }
};

class GemmMatMul : public Product {
 public:
  explicit GemmMatMul(const KernelRequest& r) {
    const Shape& w = r.in_shape(1);
    int64_t rows = element_count(r.in_shape()) / w[0];
    args_.rows.height = args_.rows.out_height = rows;
    args_.rows.pixel = args_.depth = w[0];
    args_.columns = w[1];
    packed_ = pack_panels(r.input(1).constant, w[0], w[1], [&](int64_t k, int64_t n) { return k * w[1] + n; });
    prepare(r);
  }
};

// f32 throughout, or bf16 factors with an f32 or bf16 result.
bool types_fit(const KernelRequest& r, int64_t depth) {
  DType in = r.input(0).dtype, out = r.output().dtype;
  if (r.input(1).dtype != in || !r.input(1).is_constant()) return false;
  if (r.has_input(2) && (!r.input(2).is_constant() || r.input(2).dtype != DType::kF32)) return false;
  if (r.has_input(3) && r.input(3).dtype != out) return false;
  if (in == DType::kF32) return out == DType::kF32;
  return in == DType::kBF16 && (out == DType::kBF16 || out == DType::kF32) && depth % 2 == 0 && has_bf16_products();
}

bool conv_supported(const KernelRequest& r) {
  return r.node.get_int("group") == 1 && types_fit(r, r.in_shape()[3]) && r.in_shape(1)[2] * r.in_shape(1)[3] <= 64;
}


// Where measurements put our product before oneDNN's: its own code for activations with exponentials takes
// longer than ours, and its set-up longer than a product of a few rows.
bool preferred(const KernelRequest& r) {
  using K = ActivationKind;
  switch (activation_of(r.node).kind) {
    case K::kNone: case K::kRelu: case K::kClip: case K::kLeakyRelu: break;
    default: return true;
  }
  const Shape& y = r.out_shape();
  return element_count(y) / y.back() <= kMostTileRows;
}

template <class Product>
std::unique_ptr<Kernel> make_product(const KernelRequest& r) {
  return std::make_unique<Product>(r);
}

bool matmul_supported(const KernelRequest& r) { return types_fit(r, r.in_shape(1)[0]); }

}  // namespace

void register_gemm(KernelRegistry& r) {
  r.add("Conv", "ai.lathe", {"conv.gemm", [](const KernelRequest& q) { return conv_supported(q) && preferred(q); }, make_product<GemmConv>});
  r.add("MatMul", "ai.lathe", {"matmul.gemm", [](const KernelRequest& q) { return matmul_supported(q) && preferred(q); }, make_product<GemmMatMul>});
}

// Behind oneDNN's in the order of preference, for `tune` and where oneDNN cannot.
void register_gemm_fallback(KernelRegistry& r) {
  r.add("Conv", "ai.lathe", {"conv.gemm", [](const KernelRequest& q) { return conv_supported(q) && !preferred(q); }, make_product<GemmConv>});
  r.add("MatMul", "ai.lathe", {"matmul.gemm", [](const KernelRequest& q) { return matmul_supported(q) && !preferred(q); }, make_product<GemmMatMul>});
}

}  // namespace lathe
#endif
