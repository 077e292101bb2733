// ONNX in and out. The importer brings every network to one version of the operator set (kOnnxOpset),
// inlines functions, turns initializers and Constant nodes into constants, and infers types and shapes as
// it goes. A model is untrusted: everything is checked, external data never leaves the model's folder.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace lathe {

struct ImportOptions {
  // Keep operators that lathe does not know (Op::supported is false) and go on where an element type or a kind
  // of value is not supported (Model::problems), so that a model can be inspected. Never run such a Graph.
  bool allow_unknown = false;
};

struct Model {
  Graph graph;
  int64_t ir_version = 0;
  std::map<std::string, int64_t> opsets;  // as the file said, by domain
  std::string producer;
  std::map<std::string, std::string> metadata;
  std::vector<std::string> problems;  // what allow_unknown let pass, unknown operators aside
  bool external_data = false;  // some tensors lie in other files
};

// Throws Error: kInput (unreadable file), kModel (invalid network), kUnsupported (operator or type).
Model import_onnx(const std::filesystem::path& path, const ImportOptions& options = {});
Model import_onnx_bytes(std::string_view bytes, const std::filesystem::path& folder = {},
                        const ImportOptions& options = {});

// Writes the graph as ONNX of opset kOnnxOpset (or the newest that its operators need). UnpackBits of ai.lathe is
// written as a function of standard operators, which any runtime can run and import_onnx() knows by its name. Other
// operators of ai.lathe stay as they are: undo fusions first to please other runtimes. Written whole or not at all.
// `metadata` goes into the model's metadata_props.
void export_onnx(const Graph& graph, const std::filesystem::path& path, const std::map<std::string, std::string>& metadata = {});
// The bytes of that file.
std::string onnx_bytes(const Graph& graph, const std::map<std::string, std::string>& metadata = {});

// A serialized TensorProto (the .pb files of the ONNX tests). `name`, when given, receives its name.
Tensor read_tensor_proto(const std::filesystem::path& path, std::string* name = nullptr);
void write_tensor_proto(const Tensor& tensor, const std::string& name, const std::filesystem::path& path);

}  // namespace lathe
