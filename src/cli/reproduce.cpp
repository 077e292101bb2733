#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "core/error.h"
#include "optimize/reproduce.h"

namespace lathe::cli {
namespace {

struct Options {
  std::string key, only;
  ReproduceContext context;
  bool json = false;
};

// `progress` is shown, by however many threads.
std::function<void(const std::string&)> shown(const std::string& check) {
  return [check, lock = std::make_shared<std::mutex>()](const std::string& what) {
    const std::lock_guard guard(*lock);
    fmt::print(stderr, "\r\033[K{}: {}", check, what);
  };
}

const char* name_of(CheckResult::State state) {
  constexpr const char* names[] = {"pass", "FAIL", "skipped"};
  return names[static_cast<int>(state)];
}

void reproduce_command(Options& o, int* exit_code, const std::vector<Reproduction>& list, const std::function<void()>& others) {
  if (others) others();
  if (o.key.empty()) {
    for (const Reproduction& r : list) fmt::print("{:<24} {} ({})\n", r.key, r.title, r.source);
    return;
  }
  const Reproduction& r = find_reproduction(o.key, list, others ? "; those of training are in lathe-train, which is missing here (it is built where libtorch is found)" : "");
  if (const char* assets = std::getenv("LATHE_ASSETS"); o.context.assets.empty() && assets) o.context.assets = assets;
  if (!o.context.assets.empty() && !std::filesystem::is_directory(o.context.assets)) fail(ErrorKind::kInput, "--assets {}: no such folder", o.context.assets);
  if (o.context.resume && o.context.keep.empty()) fail(ErrorKind::kUsage, "--resume goes on with what --keep DIR holds: name the folder");
  const auto chosen = [&](const Check& c) { return (!o.context.quick || c.quick) && c.name.find(o.only) != c.name.npos; };
  if (std::none_of(r.checks.begin(), r.checks.end(), chosen)) {
    std::string names;
    for (const Check& c : r.checks) names += fmt::format("\n  {}{}", c.name, c.quick ? "" : " (not in --quick)");
    fail(ErrorKind::kUsage, "{} has no check named like \"{}\"{}; there are{}", r.key, o.only, o.context.quick ? " in its quick form" : "", names);
  }
  const bool shows = ::isatty(2) != 0;
  nlohmann::json results = nlohmann::json::array();
  int counts[3] = {0, 0, 0};
  bool stopped = false;
  if (!o.json) fmt::print("{}: {}\n{}\nseed {}\n\n", r.key, r.title, r.source, o.context.seed);
  for (const Check& c : r.checks) {
    if (!chosen(c)) continue;
    if (shows) o.context.progress = shown(c.name);
    CheckResult got;
    try {
      got = c.run(o.context);
    } catch (const Error& e) {
      got = CheckResult::of(false, e.what());
    } catch (const Stopped&) {
      stopped = true;
    }
    if (shows) fmt::print(stderr, "\r\033[K");
    if (stopped) break;
    ++counts[static_cast<int>(got.state)];
    if (o.json) {
      results.push_back({{"name", c.name}, {"published", c.published}, {"passes", c.passes}, {"measured", got.measured}, {"result", got.state == CheckResult::State::kFailed ? "fail" : name_of(got.state)}});
    } else {
      fmt::print("{:<8}{}\n        published: {}\n        measured:  {}\n        passes:    {}\n", name_of(got.state), c.name, c.published, got.measured, c.passes);
      std::fflush(stdout);
    }
  }
  if (o.json) {
    fmt::print("{}\n", nlohmann::json{{"key", r.key}, {"title", r.title}, {"source", r.source}, {"seed", o.context.seed}, {"quick", o.context.quick}, {"checks", results},
                                     {"passed", counts[0]}, {"failed", counts[1]}, {"skipped", counts[2]}, {"stopped", stopped}}.dump());
  } else {
    fmt::print("\n{} passed, {} failed, {} skipped\n", counts[0], counts[1], counts[2]);
  }
  if (stopped)
    fmt::print(stderr, "stopped{}\n", o.context.keep.empty() ? "; with --keep DIR a training that is stopped can go on" : fmt::format("; the same command with --resume goes on from {}", o.context.keep));
  // Nothing measured is nothing reproduced.
  if (counts[1] > 0 || counts[0] == 0 || stopped) *exit_code = 1;
}

}  // namespace

void add_reproduce(CLI::App& app, int* exit_code, const std::vector<Reproduction>& list, const std::function<void()>& others, const std::function<bool()>& stops) {
  auto* command = app.add_subcommand("reproduce", "Measure what a method's paper claims, and print published against measured");
  command->footer("Examples:\n  lathe reproduce\n  lathe reproduce quantization-survey --quick --assets assets\n  lathe reproduce quantization-survey --json\n"
                  "  lathe reproduce standard-families --only lenet5 --keep runs --resume\n\n"
                  "Exit code 1: a threshold was missed, every check was skipped, or it was stopped (Ctrl-C; trainings leave a checkpoint in --keep, a\n"
                  "second Ctrl-C ends all at once). Checks that need networks and pictures look for them in --assets (else $LATHE_ASSETS): models/ and\n"
                  "images/imagenet/.");
  auto o = std::make_shared<Options>();
  o->context.stops = stops;
  command->add_option("KEY", o->key, "Which; without it they are listed");
  command->add_flag("--quick", o->context.quick, "Fewer networks and samples");
  command->add_option("--assets", o->context.assets, "Folder with networks and pictures")->type_name("DIR");
  command->add_option("--seed", o->context.seed, "Of every random choice")->capture_default_str();
  command->add_option("--seeds", o->context.seeds, "Trainings from different seeds for each figure; 0: what the check says")->check(CLI::Range(0, 1000))->capture_default_str();
  command->add_option("--jobs", o->context.jobs, "Trainings at once; 0: one for each core, or one on an accelerator")->check(CLI::Range(0, 256))->capture_default_str();
  command->add_option("--only", o->only, "Checks whose names hold this text")->type_name("TEXT");
  command->add_option("--keep", o->context.keep, "Trained networks and logs go to folders in this one")->type_name("DIR");
  command->add_flag("--resume", o->context.resume, "Go on with the trainings that an earlier run left in --keep");
  command->add_option("--device", o->context.device, "Of trainings: cpu, cuda, cuda:N")->capture_default_str();
  command->add_flag("--json", o->json, "One JSON object on stdout");
  command->callback([o, exit_code, &list, others] { reproduce_command(*o, exit_code, list, others); });
}

}  // namespace lathe::cli
