// Boxes of objects, by anchors: SSD (Liu et al. 2016) with the losses of MobileDets' training (tensorflow/models, object_detection,
// the configurations of ssd_mobiledet_*): sigmoid focal loss of all slots of all anchors (Lin et al. 2017, alpha 0.75, gamma 2), smooth L1 of
// the codes of matched ones; both by the number of matched anchors of the batch, the latter by 4 more.
#include <algorithm>
#include <map>

#include "models/ssd.h"
#include "optimize/metrics.h"
#include "tasks/detect.h"
#include "train/loss.h"
#include "train/objectives.h"
#include "train/training_nodes.h"

namespace lathe {
namespace {

constexpr double kAlpha = 0.75, kGamma = 2;
constexpr float kOverlap = 0.5f;         // of a detection with the object that it finds
constexpr float kMostShared = 0.6f;      // of two detections of one class; more, and the weaker one goes

// Of sample n of outputs [N, ...], as [1, ...].
Tensor one_of(const Tensor& batch, int64_t n) {
  Shape shape = batch.shape();
  const int64_t size = batch.size() / shape[0];
  shape[0] = 1;
  Tensor one(DType::kF32, shape);
  std::copy_n(batch.data<float>() + n * size, size, one.data<float>());
  return one;
}

class MeanPrecision : public Judgement {
 public:
  void add(const Batch& batch, const std::vector<Tensor>& outputs) override {
    const auto height = static_cast<float>(batch.inputs.dim(2)), width = static_cast<float>(batch.inputs.dim(3));
    const DetectOptions options{.min_score = kLeastScore, .max_overlap = kMostShared, .labels = {}};
    for (size_t n = 0; n < batch.boxes.size(); ++n) {
      const auto sample = static_cast<int64_t>(n);
      std::vector<Detection> found = detect({one_of(outputs[0], sample), one_of(outputs[1], sample)}, DetectorForm::kScoresBoxes, options);
      // As to_picture() does, boxes end where the picture does.
      for (Detection& d : found) {
        d.x0 = std::clamp(d.x0 * width, 0.0f, width), d.x1 = std::clamp(d.x1 * width, 0.0f, width);
        d.y0 = std::clamp(d.y0 * height, 0.0f, height), d.y1 = std::clamp(d.y1 * height, 0.0f, height);
      }
      for (const TrueBox& b : batch.boxes[n]) objects_[b.class_index] += !b.crowd;
      const std::vector<JudgedBox> judged = judge_boxes(found, batch.boxes[n], kOverlap);
      found_.insert(found_.end(), judged.begin(), judged.end());
    }
  }
  double value() const override { return mean_average_precision(found_, objects_); }

 private:
  std::vector<JudgedBox> found_;
  std::map<int64_t, int64_t> objects_;
};

class BoxObjective : public Objective {
 public:
  std::string measure() const override { return "mAP@0.5"; }

  void check(const std::string& name, const Graph& g, const TrainingSet& set, const LossOptions& loss, LoaderOptions& loader) override {
    anchors_ = anchors_of(g);
    const int64_t slots = (*g[g.outputs[1]].shape)[2];
    check_class_count(set, slots - 1);
    if (loss.taught.defined()) fail(ErrorKind::kUnsupported, "{}: a teacher of boxes cannot be learnt from", name);
    if (loss.label_smoothing != 0) fail(ErrorKind::kUnsupported, "{}: label smoothing is for classes, and these are boxes", name);
    // What lies at the sides of a picture is to be found too.
    loader.augment.fit = Fit::kStretch;
  }

  Learnt loss(const Batch& batch, const Tensors& outputs, const LossOptions&) const override {
    const at::Tensor codes = outputs[0].to(at::kFloat), logits = outputs[1].to(at::kFloat);
    const auto height = static_cast<float>(batch.inputs.dim(2)), width = static_cast<float>(batch.inputs.dim(3));
    const int64_t count = codes.size(0), anchors = codes.size(1), slots = logits.size(2);
    std::vector<int64_t> slot(static_cast<size_t>(count * anchors), 0), matched;
    std::vector<float> wanted;
    for (size_t n = 0; n < batch.boxes.size(); ++n) {
      std::vector<Box> boxes;
      std::vector<int64_t> classes;
      for (const TrueBox& b : batch.boxes[n]) {
        if (b.crowd) continue;
        boxes.push_back({b.x0 / width, b.y0 / height, b.x1 / width, b.y1 / height});
        classes.push_back(b.class_index);
      }
      const std::vector<int64_t> owner = match_anchors(anchors_, boxes);
      for (size_t a = 0; a < owner.size(); ++a) {
        if (owner[a] < 0) continue;
        const size_t at = n * owner.size() + a, box = static_cast<size_t>(owner[a]);
        slot[at] = classes[box] + 1;
        matched.push_back(static_cast<int64_t>(at));
        const BoxCode code = encode_box(boxes[box], anchors_[a]);
        wanted.insert(wanted.end(), code.begin(), code.end());
      }
    }
    const auto positives = static_cast<double>(std::max<size_t>(matched.size(), 1));
    at::Tensor truth = at::zeros({count * anchors, slots}, logits.options());
    truth.scatter_(1, at::tensor(slot, at::kLong).unsqueeze(1).to(logits.device()), 1);
    at::Tensor loss = focal_loss(logits.reshape({-1, slots}), truth, kAlpha, kGamma) / positives;
    if (!matched.empty()) {
      const at::Tensor own = codes.reshape({-1, 4}).index_select(0, at::tensor(matched, at::kLong).to(codes.device()));
      loss = loss + at::smooth_l1_loss(own, at::tensor(wanted, at::kFloat).reshape({-1, 4}).to(codes.device()), at::Reduction::Sum) / (4 * positives);
    }
    return {loss, 0, 0};
  }

  std::vector<Tensor> answers(const Tensors& outputs) const override {
    const Tensor codes = from_torch(outputs[0].to(at::kFloat).contiguous());
    Tensor boxes(DType::kF32, codes.shape());
    for (int64_t i = 0; i < codes.size() / 4; ++i) {
      const float* c = codes.data<float>() + 4 * i;
      const Box b = decode_box({c[0], c[1], c[2], c[3]}, anchors_[static_cast<size_t>(i) % anchors_.size()]);
      float* to = boxes.data<float>() + 4 * i;
      to[0] = b.x0, to[1] = b.y0, to[2] = b.x1, to[3] = b.y1;
    }
    return {from_torch(at::sigmoid(outputs[1].to(at::kFloat))), boxes};
  }

  void deploy(Graph& g) const override {
    strip_training(g, 2);
    append_decoding(g, anchors_of(g));
    verify(g);
  }
  std::unique_ptr<Judgement> judgement() const override { return std::make_unique<MeanPrecision>(); }

 private:
  std::vector<Box> anchors_;
};

}  // namespace

std::unique_ptr<Objective> box_objective() { return std::make_unique<BoxObjective>(); }

}  // namespace lathe
