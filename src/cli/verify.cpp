#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "commands.h"
#include "runtime/verify.h"

namespace lathe::cli {

void add_verify(CLI::App& app, int* exit_code) {
  auto* command = app.add_subcommand("verify", "Run models in the ONNX test layout and compare their outputs");
  command->footer("Examples:\n  lathe verify onnx/backend/test/data/node\n"
                  "  lathe verify tests --json | jq .failed\n\n"
                  "Exit code 1 when a test failed; skipped tests (unsupported operators) are listed.");
  struct Options {
    std::vector<std::string> folders;
    bool json = false, quiet = false;
  };
  auto options = std::make_shared<Options>();
  command->add_option("DIR", options->folders, "Folders to search for model.onnx and test_data_set_*")->required()->type_name("DIR");
  command->add_flag("--json", options->json, "One JSON object on stdout");
  command->add_flag("-q,--quiet", options->quiet, "Print failures and the summary only");
  command->callback([options, exit_code] {
    nlohmann::json tests = nlohmann::json::array();
    int counts[3] = {0, 0, 0};
    const char* names[] = {"passed", "failed", "skipped"};
    for (const std::string& folder : options->folders) {
      for (const auto& test : find_onnx_tests(folder)) {
        VerifyResult r = verify_onnx_test(test);
        ++counts[r.status];
        if (options->json) {
          tests.push_back({{"test", test.string()}, {"status", names[r.status]}, {"message", r.message},
                           {"largest_difference", r.largest_difference}});
        } else if (!(options->quiet && r.status != VerifyResult::kFailed)) {
          std::string largest = r.status == VerifyResult::kFailed && r.largest_difference > 0
                                    ? fmt::format(" (largest difference {:.3g})", r.largest_difference) : "";
          fmt::print("{:8} {}{}{}{}\n", names[r.status], test.string(), r.message.empty() ? "" : ": ", r.message, largest);
        }
      }
    }
    if (options->json) {
      nlohmann::json out = {{"passed", counts[0]}, {"failed", counts[1]}, {"skipped", counts[2]}, {"tests", tests}};
      fmt::print("{}\n", out.dump());
    } else {
      fmt::print("{} passed, {} failed, {} skipped\n", counts[0], counts[1], counts[2]);
    }
    if (counts[1] > 0) *exit_code = 1;
  });
}

}  // namespace lathe::cli
