#include "targets/mcu/fit.h"

#include <cmath>
#include <filesystem>

#include "core/file.h"
#include "factorize/low_rank.h"
#include "formats/onnx.h"
#include "optimize/assess.h"
#include "optimize/quantized.h"
#include "runtime/load.h"
#include "targets/mcu/emit.h"
#include "targets/mcu/tiles.h"
#include "transform/passes.h"

namespace lathe::mcu {
namespace {

namespace fs = std::filesystem;

constexpr double kBuildSeconds = 600;

class Fitter {
 public:
  Fitter(const std::string& model, const Device& device, const FitOptions& options)
      : path_(model), device_(device), o_(options), model_(load_model(model)) {
    (void)processor_of(device);
    quantized_ = is_quantized(model_.graph);
    if (!quantized_ && o_.data.empty()) fail(ErrorKind::kUsage, "{} is a network in float: --data is needed to quantize it", model);
    // Pictures are prepared for any size; arrays have the one that they have.
    if (!quantized_) pictures_ = Dataset(o_.data, model, model_.graph, {}).pictures();
  }

  Fit run() {
    for (const double rank : ranks()) {
      rank_ = rank;
      flash_ = false;
      for (const Shape& input : inputs()) {
        if (attempt(input)) return std::move(fit_);
        if (flash_) break;  // a smaller picture has the same weights
      }
      if (!flash_) break;
    }
    fail(ErrorKind::kBudget, "it does not fit. Nearest miss: {}{}", miss_,
         quantized_ ? " (low rank and smaller inputs were not tried: for those, a network in float is needed)" : pictures_ || flash_ ? "" : " (smaller inputs were not tried: for those, pictures are needed)");
  }

 private:
  // Parts of the full rank of products, for weights that are too many: 0 leaves them as they are.
  std::vector<double> ranks() const {
    std::vector<double> list{0};
    if (!quantized_)
      for (int tenths = 9; tenths > 0 && tenths >= 10 * o_.least_rank; --tenths) list.push_back(tenths / 10.0);
    return list;
  }

  // Shapes of the input to try, the model's own first. Sides in steps of an eighth, multiples of 8.
  std::vector<Shape> inputs() const {
    const Graph& g = model_.graph;
    const Shape own = default_input_shapes(g).at(g[g.inputs.at(0)].name);
    std::vector<Shape> list{own};
    if (!pictures_ || g.inputs.size() != 1 || own.size() != 4 || own[2] < 32 || own[3] < 32) return list;
    for (int eighths = 7; eighths > 0 && eighths / 8.0 >= o_.least_side; --eighths) {
      Shape smaller = own;
      for (size_t axis : {2, 3}) smaller[axis] = own[axis] * eighths / 8 / 8 * 8;
      if (smaller != list.back()) list.push_back(smaller);
    }
    return list;
  }

  Graph resized(const Shape& input) const {
    Graph g = model_.graph;
    Value& x = g[g.inputs[0]];
    const std::string name = x.name;
    x.shape = input;
    specialize(g, {{name, input}});
    clean_up(g);
    return g;
  }

  void tell(const std::string& what) const {
    if (o_.progress) o_.progress(what);
  }

  void add(std::string what, const McuProgram& p, bool fits) {
    fit_.steps.push_back({std::move(what), p.arena_bytes, firmware_size(p).weights, p.macs, fits});
  }

  bool fits(const McuProgram& p) {
    try {
      check_budget(p, device_);
      return true;
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::kBudget) throw;
      miss_ = e.what();
      flash_ = firmware_size(p).weights > *device_.limits.flash_bytes;
      return false;
    }
  }

  bool attempt(const Shape& input) {
    const bool own = fit_.steps.empty();
    const std::string low = rank_ > 0 ? fmt::format("products of rank {:.1f}, ", rank_) : "", size = fmt::format("{}input {}", low, to_string(input));
    Graph float_graph;
    try {
      float_graph = quantized_ ? model_.graph : resized(input);
    } catch (const Error& e) {
      if (own) throw;
      return false;  // the network is made for one size
    }
    Graph graph = float_graph;
    if (!quantized_) {
      // Memory does not depend on the codes: a quick look before the long way.
      tell(size + ": looking");
      const Shape shape = input;
      const Samples one{1, [&](size_t) { return std::vector<Tensor>{random_tensor(DType::kF32, shape, 1)}; }};
      if (rank_ > 0) graph = factorize(graph, {.ratio = rank_}).graph;
      graph = quantize_network(graph, parse_scheme("w:int8 a:uint8,minmax everywhere"), one).graph;
    }
    tiles_.reset();
    McuProgram program = make_program(Graph(graph));
    if (own) {
      const McuProgram apart = make_program(Graph(graph), {.in_place = false});
      add(quantized_ ? "codes of 8 bits, as the model is" : "weights and activations in codes of 8 bits", apart, fits(apart));
      add("convolutions over single pixels and depthwise ones write over their input; steps in the order that needs least", program,
          fits(program));
    } else {
      add(size, program, fits(program));
    }
    // Tiles cost time and no accuracy: they come before a smaller picture.
    if (!fit_.steps.back().fits && !flash_) try_tiles(graph, own ? "" : size + ", ");
    if (!fit_.steps.back().fits) return false;
    return finish(input, float_graph, size);
  }

  // All layers on codes: nothing runs in float there.
  Scheme scheme() const {
    if (!o_.scheme.empty()) return parse_scheme(o_.scheme);
    Scheme all = default_scheme();
    all.everywhere = true;
    return all;
  }

  void try_tiles(const Graph& graph, const std::string& size) {
    try {
      const TiledProgram made = make_tiled_program(Graph(graph), {}, {.most_overhead = o_.most_overhead, .most_arena = *device_.limits.memory_bytes - kStackBytes});
      tiles_ = made.choice.tiles;
      add(fmt::format("{}the first layers in {}x{} tiles, to '{}'", size, tiles_->rows, tiles_->columns, made.choice.end), made.program, fits(made.program));
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::kBudget && e.kind() != ErrorKind::kUnsupported) throw;
      tell(e.what());
    }
  }

  // The network with codes fitted to the data, as firmware.
  bool finish(const Shape& input, const Graph& float_graph, const std::string& size) {
    const TemporaryFolder work = TemporaryFolder::of_system("lathe_fit");
    Graph graph = float_graph;
    std::string path = path_;
    const bool other_size = to_string(input) != to_string(default_input_shapes(model_.graph).at(model_.graph[model_.graph.inputs[0]].name));
    if (!quantized_) {
      path = work.file("float.onnx");
      export_onnx(float_graph, path, model_.metadata);
      std::error_code ignored;
      const fs::path steps = fs::path(path_).replace_extension(".preprocess.json");
      if (!other_size) fs::copy_file(steps, work.file("float.preprocess.json"), ignored);
      tell(size + ": quantizing");
      QuantizeInput data(path, o_.data, {.preprocess = {}, .labels = "", .limit = o_.samples, .seed = o_.seed});
      graph = data.model().graph;
      if (rank_ > 0) {
        clean_up(graph);
        graph = factorize(graph, {.ratio = rank_, .weighted = true}, data.samples()).graph;
      }
      graph = quantize_network(graph, scheme(), data.samples()).graph;
    }
    const McuProgram program = make_program(Graph(graph), {.tiles = tiles_});
    if (!fits(program)) return false;  // layers that stayed apart need more than the quick look did
    emit_firmware(program, device_, {.name = o_.name, .source = fs::path(path_).filename().string()}, o_.output);
    const std::string codes = o_.output + "/model.onnx";
    export_onnx(graph, codes, model_.metadata);
    tell(size + ": building");
    try {
      fit_.use = build_firmware(read_firmware(o_.output), kBuildSeconds);
    } catch (const Error& e) {
      if (e.kind() == ErrorKind::kBudget) {
        miss_ = e.what();
        flash_ = miss_.find("flash") != miss_.npos;
        fit_.steps.back().fits = false;
        return false;
      }
      tell(std::string("not built: ") + e.what());
    }
    fit_.input = input;
    if (!o_.data.empty()) {
      tell(size + ": measuring");
      fit_.after = accuracy(codes);
      if (fit_.after && !quantized_) fit_.before = accuracy(path_);
    }
    return true;
  }

  // Share of right answers, where the data have labels.
  std::optional<Interval> accuracy(const std::string& path) const {
    Candidate candidate;
    candidate.graph = load_model(path).graph;
    Dataset data(o_.data, path, candidate.graph, {.preprocess = {}, .labels = "", .limit = o_.evaluated, .seed = o_.seed});
    if (!data.labelled()) return std::nullopt;
    Runner runner(candidate, data.input_shapes());
    const Assessment a = assess(runner, nullptr, data, {});
    const auto at = a.scores.find(MetricKind::kTop1);
    return at == a.scores.end() ? std::nullopt : std::optional(at->second);
  }

  std::string path_;
  const Device& device_;
  const FitOptions& o_;
  Model model_;
  bool quantized_ = false, pictures_ = false, flash_ = false;
  double rank_ = 0;  // of the attempt
  std::optional<Tiles> tiles_;  // of the attempt
  std::string miss_;
  Fit fit_;
};

}  // namespace

Fit fit_network(const std::string& model, const Device& device, const FitOptions& options) { return Fitter(model, device, options).run(); }

}  // namespace lathe::mcu
