#include <fmt/format.h>

#include "commands.h"
#include "runtime/load.h"
#include "transform/passes.h"

namespace lathe::cli {

void add_convert(CLI::App& app) {
  auto* command = app.add_subcommand("convert", "Clean up an ONNX model and bring it to a current operator set");
  command->footer("Folds constants and batch norms, removes dead and duplicate nodes, infers shapes. The result is\n"
                  "standard ONNX that other runtimes can run.\n\nExample:\n  lathe convert old.onnx -o new.onnx");
  auto model = std::make_shared<std::string>(), output = std::make_shared<std::string>();
  command->add_option("MODEL", *model, "An ONNX file")->required()->type_name("FILE");
  command->add_option("-o,--output", *output, "Where to write")->required()->type_name("FILE");
  command->callback([model, output] {
    Model m = load_model(*model);
    size_t before = m.graph.order().size();
    clean_up(m.graph, true);  // codes of weights stay codes
    verify(m.graph);
    export_onnx(m.graph, *output);
    fmt::print("{}: {} nodes, {} before\n", *output, m.graph.order().size(), before);
  });
}

}  // namespace lathe::cli
