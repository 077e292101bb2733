// Internal to formats: the ONNX schema and tensors in it.
#pragma once

#include <onnx/onnx_pb.h>

#include <filesystem>

#include "core/tensor.h"

namespace lathe::onnx_io {

// Takes the elements out of `proto` without a copy where they are raw. `folder` is where external data may lie.
Tensor to_tensor(onnx::TensorProto& proto, const std::filesystem::path& folder);
void from_tensor(const Tensor& tensor, onnx::TensorProto* proto);

}  // namespace lathe::onnx_io
