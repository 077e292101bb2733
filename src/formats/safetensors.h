// safetensors: named arrays in one file, for checkpoints. Eight bytes say the length of a JSON header that gives each array's
// type, shape and place; the elements follow without holes.
// Specification: github.com/huggingface/safetensors, README, "Format".
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>

#include "core/tensor.h"

namespace lathe {

struct Safetensors {
  std::map<std::string, Tensor> tensors;
  std::map<std::string, std::string> metadata;
};

// The tensors borrow `bytes`, which `owner` keeps alive: read them, do not write. Throws kInput when broken, kUnsupported for types
// that lathe does not hold (dense 4- and 6-bit ones).
Safetensors parse_safetensors(std::span<const uint8_t> bytes, const std::string& name, const std::shared_ptr<const void>& owner = nullptr);
// The file is mapped.
Safetensors read_safetensors(const std::string& path);
// A whole file or none (core/file.h). The same contents make the same bytes. Throws kUnsupported for types narrower than 8 bits and
// for a tensor that is called "__metadata__".
void write_safetensors(const std::string& path, const Safetensors& contents);

}  // namespace lathe
