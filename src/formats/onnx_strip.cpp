#include "formats/onnx_strip.h"

#include <cstdint>

namespace lathe::onnx_io {
namespace {

using Bytes = std::span<const uint8_t>;

// Numbers of fields in onnx.proto.
constexpr uint64_t kModelGraph = 7, kGraphInitializer = 5, kTensorRawData = 9;
constexpr size_t kLarge = 4096;  // a page: below that a view saves nothing

// One field of a message: its number, its bytes with the tag, and, of a delimited one, what it holds.
struct Field {
  uint64_t number = 0;
  bool delimited = false;
  Bytes whole, content;
};

std::optional<uint64_t> varint(Bytes& rest) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    if (rest.empty()) return std::nullopt;
    uint8_t byte = rest[0];
    rest = rest.subspan(1);
    value |= uint64_t{byte & 0x7fu} << shift;
    if (!(byte & 0x80)) return value;
  }
  return std::nullopt;
}

std::optional<Field> next(Bytes& rest) {
  Bytes start = rest;
  auto tag = varint(rest);
  if (!tag) return std::nullopt;
  Field field{*tag >> 3, (*tag & 7) == 2, {}, {}};
  uint64_t skip = 0;
  switch (*tag & 7) {
    case 0:
      if (!varint(rest)) return std::nullopt;
      break;
    case 1: skip = 8; break;
    case 2: {
      auto length = varint(rest);
      if (!length) return std::nullopt;
      skip = *length;
      break;
    }
    case 5: skip = 4; break;
    default: return std::nullopt;  // groups: not in ONNX
  }
  if (skip > rest.size()) return std::nullopt;
  if (field.delimited) field.content = rest.first(skip);
  rest = rest.subspan(skip);
  field.whole = start.first(start.size() - rest.size());
  return field;
}

void append(std::string& out, Bytes bytes) { out.append(reinterpret_cast<const char*>(bytes.data()), bytes.size()); }

void append_message(std::string& out, uint64_t number, const std::string& content) {
  for (uint64_t value : {number << 3 | 2, uint64_t{content.size()}}) {
    for (; value > 0x7f; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
    out.push_back(static_cast<char>(value));
  }
  out += content;
}

// The tensor without its raw data, if that is large.
bool strip_tensor(Bytes tensor, std::string& out, Bytes& raw) {
  while (!tensor.empty()) {
    auto field = next(tensor);
    if (!field) return false;
    if (field->number == kTensorRawData && field->delimited && field->content.size() >= kLarge) {
      if (!raw.empty()) return false;
      raw = field->content;
    } else {
      append(out, field->whole);
    }
  }
  return true;
}

bool strip_graph(Bytes graph, std::string& out, std::vector<Bytes>& raw) {
  while (!graph.empty()) {
    auto field = next(graph);
    if (!field) return false;
    if (field->number != kGraphInitializer || !field->delimited) {
      append(out, field->whole);
      continue;
    }
    std::string tensor;
    Bytes elements;
    if (!strip_tensor(field->content, tensor, elements)) return false;
    append_message(out, kGraphInitializer, tensor);
    raw.push_back(elements);
  }
  return true;
}

}  // namespace

std::optional<StrippedModel> strip_raw_data(Bytes file) {
  StrippedModel model;
  bool seen = false;
  while (!file.empty()) {
    auto field = next(file);
    if (!field) return std::nullopt;
    if (field->number != kModelGraph || !field->delimited) {
      append(model.proto, field->whole);
      continue;
    }
    if (seen) return std::nullopt;
    seen = true;
    std::string graph;
    if (!strip_graph(field->content, graph, model.raw)) return std::nullopt;
    append_message(model.proto, kModelGraph, graph);
  }
  return model;
}

}  // namespace lathe::onnx_io
