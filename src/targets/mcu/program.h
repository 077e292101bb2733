// McuProgram: a quantized network as a microcontroller runs it: steps on codes of 8 bits, one image at a time, and a place
// in one arena for every tensor and every step's scratch. It is what the emitter (emit.h) turns into C.
//
//   McuProgram p = make_program(model.graph);   // a network as `lathe quantize` writes it
//   p.arena_bytes, p.lower_bound, p.steps[7].form
//
// The arithmetic is that of lathe's own engine (graph/ops/integer.cpp), bit for bit. Rounding the network's inputs to codes
// and turning its codes to numbers again is left to the caller: inputs and outputs of a program are codes, with their
// scales. A picture that the network moves to channels-last first is wanted so: [H, W, C], as cameras deliver it.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "graph/graph.h"

namespace lathe::mcu {

struct McuTensor {
  std::string name;  // the value's in the model
  DType type = DType::kU8;
  Shape shape;
  Tensor constant = {};               // defined: lies in flash
  bool outside = false;               // an input that the caller keeps elsewhere: flash, a camera's buffer
  int row_of = -1;                    // a few rows of that tensor: which, the step that goes through them says
  int view_of = -1;                   // the tensor whose bytes these are, under another shape
  int first_step = 0, last_step = 0;  // alive, inclusive; inputs from step 0 on, outputs to the number of steps
  int64_t offset = -1;                // in the arena
  int64_t bytes() const { return element_count(shape) * static_cast<int64_t>(size_of(type)); }
};

enum class StepKind { kConvolve, kPixels, kRow, kDepthwise, kAdd, kMultiply, kPool, kSoftmax, kNorm, kAttention, kTokens, kHeads, kLookUp, kCopyRows, kFill, kMove };
std::string_view name_of(StepKind kind);  // "depthwise"

// Rows of bytes that a step copies: joins and cuts of tensors.
struct Rows {
  int64_t rows = 1, bytes = 0, x_step = 0, y_step = 0, x_offset = 0, y_offset = 0;
};

// One call of one function. A node makes one step, or a few: a join is a copy an input, a grouped convolution a product a group.
struct McuStep {
  StepKind kind = StepKind::kCopyRows;
  NodeId node;
  std::string name = {};         // the node's, where it has one: "features.3.conv"
  std::vector<int> inputs = {};  // tensors
  int output = -1;
  int may_overwrite = -1;  // input whose place the output may take, or −1
  int in_place = -1;       // the input whose place it does take
  int64_t scratch_bytes = 0, scratch_offset = 0;
  int64_t macs = 0;
  // kTokens, kHeads (tokens.h): what is done to each of `tokens` rows, on tensors of a few rows, some of them in scratch.
  std::vector<McuStep> inner = {};
  std::vector<std::pair<int, int64_t>> in_scratch = {};  // tensors, and where in the scratch
  int64_t tokens = 0, inner_scratch = 0;                 // where the scratch of the inner steps is
  int64_t group = 0;                            // kConvolve: which one
  Rows rows = {};                               // kCopyRows; kFill: bytes and y_offset
  int fill = 0;                                 // kFill: the code
  std::vector<int64_t> sizes = {}, steps = {};  // kMove: of y's axes, and how far apart in x their entries lie; from rows.x_offset on
};

struct McuBorder {
  std::string name;  // of the model's input or output
  int tensor = -1;
  DType type = DType::kU8;     // of the tensor
  Shape model_shape;           // as the model has it, [N, C, H, W] for pictures
  bool channels_last = false;  // the tensor is [N, H, W, C] of it
  float scale = 0;             // 0: not codes but numbers (f32, i32)
  int zero = 0;
  std::string note = {};  // what is left to the caller
};

struct McuProgram {
  std::string name;  // of the model's graph
  Graph graph;       // after all passes; attributes and weights of the steps' nodes
  std::vector<McuTensor> tensors;
  std::vector<McuStep> steps;
  std::vector<McuBorder> inputs, outputs;
  size_t tile_steps = 0;  // the first ones: a stage that runs on one tile after the other, in this order
  int64_t arena_bytes = 0;
  int64_t lower_bound = 0;  // most bytes alive at any step, scratch among them
  int64_t macs = 0;
  // Alive while a step runs, its scratch among them; what is written over an input counts once.
  int64_t bytes_alive(size_t step) const;
};

// The first part of a network on one tile of its maps after the other (MCUNetV2, Lin et al. 2021): so many nodes of it, as
// patchable_prefix() has them, and the tiles of its last map. What tiles share is computed again.
struct Tiles {
  size_t nodes = 0;
  int64_t rows = 1, columns = 1;
};

struct ProgramOptions {
  std::map<std::string, Shape> input_shapes = {};  // where the model leaves sizes open; the batch is 1
  bool outside_input = false;                      // the one input stays where the caller has it: it takes no SRAM (MCUFormer's patches one by one)
  bool integrate = true;                           // transformers one token at a time (tokens.h)
  bool in_place = true;                            // convolutions over one pixel and depthwise ones may write over their input
  std::optional<Tiles> tiles = {};                 // tiles.h chooses them
};

// Some of its operators make codes: it is no network in float.
bool is_quantized(const Graph& graph);

// Throws kUnsupported, naming node and operator, for what has no form on codes of 8 bits; kInput for open sizes and for a
// batch of more than one image.
McuProgram make_program(Graph graph, const ProgramOptions& options = {});

// Gives every tensor its lifetime and its place; what may share a place does.
void place(McuProgram& program, bool in_place = true);
// The same, after putting the steps behind the tiles in the order that needs least where that is another than theirs.
void order_and_place(McuProgram& program, bool in_place = true);

// A network as its steps will be made from it: planned, with its integer operators, and the codes that the first of them reads.
struct PlannedNetwork {
  Graph graph;
  std::vector<NodeId> order;
  ValueId codes;  // [N, H, W, C]; none where the network has another input than one picture
};
PlannedNetwork plan_network(Graph graph, const ProgramOptions& options = {});
McuProgram make_program(PlannedNetwork network, const ProgramOptions& options = {});

}  // namespace lathe::mcu
