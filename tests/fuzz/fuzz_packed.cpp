// Bytes → .lathe file → plan → one run. Checksums keep a fuzzer out, so the bytes are taken for the description of
// the plan and put into a file that is otherwise whole; inputs that begin with the mark of a .lathe file are read as
// one. Only lathe::Error may come out.
#define XXH_INLINE_ALL
#include <unistd.h>
#include <xxhash.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "core/file.h"
#include "graph/op.h"
#include "runtime/load.h"

using namespace lathe;

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace {

constexpr int64_t kLargest = int64_t{1} << 22;  // bytes of an arena; larger ones only cost time here
using Ints = std::vector<int64_t>;

Graph network() {
  Graph g;
  auto constant = [&](Shape shape) { return g.add_constant(random_tensor(DType::kF32, shape, 1)); };
  ValueId x = g.add_input("x", DType::kF32, Shape{1, 3, 6, 6});
  Attributes a{{"pads", Ints(4, 1)}, {"strides", Ints{1, 1}}, {"dilations", Ints{1, 1}}};
  ValueId y = g.add("Relu", {g.add("Conv", {x, constant({4, 3, 3, 3}), constant({4})}, a)});
  a["group"] = int64_t{4};
  y = g.add("Add", {g.add("Conv", {y, constant({4, 1, 3, 3}), constant({4})}, a), y});
  y = g.add("MatMul", {g.add("Flatten", {y}), constant({144, 5})});
  y = g.add("Clip", {g.add("Mul", {y, constant({5})}), g.add_constant(Tensor::scalar(-1)), g.add_constant(Tensor::scalar(9))});
  g.outputs = {g.add("Softmax", {y}), g.add("NonZero", {g.add("Relu", {y})})};
  return g;
}

// The sections of a real file, in the order of their kinds from 1.
struct Parts {
  std::string origin, plan, weights;
};

const Parts& parts() {
  static const Parts made = [] {
    std::string path = "/tmp/fuzz_packed_XXXXXX";
    ::close(::mkstemp(path.data()));
    write_packed(make_plan(network()), {}, "", path);
    std::vector<uint8_t> file = read_file(path, 1 << 24);
    ::unlink(path.c_str());
    Parts p;
    std::string* sections[] = {&p.origin, &p.plan, &p.weights};
    for (int i = 0; i < 3; ++i) {
      uint64_t extent[2];
      std::memcpy(extent, file.data() + 64 + 32 * i + 8, sizeof extent);
      sections[i]->assign(reinterpret_cast<const char*>(file.data()) + extent[0], extent[1]);
    }
    return p;
  }();
  return made;
}

// A file as docs/PACKED.md describes it, around this plan section.
std::string assemble(std::string_view plan) {
  std::string file("\x89LATHE\n\x1a", 8);
  auto number = [&](auto value) { file.append(reinterpret_cast<const char*>(&value), sizeof value); };
  number(uint32_t{1});
  number(uint32_t{3});
  std::string_view sections[] = {parts().origin, plan, parts().weights};
  uint64_t at = 64 + 3 * 32, offsets[3];
  for (int i = 0; i < 3; ++i) {
    offsets[i] = at = (at + 63) / 64 * 64;
    at += sections[i].size();
  }
  number(at);
  file.resize(64, '\0');
  for (uint32_t i = 0; i < 3; ++i) {
    number(uint64_t{i + 1});
    number(offsets[i]);
    number(uint64_t{sections[i].size()});
    number(uint64_t{XXH3_64bits(sections[i].data(), sections[i].size())});
  }
  uint64_t sum = XXH3_64bits_withSeed(file.data() + 32, file.size() - 32, XXH3_64bits(file.data(), 24));
  std::memcpy(file.data() + 24, &sum, sizeof sum);
  for (int i = 0; i < 3; ++i) {
    file.resize(offsets[i], '\0');
    file += sections[i];
  }
  return file;
}

}  // namespace

// Begins with the description of a real plan where the corpus is still empty.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned int) {
  const std::string& plan = parts().plan;
  if (size < 64 && plan.size() <= max_size) {
    std::memcpy(data, plan.data(), plan.size());
    size = plan.size();
  }
  return LLVMFuzzerMutate(data, size, max_size);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view bytes(reinterpret_cast<const char*>(data), size);
  std::string file = bytes.starts_with("\x89LATHE") ? std::string(bytes) : assemble(bytes);
  auto aligned = std::make_shared<Tensor>(DType::kU8, Shape{static_cast<int64_t>(file.size())});
  std::memcpy(aligned->raw(), file.data(), file.size());
  try {
    PackedFile packed({aligned->data<uint8_t>(), file.size()}, aligned, "fuzz.lathe");
    Plan plan = packed.plan();
    if (plan.arena_bytes > kLargest || count_macs(plan.graph) > kLargest) return 0;
    for (ValueId v : plan.graph.inputs)
      if (element_count(*plan.graph[v].shape) > kLargest) return 0;
    // Steps of unknown shape may loop or grow as long as they like.
    bool dynamic = std::any_of(plan.steps.begin(), plan.steps.end(), [](const Step& s) { return s.dynamic; });
    if (dynamic) return 0;
    std::vector<Tensor> inputs = random_inputs(plan.graph, 1);
    Session(std::move(plan)).run(inputs);
  } catch (const Error&) {
  }
  return 0;
}
