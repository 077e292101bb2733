#include "graph/ops/families.h"

namespace lathe::ops {
namespace {

bool known(int64_t size) { return size != kUnknownDim; }

// Input i, where known, must be one-dimensional with `count` elements.
void expect_vector(InferContext& c, size_t i, int64_t count) {
  if (!c.has_input(i) || !c.shape(i)) return;
  c.expect_rank(i, 1, 1);
  int64_t size = (*c.shape(i))[0];
  check_model(!known(size) || !known(count) || size == count, "input {} has {} elements, expected {}", i, size, count);
}

int64_t channels_of(InferContext& c) {
  if (!c.shape(0)) return kUnknownDim;
  check_model(c.shape(0)->size() >= 2, "input of shape {} has no channels: expected [N, C, ...]",
              to_string(*c.shape(0)));
  return (*c.shape(0))[1];
}

void infer_batch_norm(InferContext& c) {
  std::optional<Shape> vector = c.shape(1);
  if (c.shape(0) && c.shape(0)->size() == 1) {  // [N]: one channel
    for (size_t i = 1; i < 5; ++i) expect_vector(c, i, 1);
  } else {
    for (size_t i = 1; i < 5; ++i) expect_vector(c, i, channels_of(c));
  }
  c.set_output(0, c.dtype(0), c.shape(0));
  c.set_output(1, c.dtype(3), vector);
  c.set_output(2, c.dtype(3), vector);
}

void infer_channel_norm(InferContext& c) {
  for (size_t i = 1; i < 3; ++i) expect_vector(c, i, channels_of(c));
  infer::same_as_first(c);
}

void infer_group_norm(InferContext& c) {
  int64_t channels = channels_of(c), groups = c.node().get_int("num_groups");
  check_model(groups >= 1, "num_groups is {}, expected at least 1", groups);
  check_model(!known(channels) || channels % groups == 0, "{} channels cannot form {} groups", channels, groups);
  infer_channel_norm(c);
}

// LayerNormalization and RMSNormalization: scale and bias broadcast to the input.
void expect_broadcast(InferContext& c, size_t i) {
  if (!c.has_input(i) || !c.shape(0) || !c.shape(i)) return;
  if (!is_static(*c.shape(0)) || !is_static(*c.shape(i))) return;
  check_model(broadcast(*c.shape(i), *c.shape(0)) == *c.shape(0), "input {} of shape {} does not broadcast to {}", i,
              to_string(*c.shape(i)), to_string(*c.shape(0)));
}

void infer_layer_norm(InferContext& c) {
  expect_broadcast(c, 1);
  expect_broadcast(c, 2);
  auto type = static_cast<DType>(c.node().get_int("stash_type"));
  check_model(is_float(type), "stash_type is {}, expected a floating type", c.node().get_int("stash_type"));
  std::optional<Shape> statistics = c.shape(0);
  if (statistics) {
    int64_t axis = normalize_axis(c.node().get_int("axis"), static_cast<int64_t>(statistics->size()));
    std::fill(statistics->begin() + axis, statistics->end(), 1);
  }
  c.set_output(0, c.dtype(0), c.shape(0));
  c.set_output(1, type, statistics);
  c.set_output(2, type, statistics);
}

void infer_along_axis(InferContext& c) {
  if (c.shape(0) && !c.shape(0)->empty())
    normalize_axis(c.node().get_int("axis"), static_cast<int64_t>(c.shape(0)->size()));
  infer::same_as_first(c);
}

}  // namespace

void declare_normalize(OpRegistry& r) {
  r.add({.name = "BatchNormalization", .minimum_inputs = 5, .maximum_inputs = 5, .maximum_outputs = 3,
         .attributes = {{"epsilon", 1e-5f}, {"momentum", 0.9f}, {"training_mode", int64_t{0}}},
         .infer = infer_batch_norm});
  r.add({.name = "InstanceNormalization", .minimum_inputs = 3, .maximum_inputs = 3,
         .attributes = {{"epsilon", 1e-5f}}, .infer = infer_channel_norm});
  r.add({.name = "GroupNormalization", .minimum_inputs = 3, .maximum_inputs = 3,
         .attributes = {{"epsilon", 1e-5f}, {"num_groups", int64_t{0}, true}, {"stash_type", int64_t{1}}},
         .infer = infer_group_norm});
  r.add({.name = "LayerNormalization", .minimum_inputs = 2, .maximum_inputs = 3, .maximum_outputs = 3,
         .attributes = {{"axis", int64_t{-1}}, {"epsilon", 1e-5f}, {"stash_type", int64_t{1}}},
         .infer = infer_layer_norm});
  r.add({.name = "RMSNormalization", .minimum_inputs = 2, .maximum_inputs = 2,
         .attributes = {{"axis", int64_t{-1}}, {"epsilon", 1e-5f}, {"stash_type", int64_t{1}}},
         .infer = [](InferContext& c) {
           expect_broadcast(c, 1);
           if (c.shape(0))
             normalize_axis(c.node().get_int("axis"), static_cast<int64_t>(c.shape(0)->size()));
           c.set_output(0, c.dtype(1), c.shape(0));
         }});
  r.add({.name = "LRN",
         .attributes = {{"alpha", 1e-4f}, {"beta", 0.75f}, {"bias", 1.0f}, {"size", int64_t{0}, true}},
         .infer = [](InferContext& c) {
           channels_of(c);
           check_model(c.node().get_int("size") >= 1, "size is {}, expected at least 1", c.node().get_int("size"));
           infer::same_as_first(c);
         }});
  r.add({.name = "LpNormalization", .attributes = {{"axis", int64_t{-1}}, {"p", int64_t{2}}},
         .infer = infer_along_axis});
  r.add({.name = "MeanVarianceNormalization", .attributes = {{"axes", std::vector<int64_t>{0, 2, 3}}},
         .infer = [](InferContext& c) {
           if (c.shape(0))
             for (int64_t axis : c.node().get_ints("axes"))
               normalize_axis(axis, static_cast<int64_t>(c.shape(0)->size()));
           infer::same_as_first(c);
         }});
  for (const char* name : {"Softmax", "LogSoftmax", "Hardmax"})
    r.add({.name = name, .attributes = {{"axis", int64_t{-1}}}, .infer = infer_along_axis});
}

}  // namespace lathe::ops
