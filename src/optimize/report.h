// What an Optimization leaves: report.json for programs, report.html for people (one file, no scripts, nothing
// loaded from elsewhere), and the folder that holds them with the models.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "optimize/optimize.h"

namespace lathe {

struct ReportContext {
  std::string version, command;  // of lathe; as the user typed it
  std::string machine;           // host_identity()
  double load_before = 0, load_after = 0;  // averages of the last minute
};

nlohmann::json report_json(const Optimization& result, const OptimizeRequest& request, const Device& device, const ReportContext& context);
std::string report_html(const nlohmann::json& report);

// Refuses what could not be written later: an OUT that exists (unless `force`), or whose parent does not.
// An existing folder is replaced only if it holds nothing but a result of lathe.
void check_output(const std::string& folder, bool force);

// Writes model.onnx (unless nothing was chosen), report.json and report.html into `folder`, all or nothing: they are made
// beside it and the folder is renamed. model.onnx is read back and must give the candidate's answers.
void write_result(const Optimization& result, const nlohmann::json& report, const std::string& folder, bool force);

}  // namespace lathe
