// Losses and judgement of boxes against plain code.
#include "train/objective.h"

#include <gtest/gtest.h>

#include <cmath>

#include "models/models.h"
#include "models/ssd.h"
#include "train/loss.h"

namespace lathe {
namespace {

double focal(double logit, bool truth) {
  const double p = 1 / (1 + std::exp(-logit)), p_t = truth ? p : 1 - p;
  return -(truth ? 0.75 : 0.25) * (1 - p_t) * (1 - p_t) * std::log(p_t);
}

TEST(FocalLoss, IsTheEquation) {
  const std::vector<double> logits = {-9, -4.6, -1, 0, 0.5, 3, 12};
  for (const bool truth : {false, true}) {
    double sum = 0;
    for (double x : logits) sum += focal(x, truth);
    const at::Tensor x = at::tensor(logits, at::kDouble);
    EXPECT_NEAR(focal_loss(x, at::full_like(x, truth ? 1.0 : 0.0), 0.75, 2).item<double>(), sum, 1e-9 * sum);
  }
  // Far out, where 1 − p is nought in f32, it is finite, and so is its gradient.
  at::Tensor far = at::tensor({-200.0f, 200.0f});
  far.set_requires_grad(true);
  const at::Tensor loss = focal_loss(far, at::tensor({1.0f, 0.0f}), 0.75, 2);
  EXPECT_NEAR(loss.item<double>(), 200, 1e-3);
  loss.backward();
  EXPECT_NEAR(far.grad()[0].item<double>(), -0.75, 1e-5);
  EXPECT_NEAR(far.grad()[1].item<double>(), 0.25, 1e-5);
}

class Pictures : public TrainingSet {
 public:
  Pictures() {
    classes_ = {"a", "b", "c"};
    truth_ = TrainingTruth::kBoxes;
  }
  size_t size() const override { return 1; }
  Sample sample(size_t) const override { return {.input = Tensor(DType::kU8, {3, 64, 64}), .label = -1, .boxes = {}, .mask = {}}; }
  int64_t label(size_t) const override { return -1; }
  std::string name(size_t) const override { return "picture"; }
  bool in_memory() const override { return true; }
};

class BoxObjectiveTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const Graph g = build_model("mobiledet_cpu", {.classes = 3, .input = {3, 64, 64}, .width = 0.25, .draw = false});
    anchors_ = anchors_of(g);
    count_ = static_cast<int64_t>(anchors_.size());
    objective_->check("net", g, Pictures(), {}, loader_);
    batch_.inputs = Tensor(DType::kF32, {2, 3, 64, 64});
    batch_.samples = {0, 1};
  }
  // Relative, without crowds.
  static std::vector<Box> relative(const std::vector<TrueBox>& boxes) {
    std::vector<Box> list;
    for (const TrueBox& b : boxes)
      if (!b.crowd) list.push_back({b.x0 / 64, b.y0 / 64, b.x1 / 64, b.y1 / 64});
    return list;
  }

  std::unique_ptr<Objective> objective_ = Objective::make(TrainingTruth::kBoxes);
  std::vector<Box> anchors_;
  int64_t count_ = 0;
  LoaderOptions loader_;
  Batch batch_;
};

// Two pictures, one of them empty, and a crowd, which nothing is matched with: the sum over every anchor and slot.
TEST_F(BoxObjectiveTest, LossIsTheSumOverAnchors) {
  EXPECT_EQ(loader_.augment.fit, Fit::kStretch);
  batch_.boxes = {{{6, 10, 31, 30, 2}, {40, 33, 60, 60, 0}, {0, 0, 64, 64, 1, true}}, {}};
  at::manual_seed(3);
  const at::Tensor codes = at::randn({2, count_, 4}) * 2, logits = at::randn({2, count_, 4}) * 3;
  const std::vector<Box> boxes = relative(batch_.boxes[0]);
  const std::vector<int64_t> owner = match_anchors(anchors_, boxes);
  double class_loss = 0, box_loss = 0;
  int64_t positives = 0;
  for (int64_t n = 0; n < 2; ++n)
    for (int64_t a = 0; a < count_; ++a) {
      const int64_t box = n == 0 ? owner[static_cast<size_t>(a)] : -1, slot = box < 0 ? 0 : batch_.boxes[0][static_cast<size_t>(box)].class_index + 1;
      for (int64_t k = 0; k < 4; ++k) class_loss += focal(logits[n][a][k].item<double>(), k == slot);
      if (box < 0) continue;
      ++positives;
      const BoxCode code = encode_box(boxes[static_cast<size_t>(box)], anchors_[static_cast<size_t>(a)]);
      for (int64_t k = 0; k < 4; ++k) {
        const double off = std::abs(codes[n][a][k].item<double>() - static_cast<double>(code[static_cast<size_t>(k)]));
        box_loss += off < 1 ? off * off / 2 : off - 0.5;
      }
    }
  ASSERT_GT(positives, 1);
  const double expected = class_loss / static_cast<double>(positives) + box_loss / static_cast<double>(4 * positives);
  EXPECT_NEAR(objective_->loss(batch_, {codes, logits}, {}).loss.item<double>(), expected, 1e-5 * expected);
}

TEST_F(BoxObjectiveTest, WithoutObjectsTheLossIsThatOfTheBackground) {
  batch_.boxes = {{}, {}};
  at::Tensor sure = at::full({2, count_, 4}, -9.0);
  sure.select(2, 0).fill_(9.0);
  const at::Tensor codes = at::randn({2, count_, 4});
  EXPECT_LT(objective_->loss(batch_, {codes, sure}, {}).loss.item<double>(), 1e-3);
  const double expected = 2 * static_cast<double>(count_) * (focal(0, true) + 3 * focal(0, false));
  EXPECT_NEAR(objective_->loss(batch_, {codes, at::zeros({2, count_, 4})}, {}).loss.item<double>(), expected, 1e-4 * expected);
}

// The codes of the true boxes, told with certainty, are a perfect answer; the same under the wrong classes is worth nothing.
TEST_F(BoxObjectiveTest, JudgesAnswers) {
  batch_.boxes = {{{6, 10, 31, 30, 2}, {40, 33, 60, 60, 0}}, {{3, 3, 60, 50, 1}}};
  const auto answer = [&](int64_t shift) {
    const at::Tensor codes = at::zeros({2, count_, 4}), logits = at::full({2, count_, 4}, -9.0);
    for (size_t n = 0; n < 2; ++n) {
      const std::vector<Box> boxes = relative(batch_.boxes[n]);
      const std::vector<int64_t> owner = match_anchors(anchors_, boxes);
      for (size_t a = 0; a < anchors_.size(); ++a) {
        if (owner[a] < 0) continue;
        const BoxCode code = encode_box(boxes[static_cast<size_t>(owner[a])], anchors_[a]);
        const auto sample = static_cast<int64_t>(n), anchor = static_cast<int64_t>(a);
        for (int64_t k = 0; k < 4; ++k) codes[sample][anchor][k] = code[static_cast<size_t>(k)];
        logits[sample][anchor][(batch_.boxes[n][static_cast<size_t>(owner[a])].class_index + shift) % 3 + 1] = 5.0;
      }
    }
    const std::unique_ptr<Judgement> judgement = objective_->judgement();
    judgement->add(batch_, objective_->answers({codes, logits}));
    return judgement->value();
  };
  EXPECT_NEAR(answer(0), 1, 1e-12);
  EXPECT_EQ(answer(1), 0);
}

TEST(Objective, MasksAreRefused) { EXPECT_THROW(Objective::make(TrainingTruth::kMask), Error); }

}  // namespace
}  // namespace lathe
