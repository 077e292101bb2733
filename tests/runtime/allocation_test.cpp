// No allocation per run once a Session is warm: every way to the heap is counted while it runs.
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <filesystem>

#include "graph/op.h"
#include "runtime/load.h"

#if !defined(__SANITIZE_ADDRESS__)  // a sanitizer has its own allocator in these places

// glibc's own functions under their internal names, which exist so that programs can stand before them.
extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
}

namespace {
std::atomic<bool> counting{false};
std::atomic<int64_t> allocations{0};
void* counted(void* memory) {
  if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1, std::memory_order_relaxed);
  return memory;
}
}  // namespace

extern "C" {
void* malloc(size_t size) { return counted(__libc_malloc(size)); }
void* calloc(size_t count, size_t size) { return counted(__libc_calloc(count, size)); }
void* realloc(void* memory, size_t size) { return counted(__libc_realloc(memory, size)); }
void* memalign(size_t alignment, size_t size) { return counted(__libc_memalign(alignment, size)); }
void* aligned_alloc(size_t alignment, size_t size) { return counted(__libc_memalign(alignment, size)); }
int posix_memalign(void** memory, size_t alignment, size_t size) {
  *memory = counted(__libc_memalign(alignment, size));
  return *memory ? 0 : ENOMEM;
}
}

namespace lathe {
namespace {

using Ints = std::vector<int64_t>;

// Allocations of one run, after warming up.
int64_t allocations_of(Session& session, const std::vector<Tensor>& inputs) {
  for (int i = 0; i < 3; ++i) session.run(inputs);
  constexpr int kRuns = 5;
  allocations = 0;
  counting = true;
  for (int i = 0; i < kRuns; ++i) session.run(inputs);
  counting = false;
  return allocations / kRuns;
}

int64_t steps_of(const Plan& plan, std::string_view part) {
  return std::count_if(plan.steps.begin(), plan.steps.end(), [&](const Step& s) { return s.kernel_name.find(part) != s.kernel_name.npos; });
}

ValueId weights(Graph& g, const Shape& shape, uint64_t seed) { return g.add_constant(random_tensor(DType::kF32, shape, seed)); }

TEST(Allocations, CountsWhatIsAllocated) {
  allocations = 0;
  counting = true;
  Tensor t(DType::kF32, {1000});
  auto* p = new std::vector<int>(100);
  counting = false;
  delete p;
  EXPECT_GE(allocations, 4);  // shape, elements, their count of owners, the vector and its elements
}

TEST(Allocations, NoneInOwnKernels) {
  Graph g;
  ValueId x = g.add_input("x", DType::kF32, Shape{1, 24, 20, 20});
  Attributes a{{"pads", Ints(4, 1)}, {"strides", Ints{1, 1}}, {"dilations", Ints{1, 1}}, {"group", int64_t{24}}};
  ValueId y = g.add("HardSwish", {g.add("Conv", {x, weights(g, {24, 1, 3, 3}, 1), weights(g, {24}, 2)}, a)});
  y = g.add("Add", {y, g.add("Sigmoid", {x})});
  y = g.add("MaxPool", {y}, {{"kernel_shape", Ints{2, 2}}, {"strides", Ints{2, 2}}});
  y = g.add("Softmax", {g.add("Flatten", {y})});
  g.outputs = {y, g.add("Flatten", {x})};  // and a view of an input
  Session session(make_plan(g));
  for (const Step& step : session.plan().steps) EXPECT_TRUE(step.kernel || step.view) << step.kernel_name;
  ASSERT_EQ(steps_of(session.plan(), "onednn"), 0);
  EXPECT_EQ(allocations_of(session, random_inputs(session.plan(), 1)), 0);
}

// What oneDNN takes inside dnnl_primitive_execute and nothing else. Version 2.6 puts the arguments into a map of its
// own, a node for each, and offers no way around it: eight blocks for a convolution with bias.
TEST(Allocations, OnlyOneDnnsOwn) {
  std::filesystem::path file = std::filesystem::path(LATHE_ASSETS) / "models/squeezenet1_1.onnx";
  if (!std::filesystem::exists(file)) GTEST_SKIP() << "needs " << file;
  Session session(ModelFile(file.string()).plan({}).plan);
  int64_t primitives = steps_of(session.plan(), "onednn");
  int64_t count = allocations_of(session, random_inputs(session.plan(), 1));
  RecordProperty("allocations_per_run", static_cast<int>(count));
  RecordProperty("onednn_steps", static_cast<int>(primitives));
  EXPECT_LE(count, 8 * primitives);
}

TEST(Allocations, NoneInStrips) {
  Graph g;
  ValueId x = g.add_input("x", DType::kF32, Shape{1, 3, 40, 40});
  x = g.add("Relu", {g.add("Conv", {x, weights(g, {8, 3, 3, 3}, 1)}, {{"pads", Ints(4, 1)}, {"strides", Ints{2, 2}}})});
  x = g.add("Relu", {g.add("Conv", {x, weights(g, {8, 1, 3, 3}, 2)}, {{"pads", Ints(4, 1)}, {"group", int64_t{8}}})});
  g.outputs = {g.add("Conv", {x, weights(g, {8, 8, 1, 1}, 3)})};
  PlanOptions options;
  const std::vector<PatchSetting> settings = patch_settings(make_plan(g).graph, 1);
  ASSERT_FALSE(settings.empty()) << print_plan(make_plan(g)) << patchable_prefix(make_plan(g).graph).stop;
  options.patch_setting = settings[0];
  Session session(make_plan(g, options));
  ASSERT_TRUE(session.plan().patches);
  EXPECT_EQ(steps_of(session.plan(), "onednn"), 0);
  EXPECT_EQ(allocations_of(session, random_inputs(session.plan(), 1)), 0);
}

}  // namespace
}  // namespace lathe

#endif
