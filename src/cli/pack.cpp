#include <fmt/format.h>

#include <filesystem>

#include "commands.h"
#include "options.h"

namespace lathe::cli {

void add_pack(CLI::App& app) {
  auto* command = app.add_subcommand("pack", "Plan a model and pack its weights for this machine, into a file that starts at once");
  command->footer("Examples:\n  lathe pack model.onnx -o model.lathe\n  lathe pack model.onnx -o model.lathe --precision bf16 --batch 8\n"
                  "  lathe run model.lathe picture.jpg\n\nOn another machine the model that is kept inside is planned anew; --no-source leaves it out.");
  struct Options {
    ModelOptions model;
    std::string output;
    TuneOptions tune;
    bool no_source = false;
  };
  auto o = std::make_shared<Options>();
  o->model.add_to(*command);
  command->add_option("-o,--output", o->output, "The .lathe file")->required()->type_name("FILE");
  o->model.add_precision(*command);
  o->tune.add_to(*command);
  command->add_flag("--no-source", o->no_source, "Leave the ONNX model out: smaller, but for this machine and this lathe only");
  command->callback([o] {
    omp_set_num_threads(o->model.threads);
    PackRequest request;
    request.batch = o->model.batch;
    request.shapes = [o](const Graph& g) { return o->model.input_shapes(g); };
    request.keep_source = !o->no_source;
    request.adjust = o->model.adjustment();
    o->tune.apply(request.options);
    pack_model(o->model.model, request, o->output);
    fmt::print("{}: {:.2f} MiB, read back and compared\n", o->output, static_cast<double>(std::filesystem::file_size(o->output)) / 1048576);
  });
}

}  // namespace lathe::cli
