// A convolution that computes more than it reads wants its weights as f32, for kernels that take fewer products than there
// are (Winograd) or know its window. Here they are decoded when the kernel is made, and what a .lathe file keeps are the
// codes in their few bits.
#include <algorithm>
#include <cstring>

#include "kernels/coded_weights.h"
#include "kernels/kernel.h"

namespace lathe {
namespace {

// From so many pixels on each weight is used often enough.
constexpr int64_t kLeastPixels = 16;

int64_t in_byte(int bits) { return 8 / bits; }

Tensor one_a_byte(const Tensor& packed, DType type, const Shape& shape, int bits) {
  Tensor codes(type, shape);
  const auto* from = packed.data<uint8_t>();
  for (int64_t i = 0; i < codes.size(); ++i) codes.set_int(i, from[i / in_byte(bits)] >> i % in_byte(bits) * bits & ((1 << bits) - 1));
  return codes;
}

class DecodedConv : public Kernel {
 public:
  explicit DecodedConv(const KernelRequest& r) {
    const Shape& w = r.in_shape(1);
    const DType type = r.input(1).dtype;
    const int64_t entries = r.in_shape(4)[1], block = r.node.get_int("block_size");
    const int bits = block ? bits_of(type) : entries <= 2 ? 1 : entries <= 4 ? 2 : 4;
    const int64_t bytes = (element_count(w) + in_byte(bits) - 1) / in_byte(bits);
    const auto same = [](const Tensor& t) { return t; };
    codes_ = r.packed_input(1, DType::kU8, {bytes}, kLayout, [&](const Tensor& t) { return pack_codes(t, bits); });
    numbers_ = r.packed_input(4, DType::kF32, r.in_shape(4), kLayout, same);
    if (r.has_input(5)) zeros_ = r.packed_input(5, type, r.in_shape(5), kLayout, same);
    const std::vector<int64_t>& kernel = r.node.get_ints("kernel_shape");
    const Tensor rows = decode_weights(one_a_byte(codes_, type, w, bits), numbers_, zeros_, block);
    const Tensor whole = transpose(rows.reshaped({w[0], kernel[0], kernel[1], w[1] / (kernel[0] * kernel[1])}), {0, 3, 1, 2});
    Attributes a;
    const Op& op = find_op("Conv", kLatheDomain);
    for (const auto& [name, value] : r.node.attributes)
      if (op.find(name)) a.emplace(name, value);
    std::vector<ValueId> inputs{inner_.add_input("x", DType::kF32, r.in_shape()), inner_.add_constant(whole)};
    if (r.has_input(2)) inputs.push_back(inner_.add_constant(r.input(2).constant));
    if (r.has_input(3)) {
      inputs.resize(4);
      inputs[3] = inner_.add_input("residual", DType::kF32, r.in_shape(3));
    }
    inner_.outputs = {inner_.add("ai.lathe::Conv", inputs, std::move(a))};
    const Node& node = inner_[inner_.order().front()];
    const KernelRequest request{.graph = inner_, .node = node, .winograd = r.winograd, .pool = r.pool};
    for (const KernelEntry* entry : kernels_for(request)) {
      try {
        kernel_ = entry->make(request);
        break;
      } catch (const Error&) {
        throw;
      } catch (const std::exception&) {  // a library refuses what `supports` let through: the next one
      }
    }
    if (!kernel_) throw std::runtime_error("no kernel takes the decoded convolution");
    // What it keeps in its own arrangement need not be here twice.
    const std::vector<PackedInput> kept = kernel_->packed_inputs();
    for (size_t i = 1; i < std::min<size_t>(inputs.size(), 3); ++i)
      if (inputs[i] && i < kept.size() && kept[i].data.defined()) inner_[inputs[i]].constant = inner_[inputs[i]].constant.without_elements();
    for (ValueId v : inputs) constants_.push_back(v && inner_[v].is_constant() ? inner_[v].constant : Tensor());
  }
  int in_place_input() const override { return kernel_->in_place_input(); }
  size_t scratch_bytes() const override { return kernel_->scratch_bytes(); }
  std::vector<PackedInput> packed_inputs() const override {
    std::vector<PackedInput> list{{}, {codes_, kLayout}, {}, {}, {numbers_, kLayout}};
    if (zeros_.defined()) list.push_back({zeros_, kLayout});
    return list;
  }
  void run(const Tensor* const* in, Tensor* const* out, void* scratch) override {
    const Tensor* inputs[4] = {in[0], &constants_[1], constants_.size() > 2 && constants_[2].defined() ? &constants_[2] : nullptr, constants_.size() > 3 ? in[3] : nullptr};
    kernel_->run(inputs, out, scratch);
  }

 private:
  static constexpr uint64_t kLayout = 1;
  Graph inner_;
  std::unique_ptr<Kernel> kernel_;
  Tensor codes_, numbers_, zeros_;
  std::vector<Tensor> constants_;  // inputs of the inner node
};

bool supported(const KernelRequest& r) {
  if (r.input(0).dtype != DType::kF32 || r.output().dtype != DType::kF32) return false;
  for (size_t i : {1, 2, 4, 5})
    if (r.has_input(i) && !r.input(i).is_constant()) return false;
  const Shape& y = r.out_shape();
  return y[0] * y[1] * y[2] >= kLeastPixels;
}

}  // namespace

void register_coded_conv_decoded(KernelRegistry& r) {
  r.add("CodedConv", kLatheDomain, {"coded.conv.decoded", supported, [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<DecodedConv>(q); }});
}

}  // namespace lathe
