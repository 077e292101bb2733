// From what a user says (lathe/train.h) to what is trained.
#pragma once

#include "lathe/train.h"
#include "train/trainer.h"

namespace lathe {

// Without a folder. Throws kUsage and kInput for settings that do not fit network and data.
TrainRequest training_request(const std::string& network, const DataParts& data, const TrainSettings& settings);
// What lathe::train_model does, for programs that link this folder itself.
TrainReport run_training(const std::string& network, const std::string& data, const std::string& output, const TrainSettings& settings);

}  // namespace lathe
