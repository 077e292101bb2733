#include "core/tensor.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <tuple>

namespace lathe {

// The product of the sizes. Zeros are left out of it: strides are products of the other sizes.
static int64_t checked_product(const Shape& shape, int64_t smallest) {
  int64_t count = 1;
  for (int64_t size : shape)
    if (size < smallest || size > kMaxDimension || (size > 0 && __builtin_mul_overflow(count, size, &count)))
      fail(ErrorKind::kModel, "shape {} is not a valid tensor shape", to_string(shape));
  return count;
}

int64_t element_count(const Shape& shape) {
  int64_t count = checked_product(shape, 0);
  return std::find(shape.begin(), shape.end(), 0) != shape.end() ? 0 : count;
}

void check_shape(const Shape& shape) { checked_product(shape, kUnknownDim); }

static int64_t physical_memory() {
  static const int64_t bytes = int64_t{::sysconf(_SC_PHYS_PAGES)} * ::sysconf(_SC_PAGESIZE);
  return bytes;
}

int64_t product(const Shape& shape, size_t from, size_t to) {
  int64_t result = 1;
  for (size_t i = from; i < to; ++i) result *= shape[i];
  return result;
}

bool is_static(const Shape& shape) {
  return std::none_of(shape.begin(), shape.end(), [](int64_t size) { return size < 0; });
}

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i) text += ", ";
    text += shape[i] < 0 ? "?" : std::to_string(shape[i]);
  }
  return text + "]";
}

std::vector<int64_t> strides_of(const Shape& shape) {
  std::vector<int64_t> strides(shape.size());
  int64_t step = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = step;
    step *= shape[i];
  }
  return strides;
}

Shape broadcast(const Shape& a, const Shape& b) {
  Shape result(std::max(a.size(), b.size()));
  for (size_t i = 0; i < result.size(); ++i) {
    int64_t x = i < result.size() - a.size() ? 1 : a[i - (result.size() - a.size())];
    int64_t y = i < result.size() - b.size() ? 1 : b[i - (result.size() - b.size())];
    if (x == y || y == 1) {
      result[i] = x;
    } else if (x == 1) {
      result[i] = y;
    } else if (x < 0 || y < 0) {
      result[i] = std::max(x, y);  // the known size is not 1, so the unknown one must equal it
    } else {
      fail(ErrorKind::kModel, "shapes {} and {} cannot be broadcast together", to_string(a), to_string(b));
    }
  }
  return result;
}

int64_t normalize_axis(int64_t axis, int64_t rank) {
  check_model(axis >= -rank && axis < rank, "axis {} is out of range for a tensor of rank {}", axis, rank);
  return axis < 0 ? axis + rank : axis;
}

// Large pages: fewer faults while weights are packed, fewer misses of the address cache while they are read.
constexpr size_t kLargePage = size_t{2} << 20;

// `bytes` aligned to 64, or to a large page and on large pages as far as whole ones go, so that no memory is taken
// beyond the tensor. Null when there is none.
static void* allocate(size_t bytes) {
  const bool large = bytes >= kLargePage;
  void* memory = nullptr;  // not from std::aligned_alloc, which asks for whole multiples of the alignment
  if (::posix_memalign(&memory, large ? kLargePage : 64, bytes) != 0) return nullptr;
#ifdef MADV_HUGEPAGE
  if (large) ::madvise(memory, bytes / kLargePage * kLargePage, MADV_HUGEPAGE);
#endif
  return memory;
}

static thread_local TensorPool* current_pool = nullptr;

TensorPool::Scope::Scope(TensorPool* pool) : before_(current_pool) { current_pool = pool; }
TensorPool::Scope::~Scope() { current_pool = before_; }

std::pair<void*, std::shared_ptr<const void>> TensorPool::cut(size_t bytes) {
  constexpr size_t kSmallNetwork = size_t{1} << 20;  // which no large page is spent on
  small_ += bytes;
  if (bytes > kLargePage / 2 || small_ <= kSmallNetwork) return {};
  if (!page_ || used_ + bytes > kLargePage) {
    auto* page = static_cast<char*>(allocate(kLargePage));
    if (!page) return {};
    page_ = std::shared_ptr<char>(page, [](char* p) { std::free(p); });
    used_ = 0;
  }
  char* at = page_.get() + used_;
  used_ += bytes;
  return {at, std::shared_ptr<const void>(page_, at)};
}

Tensor::Tensor(DType type, Shape shape) : type_(type), shape_(std::move(shape)) {
  count_ = element_count(shape_);
  if (size_of(type) == 0)
    fail(ErrorKind::kUnsupported, "tensors of type {} are not supported", name_of(type));
  if (count_ > kMaxTensorBytes / static_cast<int64_t>(size_of(type)))
    fail(ErrorKind::kInput, "a tensor of shape {} and type {} is larger than the limit of {} GiB",
         to_string(shape_), name_of(type), kMaxTensorBytes >> 30);
  // The kernel may promise more than there is and end the process on the first touch.
  if (static_cast<int64_t>(this->bytes()) > physical_memory())
    fail(ErrorKind::kInput, "a tensor of shape {} and type {} is larger than this machine's memory", to_string(shape_),
         name_of(type));
  size_t bytes = (this->bytes() + 127) / 64 * 64;  // room to read one vector past the end
  if (current_pool) std::tie(data_, owner_) = current_pool->cut(bytes);
  if (data_) return;
  void* memory = allocate(bytes);
  if (!memory) fail(ErrorKind::kInput, "no memory is left for a tensor of shape {} and type {}", to_string(shape_), name_of(type));
  data_ = memory;
  owner_ = std::shared_ptr<const void>(memory, [](const void* p) { std::free(const_cast<void*>(p)); });
}

Tensor::Tensor(DType type, Shape shape, void* data, std::shared_ptr<const void> owner)
    : type_(type), shape_(std::move(shape)), count_(element_count(shape_)), data_(data),
      owner_(std::move(owner)), misaligned_(size_of(type) > 1 && reinterpret_cast<uintptr_t>(data) % size_of(type) != 0) {}

void Tensor::align() const {
  TensorPool::Scope alone(nullptr);  // the copy goes before the tensors of a pool do
  const Tensor copy = clone();
  data_ = copy.data_;
  owner_ = copy.owner_;
  misaligned_ = false;
}

Tensor Tensor::scalar(float value) { return of_f32({}, {value}); }

Tensor Tensor::of_i64(const std::vector<int64_t>& values) {
  Tensor t(DType::kI64, {static_cast<int64_t>(values.size())});
  std::copy(values.begin(), values.end(), t.data<int64_t>());
  return t;
}

Tensor Tensor::of_f32(Shape shape, const std::vector<float>& values) {
  Tensor t(DType::kF32, std::move(shape));
  require(t.size() == static_cast<int64_t>(values.size()), "of_f32: {} values for shape {}",
          values.size(), to_string(t.shape()));
  std::copy(values.begin(), values.end(), t.data<float>());
  return t;
}

Tensor Tensor::clone() const {
  if (!defined()) return {};
  Tensor copy(type_, shape_);
  if (bytes()) std::memcpy(copy.raw(), unaligned(), bytes());
  return copy;
}

Tensor Tensor::reshaped(Shape shape) const {
  check_model(element_count(shape) == count_, "cannot view a tensor of shape {} as {}",
              to_string(shape_), to_string(shape));
  return Tensor(type_, std::move(shape), data_, owner_);
}

double Tensor::get(int64_t i) const {
  check_model(has_elements(), "a constant is read whose elements were let go");
  switch (type_) {
    case DType::kF32: return data<float>()[i];
    case DType::kF64: return data<double>()[i];
    case DType::kF16: return to_float(data<F16>()[i]);
    case DType::kBF16: return to_float(data<BF16>()[i]);
    case DType::kU64: return static_cast<double>(data<uint64_t>()[i]);
    default:
      check_model(defined(), "a value is read that was omitted");
      if (is_float(type_)) return narrow_to_float(type_, data<uint8_t>()[i]);
      return static_cast<double>(get_int(i));
  }
}

int64_t Tensor::get_int(int64_t i) const {
  check_model(has_elements(), "a constant is read whose elements were let go");
  switch (type_) {
    case DType::kI64: return data<int64_t>()[i];
    case DType::kU64: return static_cast<int64_t>(data<uint64_t>()[i]);
    case DType::kI32: return data<int32_t>()[i];
    case DType::kU32: return data<uint32_t>()[i];
    case DType::kI16: return data<int16_t>()[i];
    case DType::kU16: return data<uint16_t>()[i];
    case DType::kI8:
    case DType::kI4:
    case DType::kI2: return data<int8_t>()[i];
    case DType::kU8:
    case DType::kU4:
    case DType::kU2:
    case DType::kBool: return data<uint8_t>()[i];
    default: {
      double value = get(i);  // out-of-range conversions are undefined in C++: clamp them
      if (std::isnan(value)) return 0;
      if (value >= 9.2233720368547758e18) return std::numeric_limits<int64_t>::max();
      if (value <= -9.2233720368547758e18) return std::numeric_limits<int64_t>::min();
      return static_cast<int64_t>(value);
    }
  }
}

void Tensor::set(int64_t i, double value) {
  switch (type_) {
    case DType::kF32: data<float>()[i] = static_cast<float>(value); return;
    case DType::kF64: data<double>()[i] = value; return;
    case DType::kF16: data<F16>()[i] = to_f16(value); return;
    case DType::kBF16: data<BF16>()[i] = to_bf16(static_cast<float>(value)); return;
    case DType::kBool: data<uint8_t>()[i] = value != 0; return;
    case DType::kU64:
      data<uint64_t>()[i] = value >= 9.2233720368547758e18 && value < 1.8446744073709552e19
                                ? static_cast<uint64_t>(value)
                                : static_cast<uint64_t>(std::isfinite(value) && std::fabs(value) < 9.2e18
                                                            ? static_cast<int64_t>(value) : 0);
      return;
    default:
      if (is_float(type_)) {
        data<uint8_t>()[i] = float_to_narrow(type_, static_cast<float>(value));
      } else {
        bool fits = std::fabs(value) < 9.2233720368547758e18;
        set_int(i, fits ? static_cast<int64_t>(value) : std::numeric_limits<int64_t>::min());
      }
  }
}

void Tensor::set_int(int64_t i, int64_t value) {
  switch (type_) {
    case DType::kI64: data<int64_t>()[i] = value; return;
    case DType::kU64: data<uint64_t>()[i] = static_cast<uint64_t>(value); return;
    case DType::kI32: data<int32_t>()[i] = static_cast<int32_t>(value); return;
    case DType::kU32: data<uint32_t>()[i] = static_cast<uint32_t>(value); return;
    case DType::kI16: data<int16_t>()[i] = static_cast<int16_t>(value); return;
    case DType::kU16: data<uint16_t>()[i] = static_cast<uint16_t>(value); return;
    case DType::kI8: data<int8_t>()[i] = static_cast<int8_t>(value); return;
    case DType::kU8: data<uint8_t>()[i] = static_cast<uint8_t>(value); return;
    case DType::kI4: data<int8_t>()[i] = static_cast<int8_t>(((value & 15) ^ 8) - 8); return;
    case DType::kU4: data<uint8_t>()[i] = value & 15; return;
    case DType::kI2: data<int8_t>()[i] = static_cast<int8_t>(((value & 3) ^ 2) - 2); return;
    case DType::kU2: data<uint8_t>()[i] = value & 3; return;
    case DType::kBool: data<uint8_t>()[i] = value != 0; return;
    default: set(i, static_cast<double>(value)); return;
  }
}

std::vector<int64_t> Tensor::to_i64() const {
  check_model(is_integer(type_) || type_ == DType::kBool, "expected integers, found a tensor of type {}",
              name_of(type_));
  std::vector<int64_t> values(count_);
  for (int64_t i = 0; i < count_; ++i) values[i] = get_int(i);
  return values;
}

std::vector<float> Tensor::to_f32() const {
  std::vector<float> values(count_);
  for (int64_t i = 0; i < count_; ++i) values[i] = static_cast<float>(get(i));
  return values;
}

Tensor cast(const Tensor& input, DType type, bool saturate) {
  Tensor output(type, input.shape());
  if (input.dtype() == DType::kF32 && type == DType::kBF16) {  // all weights of a network, when it is planned in bf16
    for (int64_t i = 0; i < input.size(); ++i) output.data<BF16>()[i] = to_bf16(input.data<float>()[i]);
    return output;
  }
  bool narrow = is_float(type) && size_of(type) == 1;
  bool through_int = !is_float(input.dtype()) && !is_float(type);
  for (int64_t i = 0; i < input.size(); ++i) {
    if (through_int) {
      output.set_int(i, input.get_int(i));
    } else if (narrow) {
      output.data<uint8_t>()[i] = float_to_narrow(type, static_cast<float>(input.get(i)), saturate);
    } else {
      output.set(i, input.get(i));
    }
  }
  return output;
}

Tensor transpose(const Tensor& input, const std::vector<int64_t>& permutation) {
  size_t rank = permutation.size();
  Shape shape(rank);
  std::vector<int64_t> in_strides = strides_of(input.shape()), steps(rank), index(rank, 0);
  for (size_t i = 0; i < rank; ++i) {
    shape[i] = input.shape()[permutation[i]];
    steps[i] = in_strides[permutation[i]];
  }
  Tensor output(input.dtype(), shape);
  size_t width = size_of(input.dtype());
  auto* from = static_cast<const char*>(input.raw());
  auto* to = static_cast<char*>(output.raw());
  int64_t offset = 0;
  for (int64_t n = 0; n < output.size(); ++n) {
    std::memcpy(to + n * width, from + offset * width, width);
    for (size_t axis = rank; axis-- > 0;) {
      offset += steps[axis];
      if (++index[axis] < shape[axis]) break;
      offset -= steps[axis] * shape[axis];
      index[axis] = 0;
    }
  }
  return output;
}

}  // namespace lathe
