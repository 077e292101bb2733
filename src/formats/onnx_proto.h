// Internal to formats: the ONNX schema and tensors in it.
#pragma once

#include <onnx/onnx_pb.h>

#include <filesystem>
#include <span>

#include "core/file.h"
#include "core/tensor.h"

namespace lathe::onnx_io {

// Takes the elements out of `proto` without a copy where they are raw. `folder` is where external data may lie.
Tensor to_tensor(onnx::TensorProto& proto, const std::filesystem::path& folder);
// The same for a tensor whose raw data was left in the map (onnx_strip.h): a view of it where it is aligned to its
// elements, else a copy.
Tensor to_tensor(const onnx::TensorProto& proto, std::span<const uint8_t> raw, const std::shared_ptr<const MappedFile>& map);
void from_tensor(const Tensor& tensor, onnx::TensorProto* proto);

}  // namespace lathe::onnx_io
