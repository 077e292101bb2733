// Training, as `lathe train` and `lathe finetune` do: a network of a family or an ONNX file, and data, in; a folder with the trained ONNX
// file, checkpoint and log out. In the library liblathe_train, which links libtorch (CMake: lathe::train).
//
//   lathe::TrainReport r = lathe::train_model("resnet18", "fashion-mnist", "out", {.epochs = 8, .width = 0.25, .set = {{"stem", "small"}}});
//   if (!r.stopped) use(r.model);   // r.test_score, the accuracy in lathe's engine
//
// Everything throws lathe::Error. A checkpoint is written whole or not at all.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "lathe/error.h"
#include "lathe/export.h"

namespace lathe {

struct TrainStep {
  int64_t epoch = 0, epochs = 0, batch = 0, batches = 0;  // counted from 0
  double loss = 0;                     // mean of the epoch so far
  std::string measure = {};            // what scores are: "accuracy", "mAP@0.5" of boxes
  double score = -1;                   // of training batches of the epoch so far, 0 … 1; −1: not known
  double learning_rate = 0, seconds = 0, seconds_left = 0;
  bool epoch_done = false;
  double validation_score = -1;        // −1: not known
};

struct TrainSettings {
  // The training.
  double epochs = 10;
  int64_t batch = 128, accumulate = 1;
  double rate = 0;                  // highest; 0: adamw 0.001, sgd 0.05, lamb 0.005
  std::string schedule = "cosine";  // cosine, step, constant
  double warm_up = 0, last_rate = 1e-5;
  std::string optimizer = "adamw";  // adamw, sgd, lamb
  double momentum = 0.9, weight_decay = -1;  // −1: 0.05, sgd 0.0005
  bool nesterov = true;
  double clip = 0, smoothing = 0, mixup = 0, cutmix = 0, ema = 0;
  std::string augment = "none";     // docs/DATA.md
  std::vector<double> mean = {}, std = {};  // empty: the data's
  std::string teacher = {};         // an ONNX file
  double distill = 0.5, temperature = 4;
  std::string conv_bn = {};         // train, eval, deploy, tune; "": train, and tune where `new_head`
  std::vector<std::string> freeze = {};  // patterns of names of parameters
  std::string quantize = {};        // how weights and activations are rounded in training, "w:int4 a:uint4" (docs/QUANTIZE.md); "": not at all
  bool bf16 = false, recompute = false;
  // The network, where it is a family's (docs/MODELS.md).
  std::vector<int64_t> input = {};  // [C, H, W]; empty: the data's, where its samples have one size
  double width = 1;
  std::vector<int64_t> depths = {}, widths = {};
  std::map<std::string, std::string> set = {};
  bool new_head = false;            // a file's last layer is made anew for the data's classes (finetune)
  // The process.
  std::string device = "cpu";       // where libtorch trains: cpu, cuda, cuda:N
  int threads = 2, loader_threads = 1;
  uint64_t seed = 1;
  bool resume = false;              // from the folder's checkpoint, to the same bits
  bool force = false;               // begin anew in a folder that holds a training
  double checkpoint_seconds = 60;
  int64_t most_steps = 0;           // stop after so many in all; 0: none
  std::function<bool(const TrainStep&)> progress = nullptr;     // false: stop at the next step, with a checkpoint
  std::function<void(const std::string&)> notice = nullptr;     // what was found and chosen, a line each
};

struct TrainReport {
  std::string model;           // the trained file
  int64_t epochs = 0;
  std::string measure;         // what scores are: "accuracy", "mAP@0.5" of boxes
  double test_score = -1;      // in lathe's engine; −1: the data has no test part
  double torch_score = -1;     // of the same samples in libtorch
  double seconds = 0, waited_for_data = 0;
  bool stopped = false;        // before the end: only the checkpoint is there
};

// `network`: a name of `lathe models`, or an ONNX file. `data`: docs/DATA.md.
LATHE_API TrainReport train_model(const std::string& network, const std::string& data, const std::string& output, const TrainSettings& settings = {});

}  // namespace lathe
