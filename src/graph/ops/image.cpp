#include "graph/ops/families.h"
#include "graph/ops/resize.h"

namespace lathe::ops {
namespace {

bool known(int64_t size) { return size != kUnknownDim; }

void infer_resize(InferContext& c) {
  auto given = [&c](size_t i) {  // empty tensors stand for omitted inputs too
    return c.has_input(i) && !(c.shape(i) && is_static(*c.shape(i)) && element_count(*c.shape(i)) == 0);
  };
  bool scales = given(2), sizes = given(3);
  check_model(scales != sizes, "exactly one of scales and sizes must be given");
  std::optional<Shape> out;
  if (c.shape(0)) {
    const Tensor *scale_values = scales ? c.constant(2) : nullptr, *size_values = sizes ? c.constant(3) : nullptr;
    if (scale_values || size_values) {
      out = resize_plan(c.node(), *c.shape(0), scale_values, size_values).outputs;
    } else {
      auto rank = static_cast<int64_t>(c.shape(0)->size());
      const auto& axes = c.node().get_ints("axes");
      out = c.shape(0);
      if (axes.empty()) out = Shape(rank, kUnknownDim);
      for (int64_t axis : axes) (*out)[normalize_axis(axis, rank)] = kUnknownDim;
    }
  }
  c.set_output(0, c.dtype(0), out);
}

void infer_grid_sample(InferContext& c) {
  std::optional<Shape> out;
  c.expect_rank(0, 3, 16);
  if (c.shape(0) && c.shape(1)) {
    const Shape &x = *c.shape(0), &grid = *c.shape(1);
    check_model(grid.size() == x.size() && (!known(grid.back()) || grid.back() + 2 == static_cast<int64_t>(x.size())),
                "grid has shape {} for an input of shape {}", to_string(grid), to_string(x));
    check_model(!known(grid[0]) || !known(x[0]) || grid[0] == x[0], "grid of shape {} has another batch than {}",
                to_string(grid), to_string(x));
    out = Shape{x[0], x[1]};
    out->insert(out->end(), grid.begin() + 1, grid.end() - 1);
  } else if (c.shape(0)) {
    out = Shape(c.shape(0)->size(), kUnknownDim);
    (*out)[0] = (*c.shape(0))[0];
    (*out)[1] = (*c.shape(0))[1];
  }
  c.set_output(0, c.dtype(0), out);
}

void infer_affine_grid(InferContext& c) {
  std::optional<Shape> out;
  c.expect_rank(0, 3, 3);
  if (const Tensor* size = c.constant(1)) {
    Shape sizes = size->to_i64();
    check_model(sizes.size() == 4 || sizes.size() == 5, "size has {} entries, expected 4 or 5", sizes.size());
    element_count(sizes);
    auto spatial = static_cast<int64_t>(sizes.size()) - 2;
    if (c.shape(0) && is_static(*c.shape(0)))
      check_model(*c.shape(0) == Shape({sizes[0], spatial, spatial + 1}), "theta has shape {}, expected [{}, {}, {}]",
                  to_string(*c.shape(0)), sizes[0], spatial, spatial + 1);
    out = Shape{sizes[0]};
    out->insert(out->end(), sizes.begin() + 2, sizes.end());
    out->push_back(spatial);
  }
  c.set_output(0, c.dtype(0), out);
}

void check_rois(InferContext& c, int64_t width) {
  c.expect_rank(0, 4, 4);
  c.expect_rank(1, 2, 2);
  if (c.shape(1) && known((*c.shape(1))[1]))
    check_model((*c.shape(1))[1] == width, "rois have shape {}, expected [R, {}]", to_string(*c.shape(1)), width);
}

void infer_roi_align(InferContext& c) {
  check_rois(c, 4);
  int64_t height = c.node().get_int("output_height"), width = c.node().get_int("output_width");
  check_model(height > 0 && width > 0, "output sizes are {} and {}, expected positive numbers", height, width);
  int64_t rois = c.shape(1) ? (*c.shape(1))[0] : kUnknownDim;
  if (c.shape(2)) {
    c.expect_rank(2, 1, 1);
    int64_t count = (*c.shape(2))[0];
    check_model(!known(count) || !known(rois) || count == rois, "{} batch indices for {} rois", count, rois);
  }
  c.set_output(0, c.dtype(0), Shape{rois, c.shape(0) ? (*c.shape(0))[1] : kUnknownDim, height, width});
}

void infer_max_roi_pool(InferContext& c) {
  check_rois(c, 5);
  const auto& pooled = c.node().get_ints("pooled_shape");
  check_model(pooled.size() == 2 && pooled[0] > 0 && pooled[1] > 0, "pooled_shape is {}, expected two positive sizes",
              to_string(pooled));
  c.set_output(0, c.dtype(0), Shape{c.shape(1) ? (*c.shape(1))[0] : kUnknownDim,
                                    c.shape(0) ? (*c.shape(0))[1] : kUnknownDim, pooled[0], pooled[1]});
}

// Moves a factor `block` between the channels and both spatial sizes.
void infer_space_depth(InferContext& c, bool to_depth) {
  int64_t block = c.node().get_int("blocksize");
  check_model(block > 0 && block < 65536, "blocksize is {}, expected a positive number", block);
  c.expect_rank(0, 4, 4);
  std::optional<Shape> out = c.shape(0);
  if (out) {
    auto divide = [&](int64_t size, int64_t by) {
      if (!known(size)) return kUnknownDim;
      check_model(size % by == 0, "shape {} cannot be rearranged in blocks of {}", to_string(*c.shape(0)), block);
      return size / by;
    };
    auto multiply = [&](int64_t size, int64_t by) { return known(size) ? element_count({size, by}) : kUnknownDim; };
    Shape& s = *out;
    s[1] = to_depth ? multiply(s[1], block * block) : divide(s[1], block * block);
    for (size_t i : {2, 3}) s[i] = to_depth ? divide(s[i], block) : multiply(s[i], block);
  }
  c.set_output(0, c.dtype(0), out);
}

}  // namespace

void declare_image(OpRegistry& r) {
  r.add({.name = "Resize", .maximum_inputs = 4,
         .attributes = {{"antialias", int64_t{0}}, {"axes", std::vector<int64_t>()},
                        {"coordinate_transformation_mode", std::string("half_pixel")}, {"cubic_coeff_a", -0.75f},
                        {"exclude_outside", int64_t{0}}, {"extrapolation_value", 0.0f},
                        {"keep_aspect_ratio_policy", std::string("stretch")}, {"mode", std::string("nearest")},
                        {"nearest_mode", std::string("round_prefer_floor")}},
         .infer = infer_resize});
  r.add({.name = "GridSample", .minimum_inputs = 2, .maximum_inputs = 2,
         .attributes = {{"align_corners", int64_t{0}}, {"mode", std::string("linear")},
                        {"padding_mode", std::string("zeros")}},
         .infer = infer_grid_sample});
  r.add({.name = "AffineGrid", .minimum_inputs = 2, .maximum_inputs = 2,
         .attributes = {{"align_corners", int64_t{0}}}, .infer = infer_affine_grid});
  r.add({.name = "RoiAlign", .minimum_inputs = 3, .maximum_inputs = 3,
         .attributes = {{"coordinate_transformation_mode", std::string("half_pixel")}, {"mode", std::string("avg")},
                        {"output_height", int64_t{1}}, {"output_width", int64_t{1}}, {"sampling_ratio", int64_t{0}},
                        {"spatial_scale", 1.0f}},
         .infer = infer_roi_align});
  r.add({.name = "MaxRoiPool", .minimum_inputs = 2, .maximum_inputs = 2,
         .attributes = {{"pooled_shape", std::vector<int64_t>(), true}, {"spatial_scale", 1.0f}},
         .infer = infer_max_roi_pool});
  r.add({.name = "NonMaxSuppression", .minimum_inputs = 2, .maximum_inputs = 5,
         .attributes = {{"center_point_box", int64_t{0}}}, .infer = [](InferContext& c) {
           c.expect_rank(0, 3, 3);
           c.expect_rank(1, 3, 3);
           c.set_output(0, DType::kI64, Shape{kUnknownDim, 3});
         }});
  r.add({.name = "DepthToSpace", .attributes = {{"blocksize", int64_t{0}, true}, {"mode", std::string("DCR")}},
         .infer = [](InferContext& c) { infer_space_depth(c, false); }});
  r.add({.name = "SpaceToDepth", .attributes = {{"blocksize", int64_t{0}, true}, {"mode", std::string("DCR")}},
         .infer = [](InferContext& c) { infer_space_depth(c, true); }});
}

}  // namespace lathe::ops
