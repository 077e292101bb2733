// Tensor: an element type, a shape and row-major elements, owned or borrowed. Copying a Tensor shares its
// elements; clone() copies them. Shapes are plain vectors of sizes; kUnknownDim stands for a size that is
// known only at run time (graph values only, never a Tensor's own shape).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/dtype.h"
#include "core/error.h"

namespace lathe {

using Shape = std::vector<int64_t>;
constexpr int64_t kUnknownDim = -1;
// A model is untrusted: no tensor may be larger than this.
constexpr int64_t kMaxTensorBytes = int64_t{1} << 36;

// Nor may it be longer along one axis, so that shape rules can add and multiply two sizes without overflow.
constexpr int64_t kMaxDimension = (int64_t{1} << 31) - 1;

// Product of the sizes; 1 for a scalar. Throws kModel on overflow, a negative size or one beyond kMaxDimension.
int64_t element_count(const Shape& shape);
// The same conditions for a shape whose unknown sizes (kUnknownDim) may still become anything.
void check_shape(const Shape& shape);
// Product of shape[from, to).
int64_t product(const Shape& shape, size_t from, size_t to);
bool is_static(const Shape& shape);
std::string to_string(const Shape& shape);  // "[1, 3, 224, 224]"; unknown sizes print as "?"
std::vector<int64_t> strides_of(const Shape& shape);  // row-major, in elements
// NumPy/ONNX multidirectional broadcasting; unknown sizes stay unknown. Throws kModel when impossible.
Shape broadcast(const Shape& a, const Shape& b);
// Maps a possibly negative axis into [0, rank). Throws kModel when out of range.
int64_t normalize_axis(int64_t axis, int64_t rank);

class Tensor {
 public:
  Tensor() = default;
  // Allocates uninitialized elements, aligned to 64 bytes. Throws kInput when larger than kMaxTensorBytes.
  Tensor(DType type, Shape shape);
  // Borrows `data`, which must outlive the tensor unless `owner` keeps it alive. Elements that do not lie at a multiple
  // of their size, as in an ONNX file, are copied when they are first read: in one thread, before others read them.
  Tensor(DType type, Shape shape, void* data, std::shared_ptr<const void> owner = nullptr);

  static Tensor scalar(float value);
  static Tensor of_i64(const std::vector<int64_t>& values);  // one-dimensional
  static Tensor of_f32(Shape shape, const std::vector<float>& values);

  bool defined() const { return type_ != DType::kUndefined; }
  // False where only type and shape are left: the constants of a Plan of which kernels keep a packed form.
  bool has_elements() const { return data_ != nullptr || count_ == 0; }
  Tensor without_elements() const { return Tensor(type_, shape_, nullptr); }
  DType dtype() const { return type_; }
  const Shape& shape() const { return shape_; }
  int64_t rank() const { return static_cast<int64_t>(shape_.size()); }
  int64_t dim(int64_t axis) const { return shape_[normalize_axis(axis, rank())]; }
  int64_t size() const { return count_; }  // elements
  size_t bytes() const { return count_ * size_of(type_); }

  void* raw() {
    if (misaligned_) align();
    return data_;
  }
  const void* raw() const {
    if (misaligned_) align();
    return data_;
  }
  template <class T>
  T* data() {
    return static_cast<T*>(raw());
  }
  template <class T>
  const T* data() const {
    return static_cast<const T*>(raw());
  }
  // Where the elements lie now, at any address: for memcpy and unaligned loads, which save the copy.
  const void* unaligned() const { return data_; }

  Tensor clone() const;
  // The same elements under another shape of equal count.
  Tensor reshaped(Shape shape) const;
  // Takes over the elements of `other`, of equal size, under the shape that this tensor has. Allocates nothing.
  void share(const Tensor& other) {
    require(other.bytes() == bytes(), "share: {} bytes for {}", other.bytes(), bytes());
    data_ = other.data_;
    owner_ = other.owner_;
    misaligned_ = other.misaligned_;
  }

  // Borrows other memory for the elements, which must outlive the tensor. Allocates nothing.
  void point_at(void* data) {
    data_ = data;
    owner_.reset();
    misaligned_ = false;
  }

  // Element access whatever the type, for code where clarity matters more than speed.
  double get(int64_t index) const;
  int64_t get_int(int64_t index) const;
  void set(int64_t index, double value);      // rounds to the type (integers: truncates)
  void set_int(int64_t index, int64_t value);
  // All elements as int64 (axes, shapes, …). Throws kModel when the type is not an integer.
  std::vector<int64_t> to_i64() const;
  std::vector<float> to_f32() const;

 private:
  DType type_ = DType::kUndefined;
  Shape shape_;
  int64_t count_ = 0;
  void align() const;
  mutable void* data_ = nullptr;
  mutable std::shared_ptr<const void> owner_;
  mutable bool misaligned_ = false;
};

// Cuts tensors out of large pages, where the system grants them: fewer faults while they are filled, fewer misses of the
// address cache while they are read. For many that live about as long, as the packed weights of a network: a page goes
// back when the last of its tensors goes.
class TensorPool {
 public:
  // While one lives, the tensors that its thread allocates come from `pool`; null: as ever.
  class Scope {
   public:
    explicit Scope(TensorPool* pool);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    TensorPool* before_;
  };

 private:
  friend class Tensor;
  // `bytes` at a multiple of 64, and what keeps them; null for what is better allocated by itself.
  std::pair<void*, std::shared_ptr<const void>> cut(size_t bytes);
  std::shared_ptr<char> page_;
  size_t used_ = 0, small_ = 0;
};

// Converts element by element as ONNX Cast does.
Tensor cast(const Tensor& input, DType type, bool saturate = true);
// The same elements with axes permuted: output axis i is input axis permutation[i].
Tensor transpose(const Tensor& input, const std::vector<int64_t>& permutation);

}  // namespace lathe
