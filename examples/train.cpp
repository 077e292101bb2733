// Trains a small network on Fashion-MNIST (Debian: dataset-fashion-mnist) or on a folder of class folders, and asks it about one picture of its
// kind: train [DATA] [FOLDER]
#include <lathe/network.h>
#include <lathe/train.h>

#include <cstdio>
#include <string>

int main(int argc, char** argv) {
  const std::string data = argc > 1 ? argv[1] : "fashion-mnist,limit=6000", folder = argc > 2 ? argv[2] : "trained";
  try {
    lathe::TrainSettings settings;
    settings.epochs = 2;
    settings.width = 0.25;
    settings.depths = {1, 1, 1, 1};
    settings.set = {{"stem", "small"}};
    settings.augment = "flip,crop=2";
    settings.force = true;
    settings.notice = [](const std::string& line) { std::printf("%s\n", line.c_str()); };
    settings.progress = [](const lathe::TrainStep& step) {
      if (step.epoch_done) std::printf("epoch %d: loss %.3f, validation %.1f %%\n", static_cast<int>(step.epoch) + 1, step.loss, 100 * step.validation_score);
      return true;  // false would stop it
    };
    const lathe::TrainReport report = lathe::train_model("resnet18", data, folder, settings);
    std::printf("%s: %.2f %% of the test part\n", report.model.c_str(), 100 * report.test_score);
    const lathe::Network network = lathe::Network::open(report.model);
    std::printf("%zu input, %zu output\n", network.inputs().size(), network.outputs().size());
  } catch (const lathe::Error& error) {
    std::fprintf(stderr, "train: %s\n", error.what());
    return 1;
  }
  return 0;
}
