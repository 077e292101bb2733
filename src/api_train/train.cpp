#include "lathe/train.h"

#include "train/train_model.h"

namespace lathe {

TrainReport train_model(const std::string& network, const std::string& data, const std::string& output, const TrainSettings& settings) {
  return run_training(network, data, output, settings);
}

}  // namespace lathe
