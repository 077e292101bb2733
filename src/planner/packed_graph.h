// Internal to planner: a Graph and a PlanRecord as bytes, the elements of their tensors apart. In the section of
// weights each tensor begins at a multiple of 64 bytes (large ones at a page), once, however many share it, and is
// followed by at least 64 bytes more, so that kernels may read one vector past its end as in any Tensor.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string_view>
#include <vector>

#include "core/bytes.h"
#include "planner/plan.h"

namespace lathe {

class WeightWriter {
 public:
  uint64_t add(const Tensor& tensor);  // its offset in the section
  uint64_t size() const { return size_; }
  // The section from its beginning to its end.
  void for_each_piece(const std::function<void(const void*, size_t)>& use) const;

 private:
  struct Piece {
    uint64_t offset;
    Tensor tensor;
  };
  std::vector<Piece> pieces_;
  std::map<std::pair<const void*, size_t>, uint64_t> offsets_;
  uint64_t size_ = 0;
};

class WeightReader {
 public:
  WeightReader(std::string_view section, std::shared_ptr<const void> owner) : section_(section), owner_(std::move(owner)) {}
  // Borrows the elements, which keep the owner alive. Throws kInput when they do not lie in the section.
  Tensor read(DType type, Shape shape, uint64_t offset) const;

 private:
  std::string_view section_;
  std::shared_ptr<const void> owner_;
};

// Nodes are written in the order in which they run.
void write_graph(const Graph& graph, ByteWriter& out, WeightWriter& weights);
Graph read_graph(ByteReader& in, const WeightReader& weights);
void write_record(const PlanRecord& record, ByteWriter& out, WeightWriter& weights);
PlanRecord read_record(ByteReader& in, const WeightReader& weights);

}  // namespace lathe
