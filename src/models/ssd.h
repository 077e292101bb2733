// What detectors of boxes at fixed places (SSD: Liu et al. 2016, SSD: Single Shot MultiBox Detector, section 2) share between training and
// inference: anchors, the code of a box relative to one, and which anchors a picture's true boxes are matched with. Boxes are relative to
// the picture, 0 … 1.
//
//   std::vector<Box> anchors = grid_anchors({{20, 20}, {10, 10}, {5, 5}, {3, 3}, {2, 2}, {1, 1}});   // 2034
//   std::vector<int64_t> truth = match_anchors(anchors, boxes);
//   BoxCode code = encode_box(boxes[truth[i]], anchors[i]);
//   append_decoding(network, anchors_of(network));   // codes and logits become boxes and scores
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "core/box.h"
#include "graph/graph.h"

namespace lathe {

// As MobileDets' detectors have them (tensorflow/models, create_ssd_anchors).
struct AnchorOptions {
  double smallest = 0.2, largest = 0.95;  // scale on the first and last map; evenly between
  std::vector<double> ratios = {1, 2, 0.5, 3, 0.3333};  // width : height
  bool between = true;           // one square more at the geometric mean of a map's scale and the next one's (1 after the last)
  bool few_in_first = true;      // the first map has three: a square of 0.1 and ratios 2 and ½ at its scale
  int64_t height = 1, width = 1; // of the picture, by which anchors of pictures that are not square stay square
};
// Anchors of a cell on each of `maps` maps. Throws kUsage for ratios or scales that are not above 0.
std::vector<int64_t> anchors_per_cell(size_t maps, const AnchorOptions& options = {});
// In the order map, row, column, anchor; `maps` holds height and width of each. Not cut at the picture's edge.
std::vector<Box> grid_anchors(const std::vector<std::array<int64_t, 2>>& maps, const AnchorOptions& options = {});

// (10·Δy/h, 10·Δx/w, 5·ln(h'/h), 5·ln(w'/w)) of centres and sizes, by the anchor's.
using BoxCode = std::array<float, 4>;
constexpr float kCentreScale = 10, kSizeScale = 5;
// A box is never decoded to more than 62.5 times its anchor.
constexpr float kLargestLogSize = 4.135167f;
BoxCode encode_box(const Box& box, const Box& anchor);
Box decode_box(const BoxCode& code, const Box& anchor);

// For each anchor the box that it answers for, −1 where it is background: that with which it overlaps most, at least by `least`. Each
// box takes the anchor that overlaps it most, whatever the overlap; of two boxes that want the same anchor, the first takes it. Ties go
// to the lower index. A box that overlaps no anchor has none. Throws kInput when a box is not finite.
std::vector<int64_t> match_anchors(const std::vector<Box>& anchors, const std::vector<Box>& boxes, float least = 0.5f);

// The anchors of a network whose outputs are codes [N, A, 4] and logits [N, A, slots]: its maps are those of the convolutions
// that the codes come from, the picture is its input. Throws kUnsupported, saying what is missing, for other networks.
std::vector<Box> anchors_of(const Graph& network);
// Codes and logits of such a network become scores [N, A, slots] (sigmoid) and boxes [N, A, 4]: left, top, right, bottom, as decode_box.
// The anchors become constants "decode.*.frozen".
void append_decoding(Graph& network, const std::vector<Box>& anchors);

}  // namespace lathe
