// Memory of a vision transformer on a microcontroller, by the definitions of MCUFormer (Liang et al. 2023): which bytes of int8 live while
// each operator runs, and what each of its three techniques takes away. docs/MCU.md has the letters.
//
//   if (const auto sizes = transformer_sizes(graph))
//     token_memory(*sizes, {.integrate = false}).bytes;
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace lathe {

// The largest of the network's blocks.
struct TransformerSizes {
  int64_t side = 0, patch = 0;  // pixels; pictures are square and have three channels
  int64_t tokens = 0;           // with the class token
  int64_t width = 0;            // channels of a token
  int64_t heads = 0, head = 0;  // head: channels of one
  int64_t hidden = 0;           // of the MLP
  int64_t attention() const { return heads * head; }
};

// Of a network that begins with a convolution on patches and attends by MatMul, Softmax, MatMul, as exporters spell it; shapes must be
// known. Nothing for others.
std::optional<TransformerSizes> transformer_sizes(const Graph& graph);

struct TokenTechniques {
  bool decompose = true;  // the patch embedding one token at a time, from a picture that is elsewhere
  bool integrate = true;  // norm, products, scores and softmax of one head and one row at a time; both products of the MLP a token at a time
  bool overwrite = true;  // results take the place of the residual
};

struct TokenMemory {
  struct Operator {
    std::string name;
    int64_t bytes = 0;
  };
  std::vector<Operator> operators;
  int64_t bytes = 0;  // the most of them
};

TokenMemory token_memory(const TransformerSizes& sizes, const TokenTechniques& techniques = {});

// The authors' own measure (their code: supernet_engine.py, sample_legel_ratio): residual, hidden numbers and the largest factor of rank
// ρ·width together, one byte each; side/patch is not rounded.
double search_memory(double width, double mlp, double patch, double rank_ratio, double side = 240);

}  // namespace lathe
