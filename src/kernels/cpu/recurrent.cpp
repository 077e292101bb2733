// LSTM, GRU and RNN in f32. What the inputs contribute to every gate of every step is one matrix product (gemm.h). A step
// then multiplies the state with the recurrent weights on the micro-kernels of gemm-inl.h: the panels of one block of
// units stand side by side, gate after gate, so that the gates of a unit are in cache together and become its next state
// at once. Steps follow one another; the units of a step are shared out among threads.
//
// Not here but on the reference kernels: peepholes, clipping, coupled gates, activations of one's own and sequences of
// several lengths.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/recurrent.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <algorithm>
#include <cctype>
#include <cstring>

#include "core/parallel.h"
#include "kernels/cpu/gemm-inl.h"

#ifndef LATHE_RECURRENT_SHARED
#define LATHE_RECURRENT_SHARED
namespace lathe {
enum class RecurrentKind { kRnn, kLstm, kGru, kGruLinear };  // kGruLinear: the reset gate stands after the product

// One step of one direction.
struct RecurrentStep {
  RecurrentKind kind;
  int64_t gates, batch, hidden;
  const float* packed;          // R, in blocks of units: [gates][hidden][units of the block]
  const float* recurrent_bias;  // kGruLinear: [hidden], of the product that is reset
  const float* x;               // what the inputs give, biases in it: [gates, hidden] of sample b at b · x_step
  int64_t x_step;
  const float* h;               // [batch, hidden]
  float* next;                  // the next h; not the same memory
  float* memory;                // kLstm: c, updated in place
  float *update, *reset;        // kGru: the update gate, and h times the reset gate
  float* y;                     // where the next h goes too, of sample b at b · y_step, or null
  int64_t y_step;
};
}  // namespace lathe
#endif

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

HWY_INLINE V Sigmoid(D d, V x) { return Activate<ActivationKind::kSigmoid>(d, x, x, x); }
HWY_INLINE V Tanh(D d, V x) { return Activate<ActivationKind::kTanh>(d, x, x, x); }

// Units [n, n + lanes) of sample b, fewer where the mask says so. products[g]: of gate first + g with the state.
template <bool kFull>
HWY_INLINE void FinishUnits(const RecurrentStep& s, int64_t first, const float* const* products, int64_t b, int64_t n, hn::Mask<D> m) {
  const D d;
  const int64_t at = b * s.hidden + n;
  auto load = [&](const float* p) { return LoadChannels<kFull>(d, p, m); };
  auto store = [&](V v, float* p) { StoreChannels<kFull>(d, v, p, m); };
  auto input = [&](int64_t gate) { return load(s.x + b * s.x_step + gate * s.hidden + n); };
  auto sum = [&](int64_t gate) { return hn::Add(hn::Load(d, products[gate - first]), input(gate)); };
  auto finish = [&](V h) {
    store(h, s.next + at);
    if (s.y) store(h, s.y + b * s.y_step + n);
  };
  // (1 − z)·n + z·h
  auto mixed = [&](V update, V candidate) { return hn::MulAdd(update, hn::Sub(load(s.h + at), candidate), candidate); };
  switch (s.kind) {
    case RecurrentKind::kRnn: return finish(Tanh(d, sum(0)));
    case RecurrentKind::kLstm: {  // gates: input, output, forget, cell
      const V kept = hn::Mul(Sigmoid(d, sum(2)), load(s.memory + at));
      const V memory = hn::MulAdd(Sigmoid(d, sum(0)), Tanh(d, sum(3)), kept);
      store(memory, s.memory + at);
      return finish(hn::Mul(Sigmoid(d, sum(1)), Tanh(d, memory)));
    }
    case RecurrentKind::kGru:  // gates: update, reset, hidden
      if (first == 0) {
        store(Sigmoid(d, sum(0)), s.update + at);
        return store(hn::Mul(Sigmoid(d, sum(1)), load(s.h + at)), s.reset + at);
      }
      return finish(mixed(load(s.update + at), Tanh(d, sum(2))));
    case RecurrentKind::kGruLinear: {
      const V past = hn::Add(hn::Load(d, products[2]), load(s.recurrent_bias + n));
      return finish(mixed(Sigmoid(d, sum(0)), Tanh(d, hn::MulAdd(Sigmoid(d, sum(1)), past, input(2)))));
    }
  }
}

// Blocks [begin, end) of units, gates [first, last).
void RecurrentBlocks(const RecurrentStep& s, int64_t first, int64_t last, int64_t begin, int64_t end) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d)), width = kPanelVectors * lanes;
  HWY_ALIGN float products[4][kTileRows * kPanelVectors * hn::MaxLanes(D())];
  const void* rows_of_a[kTileRows];
  const float* a = first > 0 ? s.reset : s.h;
  for (int64_t block = begin; block < end; ++block) {
    const int64_t unit = block * width, left = s.hidden - unit, vectors = left <= lanes ? 1 : kPanelVectors;
    const float* panels = s.packed + block * width * s.gates * s.hidden;
    for (int64_t row = 0; row < s.batch; row += kTileRows) {
      const int rows = static_cast<int>(std::min<int64_t>(kTileRows, s.batch - row));
      for (int r = 0; r < rows; ++r) rows_of_a[r] = a + (row + r) * s.hidden;
      for (int64_t g = first; g < last; ++g)
        MicroFor(rows, static_cast<int>(vectors))(1, rows_of_a, s.hidden, panels + g * s.hidden * vectors * lanes, products[g - first]);
      for (int r = 0; r < rows; ++r)
        for (int64_t v = 0; v < vectors; ++v) {
          const int64_t n = unit + v * lanes, place = (vectors * r + v) * lanes;
          if (n >= s.hidden) break;
          const float* const of_gates[4] = {products[0] + place, products[1] + place, products[2] + place, products[3] + place};
          if (n + lanes <= s.hidden) FinishUnits<true>(s, first, of_gates, row + r, n, FirstLanes(d, lanes));
          else FinishUnits<false>(s, first, of_gates, row + r, n, FirstLanes(d, s.hidden - n));
        }
    }
  }
}

int64_t RecurrentLanes() { return static_cast<int64_t>(hn::Lanes(D())); }

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(RecurrentBlocks);
HWY_EXPORT(RecurrentLanes);

namespace {

int64_t gates_of(RecurrentKind kind) { return kind == RecurrentKind::kRnn ? 1 : kind == RecurrentKind::kLstm ? 4 : 3; }

class Recurrent : public Kernel {
 public:
  Recurrent(const KernelRequest& r, RecurrentKind kind) : kind_(kind), gates_(gates_of(kind)) {
    const Shape &x = r.in_shape(), &w = r.in_shape(1);
    batch_first_ = r.node.get_int("layout") != 0;
    backwards_ = r.node.get_string("direction") == "reverse";
    directions_ = w[0];
    length_ = x[batch_first_ ? 1 : 0];
    batch_ = x[batch_first_ ? 0 : 1];
    hidden_ = r.in_shape(2)[2];
    block_ = kPanelVectors * HWY_DYNAMIC_DISPATCH(RecurrentLanes)();
    states_[0] = r.has_input(5);
    states_[1] = kind == RecurrentKind::kLstm && r.has_input(6);
    for (size_t i = 0; i < 3; ++i) wanted_[i] = i < r.node.outputs.size() && r.node.outputs[i];
    const int64_t width = x[2], rows = gates_ * hidden_;
    Shape panels = gemm_panels(width, rows);
    panels[0] *= directions_;
    input_weights_ = r.packed_input(1, DType::kF32, panels, kLayout, [&](const Tensor& t) {
      Tensor packed(DType::kF32, panels);
      for (int64_t d = 0; d < directions_; ++d) {
        const Tensor one = pack_pointwise(Tensor(DType::kF32, {rows, width}, const_cast<float*>(t.data<float>()) + d * rows * width));
        std::memcpy(packed.data<char>() + static_cast<size_t>(d) * one.bytes(), one.raw(), one.bytes());
      }
      return packed;
    });
    const Shape blocks{directions_, (hidden_ + block_ - 1) / block_, gates_, hidden_, block_};
    weights_ = r.packed_input(2, DType::kF32, blocks, kLayout, [&](const Tensor& t) { return pack_recurrent(t, blocks); });
    // [directions, gates + 1, hidden]: of both products together; of the recurrent one where it must stand alone.
    const Shape biases{directions_, gates_ + 1, hidden_};
    if (r.has_input(3)) {
      bias_ = r.packed_input(3, DType::kF32, biases, kLayout, [&](const Tensor& t) { return join_biases(t, biases); });
    } else {
      bias_ = Tensor(DType::kF32, biases);
      std::memset(bias_.raw(), 0, bias_.bytes());
    }
    gemm_.rows.height = gemm_.rows.out_height = length_ * batch_;
    gemm_.rows.pixel = gemm_.depth = width;
    gemm_.columns = rows;
    gemm_.scratch_per_thread = gemm_scratch(1);
  }

  std::vector<PackedInput> packed_inputs() const override { return {{}, {input_weights_, kLayout}, {weights_, kLayout}, {bias_, kLayout}}; }

  size_t scratch_bytes() const override {
    const int64_t floats = up(length_ * batch_ * gates_ * hidden_) + 5 * up(batch_ * hidden_);
    return static_cast<size_t>(floats) * sizeof(float) + static_cast<size_t>(omp_get_max_threads()) * gemm_.scratch_per_thread;
  }

  void run(const Tensor* const* in, Tensor* const* out, void* scratch) override {
    float* at = static_cast<float*>(scratch);
    auto take = [&](int64_t count) {
      float* begin = at;
      at += up(count);
      return begin;
    };
    const int64_t rows = gates_ * hidden_, state = batch_ * hidden_;
    float *products = take(length_ * batch_ * rows), *h = take(state), *next = take(state);
    RecurrentStep s{};
    s.kind = kind_;
    s.gates = gates_;
    s.batch = batch_;
    s.hidden = hidden_;
    s.memory = take(state);
    s.update = take(state);
    s.reset = take(state);
    s.x_step = batch_first_ ? length_ * rows : rows;
    s.y_step = batch_first_ ? length_ * directions_ * hidden_ : hidden_;
    for (int64_t d = 0; d < directions_; ++d) {
      const float* bias = bias_.data<float>() + d * (rows + hidden_);
      GemmArgs g = gemm_;
      g.a = in[0]->raw();
      g.packed = input_weights_.data<char>() + d * static_cast<int64_t>(input_weights_.bytes()) / directions_;
      g.bias = bias;
      g.y = products;
      g.scratch = reinterpret_cast<char*>(at);
      run_gemm(g);
      s.packed = weights_.data<float>() + d * weights_.size() / directions_;
      s.recurrent_bias = bias + rows;
      begin_state(states_[0] ? in[5] : nullptr, d, h);
      begin_state(states_[1] ? in[6] : nullptr, d, s.memory);
      for (int64_t t = 0; t < length_; ++t) {
        const int64_t time = backwards_ || d == 1 ? length_ - 1 - t : t;
        s.x = products + (batch_first_ ? time : time * batch_) * rows;
        s.h = h;
        s.next = next;
        s.y = wanted_[0] ? out[0]->data<float>() + (time * directions_ + d) * (batch_first_ ? hidden_ : state) : nullptr;
        if (kind_ == RecurrentKind::kGru) {
          run_gates(s, 0, 2);
          run_gates(s, 2, 3);
        } else {
          run_gates(s, 0, gates_);
        }
        std::swap(h, next);
      }
      end_state(wanted_[1] ? out[1] : nullptr, d, h);
      end_state(wanted_[2] ? out[2] : nullptr, d, s.memory);
    }
  }

 private:
  static constexpr uint64_t kLayout = 1;
  static int64_t up(int64_t floats) { return (floats + 15) / 16 * 16; }

  void run_gates(const RecurrentStep& s, int64_t first, int64_t last) const {
    const int64_t blocks = (hidden_ + block_ - 1) / block_, work = batch_ * hidden_ * kPanelVectors * (last - first);
    parallel_for(blocks, kParallelGrain / (work + 1) + 1, [&](int64_t begin, int64_t end) {
      HWY_DYNAMIC_DISPATCH(RecurrentBlocks)(s, first, last, begin, end);
    });
  }

  // States are [directions, batch, hidden], or [batch, directions, hidden] where the batch comes first.
  int64_t state_at(int64_t d, int64_t b) const { return (batch_first_ ? b * directions_ + d : d * batch_ + b) * hidden_; }
  void begin_state(const Tensor* given, int64_t d, float* to) const {
    if (!given) return static_cast<void>(std::fill_n(to, batch_ * hidden_, 0.0f));
    for (int64_t b = 0; b < batch_; ++b) std::copy_n(given->data<float>() + state_at(d, b), hidden_, to + b * hidden_);
  }
  void end_state(Tensor* wanted, int64_t d, const float* from) const {
    for (int64_t b = 0; wanted && b < batch_; ++b) std::copy_n(from + b * hidden_, hidden_, wanted->data<float>() + state_at(d, b));
  }

  // A last block of no more than one vector of units is one vector wide.
  Tensor pack_recurrent(const Tensor& r, const Shape& shape) const {
    Tensor packed(DType::kF32, shape);
    std::memset(packed.raw(), 0, packed.bytes());
    for (int64_t d = 0; d < directions_; ++d) {
      float* to = packed.data<float>() + d * packed.size() / directions_;
      for (int64_t unit = 0; unit < hidden_; unit += block_) {
        const int64_t left = hidden_ - unit, wide = left <= block_ / kPanelVectors ? block_ / kPanelVectors : block_;
        for (int64_t g = 0; g < gates_; ++g)
          for (int64_t k = 0; k < hidden_; ++k, to += wide)
            for (int64_t i = 0; i < std::min(wide, left); ++i)
              to[i] = r.data<float>()[((d * gates_ + g) * hidden_ + unit + i) * hidden_ + k];
      }
    }
    return packed;
  }

  Tensor join_biases(const Tensor& b, const Shape& shape) const {
    Tensor joined(DType::kF32, shape);
    const int64_t rows = gates_ * hidden_;
    for (int64_t d = 0; d < directions_; ++d) {
      const float *of_input = b.data<float>() + d * 2 * rows, *of_state = of_input + rows;
      float* to = joined.data<float>() + d * (rows + hidden_);
      for (int64_t i = 0; i < rows; ++i) {
        const bool apart = kind_ == RecurrentKind::kGruLinear && i >= 2 * hidden_;
        to[i] = apart ? of_input[i] : of_input[i] + of_state[i];
      }
      std::copy_n(of_state + rows - hidden_, hidden_, to + rows);
    }
    return joined;
  }

  RecurrentKind kind_;
  int64_t gates_, directions_ = 1, length_ = 0, batch_ = 0, hidden_ = 0, block_ = 1;
  bool batch_first_ = false, backwards_ = false, states_[2] = {}, wanted_[3] = {};
  Tensor input_weights_, weights_, bias_;
  GemmArgs gemm_;
};

bool same_name(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return std::tolower(static_cast<unsigned char>(x)) == std::tolower(static_cast<unsigned char>(y)); });
}

// `activations`: those that the operator has by default.
bool supported(const KernelRequest& r, std::initializer_list<std::string_view> activations) {
  const Node& n = r.node;
  for (size_t i : {0, 1, 2, 3, 5, 6})
    if (r.has_input(i) && r.input(i).dtype != DType::kF32) return false;
  if (!r.input(1).is_constant() || !r.input(2).is_constant() || (r.has_input(3) && !r.input(3).is_constant()) || r.has_input(7)) return false;
  if (n.get_float("clip") > 0) return false;
  if (n.has("activations")) {
    const std::vector<std::string>& given = n.get_string_list("activations");
    for (size_t i = 0; i < given.size(); ++i)
      if (!same_name(given[i], activations.begin()[i % activations.size()])) return false;
    if (!given.empty() && given.size() != activations.size() * static_cast<size_t>(r.in_shape(1)[0])) return false;
  }
  if (r.has_input(4)) {  // lengths: none shorter than the whole
    if (!r.input(4).is_constant()) return false;
    const int64_t length = r.in_shape()[n.get_int("layout") ? 1 : 0];
    for (int64_t i = 0; i < r.input(4).constant.size(); ++i)
      if (r.input(4).constant.get_int(i) != length) return false;
  }
  return true;
}

}  // namespace

void register_recurrent(KernelRegistry& r) {
  using Made = std::unique_ptr<Kernel>;
  r.add("RNN", "", {"f32.rnn", [](const KernelRequest& q) { return supported(q, {"Tanh"}); },
                    [](const KernelRequest& q) -> Made { return std::make_unique<Recurrent>(q, RecurrentKind::kRnn); }});
  r.add("GRU", "", {"f32.gru", [](const KernelRequest& q) { return supported(q, {"Sigmoid", "Tanh"}); }, [](const KernelRequest& q) -> Made {
                      const bool linear = q.node.get_int("linear_before_reset") != 0;
                      return std::make_unique<Recurrent>(q, linear ? RecurrentKind::kGruLinear : RecurrentKind::kGru);
                    }});
  r.add("LSTM", "", {"f32.lstm", [](const KernelRequest& q) { return q.node.get_int("input_forget") == 0 && supported(q, {"Sigmoid", "Tanh", "Tanh"}); },
                     [](const KernelRequest& q) -> Made { return std::make_unique<Recurrent>(q, RecurrentKind::kLstm); }});
}

}  // namespace lathe
#endif
