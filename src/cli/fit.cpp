#include "targets/mcu/fit.h"

#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "firmware_commands.h"
#include "targets/mcu/emit.h"

namespace lathe::cli {
namespace {

struct FitCommand {
  std::string model, device;
  mcu::FitOptions options;
  bool json = false;
};

std::string percent(const Interval& i) { return fmt::format("{:.2f} % ({:.2f} to {:.2f})", 100 * i.value, 100 * i.low, 100 * i.high); }

void run(const FitCommand& c) {
  const Device device = read_device(c.device);
  mcu::FitOptions options = c.options;
  if (isatty(2)) options.progress = [](const std::string& what) { fmt::print(stderr, "\r{:70.70}", what); };
  const mcu::Fit fit = mcu::fit_network(c.model, device, options);
  if (isatty(2)) fmt::print(stderr, "\r{:70}\r", "");
  if (c.json) {
    nlohmann::json steps = nlohmann::json::array(),
                   j = {{"model", c.model}, {"device", device.name}, {"output", options.output}, {"input", fit.input}};
    for (const mcu::FitStep& s : fit.steps)
      steps.push_back(
          {{"what", s.what}, {"arena_bytes", s.arena_bytes}, {"weight_bytes", s.weight_bytes}, {"macs", s.macs}, {"fits", s.fits}});
    j["steps"] = steps;
    if (fit.use) j["sram_bytes"] = fit.use->sram(), j["flash_bytes"] = fit.use->flash(), j["arena_bytes"] = fit.use->arena;
    if (fit.before) j["accuracy_before"] = fit.before->value;
    if (fit.after) j["accuracy"] = fit.after->value;
    fmt::print("{}\n", j.dump());
    return;
  }
  fmt::print("{} has {} bytes of SRAM, {} of flash\n", device.name, *device.limits.memory_bytes, *device.limits.flash_bytes);
  for (size_t i = 0; i < fit.steps.size(); ++i) {
    const mcu::FitStep& s = fit.steps[i];
    fmt::print("{}. {}: arena {}, weights {}, {} multiply-accumulates: {}\n", i + 1, s.what, s.arena_bytes, s.weight_bytes, s.macs,
               s.fits ? "fits" : "does not fit");
  }
  if (fit.use)
    fmt::print("as linked: SRAM {} bytes (arena {}, other data {}, stack {}), flash {} bytes (code {}, constants {})\n", fit.use->sram(),
               fit.use->arena, fit.use->data, fit.use->stack, fit.use->flash(), fit.use->code, fit.use->constants);
  else
    fmt::print("not linked: arm-none-eabi-gcc is missing; code and the stack's true size are not known\n");
  if (fit.after)
    fmt::print("right answers: {}{}\n", percent(*fit.after), fit.before ? ", the model as given " + percent(*fit.before) : "");
  else
    fmt::print("accuracy: not measured, there are no data with labels\n");
  fmt::print("{}: firmware, and model.onnx that it was made from\n", options.output);
}

}  // namespace

void add_fit(CLI::App& app) {
  auto* command = app.add_subcommand("fit", "Make a network fit a microcontroller, at the least loss");
  command->footer(
      "Tries in this order, and stops where the network fits: codes of 8 bits; convolutions that write over their input, and the\n"
      "order of steps that needs least memory; the first layers tile by tile; smaller pictures; products of low rank, where\n"
      "the weights are too many. Says what each step needs. Where nothing helps, exit code 3 with the nearest miss.\n\n"
      "Examples:\n  lathe fit net.onnx --device devices/stm32f746.json --data pictures -o firmware\n"
      "  lathe fit net.int8.onnx --device devices/stm32f412.json -o firmware");
  auto c = std::make_shared<FitCommand>();
  command->add_option("MODEL", c->model, "An ONNX file, in float or quantized")->required()->type_name("FILE");
  command->add_option("--device", c->device, "Description of the microcontroller (devices/*.json)")->required()->type_name("FILE");
  command
      ->add_option("--data", c->options.data,
                   "Samples to quantize with, and with labels to measure accuracy: a folder, or one .npy or .npz file")
      ->type_name("DIR");
  command->add_option("-o,--output", c->options.output, "Folder to write")->required()->type_name("DIR");
  command->add_option("--scheme", c->options.scheme, "How to quantize, as for lathe quantize");
  command->add_option("--samples", c->options.samples, "Samples to quantize with, at most")
      ->check(CLI::Range(int64_t{1}, int64_t{1000000}))
      ->capture_default_str();
  command
      ->add_option("--least-side", c->options.least_side,
                   "How small the picture's sides may become, as a part of the model's (1: as they are)")
      ->check(CLI::Range(0.125, 1.0))
      ->capture_default_str();
  command
      ->add_option("--least-rank", c->options.least_rank, "How low the rank of products may become where weights are too many, as a part of the full one (1: as they are)")
      ->check(CLI::Range(0.1, 1.0))
      ->capture_default_str();
  command->add_option("--tile-overhead", c->options.most_overhead, "Multiply-accumulates of the network that tiles may do twice: 0.15 is 15 %")
      ->check(CLI::Range(0.0, 1e9))
      ->capture_default_str();
  command->add_option("--name", c->options.name, "Begins all names in C")->capture_default_str();
  command->add_option("--seed", c->options.seed, "Of the samples that are drawn")->capture_default_str();
  command->add_flag("--json", c->json, "One JSON object on stdout");
  command->callback([c] { run(*c); });
}

}  // namespace lathe::cli
