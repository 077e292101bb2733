// Internal to formats: an ONNX file without the large raw tensors of its graph, which stay where they lie in the map.
// protobuf would copy them into strings: half of the time that a model takes to load.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

namespace lathe::onnx_io {

struct StrippedModel {
  std::string proto;  // a ModelProto whose stripped tensors lack raw_data
  std::vector<std::span<const uint8_t>> raw;  // by initializer of the graph; empty where it was not stripped
};

// Nothing when the bytes are not well-formed or would be merged from several parts: protobuf is to say what it is.
std::optional<StrippedModel> strip_raw_data(std::span<const uint8_t> file);

}  // namespace lathe::onnx_io
