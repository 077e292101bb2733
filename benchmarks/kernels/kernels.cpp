// Times every kernel that supports a node, alternating, on one thread: GFLOP/s and per cent of what this
// machine's core can do.
//
//   bench_kernels conv HxWxC OUT KERNEL STRIDE [GROUPS] [ACTIVATION] [f32|bf16|int8]
//   bench_kernels matmul MxKxN [ACTIVATION] [f32|bf16|int8]
//   bench_kernels attention TOKENSxHEADSxWIDTH [f32|bf16]   fused, and as transposes, products and a softmax
//   bench_kernels weights MxKxN int4|int8|codebook|ternary [GROUP]   few bits against f32 and bf16; GROUP: of int4 and int8, 128
//   bench_kernels xnor HxWxC OUT                                     signs against f32, 3×3
//   bench_kernels all [f32|bf16|int8]     the convolutions of mobilenet_v2, resnet18 and some others
//   bench_kernels depthwise      the ten depthwise convolutions of mobilenet_v2 on codes
//
// Convolutions of codes (int8) are also timed in oneDNN, which no plan takes: it rounds ties otherwise.
#include <omp.h>
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <sstream>

#include "graph/op.h"
#include "kernels/isa.h"
#include "kernels/kernel.h"
#include "kernels/probe.h"
#include "kernels/reference/reference.h"
#include "onednn_int8.h"
#include "runtime/load.h"
#include "runtime/session.h"

using namespace lathe;

namespace {

// Time of this thread alone: other work on the machine does not count, though what it does to caches does.
double thread_seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

struct Case {
  std::string title;
  Graph graph;
  int64_t macs = 0;
};

Tensor weights_of(DType type, const Shape& shape, uint64_t seed) {
  Tensor t = random_tensor(DType::kF32, shape, seed);
  for (int64_t i = 0; i < t.size(); ++i) t.set(i, t.get(i) - 0.5);
  return type == DType::kF32 ? t : cast(t, type);
}

Case make_case(std::string_view op, DType type, const Shape& x_shape, const Shape& w_shape, Attributes attributes, const std::string& title, bool depthwise) {
  Case c;
  c.title = title;
  Graph& g = c.graph;
  Value x;
  x.name = "x";
  x.dtype = type;
  x.shape = x_shape;
  ValueId in = g.add_value(x);
  g.inputs.push_back(in);
  ValueId w = g.add_constant(weights_of(depthwise ? DType::kF32 : type, w_shape, 1), "w");
  ValueId b = g.add_constant(weights_of(DType::kF32, {op == "ai.lathe::Conv" ? w_shape[0] : w_shape[1]}, 2), "b");
  ValueId y = g.add(op, {in, w, b}, std::move(attributes));
  g.outputs.push_back(y);
  infer_shapes(g);
  c.macs = count_macs(g);
  return c;
}

// Codes of u8, weights of i8, and scales that bring the sums to codes of u8.
Case integer_case(std::string_view op, const Shape& x_shape, const Shape& w_shape, Attributes attributes, int64_t columns, const std::string& title) {
  Case c;
  c.title = title;
  Graph& g = c.graph;
  g.inputs = {g.add_input("x", DType::kU8, x_shape)};
  Tensor w(DType::kI8, w_shape), multipliers(DType::kF32, {columns}), bias(DType::kI32, {columns});
  const Tensor random = random_tensor(DType::kF32, w_shape, 1);
  for (int64_t i = 0; i < w.size(); ++i) w.set_int(i, static_cast<int64_t>(random.get(i) * 255) - 127);
  const double depth = static_cast<double>(w.size()) / static_cast<double>(columns);
  for (int64_t i = 0; i < columns; ++i) multipliers.set(i, 0.004 / std::sqrt(depth) * (1 + 0.01 * static_cast<double>(i % 7))), bias.set_int(i, 100 * (i % 9) - 400);
  attributes["x_zero_point"] = int64_t{121};
  attributes["output_dtype"] = static_cast<int64_t>(DType::kU8);
  attributes["y_zero_point"] = int64_t{128};
  attributes["low"] = int64_t{0};
  attributes["high"] = int64_t{255};
  g.outputs = {g.add(op, {g.inputs[0], g.add_constant(w), g.add_constant(multipliers), g.add_constant(bias)}, std::move(attributes))};
  infer_shapes(g);
  c.macs = count_macs(g);
  return c;
}

Case conv_case(int64_t h, int64_t w, int64_t c, int64_t out, int64_t k, int64_t s, int64_t groups, const std::string& activation, DType type) {
  Attributes a{{"strides", std::vector<int64_t>{s, s}}, {"pads", std::vector<int64_t>{k / 2, k / 2, k / 2, k / 2}}, {"dilations", std::vector<int64_t>{1, 1}},
               {"group", groups}, {"activation", activation}, {"residual_first", int64_t{0}}};
  if (type == DType::kU8) {
    for (const char* name : {"activation", "residual_first"}) a.erase(name);
    return integer_case("ai.lathe::IntegerConv", {1, h, w, c}, {out, c / groups, k, k}, a, out, fmt::format("conv {}x{}x{} → {} {}x{}/{} g{} int8", h, w, c, out, k, k, s, groups));
  }
  if (activation == "Clip") a["beta"] = 6.0f;
  if (activation == "Swish") a["alpha"] = 1.0f;
  return make_case("ai.lathe::Conv", type, {1, h, w, c}, {out, c / groups, k, k}, a,
                   fmt::format("conv {}x{}x{} → {} {}x{}/{} g{} {} {}", h, w, c, out, k, k, s, groups, activation, name_of(type)), groups == c && groups > 1);
}

Case matmul_case(int64_t m, int64_t k, int64_t n, const std::string& activation, DType type) {
  if (type == DType::kU8) return integer_case("ai.lathe::IntegerMatMul", {m, k}, {k, n}, {}, n, fmt::format("matmul {}x{}x{} int8", m, k, n));
  return make_case("ai.lathe::MatMul", type, {m, k}, {k, n}, {{"activation", activation}, {"residual_first", int64_t{0}}},
                   fmt::format("matmul {}x{}x{} {} {}", m, k, n, activation, name_of(type)), false);
}

// A product whose weights are codes.
Case coded_case(int64_t m, int64_t k, int64_t n, const std::string& form, int64_t group) {
  Case c;
  c.title = fmt::format("matmul {}x{}x{} {}", m, k, n, form);
  Graph& g = c.graph;
  const bool scaled = form.starts_with("int"), wide = form == "int8";
  if (scaled) c.title += fmt::format(" in groups of {}", group);
  const ValueId x = g.add_input("x", DType::kF32, Shape{m, k});
  Tensor codes(wide ? DType::kI8 : scaled ? DType::kI4 : DType::kU8, {n, k});
  uint64_t state = 1;
  for (int64_t i = 0; i < codes.size(); ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const auto bits = static_cast<int64_t>(state >> 33);
    codes.set_int(i, wide ? bits % 256 - 128 : scaled ? bits % 16 - 8 : form == "ternary" ? bits % 3 : bits % 16);
  }
  const Tensor numbers = scaled ? random_tensor(DType::kF32, {n, (k + group - 1) / group}, 3) : weights_of(DType::kF32, {n, form == "ternary" ? 3 : 16}, 3);
  const ValueId b = g.add_constant(weights_of(DType::kF32, {n}, 2), "b");
  Attributes a;
  if (scaled) a["block_size"] = group;
  g.outputs = {g.add("ai.lathe::CodedMatMul", {x, g.add_constant(codes), b, {}, g.add_constant(numbers)}, std::move(a))};
  infer_shapes(g);
  c.macs = count_macs(g);
  return c;
}

Case xnor_case(int64_t h, int64_t w, int64_t channels, int64_t out) {
  Case c;
  c.title = fmt::format("xnor {}x{}x{} → {} 3x3", h, w, channels, out);
  Graph& g = c.graph;
  const ValueId x = g.add_input("x", DType::kF32, Shape{1, h, w, channels});
  Tensor signs(DType::kU8, {out, 9 * channels});
  for (int64_t i = 0; i < signs.size(); ++i) signs.set_int(i, i * 2654435761 >> 13 & 1);
  const ValueId b = g.add_constant(weights_of(DType::kF32, {out}, 2), "b"), s = g.add_constant(random_tensor(DType::kF32, {out}, 3));
  g.outputs = {g.add("ai.lathe::BinaryConv", {x, g.add_constant(signs), b, {}, s},
                     {{"kernel_shape", std::vector<int64_t>{3, 3}}, {"strides", std::vector<int64_t>{1, 1}}, {"pads", std::vector<int64_t>{1, 1, 1, 1}},
                      {"dilations", std::vector<int64_t>{1, 1}}})};
  infer_shapes(g);
  c.macs = count_macs(g);
  return c;
}

// Kernels of several nodes of equal work in turns, the best of each, and how many times as long as those of the first case.
void compare(std::vector<Case> cases) {
  struct Candidate {
    std::string name;
    size_t of;
    std::unique_ptr<Kernel> kernel;
    std::vector<Tensor> in;
    Tensor y, scratch;
    double best = 1e9;
  };
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < cases.size(); ++i) {
    const Graph& g = cases[i].graph;
    const NodeId id = g.order()[0];
    const KernelRequest request{g, g[id]};
    for (const KernelEntry* e : kernels_for(request)) {
      Candidate k{fmt::format("{}: {}", cases[i].title, e->name), i, nullptr, {}, Tensor(request.output().dtype, request.out_shape()), {}};
      try {
        k.kernel = e->make(request);
      } catch (const Error&) {
        throw;
      } catch (const std::exception&) {
        continue;
      }
      for (ValueId v : g[id].inputs) k.in.push_back(!v ? Tensor() : g[v].is_constant() ? Tensor() : random_tensor(g[v].dtype, *g[v].shape, 7));
      k.scratch = Tensor(DType::kU8, {static_cast<int64_t>(k.kernel->scratch_bytes()) + 64});
      candidates.push_back(std::move(k));
    }
  }
  for (int round = 0; round < 60; ++round)
    for (Candidate& k : candidates) {
      std::vector<const Tensor*> in;
      for (const Tensor& t : k.in) in.push_back(&t);
      Tensor* y = &k.y;
      const int inner = k.best < 1e-4 ? 20 : k.best < 1e-3 ? 5 : 1;
      const double begin = thread_seconds();
      for (int i = 0; i < inner; ++i) k.kernel->run(in.data(), &y, k.scratch.raw());
      k.best = std::min(k.best, (thread_seconds() - begin) / inner);
    }
  double ours = 1e9;
  for (const Candidate& k : candidates)
    if (k.of == 0) ours = std::min(ours, k.best);
  for (const Candidate& k : candidates)
    std::printf("  %-60s %9.4f ms  %6.1f Gmac/s  %5.2f of the first\n", k.name.c_str(), k.best * 1e3, static_cast<double>(cases[k.of].macs) / k.best * 1e-9, k.best / ours);
  std::fflush(stdout);
}

// oneDNN's, to stand beside lathe's kernels.
const KernelEntry kOneDnnIntegerConv{"onednn", nullptr, onednn_integer_conv};

void run(const Case& c, double peak) {
  const Graph& g = c.graph;
  NodeId id = g.order()[0];
  KernelRequest request{g, g[id]};
  std::vector<Tensor> in, out;
  std::vector<const Tensor*> in_pointers;
  for (ValueId v : g[id].inputs) in.push_back(g[v].is_constant() ? g[v].constant : random_tensor(g[v].dtype, *g[v].shape, 7));
  for (Tensor& t : in) in_pointers.push_back(&t);
  Tensor y(request.output().dtype, request.out_shape());
  Tensor* y_pointer = &y;
  struct Candidate {
    const KernelEntry* entry;
    std::unique_ptr<Kernel> kernel;
    double best = 1e9, error = 0;
  };
  std::vector<Candidate> candidates;
  size_t scratch_bytes = 64;
  std::vector<const KernelEntry*> entries = kernels_for(request);
  if (g[id].op->name == "IntegerConv") entries.push_back(&kOneDnnIntegerConv);
  for (const KernelEntry* e : entries) {
    candidates.push_back({e, e->make(request)});
    scratch_bytes = std::max(scratch_bytes, candidates.back().kernel->scratch_bytes());
  }
  Tensor scratch(DType::kU8, {static_cast<int64_t>(scratch_bytes)});
  std::vector<Tensor> expected;
  if (c.macs < 300'000'000) expected = reference::run_node(g[id], in, {});
  double flops = 2.0 * static_cast<double>(c.macs);
  const int inner = std::clamp(static_cast<int>(2e8 / flops), 1, 100);
  constexpr double kHopeless = 20;  // times the fastest's: once is enough
  double fastest = 1e9;
  for (int round = 0; round < 15; ++round)
    for (Candidate& k : candidates) {
      if (round > 0 && k.best > kHopeless * fastest) continue;
      k.kernel->run(in_pointers.data(), &y_pointer, scratch.raw());
      double begin = thread_seconds();
      for (int i = 0; i < inner; ++i) k.kernel->run(in_pointers.data(), &y_pointer, scratch.raw());
      k.best = std::min(k.best, (thread_seconds() - begin) / inner);
      fastest = std::min(fastest, k.best);
      if (round == 0 && !expected.empty()) {
        double largest = 1e-30;
        for (int64_t i = 0; i < y.size(); ++i) {
          largest = std::max(largest, std::abs(expected[0].get(i)));
          k.error = std::max(k.error, std::abs(expected[0].get(i) - y.get(i)));
        }
        k.error /= largest;
      }
    }
  std::printf("%-46s", c.title.c_str());
  for (const Candidate& k : candidates)
    std::printf("  %-20s %8.3f ms %6.1f GF/s %3.0f %% e%.0e", std::string(k.entry->name).c_str(), k.best * 1e3, flops / k.best * 1e-9, flops / k.best * 1e-9 / peak * 100, k.error);
  std::printf("\n");
  std::fflush(stdout);
}

// Self-attention on projections [1, tokens, heads · width] as exporters write it.
Graph attention_graph(int64_t tokens, int64_t heads, int64_t width) {
  Graph g;
  auto shape = [&](const Shape& s) { return g.add_constant(Tensor::of_i64(s)); };
  auto split = [&](const char* name, const std::vector<int64_t>& perm) {
    ValueId x = g.add_input(name, DType::kF32, Shape{1, tokens, heads * width});
    return g.add("Transpose", {g.add("Reshape", {x, shape({1, tokens, heads, width})})}, {{"perm", perm}});
  };
  ValueId q = split("q", {0, 2, 1, 3}), k = split("k", {0, 2, 3, 1}), v = split("v", {0, 2, 1, 3});
  ValueId scores = g.add("Mul", {g.add("MatMul", {q, k}), g.add_constant(Tensor::scalar(1 / std::sqrt(static_cast<float>(width))))});
  ValueId y = g.add("MatMul", {g.add("Softmax", {scores}, {{"axis", int64_t{-1}}}), v});
  g.outputs = {g.add("Reshape", {g.add("Transpose", {y}, {{"perm", std::vector<int64_t>{0, 2, 1, 3}}}), shape({1, tokens, heads * width})})};
  infer_shapes(g);
  return g;
}

// In bf16 the fused kernel takes and gives bf16; the operators one by one compute in f32 either way.
void run_attention(int64_t tokens, int64_t heads, int64_t width, DType type, double peak) {
  Graph plain = attention_graph(tokens, heads, width);
  const double flops = 4.0 * static_cast<double>(heads * tokens * tokens * width);
  std::vector<Tensor> inputs;
  for (uint64_t i = 0; i < 3; ++i) inputs.push_back(weights_of(DType::kF32, {1, tokens, heads * width}, i));
  PlanOptions as_written;
  as_written.fuse = false;
  Session apart(make_plan(plain, as_written));
  Graph fused;
  Attributes sizes{{"q_num_heads", heads}, {"kv_num_heads", heads}};
  std::vector<ValueId> values;
  std::vector<Tensor> typed;
  for (const char* name : {"q", "k", "v"}) values.push_back(fused.add_input(name, type, Shape{1, tokens, heads * width}));
  for (const Tensor& t : inputs) typed.push_back(type == DType::kF32 ? t : cast(t, type));
  fused.outputs = {fused.add("Attention", values, sizes)};
  infer_shapes(fused);
  Session together(make_plan(fused));
  double best_apart = 1e9, best_together = 1e9, error = 0, largest = 1e-30;
  for (int round = 0; round < 25; ++round) {
    double begin = thread_seconds();
    for (int i = 0; i < 5; ++i) apart.run(inputs);
    best_apart = std::min(best_apart, (thread_seconds() - begin) / 5);
    begin = thread_seconds();
    for (int i = 0; i < 5; ++i) together.run(typed);
    best_together = std::min(best_together, (thread_seconds() - begin) / 5);
  }
  const Tensor &a = apart.run(inputs)[0], &b = together.run(typed)[0];
  for (int64_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, std::abs(a.get(i)));
    error = std::max(error, std::abs(a.get(i) - b.get(i)));
  }
  std::printf("attention %ld tokens, %ld heads of %ld, %s: fused %.3f ms, %.1f GF/s, %.0f %% of the limit; one by one %.3f ms; %.2f times as fast; difference %.0e\n",
              tokens, heads, width, std::string(name_of(type)).c_str(), best_together * 1e3, flops / best_together * 1e-9, flops / best_together * 1e-9 / peak * 100,
              best_apart * 1e3, best_apart / best_together, error / largest);
}

// int8: codes of u8, weights of i8.
DType type_named(const std::string& name) { return name == "int8" ? DType::kU8 : name == "bf16" ? DType::kBF16 : DType::kF32; }

}  // namespace

int main(int argc, char** argv) {
  force_isa_from_environment();
  omp_set_num_threads(1);
  const Rates limits = probe_host().compute.front().per_core;
  const double f32 = limits.f32.value_or(1), bf16 = limits.bf16.value_or(f32);
  const double int8 = limits.int8.value_or(f32);
  auto peak = [&](DType t) { return t == DType::kU8 ? int8 : t == DType::kBF16 ? bf16 : f32; };
  std::vector<std::string> args(argv + 1, argv + argc);
  auto arg = [&](size_t i, const char* otherwise) { return i < args.size() ? args[i] : std::string(otherwise); };
  auto number = [&](size_t i, int64_t otherwise) { return i < args.size() ? std::stoll(args[i]) : otherwise; };
  int64_t a = 0, b = 0, c = 0;
  if (arg(0, "") == "conv" && std::sscanf(arg(1, "").c_str(), "%ldx%ldx%ld", &a, &b, &c) == 3) {
    DType t = type_named(arg(7, "f32"));
    run(conv_case(a, b, c, number(2, c), number(3, 1), number(4, 1), number(5, 1), arg(6, ""), t), peak(t));
    return 0;
  }
  if (arg(0, "") == "matmul" && std::sscanf(arg(1, "").c_str(), "%ldx%ldx%ld", &a, &b, &c) == 3) {
    DType t = type_named(arg(3, "f32"));
    run(matmul_case(a, b, c, arg(2, ""), t), peak(t));
    return 0;
  }
  if (arg(0, "") == "attention" && std::sscanf(arg(1, "197x12x64").c_str(), "%ldx%ldx%ld", &a, &b, &c) == 3) {
    DType t = type_named(arg(2, "f32"));
    run_attention(a, b, c, t, peak(t));
    return 0;
  }
  if (arg(0, "") == "weights" && std::sscanf(arg(1, "").c_str(), "%ldx%ldx%ld", &a, &b, &c) == 3) {
    std::vector<Case> cases;
    cases.push_back(coded_case(a, b, c, arg(2, "int4"), number(3, 128)));
    for (DType t : {DType::kF32, DType::kBF16}) cases.push_back(matmul_case(a, b, c, "", t));
    compare(std::move(cases));
    return 0;
  }
  if (arg(0, "") == "xnor" && std::sscanf(arg(1, "").c_str(), "%ldx%ldx%ld", &a, &b, &c) == 3) {
    std::vector<Case> cases;
    cases.push_back(xnor_case(a, b, c, number(2, c)));
    cases.push_back(conv_case(a, b, c, number(2, c), 3, 1, 1, "", DType::kF32));
    compare(std::move(cases));
    return 0;
  }
  if (arg(0, "") == "depthwise") {
    struct { int64_t h, c, s; } windows[] = {{112, 32, 1}, {112, 96, 2}, {56, 144, 1}, {56, 144, 2}, {28, 192, 1}, {28, 192, 2}, {14, 384, 1}, {14, 576, 1}, {14, 576, 2}, {7, 960, 1}};
    for (const auto& v : windows) run(conv_case(v.h, v.h, v.c, v.c, 3, v.s, v.c, "", DType::kU8), int8);
    return 0;
  }
  if (arg(0, "") != "all") {
    std::fprintf(stderr, "usage: bench_kernels conv HxWxC OUT KERNEL STRIDE [GROUPS] [ACTIVATION] [f32|bf16|int8] | matmul MxKxN [ACTIVATION] [f32|bf16|int8] | attention TOKENSxHEADSxWIDTH [f32|bf16] | weights MxKxN int4|int8|codebook|ternary [GROUP] | xnor HxWxC OUT | depthwise | all [f32|bf16|int8]\n");
    return 2;
  }
  DType t = type_named(arg(1, "f32"));
  struct { int64_t h, c, o, k, s, g; const char* act; } convs[] = {
      {224, 3, 32, 3, 2, 1, "Clip"},   {224, 3, 64, 7, 2, 1, "Relu"},  {112, 32, 16, 1, 1, 1, ""},    {112, 16, 96, 1, 1, 1, "Clip"},
      {56, 96, 24, 1, 1, 1, ""},       {56, 24, 144, 1, 1, 1, "Clip"}, {56, 24, 144, 1, 1, 1, "Swish"}, {28, 144, 32, 1, 1, 1, ""},
      {28, 32, 192, 1, 1, 1, "Clip"},  {14, 384, 64, 1, 1, 1, ""},     {14, 64, 384, 1, 1, 1, "Swish"}, {14, 96, 576, 1, 1, 1, "Clip"},
      {7, 160, 960, 1, 1, 1, "Clip"},  {7, 960, 160, 1, 1, 1, ""},     {7, 320, 1280, 1, 1, 1, "Clip"}, {56, 64, 64, 3, 1, 1, "Relu"},
      {28, 128, 128, 3, 1, 1, "Relu"}, {14, 256, 256, 3, 1, 1, "Relu"}, {7, 512, 512, 3, 1, 1, "Relu"}, {56, 256, 64, 1, 1, 1, "Relu"},
      {56, 64, 256, 1, 1, 1, ""},      {28, 512, 128, 1, 1, 1, "Relu"}, {14, 1024, 256, 1, 1, 1, "Relu"}, {14, 256, 1024, 1, 1, 1, ""},
      {7, 2048, 512, 1, 1, 1, "Relu"}, {28, 128, 32, 3, 1, 1, ""},     {56, 16, 64, 3, 1, 1, "Relu"},
      {112, 96, 96, 3, 2, 96, "Clip"}, {112, 32, 32, 3, 1, 32, "Clip"}, {56, 144, 144, 3, 1, 144, "Clip"}, {14, 384, 384, 3, 1, 384, "Clip"},
      {14, 96, 96, 5, 1, 96, "Swish"}, {56, 96, 96, 7, 1, 96, ""}};
  for (const auto& v : convs) run(conv_case(v.h, v.h, v.c, v.o, v.k, v.s, v.g, v.act, t), peak(t));
  struct { int64_t m, k, n; const char* act; } products[] = {{1, 1280, 1000, ""}, {1, 512, 1000, ""}, {1, 96, 4, "Swish"}, {197, 768, 768, ""},
                                                              {197, 768, 3072, "Gelu"}, {197, 3072, 768, ""}, {3136, 96, 384, "Gelu"}, {49, 768, 3072, "Gelu"}};
  for (const auto& v : products) run(matmul_case(v.m, v.k, v.n, v.act, t), peak(t));
  if (t != DType::kU8) run_attention(197, 12, 64, t, peak(t));
}
