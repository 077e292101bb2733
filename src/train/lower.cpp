#include "train/lower.h"

#include <map>

#include "graph/op.h"

namespace lathe {

namespace {

std::map<std::string, Lowering, std::less<>>& table() {
  static std::map<std::string, Lowering, std::less<>> lowerings;
  return lowerings;
}
std::string key(std::string_view op, std::string_view domain) { return std::string(domain) + "::" + std::string(op); }

}  // namespace

void LoweringRegistry::add(std::string_view op, Lowering lowering, std::string_view domain) {
  find_op(op, domain);  // a name of no operator is a defect
  require(table().emplace(key(op, domain), lowering).second, "two lowerings of {}", op);
}

Lowering find_lowering(const Op& op) {
  static const bool once = [] {
    LoweringRegistry r;
    for (auto* family : {lower_convolutions, lower_elementwise, lower_moves, lower_norms, lower_products, lower_quantize}) family(r);
    return true;
  }();
  (void)once;
  const auto found = table().find(key(op.name, op.domain));
  return found == table().end() ? nullptr : found->second;
}

std::vector<int64_t> LowerCall::ints(size_t i) const {
  const at::Tensor t = inputs[i].to(at::kCPU, at::kLong).contiguous();
  return {t.data_ptr<int64_t>(), t.data_ptr<int64_t>() + t.numel()};
}

at::ScalarType to_torch(DType type) {
  switch (type) {
    case DType::kF32: return at::kFloat;
    case DType::kF64: return at::kDouble;
    case DType::kBF16: return at::kBFloat16;
    case DType::kF16: return at::kHalf;
    case DType::kI8: return at::kChar;
    case DType::kU8: return at::kByte;
    case DType::kI16: return at::kShort;
    case DType::kI32: return at::kInt;
    case DType::kI64: return at::kLong;
    case DType::kBool: return at::kBool;
    default: fail(ErrorKind::kUnsupported, "training with elements of {}", name_of(type));
  }
}

DType from_torch(at::ScalarType type) {
  for (DType t : {DType::kF32, DType::kF64, DType::kBF16, DType::kF16, DType::kI8, DType::kU8, DType::kI16, DType::kI32, DType::kI64, DType::kBool})
    if (to_torch(t) == type) return t;
  fail(ErrorKind::kUnsupported, "elements of {}", c10::toString(type));
}

at::Tensor to_torch(const Tensor& tensor) {
  at::Tensor t = at::empty(tensor.shape(), to_torch(tensor.dtype()));
  if (tensor.bytes()) std::memcpy(t.data_ptr(), tensor.raw(), tensor.bytes());
  return t;
}

Tensor from_torch(const at::Tensor& tensor) {
  const at::Tensor t = tensor.detach().cpu().contiguous();
  Tensor copy(from_torch(t.scalar_type()), t.sizes().vec());
  if (copy.bytes()) std::memcpy(copy.raw(), t.data_ptr(), copy.bytes());
  return copy;
}

}  // namespace lathe
