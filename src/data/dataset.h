// Data sets for training, in fixed parts: what a network learns from, what choices are made on, and what is left alone until
// a figure is published (docs/DATA.md lists the forms, options and splits).
//
//   DataParts data = open_dataset("fashion-mnist");                        // Debian's package dataset-fashion-mnist
//   DataParts clips = open_dataset("generated:moving-shapes,count=2000,frames=16,size=32,seed=1");
//   Sample s = data.train->sample(7);                                      // u8 [1, 28, 28], s.label in 0 … 9
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "formats/annotations.h"

namespace lathe {

struct Sample {
  Tensor input;                // u8 or f32: picture [C, H, W] or clip [C, T, H, W]; never written to: copies share it
  int64_t label = -1;          // class, 0 … classes − 1; −1 where the set has none
  std::vector<TrueBox> boxes;  // in pixels of `input`
  Tensor mask;                 // u8 [H, W]: a class for each pixel; undefined where the set has none
};

// What the samples of a set are labelled with.
enum class TrainingTruth { kClass, kBoxes, kMask };

class TrainingSet {
 public:
  virtual ~TrainingSet() = default;
  virtual size_t size() const = 0;
  // Decodes or draws sample i. May be called by many threads at once. Throws kInput, naming the file, when it is broken.
  virtual Sample sample(size_t i) const = 0;
  // Without decoding; −1 where samples have no single class.
  virtual int64_t label(size_t i) const = 0;
  // The file, or the file and the row in it: for messages.
  virtual std::string name(size_t i) const = 0;
  // True where sample(i) costs a copy at most, so that nobody need keep what it gives.
  virtual bool in_memory() const = 0;

  const std::vector<std::string>& classes() const { return classes_; }
  TrainingTruth truth() const { return truth_; }

 protected:
  std::vector<std::string> classes_;  // names, by index
  TrainingTruth truth_ = TrainingTruth::kClass;
};

// Parts share no sample. None is null: a part that the data does not have has size 0; `train` has at least one sample.
struct DataParts {
  std::shared_ptr<const TrainingSet> train, validation, test;
  std::string description;  // one line, for people: what was found, and how it is split
};

// `spec` is a path or a name, and options behind commas: "PATH[,seed=1][,validation=0.1][,limit=1000]…". Throws kInput when there is
// nothing, labels are missing, or parts contradict each other; kUsage for options that the form of data does not have.
DataParts open_dataset(const std::string& spec);

// The samples of `set` at `indices`, in that order.
std::shared_ptr<const TrainingSet> subset(std::shared_ptr<const TrainingSet> set, std::vector<size_t> indices);

// Throws kInput when a network with `outputs` classes cannot learn the classes of `set`, or would have outputs that no class uses.
void check_class_count(const TrainingSet& set, int64_t outputs);

// Mean and standard deviation of each channel over at most `limit` samples, in units of pixels · 1/255 (f32 samples: as they are).
struct ChannelStatistics {
  std::vector<float> mean, std;
};
ChannelStatistics channel_statistics(const TrainingSet& set, size_t limit = 2000);

}  // namespace lathe
