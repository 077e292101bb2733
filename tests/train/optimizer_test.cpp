// Optimizers against steps worked out by hand, and schedules.
#include "train/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "train/schedule.h"

namespace lathe {
namespace {

// A matrix that decays and a vector that does not.
std::vector<TorchNetwork::Parameter> toy() {
  std::vector<TorchNetwork::Parameter> list;
  list.push_back({"w", {}, at::tensor({3.0, 4.0}, at::kDouble).reshape({1, 2}).set_requires_grad(true), true});
  list.push_back({"b", {}, at::tensor({1.0}, at::kDouble).set_requires_grad(true), true});
  return list;
}
void gradients(std::vector<TorchNetwork::Parameter>& p) {
  p[0].tensor.mutable_grad() = at::tensor({0.6, -0.8}, at::kDouble).reshape({1, 2});
  p[1].tensor.mutable_grad() = at::tensor({2.0}, at::kDouble);
}
double at(const TorchNetwork::Parameter& p, int64_t i) { return p.tensor.flatten()[i].item<double>(); }

TEST(Optimizer, SgdWithMomentumAndNesterov) {
  for (bool nesterov : {false, true}) {
    auto p = toy();
    auto o = Optimizer::make({.name = "sgd", .momentum = 0.9, .nesterov = nesterov, .weight_decay = 0.1}, p);
    double w = 3, v = 0;
    for (int step = 0; step < 3; ++step) {
      gradients(p);
      o->step(0.5);
      const double g = 0.6 + 0.1 * w;
      v = step == 0 ? g : 0.9 * v + g;
      w -= 0.5 * (nesterov ? g + 0.9 * v : v);
      EXPECT_NEAR(at(p[0], 0), w, 1e-12);
    }
    EXPECT_NEAR(at(p[1], 0), nesterov ? 1 - 0.5 * (2 * 1.9 + 2 + 0.9 * 3.8 + 2 + 0.9 * 5.42) : 1 - 0.5 * (2 + 3.8 + 5.42), 1e-12);  // no decay
  }
}

TEST(Optimizer, AdamWDecaysApartFromTheGradient) {
  auto p = toy();
  auto o = Optimizer::make({.name = "adamw", .weight_decay = 0.1}, p);
  double w = 3, m = 0, v = 0;
  for (int t = 1; t <= 3; ++t) {
    gradients(p);
    o->step(0.01);
    m = 0.9 * m + 0.1 * 0.6;
    v = 0.999 * v + 0.001 * 0.36;
    w = w * (1 - 0.01 * 0.1) - 0.01 * (m / (1 - std::pow(0.9, t))) / (std::sqrt(v / (1 - std::pow(0.999, t))) + 1e-8);
    EXPECT_NEAR(at(p[0], 0), w, 1e-12);
  }
}

TEST(Optimizer, LambScalesByTheRatioOfNormsWhereThereIsDecay) {
  auto p = toy();
  auto o = Optimizer::make({.name = "lamb", .weight_decay = 0.05}, p);
  gradients(p);
  o->step(0.1);
  // After one step of bias-corrected moments the direction is the gradient's sign, but for ε.
  const double a = 0.6 / (0.6 + 1e-6) + 0.05 * 3, b = -0.8 / (0.8 + 1e-6) + 0.05 * 4, ratio = 5 / std::hypot(a, b);
  EXPECT_NEAR(at(p[0], 0), 3 - 0.1 * ratio * a, 1e-7);
  EXPECT_NEAR(at(p[0], 1), 4 - 0.1 * ratio * b, 1e-7);
  EXPECT_NEAR(at(p[1], 0), 1 - 0.1 * 2 / (2 + 1e-6), 1e-7);  // a vector: no decay, no ratio
}

TEST(Optimizer, StateGoesOnToTheBit) {
  for (const char* name : {"sgd", "adamw", "lamb"}) {
    auto p = toy(), q = toy();
    auto whole = Optimizer::make({.name = name}, p), first = Optimizer::make({.name = name}, q);
    for (int i = 0; i < 5; ++i) {
      gradients(p);
      whole->step(0.01);
    }
    for (int i = 0; i < 2; ++i) {
      gradients(q);
      first->step(0.01);
    }
    auto second = Optimizer::make({.name = name}, q);
    second->restore(first->state(), first->steps());
    for (int i = 0; i < 3; ++i) {
      gradients(q);
      second->step(0.01);
    }
    EXPECT_TRUE(at::equal(p[0].tensor, q[0].tensor) && at::equal(p[1].tensor, q[1].tensor)) << name;
    auto state = first->state();
    state.erase(state.begin());
    EXPECT_THROW(second->restore(state, 1), Error);
  }
}

TEST(Optimizer, GradientsAreClippedByTheirNorm) {
  auto p = toy();
  gradients(p);
  Tensors list{p[0].tensor, p[1].tensor};
  EXPECT_NEAR(clip_gradients(list, 0), std::sqrt(5.0), 1e-12);
  EXPECT_NEAR(clip_gradients(list, 1), std::sqrt(5.0), 1e-12);
  EXPECT_NEAR(p[1].tensor.grad().item<double>(), 2 / std::sqrt(5.0), 1e-12);
  EXPECT_NEAR(clip_gradients(list, 2), 1, 1e-12);
  EXPECT_THROW(Optimizer::make({.name = "adam"}, toy()), Error);
}

TEST(Schedule, RatesOfAnEpoch) {
  const ScheduleOptions cosine{.name = "cosine", .rate = 1, .warm_up = 5, .first = 0.1, .last = 0.01, .epochs = 100};
  EXPECT_NEAR(learning_rate(cosine, 0), 0.1, 1e-12);
  EXPECT_NEAR(learning_rate(cosine, 2.5), 0.55, 1e-12);
  EXPECT_NEAR(learning_rate(cosine, 50), 0.505, 1e-12);
  EXPECT_NEAR(learning_rate(cosine, 100), 0.01, 1e-12);
  EXPECT_NEAR(learning_rate(cosine, 309), 0.01, 1e-12);
  const ScheduleOptions step{.name = "step", .rate = 1, .epochs = 8};
  EXPECT_EQ(learning_rate(step, 3.9), 1);
  EXPECT_NEAR(learning_rate(step, 4), 0.1, 1e-12);
  EXPECT_NEAR(learning_rate(step, 7), 0.01, 1e-12);
  EXPECT_EQ(learning_rate({.name = "constant", .rate = 0.5}, 70), 0.5);
  EXPECT_THROW(learning_rate({.name = "linear"}, 0), Error);
}

}  // namespace
}  // namespace lathe
