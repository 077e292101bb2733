// From what a user says (lathe/train.h) to what is trained.
#pragma once

#include "lathe/train.h"
#include "train/trainer.h"

namespace lathe {

// Without a folder. Throws kUsage and kInput for settings that do not fit network and data.
TrainRequest training_request(const std::string& network, const DataParts& data, const TrainSettings& settings);

}  // namespace lathe
