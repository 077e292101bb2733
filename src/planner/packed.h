// A .lathe file holds a Plan: the graph after all passes, the kernel of every step, the offset of every buffer,
// and weights packed as the kernels want them, which are mapped and not read. So nothing is imported, rewritten,
// placed or packed when it is loaded. Packed weights suit one kind of machine: the file says for which, and may
// hold the ONNX model that it was made from, to plan anew elsewhere. docs/PACKED.md has the bytes.
//
//   write_packed(plan, {.model = "net.onnx", .options = options}, onnx_bytes, "net.lathe");
//   PackedFile file = PackedFile::open("net.lathe");
//   Session session(file.plan());             // throws StalePacking where the file does not suit this machine
//   import_onnx_bytes(file.source());         // then
//
// The file is untrusted: everything but the weights' values is checked before it is used.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "planner/plan.h"

namespace lathe {

// Where a packed file comes from.
struct PackedOrigin {
  std::string model;        // file name of the model
  PlanOptions options = {}; // that it was planned with
  int64_t batch = 1;        // that was asked for
  std::string version = {}; // of lathe; the writer fills it in, as the next
  std::string machine = {}; // packing_identity() of the machine
};

bool is_packed(const std::string& path);  // by its first bytes; false too when it cannot be read

class PackedFile {
 public:
  // Both throw kInput when header, table of sections or the description of the plan are broken. `bytes` must be
  // aligned to 64 bytes; `owner` keeps them alive.
  static PackedFile open(const std::string& path);
  PackedFile(std::span<const uint8_t> bytes, std::shared_ptr<const void> owner, std::string name);

  const PackedOrigin& origin() const { return origin_; }
  // Why the plan cannot be used by this lathe on this machine: one sentence, or empty when it can.
  const std::string& stale() const { return stale_; }
  // Throws StalePacking when stale() or when a kernel wants another layout than the file has, kInput when the
  // file is broken.
  Plan plan() const;
  std::string_view source() const { return section(kSource); }  // the ONNX model; empty when it was left out
  // Reads all of the file and compares every checksum. Throws kInput naming the section that differs.
  void check() const;

 private:
  friend void write_packed(const Plan&, const PackedOrigin&, std::string_view, const std::string&);
  enum Section : uint32_t { kOrigin = 1, kPlan = 2, kWeights = 3, kSource = 4 };
  struct Extent {
    uint64_t offset = 0, size = 0, checksum = 0;
  };
  std::string_view section(Section kind) const;
  void verify_section(Section kind) const;
  void read_header();
  void read_origin();

  std::string_view bytes_;
  std::shared_ptr<const void> owner_;
  std::string name_, stale_;
  Extent extents_[5];
  PackedOrigin origin_;
};

// Writes the plan whole or not at all; the plan's kernels may go on running. `source` may be empty.
void write_packed(const Plan& plan, const PackedOrigin& origin, std::string_view source, const std::string& path);

}  // namespace lathe
