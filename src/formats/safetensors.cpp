#include "formats/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "core/json.h"

namespace lathe {
namespace {

constexpr uint64_t kMaxHeader = 100'000'000;  // the limit of the reference implementation
constexpr size_t kMaxRank = 64;
constexpr const char* kMetadata = "__metadata__";

struct TypeName {
  std::string_view name;
  DType type;
};
constexpr std::array<TypeName, 16> kTypes{{{"F64", DType::kF64}, {"F32", DType::kF32}, {"F16", DType::kF16}, {"BF16", DType::kBF16},
                                           {"I64", DType::kI64}, {"I32", DType::kI32}, {"I16", DType::kI16}, {"I8", DType::kI8},
                                           {"U64", DType::kU64}, {"U32", DType::kU32}, {"U16", DType::kU16}, {"U8", DType::kU8},
                                           {"BOOL", DType::kBool}, {"F8_E4M3", DType::kF8E4M3FN}, {"F8_E5M2", DType::kF8E5M2},
                                           {"F8_E8M0", DType::kF8E8M0}}};

struct Entry {
  std::string name;
  DType type;
  Shape shape;
  uint64_t begin, end;
};

Entry read_entry(const std::string& key, const nlohmann::json& value, const std::string& name) {
  auto type = value.at("dtype").get<std::string>();
  auto found = std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeName& t) { return t.name == type; });
  if (found == kTypes.end())
    fail(ErrorKind::kUnsupported, "{}: tensor '{:.80}' is of type '{:.20}', which lathe does not hold", name, key, type);
  const auto& sizes = value.at("shape");
  const auto& places = value.at("data_offsets");
  if (!sizes.is_array() || sizes.size() > kMaxRank || !places.is_array() || places.size() != 2 || !places[0].is_number_unsigned() ||
      !places[1].is_number_unsigned())
    fail(ErrorKind::kInput, "{}: tensor '{:.80}' has a broken shape or place", name, key);
  Shape shape;
  for (const auto& size : sizes) {
    if (!size.is_number_unsigned() || size.get<uint64_t>() > static_cast<uint64_t>(kMaxDimension))
      fail(ErrorKind::kInput, "{}: tensor '{:.80}' has a size of {:.40}", name, key, size.dump());
    shape.push_back(size.get<int64_t>());
  }
  return {key, found->type, std::move(shape), places[0].get<uint64_t>(), places[1].get<uint64_t>()};
}

}  // namespace

Safetensors parse_safetensors(std::span<const uint8_t> bytes, const std::string& name, const std::shared_ptr<const void>& owner) {
  uint64_t length = 0;
  if (bytes.size() < sizeof length) fail(ErrorKind::kInput, "{}: is not a safetensors file: {} bytes are too few", name, bytes.size());
  std::memcpy(&length, bytes.data(), sizeof length);
  if (length > kMaxHeader || length > bytes.size() - sizeof length)
    fail(ErrorKind::kInput, "{}: is not a safetensors file: its header would have {} bytes, {} follow", name, length,
         bytes.size() - sizeof length);
  auto header = bytes.subspan(sizeof length, length), data = bytes.subspan(sizeof length + length);
  nlohmann::json j = parse_json(header, name);
  if (!j.is_object()) fail(ErrorKind::kInput, "{}: is not a safetensors file: its header is no JSON object", name);
  Safetensors result;
  std::vector<Entry> entries;
  try {
    for (const auto& [key, value] : j.items()) {
      if (key == kMetadata) result.metadata = value.get<std::map<std::string, std::string>>();
      else entries.push_back(read_entry(key, value, name));
    }
  } catch (const nlohmann::json::exception& e) {
    fail(ErrorKind::kInput, "{}: is not a safetensors file: {:.200}", name, e.what());
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  uint64_t at = 0;
  for (const Entry& e : entries) {
    if (e.begin != at || e.end < e.begin || e.end > data.size())
      fail(ErrorKind::kInput, "{}: tensor '{:.80}' lies at {} … {}, expected it to begin at {} and to end within {} bytes", name, e.name,
           e.begin, e.end, at, data.size());
    at = e.end;
    // Without elements all sizes fit; otherwise more than the place holds stays more, so that the product cannot overflow.
    uint64_t wanted = std::find(e.shape.begin(), e.shape.end(), 0) == e.shape.end() ? size_of(e.type) : 0;
    for (int64_t size : e.shape)
      if (wanted <= e.end - e.begin) wanted *= static_cast<uint64_t>(size);
    if (wanted != e.end - e.begin)
      fail(ErrorKind::kInput, "{}: tensor '{:.80}' of shape {} and type {} does not fit its {} bytes", name, e.name, to_string(e.shape),
           name_of(e.type), e.end - e.begin);
    Tensor tensor(e.type, e.shape, const_cast<uint8_t*>(data.data() + e.begin), owner);
    if (e.type == DType::kBool)
      for (uint64_t i = e.begin; i < e.end; ++i)
        if (data[i] > 1) fail(ErrorKind::kInput, "{}: tensor '{:.80}' holds a truth value that is neither 0 nor 1", name, e.name);
    result.tensors.emplace(e.name, std::move(tensor));
  }
  if (at != data.size()) fail(ErrorKind::kInput, "{}: {} bytes follow the last tensor", name, data.size() - at);
  return result;
}

Safetensors read_safetensors(const std::string& path) {
  auto map = MappedFile::open(path);
  return parse_safetensors(map->bytes(), path, map);
}

void write_safetensors(const std::string& path, const Safetensors& contents) {
  // The widest types first, so that every tensor lies at a multiple of its element's size.
  std::vector<std::pair<std::string_view, const Tensor*>> order;
  for (const auto& [name, tensor] : contents.tensors) order.emplace_back(name, &tensor);
  std::stable_sort(order.begin(), order.end(),
                   [](const auto& a, const auto& b) { return size_of(a.second->dtype()) > size_of(b.second->dtype()); });
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!contents.metadata.empty()) header[kMetadata] = contents.metadata;
  uint64_t at = 0;
  for (const auto& [name, tensor] : order) {
    auto type = std::find_if(kTypes.begin(), kTypes.end(), [wanted = tensor->dtype()](const TypeName& t) { return t.type == wanted; });
    if (type == kTypes.end() || name == kMetadata)
      fail(ErrorKind::kUnsupported, "{}: a tensor '{}' of type {} cannot be written as safetensors", path, name, name_of(tensor->dtype()));
    require(tensor->has_elements(), "{}: tensor '{}' has no elements to write", path, name);
    header[std::string(name)] = {{"dtype", type->name}, {"shape", tensor->shape()}, {"data_offsets", {at, at + tensor->bytes()}}};
    at += tensor->bytes();
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception&) {
    fail(ErrorKind::kUnsupported, "{}: a name or a text of the metadata is not UTF-8", path);
  }
  text.append((8 - text.size() % 8) % 8, ' ');
  if (text.size() > kMaxHeader)
    fail(ErrorKind::kUnsupported, "{}: the header would have {} bytes, more than the limit of {}", path, text.size(), kMaxHeader);
  AtomicFile file(path);
  const uint64_t length = text.size();
  file.write(&length, sizeof length);
  file.write(text);
  for (const auto& [name, tensor] : order) file.write(tensor->unaligned(), tensor->bytes());
  file.commit();
}

}  // namespace lathe
