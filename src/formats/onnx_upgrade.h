// Internal to formats: brings a node of an older operator set to the form that lathe holds.
#pragma once

#include "graph/graph.h"

namespace lathe::onnx_io {

// A node as the file gives it, before its Op is looked up.
struct RawNode {
  std::string op, domain, name, scope;
  std::vector<ValueId> inputs, outputs, captures;
  Attributes attributes;
};

// Rewrites `node` of operator set `version` to kOnnxOpset's form; may add constants to `graph` and nodes
// before and after, which are returned in order (the node itself among them).
std::vector<RawNode> upgrade(Graph& graph, RawNode node, int64_t version);

}  // namespace lathe::onnx_io
