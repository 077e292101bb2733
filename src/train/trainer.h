// Trains a Graph on libtorch and gives it back trained, evaluated in the engine. What the samples hold says what is learnt: classes, or
// boxes (a network with anchors, models/ssd.h).
//
//   TrainRequest r{.network = build_model("resnet18", {.classes = 10, .training = true}), .data = open_dataset("fashion-mnist")};
//   r.folder = "out";
//   TrainResult done = train(std::move(r), [](const TrainProgress& p) { ... });
//
// In `folder`: checkpoint.safetensors (weights, statistics, optimizer, averages, place in the data), log.jsonl (a line an epoch),
// log.html (curves), model.onnx with model.preprocess.json and model.labels.txt, result.json. A training that was stopped or killed goes on from the
// checkpoint to the same bits: what a step draws follows from seed and step alone.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <stop_token>
#include <string>

#include "data/loader.h"
#include "graph/graph.h"
#include "train/conv_bn.h"
#include "train/optimizer_options.h"
#include "train/schedule.h"

namespace lathe {

struct TrainOptions {
  OptimizerOptions optimizer;
  ScheduleOptions schedule;    // its epochs are the training's
  LoaderOptions loader;        // batch, augmentation, normalization, mixup and cutmix, seed
  int64_t accumulate = 1;      // batches whose gradients make one step
  double clip = 0;             // most of the norm of all gradients; 0: none
  double label_smoothing = 0;
  double ema = 0;              // decay of the average of weights that is evaluated and given back (0.9999); 0: the weights themselves
  bool bf16 = false;           // products in bf16
  bool recompute = false;      // activations are made again in the backward pass
  ConvBnMode conv_bn = ConvBnMode::kTrain;
  std::vector<std::string> freeze;   // patterns of names of parameters
  double distill = 0.5;        // of the loss, the teacher's part, where there is one
  double temperature = 4;      // of teacher and student (Hinton et al. 2015)
  std::string quantize = {};   // how weights and activations are rounded in training (train/quantization_aware.h); empty: not at all
  std::string device = "cpu";  // cpu, cuda, cuda:N
  int threads = 2;
  uint64_t seed = 1;
  bool resume = false;         // from the folder's checkpoint
  double checkpoint_seconds = 60;  // besides one at the end of each epoch
  int64_t most_steps = 0;      // stop after so many in all, as if interrupted; 0: none
};

struct TrainRequest {
  Graph network;               // with what training alone uses (BuildOptions::training), or any f32 graph
  std::string name;            // for the log
  DataParts data;
  TrainOptions options;
  std::string folder;          // empty: nothing is written
  std::shared_ptr<const Graph> teacher;  // its first output is learnt too
  std::map<std::string, std::string> notes = {};  // into log and model
};

struct TrainProgress {
  int64_t epoch = 0, epochs = 0, batch = 0, batches = 0;
  double loss = 0;             // mean of the epoch so far
  std::string measure = {};    // what scores are: "accuracy", "mAP@0.5"
  double score = -1;           // of training batches so far, 0 … 1; −1: not known
  double learning_rate = 0;
  double seconds = 0, seconds_left = 0;
  bool epoch_done = false;
  double validation_score = -1;  // −1: not known (yet)
};

struct EpochRecord {
  int64_t epoch = 0;
  double loss = 0, score = -1, validation_loss = 0, validation_score = -1, learning_rate = 0, gradient_norm = 0, seconds = 0, waited = 0;
};

struct TrainResult {
  Graph network;               // trained, for deployment
  std::vector<EpochRecord> epochs;
  std::string measure;               // what scores are: "accuracy", "mAP@0.5"
  double test_score = -1;            // in lathe's engine; −1 where the data has no test part
  double torch_score = -1;           // of the same samples in libtorch
  bool stopped = false;        // before the end, by `stop` or most_steps
  double seconds = 0, waited = 0;    // of it, for the loader
  int64_t samples = 0;
  std::vector<std::string> notices = {};  // of quantization
};

// Throws kUsage and kInput for what cannot be trained; kInput when the loss is no number or grows without bound: the message
// says where, and the folder holds the last checkpoint before.
TrainResult train(TrainRequest request, const std::function<void(const TrainProgress&)>& progress = {}, std::stop_token stop = {});

// Samples once, in their order, as they are: neither shuffled nor changed at random.
LoaderOptions once(LoaderOptions options);
// How good the answers of a deployed network to the samples of `set` are in the engine, prepared as `loader` says: accuracy of classes, mAP@0.5
// of boxes.
double engine_score(const Graph& network, std::shared_ptr<const TrainingSet> set, const LoaderOptions& loader, int threads);

}  // namespace lathe
