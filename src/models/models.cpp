#include "models/models.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "graph/op.h"
#include "models/model_files.h"
#include "transform/passes.h"

namespace lathe {

const std::vector<ModelEntry>& all_models() {
  static const std::vector<ModelEntry> all = [] {
    std::vector<ModelEntry> list;
    for (std::vector<ModelEntry>& family : families()) std::move(family.begin(), family.end(), std::back_inserter(list));
    std::stable_sort(list.begin(), list.end(), [](const ModelEntry& a, const ModelEntry& b) { return a.family < b.family; });
    return list;
  }();
  return all;
}

const ModelEntry& find_model(std::string_view name) {
  const std::vector<ModelEntry>& all = all_models();
  for (const ModelEntry& m : all)
    if (m.name == name) return m;
  const std::string_view stem = name.substr(0, name.find_first_of("_0123456789"));
  std::string near;
  for (const ModelEntry& m : all)
    if (m.name.find(stem) != std::string::npos) near += (near.empty() ? "" : ", ") + m.name;
  fail(ErrorKind::kUsage, "no model {}{}; \"lathe models\" lists all", name, near.empty() ? "" : "; there are " + near);
}

Graph build_model(std::string_view name, const BuildOptions& options) { return build_model(find_model(name), options); }

Graph build_model(const ModelEntry& model, BuildOptions options) {
  if (options.classes == 0) options.classes = model.classes;
  if (options.input.empty()) options.input = model.input;
  if (options.classes < 0) fail(ErrorKind::kUsage, "{}: {} classes", model.name, options.classes);
  if (options.input.size() != model.input.size() && !(model.frames_apart && options.input.size() == 4)) fail(ErrorKind::kUsage, "{}: an input of {} where {} is meant", model.name, to_string(options.input), to_string(model.input));
  for (int64_t size : options.input)
    if (size <= 0) fail(ErrorKind::kUsage, "{}: an input of {}", model.name, to_string(options.input));
  if (!(options.width > 0 && options.width < 1000)) fail(ErrorKind::kUsage, "{}: width {}", model.name, options.width);
  for (int64_t depth : options.depths)
    if (depth <= 0) fail(ErrorKind::kUsage, "{}: a stage of {} blocks", model.name, depth);
  for (int64_t width : options.widths)
    if (width <= 0) fail(ErrorKind::kUsage, "{}: a stage of {} channels", model.name, width);
  for (const auto& option : options.more)
    if (std::none_of(model.options.begin(), model.options.end(), [&](const std::string& known) { return known.substr(0, known.find(':')) == option.first; })) {
      std::string known;
      for (const std::string& k : model.options) known += (known.empty() ? "" : ", ") + k.substr(0, k.find(':'));
      fail(ErrorKind::kUsage, "{} has no option {}{}", model.name, option.first, known.empty() ? "" : "; it has " + known);
    }
  return model.build(options);
}

ModelCounts count_model(const Graph& graph) {
  ModelCounts counts;
  const Parameters parameters = parameters_of(graph);
  for (ValueId v : parameters.trained) counts.parameters += graph[v].constant.size();
  // Zeros that stand where a norm has no bias are none of its constants.
  for (ValueId v : parameters.frozen)
    if (!graph[v].name.ends_with("bias.frozen")) counts.frozen += graph[v].constant.size();
  Graph sized = graph;
  std::map<std::string, Shape> shapes;
  for (ValueId v : graph.inputs) {
    Shape shape = *graph[v].shape;
    shape[0] = 1;
    shapes[graph[v].name] = shape;
  }
  specialize(sized, shapes);
  for (NodeId n : sized.order())
    if (sized[n].op->macs) counts.macs += sized[n].op->macs(sized, sized[n]);
  return counts;
}

bool rounds_to(int64_t counted, const std::string& published) {
  double value = 0;
  const char* end = published.data() + published.size();
  const auto [rest, error] = std::from_chars(published.data(), end, value);
  require(error == std::errc(), "no number: {}", published);
  const double unit = rest == end ? 1 : *rest == 'k' ? 1e3 : *rest == 'M' ? 1e6 : *rest == 'G' || *rest == 'B' ? 1e9 : 0;
  require(unit > 0, "no unit of counts: {}", published);
  const std::string_view digits(published.data(), static_cast<size_t>(rest - published.data()));
  const size_t point = digits.find('.');
  const double last = std::pow(10.0, point == digits.npos ? 0 : -static_cast<double>(digits.size() - point - 1));
  return std::abs(static_cast<double>(counted) / unit - value) <= last / 2 * (1 + 1e-9);
}

ModelCheck check_counts(const ModelEntry& model) {
  ModelCheck check;
  const auto compare = [&](const std::string& what, const ModelCounts& counted, const ModelCounts& told) {
    if (told.parameters && counted.parameters != told.parameters) check.wrong.push_back(fmt::format("{}{} parameters, told {}", what, counted.parameters, told.parameters));
    if (counted.frozen != told.frozen) check.wrong.push_back(fmt::format("{}{} frozen, told {}", what, counted.frozen, told.frozen));
    if (told.macs && counted.macs != told.macs) check.wrong.push_back(fmt::format("{}{} MACs, told {}", what, counted.macs, told.macs));
  };
  check.counted = count_model(build_model(model, {.draw = false}));
  compare("", check.counted, model.counts);
  if (!model.published_parameters.empty() && model.parameters_note.empty() && !rounds_to(check.counted.parameters, model.published_parameters))
    check.wrong.push_back(fmt::format("{} parameters, published {}", check.counted.parameters, model.published_parameters));
  if (!model.published_macs.empty() && model.macs_note.empty() && !rounds_to(check.counted.macs, model.published_macs))
    check.wrong.push_back(fmt::format("{} MACs, published {}", check.counted.macs, model.published_macs));
  for (const ModelVariant& v : model.variants) {
    BuildOptions options = v.options;
    options.draw = false;
    compare(v.what + ": ", count_model(build_model(model, options)), v.counts);
  }
  return check;
}

}  // namespace lathe
