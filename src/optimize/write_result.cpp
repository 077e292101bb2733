#include <omp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "core/file.h"
#include "optimize/report.h"
#include "runtime/load.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

// Rounding between two plans of one network; the model that was read back plans like the candidate.
constexpr double kReadBackTolerance = 1e-5;

bool is_result(const fs::path& folder) {
  static const std::set<std::string> ours = {"model.onnx", "model.lathe", "report.json", "report.html"};
  if (!fs::is_directory(folder)) return false;
  for (const auto& entry : fs::directory_iterator(folder))
    if (!entry.is_regular_file() || !ours.contains(entry.path().filename().string())) return false;
  return true;
}

// Without the slashes at its end, which would make a folder inside it of a name beside it.
fs::path normal(const std::string& folder) {
  fs::path path = fs::path(folder).lexically_normal();
  return path.has_filename() ? path : path.parent_path();
}

// A folder beside the one wanted, on the same file system so that renaming is one step, with the rights of an ordinary one.
struct Staging : TemporaryFolder {
  explicit Staging(const fs::path& target) : TemporaryFolder(target.string()) {
    mode_t mask = ::umask(0);
    ::umask(mask);
    fs::permissions(path(), static_cast<fs::perms>(0777 & ~mask));
  }
};

std::vector<Tensor> answers(Graph graph, PlanOptions options, const std::map<std::string, Shape>& input_shapes) {
  options.input_shapes = input_shapes;
  options.tune = options.patches = false;  // without its file of times it may choose kernels that round otherwise
  Session session(make_plan(std::move(graph), options));
  std::vector<Tensor> own;
  for (const Tensor& t : session.run(random_inputs(session.plan(), 1))) own.push_back(t.clone());
  return own;
}

void write_model(const Optimization& result, const std::string& path) {
  std::map<std::string, std::string> metadata = result.metadata;
  std::erase_if(metadata, [](const auto& entry) { return entry.first.starts_with("lathe."); });
  metadata.merge(plan_metadata(result.best.options));
  export_onnx(result.best.graph, path, metadata);
  Model back = import_onnx(path);
  PlanOptions options = planned_options(back);
  require(options.bf16 == result.best.options.bf16 && options.bf16_marked == result.best.options.bf16_marked && options.fuse == result.best.options.fuse, "{} does not say how it is to be planned", path);
  double error = largest_relative_error(answers(back.graph, options, result.input_shapes),
                                        answers(result.best.graph, result.best.options, result.input_shapes));
  require(error <= kReadBackTolerance, "{} was read back and differs from the candidate by {} of the output's range", path, error);
}

// Beside it, the same plan packed for this machine.
void write_packed_model(const Optimization& result, const std::string& folder) {
  int before = omp_get_max_threads();
  omp_set_num_threads(result.best.threads);
  PackRequest request{.options = result.best.options, .adjust = nullptr, .batch = 1,
                      .shapes = [&](const Graph&) { return result.input_shapes; }, .keep_source = true};
  pack_model(folder + "/model.onnx", request, folder + "/model.lathe");
  omp_set_num_threads(before);
}

}  // namespace

void check_output(const std::string& folder, bool force) {
  fs::path target = normal(folder);
  if (target.empty()) fail(ErrorKind::kUsage, "-o: the name of a folder is empty");
  fs::path parent = target.has_parent_path() ? target.parent_path() : fs::path(".");
  if (!fs::is_directory(parent)) fail(ErrorKind::kInput, "-o {}: the folder {} does not exist", folder, parent.string());
  if (::access(parent.c_str(), W_OK) != 0) fail(ErrorKind::kInput, "-o {}: {} cannot be written to", folder, parent.string());
  if (!fs::exists(fs::symlink_status(target))) return;
  if (!force) fail(ErrorKind::kUsage, "-o {}: it exists; choose another name, or replace it with --force", folder);
  if (!is_result(target))
    fail(ErrorKind::kUsage, "-o {}: it holds other things than a result of lathe, and is not replaced even with --force", folder);
}

void write_result(const Optimization& result, const nlohmann::json& report, const std::string& folder, bool force) {
  check_output(folder, force);
  fs::path target = normal(folder);
  Staging staging(target);
  if (result.chosen) {
    write_model(result, staging.path() + "/model.onnx");
    write_packed_model(result, staging.path());
  }
  std::string text = report.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  write_file(staging.path() + "/report.json", text);
  // From the dumped text, so that both say the same and broken UTF-8 is replaced in both.
  write_file(staging.path() + "/report.html", report_html(nlohmann::json::parse(text)));
  std::error_code error;
  if (fs::exists(fs::symlink_status(target))) {
    Staging old(target);  // takes the old folder along when it goes
    fs::rename(target, old.path() + "/old", error);
    if (!error) fs::rename(staging.path(), target, error);
    if (error) {
      std::error_code ignored;
      fs::rename(old.path() + "/old", target, ignored);
    }
  } else {
    fs::rename(staging.path(), target, error);
  }
  if (error) fail(ErrorKind::kInput, "{}: cannot be written: {}", folder, error.message());
}

}  // namespace lathe
