#include <unistd.h>

#include "core/file.h"
#include "runtime/load.h"
#include "transform/passes.h"

namespace lathe {
namespace {

std::string name_of_file(const std::string& path) { return std::filesystem::path(path).filename().string(); }

// Open sizes of the graph's inputs become those that the packed plan has.
void close_inputs(Graph& g, const std::map<std::string, Shape>& shapes) {
  for (ValueId v : g.inputs) {
    auto it = shapes.find(g[v].name);
    if (it == shapes.end() || !g[v].shape || g[v].shape->size() != it->second.size()) continue;
    for (size_t i = 0; i < it->second.size(); ++i)
      if ((*g[v].shape)[i] < 0) (*g[v].shape)[i] = it->second[i];
  }
}

}  // namespace

ModelFile::ModelFile(const std::string& path, Notice notice) : path_(path), notice_(std::move(notice)) {
  if (!is_packed(path)) {
    model_ = import_onnx(path);
    return;
  }
  packed_ = PackedFile::open(path);
  try {
    plan_ = packed_->plan();
    if (plan_->slices > 1) model_.graph = declaration_of(*plan_);
  } catch (const StalePacking& e) {
    import_source(e.what());
  }
}

void ModelFile::import_source(const std::string& why) {
  if (packed_->source().empty())
    fail(ErrorKind::kUnsupported, "{}, and it holds no model to plan anew: pack the model again", why);
  if (notice_) notice_(why + ": planning the model inside it anew");
  model_ = import_onnx_bytes(packed_->source());
  plan_.reset();
}

// Why the packed plan is not what is asked for, or empty.
std::string ModelFile::misfit(const PlanOptions& options, int64_t batch, const std::map<std::string, Shape>& shapes) const {
  const PackedOrigin& origin = packed_->origin();
  if (batch != 1 && batch != origin.batch) return fmt::format("it was planned for batch {}", origin.batch);
  if (options.bf16 && !origin.options.bf16) return "it was planned in fp32";
  if (options.bf16 && !options.bf16_marked && origin.options.bf16_marked) return "it was planned with some layers in fp32";
  if (options.reference != origin.options.reference || options.fuse != origin.options.fuse || options.integer != origin.options.integer || (options.tune && !origin.options.tune) ||
      (options.patches && !origin.options.patches && !origin.options.tune))
    return "it was planned with other options";
  const Graph& g = graph();
  for (ValueId v : g.inputs)
    if (auto it = shapes.find(g[v].name); it != shapes.end() && it->second != *g[v].shape)
      return fmt::format("input '{}' was planned as {}, asked for is {}", g[v].name, to_string(*g[v].shape), to_string(it->second));
  return "";
}

LoadedPlan ModelFile::plan(PlanOptions options, int64_t batch,
                           const std::function<std::map<std::string, Shape>(const Graph&)>& shapes) {
  auto choose = [&](const Graph& g) { return shapes ? shapes(g) : default_input_shapes(g, batch); };
  if (plan_) {
    std::string why = misfit(options, batch, choose(graph()));
    if (why.empty()) return {std::move(*plan_), packed_->origin().options, packed_->origin().batch};
    import_source(path_ + ": " + why);
  }
  if (packed_) {  // what it was packed with holds where nothing else is asked
    const PackedOrigin& origin = packed_->origin();
    options.bf16_marked = options.bf16 ? options.bf16_marked : origin.options.bf16_marked;
    options.bf16 = options.bf16 || origin.options.bf16;
    options.tune = options.tune || origin.options.tune;
    options.patches = options.patches || origin.options.patches;
    if (batch == 1) batch = std::max<int64_t>(origin.batch, 1);
    if (batch != 1) open_batch(model_.graph);
    if (!shapes && batch == origin.batch) close_inputs(model_.graph, origin.options.input_shapes);
  } else if (batch != 1) {
    open_batch(model_.graph);
  }
  options = plan_options_for(model_, options);
  options.input_shapes = choose(model_.graph);
  return {make_plan(std::move(model_.graph), options), options, batch};
}

Model load_model(const std::string& path, const ImportOptions& options) {
  if (!is_packed(path)) return import_onnx(path, options);
  PackedFile file = PackedFile::open(path);
  if (!file.source().empty()) return import_onnx_bytes(file.source(), {}, options);
  Model model;
  model.graph = file.plan().graph;
  model.producer = fmt::format("lathe {} pack", file.origin().version);
  return model;
}

void pack_model(const std::string& path, const PackRequest& request, const std::string& output) {
  if (is_packed(path)) fail(ErrorKind::kUsage, "{}: is packed already: pack the ONNX model", path);
  Model model = import_onnx(path);
  if (model.external_data && request.keep_source)
    fail(ErrorKind::kUsage, "{}: keeps tensors in other files, which cannot go into a .lathe file: pack with --no-source", path);
  if (request.batch != 1) open_batch(model.graph);
  PackedOrigin origin{.model = name_of_file(path), .options = plan_options_for(model, request.options, request.adjust), .batch = request.batch};
  origin.options.input_shapes = request.shapes ? request.shapes(model.graph) : default_input_shapes(model.graph, request.batch);
  Session session(make_plan(std::move(model.graph), origin.options));
  {
    auto source = MappedFile::open(path);
    std::string_view bytes(reinterpret_cast<const char*>(source->data()), source->size());
    write_packed(session.plan(), origin, request.keep_source ? bytes : std::string_view(), output);
  }
  try {
    PackedFile file = PackedFile::open(output);
    file.check();
    Session again(file.plan());
    std::vector<Tensor> inputs = random_inputs(session.plan(), 1);
    std::vector<Tensor> expected;
    try {
      expected = session.run(inputs);
    } catch (const Error&) {
      return;  // a network that random inputs do not suit, by indices for instance: nothing to compare
    }
    const std::vector<Tensor>& found = again.run(inputs);
    for (size_t i = 0; i < expected.size(); ++i)
      require(found[i].shape() == expected[i].shape() && found[i].dtype() == expected[i].dtype() &&
                  std::memcmp(found[i].raw(), expected[i].raw(), found[i].bytes()) == 0,
              "{}: output {} of the packed plan differs from the model's", output, i);
  } catch (const Error&) {
    ::unlink(output.c_str());
    throw;
  }
}

}  // namespace lathe
