// What a training leaves beside the network: a line of JSON for each epoch, and a page with curves.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "train/trainer.h"

namespace lathe {

// Scores stand under the name of their measure: "accuracy", "validation_accuracy".
nlohmann::json to_json(const EpochRecord& record, const std::string& measure);
EpochRecord epoch_record(const nlohmann::json& json, const std::string& measure);

// The whole of log.jsonl: first a line that says what is trained and how, then the epochs.
std::string log_lines(const nlohmann::json& head, const std::vector<EpochRecord>& epochs, const std::string& measure);
// One page, nothing loaded from elsewhere: loss, accuracy and learning rate over the epochs, and the settings.
std::string log_page(const nlohmann::json& head, const std::vector<EpochRecord>& epochs, const std::string& measure);

}  // namespace lathe
