// .lathe files: what comes back is the plan that was written, and a broken or foreign file is one clear error.
#include "planner/packed.h"

#define XXH_INLINE_ALL
#include <gtest/gtest.h>
#include <xxhash.h>

#include <fstream>

#include "../folder_test.h"
#include "core/file.h"
#include "graph/op.h"
#include "runtime/load.h"

namespace lathe {
namespace {

using Ints = std::vector<int64_t>;

using Packed = FolderTest;

ValueId weights(Graph& g, const Shape& shape, uint64_t seed) {
  Tensor t = random_tensor(DType::kF32, shape, seed);
  for (int64_t i = 0; i < t.size(); ++i) t.set(i, t.get(i) - 0.5);
  return g.add_constant(t);
}

// A bit of everything that a file must hold: dense and depthwise convolution, a residual, a view, a product, a
// constant that is read as it is, and a branch whose shape is known only at run time.
Graph small_network() {
  Graph g;
  ValueId x = g.add_input("x", DType::kF32, Shape{1, 3, 9, 9});
  Attributes same{{"pads", Ints(4, 1)}, {"strides", Ints{1, 1}}, {"dilations", Ints{1, 1}}};
  ValueId a = g.add("Relu", {g.add("Conv", {x, weights(g, {8, 3, 3, 3}, 1), weights(g, {8}, 2)}, same)});
  Attributes depthwise = same;
  depthwise["group"] = int64_t{8};
  ValueId b = g.add("Conv", {a, weights(g, {8, 1, 3, 3}, 3), weights(g, {8}, 4)}, depthwise);
  ValueId c = g.add("Add", {b, a});
  ValueId flat = g.add("Flatten", {c});
  ValueId y = g.add("MatMul", {flat, weights(g, {648, 5}, 5)});
  ValueId scaled = g.add("Mul", {y, weights(g, {5}, 6)});
  scaled = g.add("Clip", {scaled, g.add_constant(Tensor::scalar(-9)), g.add_constant(Tensor::scalar(9))});
  g.outputs = {scaled, g.add("NonZero", {g.add("Relu", {y})})};
  return g;
}

Plan plan_of(bool bf16 = false) {
  PlanOptions options;
  options.bf16 = bf16;
  return make_plan(small_network(), options);
}

// The bytes at an aligned address, as a map has them.
PackedFile from_bytes(std::string_view bytes) {
  Tensor copy(DType::kU8, {static_cast<int64_t>(bytes.size())});
  std::copy(bytes.begin(), bytes.end(), copy.data<char>());
  auto owner = std::make_shared<Tensor>(copy);
  return PackedFile({owner->data<uint8_t>(), bytes.size()}, owner, "test.lathe");
}

std::string contents(const std::string& path) {
  std::vector<uint8_t> bytes = read_file(path, 1 << 26);
  return std::string(bytes.begin(), bytes.end());
}

std::vector<Tensor> run(Plan plan) {
  std::vector<Tensor> inputs = random_inputs(plan, 3);
  Session session(std::move(plan));
  std::vector<Tensor> results;
  for (const Tensor& t : session.run(inputs)) results.push_back(t.clone());
  return results;
}

void expect_same(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i].shape(), b[i].shape());
    ASSERT_EQ(a[i].bytes(), b[i].bytes());
    EXPECT_EQ(std::memcmp(a[i].raw(), b[i].raw(), a[i].bytes()), 0) << "output " << i;
  }
}

TEST_F(Packed, ComesBackAsItWas) {
  for (bool bf16 : {false, true}) {
    Plan plan = plan_of(bf16);
    write_packed(plan, {.model = "net.onnx"}, "the source", path("net.lathe"));
    ASSERT_TRUE(is_packed(path("net.lathe")));
    PackedFile file = PackedFile::open(path("net.lathe"));
    file.check();
    EXPECT_EQ(file.stale(), "");
    EXPECT_EQ(file.source(), "the source");
    EXPECT_EQ(file.origin().model, "net.onnx");
    Plan back = file.plan();
    EXPECT_EQ(print_plan(back), print_plan(plan));
    expect_same(run(std::move(back)), run(std::move(plan)));
  }
}

TEST_F(Packed, IsTheSameFileEachTime) {
  write_packed(plan_of(), {}, "", path("a.lathe"));
  write_packed(plan_of(), {}, "", path("b.lathe"));
  EXPECT_EQ(contents(path("a.lathe")), contents(path("b.lathe")));
}

TEST_F(Packed, PacksAgainWhatWasUnpacked) {
  write_packed(plan_of(), {}, "", path("a.lathe"));
  write_packed(PackedFile::open(path("a.lathe")).plan(), {}, "", path("b.lathe"));
  PackedFile b = PackedFile::open(path("b.lathe"));
  b.check();
  expect_same(run(b.plan()), run(plan_of()));
}

TEST_F(Packed, PlansKeepOnlyTheConstantsThatAreRead) {
  Plan plan = plan_of();
  for (const Step& step : plan.steps) {
    if (!step.kernel) continue;
    std::vector<PackedInput> packed = step.kernel->packed_inputs();
    const Node& n = plan.graph[step.node];
    for (size_t i = 0; i < n.inputs.size(); ++i) {
      if (!n.inputs[i] || !plan.graph[n.inputs[i]].is_constant()) continue;
      bool kept = i < packed.size() && packed[i].data.defined();
      EXPECT_NE(kept, plan.graph[n.inputs[i]].constant.has_elements()) << n.op->name << " input " << i;
    }
  }
}

// The header's checksum, as docs/PACKED.md defines it.
std::string sealed(std::string bytes) {
  uint32_t sections;
  std::memcpy(&sections, bytes.data() + 12, 4);
  size_t end = 64 + sections * 32;
  uint64_t sum = XXH3_64bits_withSeed(bytes.data() + 32, end - 32, XXH3_64bits(bytes.data(), 24));
  std::memcpy(bytes.data() + 24, &sum, 8);
  return bytes;
}

std::string with_format(std::string bytes, uint32_t format) {
  std::memcpy(bytes.data() + 8, &format, 4);
  return sealed(std::move(bytes));
}

// The file with one byte of the plan's description changed and all checksums made good again; empty past its end.
std::string change_plan_section(std::string bytes, size_t at, unsigned char value) {
  for (size_t entry = 64; entry < 64 + 3 * 32; entry += 32) {
    if (bytes[entry] != 2) continue;
    uint64_t offset, size;
    std::memcpy(&offset, bytes.data() + entry + 8, 8);
    std::memcpy(&size, bytes.data() + entry + 16, 8);
    if (at >= size) return "";
    bytes[offset + at] = static_cast<char>(value);
    uint64_t sum = XXH3_64bits(bytes.data() + offset, size);
    std::memcpy(bytes.data() + entry + 24, &sum, 8);
  }
  return sealed(std::move(bytes));
}

// Every cut ends in an error: the header says how long the file is.
TEST_F(Packed, RefusesEveryTruncation) {
  write_packed(plan_of(), {}, "source", path("a.lathe"));
  std::string bytes = contents(path("a.lathe"));
  for (size_t size = 0; size < bytes.size(); size += size < 512 ? 1 : 97)
    EXPECT_THROW(from_bytes(std::string_view(bytes).substr(0, size)).plan(), Error) << size;
}

// A changed byte of header, table, origin or plan is noticed at once; anywhere at all, by check().
TEST_F(Packed, NoticesEveryChangedByte) {
  write_packed(plan_of(), {}, "source", path("a.lathe"));
  std::string bytes = contents(path("a.lathe"));
  auto weights_at = [&] {
    for (size_t entry = 64; entry < 64 + 4 * 32; entry += 32)
      if (bytes[entry] == 3) return *reinterpret_cast<const uint64_t*>(bytes.data() + entry + 8);
    return uint64_t{0};
  }();
  ASSERT_GT(weights_at, 0u);
  size_t eager = 0;
  for (size_t at = 0; at < bytes.size(); at += at < weights_at ? 1 : 61) {
    for (int bit : {0, 7}) {
      std::string changed = bytes;
      changed[at] = static_cast<char>(changed[at] ^ (1 << bit));
      try {
        from_bytes(changed).check();
        ADD_FAILURE() << "byte " << at << " bit " << bit;
      } catch (const Error&) {
      }
      try {
        from_bytes(changed).plan();
        // Only zeros between sections are not looked at.
        if (at < weights_at) {
          EXPECT_EQ(bytes[at], '\0') << at;
        }
      } catch (const Error&) {
        ++eager;
      }
    }
  }
  EXPECT_GT(eager, 1000u);
}

// Behind good checksums the description itself is checked: no change crashes, hangs, or reaches past the arena.
TEST_F(Packed, SurvivesChangesBehindGoodChecksums) {
  Plan plan = plan_of();
  write_packed(plan, {}, "", path("a.lathe"));
  std::string bytes = contents(path("a.lathe"));
  size_t refused = 0, accepted = 0;
  for (size_t at = 0; at < 6000; at += 7) {
    for (unsigned char value : {0x00, 0x01, 0x7f, 0xff}) {
      std::string changed = change_plan_section(bytes, at, value);
      if (changed.empty()) break;
      try {
        run(from_bytes(changed).plan());
        ++accepted;
      } catch (const Error&) {
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, 500u);
  EXPECT_GT(accepted, 50u);  // names, weights' offsets and the like
}

TEST_F(Packed, OtherVersionIsStaleAndKeepsItsSource) {
  write_packed(plan_of(), {}, "the model", path("a.lathe"));
  std::string bytes = with_format(contents(path("a.lathe")), 7);
  PackedFile file = from_bytes(bytes);
  EXPECT_NE(file.stale().find("format 7"), std::string::npos) << file.stale();
  EXPECT_EQ(file.source(), "the model");
  EXPECT_THROW(file.plan(), StalePacking);
}

TEST_F(Packed, OtherFilesAreNotPacked) {
  EXPECT_FALSE(is_packed(path("missing")));
  std::ofstream(path("short")) << "\x89LAT";
  EXPECT_FALSE(is_packed(path("short")));
  EXPECT_THROW(PackedFile::open(path("short")), Error);
}

}  // namespace
}  // namespace lathe
