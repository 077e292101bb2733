#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "options.h"
#include "train/train_model.h"
#include "train_options.h"

namespace lathe::cli {

namespace {

std::string time_text(double seconds) {
  const auto s = std::llround(seconds);
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{}:{:02} min", s / 60, s % 60);
  return fmt::format("{}:{:02} h", s / 3600, s / 60 % 60);
}

void show(const TrainStep& p) {
  static const bool terminal = ::isatty(2) != 0;
  if (!p.epoch_done && !terminal) return;
  std::string line = fmt::format("epoch {}/{}  {:>5}/{}  loss {:.4f}", p.epoch + 1, p.epochs, p.batch, p.batches, p.loss);
  if (p.score >= 0) line += fmt::format("  {} {:5.2f} %", p.measure, 100 * p.score);
  if (p.validation_score >= 0) line += fmt::format("  validation {}{:5.2f} %", p.score >= 0 ? "" : p.measure + " ", 100 * p.validation_score);
  line += p.epoch_done ? fmt::format("  {}", time_text(p.seconds)) : fmt::format("  rate {:.2e}  {} left", p.learning_rate, time_text(p.seconds_left));
  fmt::print(stderr, "{}{}{}", terminal ? "\r\x1b[K" : "", line, p.epoch_done ? "\n" : "");
  std::fflush(stderr);
}

}  // namespace

void train_command(const TrainCommand& c, const std::function<bool()>& stops) {
  TrainSettings s = c.settings;
  s.new_head = c.finetune;
  if (!c.input.empty()) s.input = parse_sizes(c.input, fmt::format("--input {}: expected sizes as 3x224x224", c.input));
  s.depths = parse_numbers(c.depths, "--depths");
  s.widths = parse_numbers(c.widths, "--widths");
  s.set = parse_settings(c.set, "--set");
  s.nesterov = !c.no_nesterov;
  s.notice = [](const std::string& line) { fmt::print(stderr, "{}\n", line); };
  s.progress = [&](const TrainStep& p) {
    show(p);
    return !stops();
  };
  const TrainReport done = run_training(c.network, c.data, c.output, s);
  if (done.stopped) {
    fmt::print(stderr, "\nstopped; {}/checkpoint.safetensors holds the state: the same command with --resume goes on\n", c.output);
    if (c.json) fmt::print("{}\n", nlohmann::json{{"stopped", true}, {"output", c.output}}.dump());
    return;
  }
  if (c.json) {
    nlohmann::json j = {{"output", c.output}, {"model", done.model}, {"epochs", done.epochs}, {"seconds", done.seconds}, {"waited_for_data", done.waited_for_data}, {"measure", done.measure}, {"test_" + done.measure, nullptr}};
    if (done.test_score >= 0) j["test_" + done.measure] = done.test_score, j["torch_test_" + done.measure] = done.torch_score;
    fmt::print("{}\n", j.dump());
    return;
  }
  if (done.test_score >= 0) fmt::print("test {} {:.2f} % in lathe's engine, {:.2f} % in libtorch\n", done.measure, 100 * done.test_score, 100 * done.torch_score);
  fmt::print("{} ({}, {:.0f} % of it waiting for data); log in {}/log.html\n", done.model, time_text(done.seconds), done.seconds > 0 ? 100 * done.waited_for_data / done.seconds : 0.0, c.output);
}

}  // namespace lathe::cli
