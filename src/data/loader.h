// Batches for training: threads decode, augment and normalize ahead of the one that asks. Batches come in order and are the same
// whatever the number of threads; a loader that is put to (epoch, batch) goes on as if it had never stopped.
//
//   Loader loader(data.train, {.batch = 128, .augment = a, .mean = {0.286f}, .std = {0.353f}, .threads = 2});
//   loader.seek(epoch, step);                          // where a checkpoint says
//   for (int64_t i = step; i < loader.batches(); ++i) {
//     Batch b = loader.next();
//     train(b.inputs, b.labels);
//   }
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/tensor.h"
#include "data/augment.h"
#include "data/dataset.h"

namespace lathe {

struct LoaderOptions {
  int64_t batch = 128;
  bool shuffle = true;      // in an order of its own each epoch
  bool drop_last = false;   // leave out a last batch that is not full; a set smaller than one batch gives its one short batch
  uint64_t seed = 1;
  AugmentOptions augment;   // its height and width are needed where samples differ in size
  // value = (pixel · scale − mean) / std, by channel: one number for all channels or one for each (tasks/preprocess.h). f32 samples are
  // not scaled.
  float scale = 1.0f / 255;
  std::vector<float> mean{0}, std{1};
  // Beta(α, α) of mixup and cutmix; 0: none. With both, each batch takes one of them with equal probability.
  double mixup = 0, cutmix = 0;
  int threads = 1;                          // that prepare; 0: the one that asks
  int64_t ahead = 4;                        // batches that wait at most
  int64_t epochs = 0;                       // prepare none beyond; 0: without end
  int64_t kept_bytes = int64_t{1} << 30;    // decoded samples that are kept for later epochs
};

struct Batch {
  int64_t epoch = 0, index = 0;
  Tensor inputs;       // f32 [N, C, H, W] or [N, C, T, H, W]
  Tensor labels;       // i64 [N]; undefined unless samples have classes
  Tensor soft_labels;  // f32 [N, K], with mixup or cutmix: then these are to be learnt; undefined otherwise
  Tensor masks;        // u8 [N, H, W]; undefined unless samples have masks
  std::vector<std::vector<TrueBox>> boxes;  // N lists, pixels of `inputs`; empty unless samples have boxes
  std::vector<size_t> samples;              // N, indices in the set
};

class Loader {
 public:
  // Throws kUsage for options that make no sense, kInput for an empty set.
  Loader(std::shared_ptr<const TrainingSet> set, const LoaderOptions& options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  int64_t batches() const;  // an epoch
  // The next batch; behind the last of an epoch comes the first of the next. Throws what went wrong in preparing this batch: a
  // broken file (named), samples of different sizes.
  Batch next();
  // next() will give this one. Batches that wait are thrown away.
  void seek(int64_t epoch, int64_t batch);
  const TrainingSet& set() const;
  // What next() had to wait for, in seconds since the beginning: near 0 where the loader is not the limit.
  double waited_seconds() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace lathe
