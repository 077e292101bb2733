// MCUFormer: Liang et al. 2023, "MCUFormer: Deploying Vision Transformers on Microcontrollers with Limited Memory", arXiv 2310.16898.
// reproduce/mcuformer/README.md says what each check stands for.
#include <cmath>
#include <cstring>

#include "core/file.h"
#include "factorize/low_rank.h"
#include "models/models.h"
#include "optimize/reproduce.h"
#include "planner/token_memory.h"
#include "quantize/quantize.h"
#include "runtime/load.h"
#include "targets/mcu/emit.h"
#include "targets/mcu/emulate.h"
#include "targets/mcu/process.h"
#include "transform/passes.h"

namespace lathe::experiments {
namespace {

using namespace mcu;

constexpr double kSeconds = 1200;

struct Form {
  int64_t width, heads, side, patch, depth = 1;
  int64_t classes = 10;
};

Graph network(const Form& f, uint64_t seed) {
  BuildOptions o{.classes = f.classes, .input = {3, f.side, f.side}, .depths = {f.depth}, .widths = {f.width}, .seed = seed};
  o.more = {{"heads", std::to_string(f.heads)}, {"patch", std::to_string(f.patch)}, {"relative", "0"}};
  Graph g = build_model("mcuformer", o);
  specialize(g, default_input_shapes(g));
  clean_up(g);
  return g;
}

// In codes of 8 bits, norms and attention too.
Graph quantized(const Form& f, uint64_t seed) {
  const Graph g = network(f, seed);
  return quantize_network(g, parse_scheme("w:int8 a:int8 everywhere"), {2, [&](size_t i) { return random_inputs(g, seed + i); }}).graph;
}

// Page 2.4: bytes layer by layer, with patches one by one, with operators integrated, with tokens overwritten.
CheckResult table(const ReproduceContext& context) {
  struct Row {
    Form form;
    int64_t bytes[4];
  };
  const Row rows[] = {{{192, 3, 224, 16}, {267723, 267723, 113472, 102164}}, {{192, 3, 240, 16}, {326796, 326796, 130176, 117128}}, {{192, 3, 240, 20}, {201840, 174435, 83520, 75332}},
                      {{192, 3, 240, 24}, {193920, 116352, 58176, 52628}},   {{192, 3, 240, 28}, {190896, 94464, 47232, 42824}},     {{192, 3, 240, 32}, {188352, 74880, 37440, 34052}},
                      {{168, 3, 240, 20}, {198360, 170955, 76560, 71828}},   {{216, 4, 240, 16}, {426688, 426688, 155488, 137040}},  {{216, 4, 240, 20}, {226780, 226780, 99760, 88116}},
                      {{216, 4, 240, 24}, {196344, 140188, 69488, 61540}}};
  int equal = 0, figures = 0;
  std::string other;
  for (const Row& r : rows) {
    const auto sizes = transformer_sizes(network(r.form, context.seed));
    if (!sizes) return CheckResult::of(false, "a network was not known as a vision transformer");
    const TokenTechniques settings[4] = {{false, false, false}, {true, false, false}, {true, true, false}, {true, true, true}};
    for (int i = 0; i < 4; ++i) {
      const int64_t bytes = token_memory(*sizes, settings[i]).bytes;
      ++figures;
      equal += bytes == r.bytes[i];
      if (bytes != r.bytes[i]) other += fmt::format("; {} channels, patches of {}: {} where {} is published", r.form.width, r.form.patch, bytes, r.bytes[i]);
    }
  }
  return CheckResult::of(equal == figures, fmt::format("{} of {} figures equal{}", equal, figures, other));
}

CheckResult operators(const ReproduceContext& context) {
  const auto sizes = transformer_sizes(network({192, 3, 224, 16}, context.seed));
  const TokenMemory m = token_memory(*sizes, {false, false, false});
  const int64_t published[] = {189120, 75648, 189120, 267723, 229899, 113472, 226944};
  bool equal = m.operators.size() == std::size(published);
  std::string text;
  for (size_t i = 0; i < m.operators.size(); ++i) {
    equal = equal && m.operators[i].bytes == published[i];
    text += fmt::format("{}{} {}", i ? ", " : "", m.operators[i].name, m.operators[i].bytes);
  }
  return CheckResult::of(equal, text);
}

// The authors' own limit of 320 KiB, over ranks in steps of 0.05 from 0.40 to 0.95.
CheckResult legal_ranks(const ReproduceContext&) {
  const double limit = 320 * 1024;
  const auto largest = [&](double width, double mlp, double patch) {
    double best = 0;
    for (int i = 8; i <= 19; ++i)
      if (search_memory(width, mlp, patch, i * 0.05) <= limit) best = i * 0.05;
    return best;
  };
  const int64_t found[] = {std::llround(search_memory(192, 4, 16, 0.9)), std::llround(search_memory(192, 4, 20, 0.9)), std::llround(search_memory(216, 4, 16, 0.4))};
  const double ranks[] = {largest(192, 4, 16), largest(216, 3.5, 16), largest(216, 4, 16), largest(216, 4, 20), largest(216, 4, 24)};
  const double expected[] = {0.75, 0.65, 0.40, 0.90, 0.95};
  bool equal = found[0] == 349670 && found[1] == 271910 && found[2] == 318730;
  for (size_t i = 0; i < std::size(ranks); ++i) equal = equal && std::abs(ranks[i] - expected[i]) < 1e-9;
  return CheckResult::of(equal, fmt::format("{}, {}, {} bytes; largest legal ranks {:.2f}, {:.2f}, {:.2f}, {:.2f}, {:.2f}", found[0], found[1], found[2], ranks[0], ranks[1], ranks[2], ranks[3], ranks[4]));
}

std::vector<std::vector<Tensor>> pictures(const Graph& g, int count, uint64_t seed) {
  std::vector<std::vector<Tensor>> list(static_cast<size_t>(count));
  for (size_t i = 0; i < list.size(); ++i) list[i] = random_inputs(g, seed + i);
  return list;
}

std::vector<std::vector<Tensor>> answers(Graph graph, const std::vector<std::vector<Tensor>>& inputs) {
  PlanOptions options;
  options.tokens = true;
  options.input_shapes = default_input_shapes(graph);
  Session session(make_plan(std::move(graph), options));
  std::vector<std::vector<Tensor>> list;
  list.reserve(inputs.size());
  for (const auto& x : inputs) list.push_back({session.run(x)[0].clone()});
  return list;
}

int differing(const std::vector<std::vector<Tensor>>& a, const std::vector<std::vector<Tensor>>& b) {
  int count = 0;
  for (size_t i = 0; i < a.size(); ++i) count += a[i][0].bytes() != b.at(i)[0].bytes() || std::memcmp(a[i][0].raw(), b[i][0].raw(), a[i][0].bytes()) != 0;
  return count;
}

Firmware written(const McuProgram& p, const Device& device, const std::string& folder) {
  emit_firmware(p, device, {.name = "vit"}, folder);
  return read_firmware(folder);
}

Device board(int64_t memory, int64_t flash) {
  Device d;
  d.name = fmt::format("a Cortex-M7 with {} bytes of SRAM", memory);
  ComputeUnit& m7 = d.compute.emplace_back();
  m7.name = "Cortex-M7";
  m7.instruction_sets = {"armv7e-m", "dsp", "fpv5-d16"};
  d.limits = {.memory_bytes = memory, .flash_bytes = flash};
  return d;
}

bool have_arm() { return have_program("arm-none-eabi-gcc") && have_program("qemu-system-arm") && have_program("make"); }

CheckResult eight_settings(const ReproduceContext& context) {
  if (!have_program("make")) return CheckResult::skipped("there is no make, which builds the firmware");
  const bool arm = have_arm();
  const Form form{192, 3, 240, 16};
  const Graph g = quantized(form, context.seed);
  const auto inputs = pictures(g, context.quick ? 5 : 200, context.seed + 50);
  const auto expected = answers(g, inputs);
  const auto few = std::vector(inputs.begin(), inputs.begin() + 1);
  const TemporaryFolder folder = TemporaryFolder::of_system("lathe_reproduce");
  int64_t arenas[8] = {};
  int wrong = 0, cases = 0;
  for (int i = 0; i < 8; ++i) {
    context.tell(fmt::format("setting {} of 8", i + 1));
    const McuProgram p = make_program(Graph(g), {.outside_input = (i & 1) != 0, .integrate = (i & 2) != 0, .in_place = (i & 4) != 0});
    arenas[i] = p.arena_bytes;
    const Firmware f = written(p, board(1 << 20, 4 << 20), folder.file(std::to_string(i)));
    wrong += differing(run_on_host(f, inputs, "-O2", kSeconds).outputs, expected);
    cases += static_cast<int>(inputs.size());
    if (!arm) continue;
    (void)build_firmware(f, kSeconds);
    wrong += differing(emulate_firmware(f, few, kSeconds).outputs, expected);
    cases += static_cast<int>(few.size());
  }
  // All three, and each by itself left out.
  const bool fall = arenas[6] > arenas[7] && arenas[5] > arenas[7] && arenas[3] > arenas[7];
  return CheckResult::of(wrong == 0 && fall, fmt::format("{} of {} answers differ{}; arena {} bytes, without patches one by one {}, integration {}, overwriting {}, any {}", wrong, cases,
                                                         arm ? "" : " (no arm-none-eabi-gcc or qemu-system-arm: on this machine alone)", arenas[7], arenas[6], arenas[5], arenas[3], arenas[0]));
}

// In the emulator, within a memory and a flash.
CheckResult runs_within(const ReproduceContext& context, const Form& form, int64_t memory, int64_t flash) {
  if (!have_arm()) return CheckResult::skipped("arm-none-eabi-gcc, make or qemu-system-arm is missing");
  const Graph g = quantized(form, context.seed);
  const McuProgram p = make_program(Graph(g), {.outside_input = true});
  const auto sizes = transformer_sizes(network(form, context.seed));
  const int64_t most = token_memory(*sizes).bytes + 1024;
  const TemporaryFolder folder = TemporaryFolder::of_system("lathe_reproduce");
  const Firmware f = written(p, board(memory, flash), folder.file("vit"));
  context.tell("building");
  const MemoryUse use = build_firmware(f, kSeconds);
  context.tell("running in the emulator");
  const auto inputs = pictures(g, context.quick ? 1 : 3, context.seed + 50);
  const Emulation e = emulate_firmware(f, inputs, kSeconds);
  const int wrong = differing(e.outputs, answers(g, inputs));
  const int64_t flash_used = use.flash() - use.sample;
  return CheckResult::of(wrong == 0 && use.arena <= most && use.sram() <= memory && flash_used <= flash,
                         fmt::format("SRAM {} bytes (arena {}, by definition {}), flash {} (weights {}), {:.0f} M instructions an image, {} of {} answers differ", use.sram(), use.arena, most - 1024,
                                     flash_used, use.weights, e.instructions / 1e6, wrong, inputs.size()));
}

CheckResult within_160_kb(const ReproduceContext& context) { return runs_within(context, {216, 4, 240, 16, context.quick ? 1 : 12}, 160 * 1024, context.quick ? 1 << 20 : 8 << 20); }
CheckResult within_64_kb(const ReproduceContext& context) { return runs_within(context, {96, 2, 160, 16, 6}, 64 * 1024, 1 << 20); }

CheckResult instructions(const ReproduceContext& context) {
  if (!have_arm()) return CheckResult::skipped("arm-none-eabi-gcc, make or qemu-system-arm is missing");
  const Graph g = quantized({192, 3, 112, 8}, context.seed);  // 197 tokens, as DeiT-Tiny
  const TemporaryFolder folder = TemporaryFolder::of_system("lathe_reproduce");
  double counted[2];
  for (int i = 0; i < 2; ++i) {
    context.tell(i ? "token by token" : "layer by layer");
    const Firmware f = written(make_program(Graph(g), {.outside_input = true, .integrate = i == 1}), board(1 << 20, 4 << 20), folder.file(std::to_string(i)));
    (void)build_firmware(f, kSeconds);
    counted[i] = emulate_firmware(f, pictures(g, 1, context.seed), kSeconds).instructions;
  }
  return CheckResult::of(counted[1] <= 1.15 * counted[0], fmt::format("{:.1f} M instructions token by token, {:.1f} M layer by layer: {:.3f}", counted[1] / 1e6, counted[0] / 1e6, counted[1] / counted[0]));
}

// What rank-r factors leave out is the tail of the squares of the singular values.
CheckResult low_rank_error(const ReproduceContext& context) {
  double worst = 0;
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{192, 576}, {192, 192}, {768, 192}}) {
    const Tensor w = random_tensor(DType::kF32, {rows, columns}, context.seed);
    for (const double ratio : {0.4, 0.6, 0.8, 0.95}) {
      const auto rank = static_cast<int64_t>(ratio * static_cast<double>(std::min(rows, columns)));
      const LowRank f = low_rank(w, {}, [&](const std::vector<double>&) { return rank; });
      double tail = 0, error = 0;
      for (size_t i = static_cast<size_t>(rank); i < f.squares.size(); ++i) tail += f.squares[i];
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c) {
          double sum = 0;
          for (int64_t k = 0; k < rank; ++k) sum += static_cast<double>(f.outer.data<float>()[r * rank + k]) * f.inner.data<float>()[k * columns + c];
          const double d = sum - w.data<float>()[r * columns + c];
          error += d * d;
        }
      worst = std::max(worst, std::abs(error / tail - 1));
    }
  }
  return CheckResult::of(worst <= 1e-4, fmt::format("{:.1e} of the tail at most, three matrices at four ranks", worst));
}

}  // namespace

Reproduction mcuformer() {
  return {"mcuformer",
          "Vision transformers on microcontrollers",
          "Liang et al. 2023, MCUFormer, arXiv 2310.16898",
          {{"memory of each technique", "computed from the paper's techniques: 102,164 bytes for DeiT-Tiny at 224x224, 267,723 layer by layer", "40 figures of ten networks, to the byte", true, table},
           {"memory of each operator", "computed: DeiT-Tiny's scores need most", "seven operators, to the byte", true, operators},
           {"ranks within 320 KiB", "the authors' code: (192, 4, 16, 0.9) is too large, (192, 4, 20, 0.9) is not", "three values to the byte, five largest ranks", true, legal_ranks},
           {"same bits in all eight settings", "the techniques change the schedule alone", "no answer differs, and each technique left out needs more memory", true, eight_settings},
           {"a transformer of 417 KiB in 160 KB", "320 kB where layer by layer 681 kB are needed (second hand)", "216 channels, 4 heads, 226 tokens: SRAM within 163,840 bytes, arena within 1 kB of its definition, same bits", true, within_160_kb},
           {"weights within 1 MB of flash", "0.89 to 0.90 MB of flash (second hand)", "6 blocks of 96 channels in 64 kB of SRAM and 1 MB of flash, same bits", true, within_64_kb},
           {"instructions", "none", "at most 1.15 of layer by layer, repeated norms among them", true, instructions},
           {"low rank leaves the tail", "ranks by singular value decomposition (section 3)", "squared error equal to the sum of the left-out squares to 1e-4", true, low_rank_error}}};
}

}  // namespace lathe::experiments
