// NumPy's array files: .npy (one array, format versions 1 to 3) and .npz (a zip of named arrays, stored
// or deflated; neither encryption nor zip64). Little- and big-endian arrays in C and Fortran order are
// read; little-endian C order is written. NumPy has no bf16 and no types narrower than 8 bits: bf16 and
// the narrow floats are written as f32, 2- and 4-bit integers as 8-bit ones.
// Specification: numpy.lib.format (NEP 1); PKWARE APPNOTE 6.3.3 for zip.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace lathe {

// `name` stands for the file in messages. Throws kInput when broken, kUnsupported for other types.
Tensor parse_npy(std::span<const uint8_t> bytes, const std::string& name);
Tensor read_npy(const std::string& path);
std::vector<uint8_t> format_npy(const Tensor& tensor);
void write_npy(const std::string& path, const Tensor& tensor);

// Members by name, without the ".npy".
std::map<std::string, Tensor> read_npz(const std::string& path);
void write_npz(const std::string& path, const std::map<std::string, Tensor>& tensors,
               bool compress = false);

}  // namespace lathe
