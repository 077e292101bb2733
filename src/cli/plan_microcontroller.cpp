#include "plan_microcontroller.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/file.h"
#include "planner/arena_picture.h"
#include "planner/token_memory.h"
#include "runtime/load.h"
#include "targets/mcu/budget.h"
#include "transform/passes.h"

namespace lathe::cli {
namespace {

std::string text_of(const TokenTechniques& t) {
  std::string text;
  for (const auto& [on, name] : {std::pair(t.decompose, "patches one by one"), std::pair(t.integrate, "token by token"), std::pair(t.overwrite, "results over residuals")})
    if (on) text += fmt::format("{}{}", text.empty() ? "" : ", ", name);
  return text.empty() ? "layer by layer" : text;
}

std::vector<TokenTechniques> all_settings() {
  std::vector<TokenTechniques> all;
  for (bool decompose : {false, true})
    for (bool integrate : {false, true})
      for (bool overwrite : {false, true}) all.push_back({decompose, integrate, overwrite});
  return all;
}

mcu::ProgramOptions program_options(const TokenTechniques& t) { return {.outside_input = t.decompose, .integrate = t.integrate, .in_place = t.overwrite}; }

class Command {
 public:
  Command(const ModelOptions& model, const Device& device, const MicrocontrollerOptions& o)
      : device_(device), json_(o.json), svg_(o.svg), chosen_{!o.no_decompose, !o.no_integrate, !o.no_overwrite}, path_(model.model), graph_(load_model(model.model).graph) {
    (void)mcu::processor_of(device);
    shapes_ = model.input_shapes(graph_);
    Graph known = graph_;
    specialize(known, shapes_, true);
    transformer_ = transformer_sizes(known);
    quantized_ = mcu::is_quantized(graph_);
    if (!transformer_ && !quantized_)
      fail(ErrorKind::kUnsupported, "{} is a network in float and no vision transformer: lathe fit makes it fit {}, lathe quantize gives it the codes that a plan is made of", path_, device.name);
    if (!quantized_ && !svg_.empty()) fail(ErrorKind::kUsage, "--svg draws a program's memory, which codes of 8 bits are needed for: lathe quantize {}", path_);
  }

  void run() {
    j_ = {{"model", path_}, {"device", device_.name}, {"memory_bytes", *device_.limits.memory_bytes}};
    if (transformer_) defined();
    if (quantized_) emitted();
    if (json_) fmt::print("{}\n", j_.dump());
  }

 private:
  // By the definitions of the method.
  void defined() {
    const TransformerSizes& s = *transformer_;
    const TokenMemory m = token_memory(s, chosen_);
    nlohmann::json operators = nlohmann::json::array(), settings = nlohmann::json::array();
    for (const auto& o : m.operators) operators.push_back({{"name", o.name}, {"bytes", o.bytes}});
    for (const TokenTechniques& t : all_settings())
      settings.push_back({{"decompose", t.decompose}, {"integrate", t.integrate}, {"overwrite", t.overwrite}, {"bytes", token_memory(s, t).bytes}});
    j_["transformer"] = {{"side", s.side}, {"patch", s.patch}, {"tokens", s.tokens}, {"width", s.width}, {"heads", s.heads}, {"hidden", s.hidden},
                         {"operators", operators}, {"bytes", m.bytes}, {"techniques", settings}};
    if (json_) return;
    fmt::print("a vision transformer: pictures of {0}x{0}, patches of {1}x{1}, {2} tokens of {3} channels, {4} heads of {5}, {6} hidden\n", s.side, s.patch, s.tokens, s.width, s.heads, s.head, s.hidden);
    fmt::print("bytes of int8 by the definitions of MCUFormer, {}:\n", text_of(chosen_));
    for (const auto& o : m.operators) fmt::print("  {:<38} {:>9}\n", o.name, o.bytes);
    fmt::print("  {:<38} {:>9}\n\nwhat each technique takes away:\n", "the most", m.bytes);
    for (const TokenTechniques& t : all_settings()) fmt::print("  {:<62} {:>9}\n", text_of(t), token_memory(s, t).bytes);
  }

  // A tensor in the place of an input stands before it in the picture.
  static std::string svg(const mcu::McuProgram& p) {
    std::vector<ArenaBox> boxes;
    for (const mcu::McuTensor& t : p.tensors)
      if (t.view_of < 0 && t.row_of < 0 && !t.constant.defined() && !t.outside && t.last_step >= t.first_step)
        boxes.push_back({fmt::format("{} {}", t.name, to_string(t.shape)), t.first_step, std::min(t.last_step, static_cast<int>(p.steps.size()) - 1), t.offset, t.bytes()});
    for (size_t i = 0; i < p.steps.size(); ++i)
      if (p.steps[i].scratch_bytes > 0) boxes.push_back({"scratch of " + p.steps[i].name, static_cast<int>(i), static_cast<int>(i), p.steps[i].scratch_offset, p.steps[i].scratch_bytes});
    return arena_svg(boxes, p.steps.size(), p.arena_bytes, p.lower_bound);
  }

  mcu::McuProgram program(const TokenTechniques& t) const {
    mcu::ProgramOptions options = program_options(t);
    options.input_shapes = shapes_;
    return mcu::make_program(Graph(graph_), options);
  }

  // What emit-c would write.
  void emitted() {
    // Other networks have no patches to read one by one: their input is in the arena.
    TokenTechniques chosen = chosen_;
    if (!transformer_) chosen.decompose = false;
    const mcu::McuProgram p = program(chosen);
    nlohmann::json steps = nlohmann::json::array(), settings = nlohmann::json::array();
    for (size_t i = 0; i < p.steps.size(); ++i) {
      const mcu::McuStep& s = p.steps[i];
      steps.push_back({{"step", i}, {"kind", mcu::name_of(s.kind)}, {"node", s.name}, {"output", p.tensors[s.output].shape}, {"offset", p.tensors[s.output].offset},
                       {"in_place", s.in_place >= 0}, {"scratch_bytes", s.scratch_bytes}, {"bytes", p.bytes_alive(i)}, {"macs", s.macs}});
    }
    if (transformer_)
      for (const TokenTechniques& t : all_settings())
        settings.push_back({{"decompose", t.decompose}, {"integrate", t.integrate}, {"overwrite", t.overwrite}, {"arena_bytes", program(t).arena_bytes}});
    if (!svg_.empty()) write_file(svg_, svg(p));
    j_["steps"] = steps;
    j_["arena_bytes"] = p.arena_bytes;
    j_["lower_bound"] = p.lower_bound;
    j_["weight_bytes"] = mcu::firmware_size(p).weights;
    j_["programs"] = settings;
    if (json_) return;
    if (transformer_) fmt::print("\n");
    fmt::print("{:>4}  {:<12} {:<42} {:<20} {:>9} {:>9} {:>9}\n", "step", "kind", "node", "output", "place", "scratch", "alive");
    for (size_t i = 0; i < p.steps.size(); ++i) {
      const mcu::McuStep& s = p.steps[i];
      fmt::print("{:>4}  {:<12} {:<42.42} {:<20} {:>9} {:>9} {:>9}{}\n", i, mcu::name_of(s.kind), s.name, to_string(p.tensors[s.output].shape), p.tensors[s.output].offset, s.scratch_bytes,
                 p.bytes_alive(i), s.in_place >= 0 ? "  over its input" : "");
    }
    fmt::print("arena {} bytes (lower bound {}), stack {}; {} of {} has\nweights {} bytes of flash; {} of {} has\n", p.arena_bytes, p.lower_bound, mcu::kStackBytes,
               *device_.limits.memory_bytes, device_.name, mcu::firmware_size(p).weights, *device_.limits.flash_bytes, device_.name);
    if (!transformer_) return;
    fmt::print("\narenas of programs (lathe emit-c --outside-input, --no-integrate, --no-in-place):\n");
    for (const auto& t : settings)
      fmt::print("  {:<62} {:>9}\n", text_of({t["decompose"], t["integrate"], t["overwrite"]}), t["arena_bytes"].get<int64_t>());
  }

  const Device& device_;
  bool json_;
  std::string svg_;
  TokenTechniques chosen_;
  std::string path_;
  Graph graph_;
  std::map<std::string, Shape> shapes_;
  std::optional<TransformerSizes> transformer_;
  bool quantized_ = false;
  nlohmann::json j_;
};

}  // namespace

void plan_for_microcontroller(const ModelOptions& model, const Device& device, const MicrocontrollerOptions& options) { Command(model, device, options).run(); }

}  // namespace lathe::cli
