#include "core/device.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"

namespace lathe {
namespace {

using nlohmann::json;

// A description of hardware takes a few KiB; a larger file is something else.
constexpr int64_t kMaxFileBytes = 1 << 20;

// Reads the fields of one JSON object; finish() complains of those that nobody asked for.
class Fields {
 public:
  Fields(const json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object())
      fail(ErrorKind::kInput, "{}: expected an object, found {}", where_, object.type_name());
  }

  const json* find(const char* key) {
    known_.insert(key);
    auto at = object_.find(key);
    return at == object_.end() ? nullptr : &*at;
  }

  const json& at(const char* key) {
    const json* value = find(key);
    if (!value) fail(ErrorKind::kInput, "{}: the field '{}' is missing", where_, key);
    return *value;
  }

  std::string path(const std::string& key) const { return where_ + ": " + key; }

  std::string text(const char* key) { return text_of(at(key), path(key)); }

  static std::string text_of(const json& value, const std::string& where) {
    if (!value.is_string() || value.get_ref<const std::string&>().empty())
      fail(ErrorKind::kInput, "{}: expected a text that is not empty, found {}", where, shown(value));
    return value.get<std::string>();
  }

  std::optional<int64_t> integer(const char* key) {
    const json* value = find(key);
    if (!value) return std::nullopt;
    constexpr auto kMax = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    // The parser keeps every integer that is not negative as an unsigned one; json built in code may not.
    if (!value->is_number_integer() || (!value->is_number_unsigned() && value->get<int64_t>() < 1) ||
        value->get<uint64_t>() < 1 || value->get<uint64_t>() > kMax)
      fail(ErrorKind::kInput, "{}: expected a positive integer, found {}", path(key), shown(*value));
    return value->get<int64_t>();
  }

  std::optional<double> number(const char* key) {
    const json* value = find(key);
    if (!value) return std::nullopt;
    if (!value->is_number() || !std::isfinite(value->get<double>()) || value->get<double>() <= 0)
      fail(ErrorKind::kInput, "{}: expected a positive number, found {}", path(key), shown(*value));
    return value->get<double>();
  }

  // Calls body(element, where) for each element.
  template <class Body>
  void each(const json& list, const char* key, Body&& body) {
    if (!list.is_array())
      fail(ErrorKind::kInput, "{}: expected a list, found {}", path(key), list.type_name());
    for (size_t i = 0; i < list.size(); ++i) body(list[i], fmt::format("{}[{}]", path(key), i));
  }

  void finish() const {
    for (const auto& [key, value] : object_.items())
      if (!known_.contains(key))
        fail(ErrorKind::kInput, "{}: unknown field '{}'", where_, key.substr(0, 60));
  }

 private:
  static std::string shown(const json& value) {
    std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
    return text.size() > 60 ? text.substr(0, 60) + "…" : text;
  }

  const json& object_;
  std::string where_;
  std::set<std::string> known_;
};

template <class Rated>  // Rates or OperationEnergy
Rated rates_from(Fields& parent, const char* key) {
  Rated result;
  if (const json* object = parent.find(key)) {
    Fields fields(*object, parent.path(key));
    result.f32 = fields.number("f32");
    result.bf16 = fields.number("bf16");
    result.int8 = fields.number("int8");
    fields.finish();
  }
  return result;
}

Bandwidth bandwidth_from(Fields& parent, const char* key) {
  Bandwidth result;
  if (const json* object = parent.find(key)) {
    Fields fields(*object, parent.path(key));
    result.read = fields.number("read");
    result.copy = fields.number("copy");
    fields.finish();
  }
  return result;
}

ComputeUnit compute_unit_from(const json& object, const std::string& where) {
  Fields fields(object, where);
  ComputeUnit unit;
  unit.name = fields.text("name");
  unit.cores = fields.integer("cores").value_or(1);
  unit.threads = fields.integer("threads").value_or(unit.cores);
  if (unit.threads < unit.cores)
    fail(ErrorKind::kInput, "{}: expected at least as many threads as cores, found {} and {}", where,
         unit.threads, unit.cores);
  unit.clock_mhz = fields.number("clock_mhz");
  if (const json* sets = fields.find("instruction_sets"))
    fields.each(*sets, "instruction_sets", [&](const json& set, const std::string& at) {
      unit.instruction_sets.push_back(Fields::text_of(set, at));
    });
  unit.per_core = rates_from<Rates>(fields, "gops_per_core");
  unit.all_cores = rates_from<Rates>(fields, "gops_all_cores");
  fields.finish();
  return unit;
}

MemoryLevel memory_level_from(const json& object, const std::string& where) {
  Fields fields(object, where);
  MemoryLevel level;
  level.name = fields.text("name");
  fields.at("bytes");
  level.bytes = *fields.integer("bytes");
  level.shared_by = fields.integer("shared_by").value_or(1);
  level.per_core = bandwidth_from(fields, "gb_per_s_per_core");
  level.all_cores = bandwidth_from(fields, "gb_per_s_all_cores");
  level.picojoule_per_byte = fields.number("picojoule_per_byte");
  fields.finish();
  return level;
}

template <class Value>
void put(json& object, const char* key, const std::optional<Value>& value) {
  if (value) object[key] = *value;
}

void put_object(json& object, const char* key, json value) {
  if (!value.empty()) object[key] = std::move(value);
}

template <class Rated>
json rates_json(const Rated& rates) {
  json object = json::object();
  put(object, "f32", rates.f32);
  put(object, "bf16", rates.bf16);
  put(object, "int8", rates.int8);
  return object;
}

json bandwidth_json(const Bandwidth& bandwidth) {
  json object = json::object();
  put(object, "read", bandwidth.read);
  put(object, "copy", bandwidth.copy);
  return object;
}

}  // namespace

json to_json(const Device& device) {
  json compute = json::array(), memory = json::array(), limits = json::object();
  for (const ComputeUnit& unit : device.compute) {
    json object = {{"name", unit.name}, {"cores", unit.cores}, {"threads", unit.threads}};
    put(object, "clock_mhz", unit.clock_mhz);
    if (!unit.instruction_sets.empty()) object["instruction_sets"] = unit.instruction_sets;
    put_object(object, "gops_per_core", rates_json(unit.per_core));
    put_object(object, "gops_all_cores", rates_json(unit.all_cores));
    compute.push_back(std::move(object));
  }
  for (const MemoryLevel& level : device.memory) {
    json object = {{"name", level.name}, {"bytes", level.bytes}, {"shared_by", level.shared_by}};
    put_object(object, "gb_per_s_per_core", bandwidth_json(level.per_core));
    put_object(object, "gb_per_s_all_cores", bandwidth_json(level.all_cores));
    put(object, "picojoule_per_byte", level.picojoule_per_byte);
    memory.push_back(std::move(object));
  }
  put(limits, "memory_bytes", device.limits.memory_bytes);
  put(limits, "flash_bytes", device.limits.flash_bytes);
  json object = {{"name", device.name}, {"source", device.source}, {"compute", compute}, {"memory", memory}};
  put_object(object, "limits", limits);
  put_object(object, "picojoule_per_operation", rates_json(device.picojoule_per_operation));
  return object;
}

Device device_from_json(const json& object, const std::string& where) {
  Fields fields(object, where);
  Device device;
  device.name = fields.text("name");
  device.source = fields.text("source");
  fields.each(fields.at("compute"), "compute", [&](const json& unit, const std::string& at) {
    device.compute.push_back(compute_unit_from(unit, at));
  });
  if (device.compute.empty())
    fail(ErrorKind::kInput, "{}: expected at least one compute unit, found none", where);
  fields.each(fields.at("memory"), "memory", [&](const json& level, const std::string& at) {
    device.memory.push_back(memory_level_from(level, at));
  });
  if (const json* limits = fields.find("limits")) {
    Fields inner(*limits, fields.path("limits"));
    device.limits.memory_bytes = inner.integer("memory_bytes");
    device.limits.flash_bytes = inner.integer("flash_bytes");
    inner.finish();
  }
  device.picojoule_per_operation = rates_from<OperationEnergy>(fields, "picojoule_per_operation");
  fields.finish();
  return device;
}

Device read_device(const std::string& path) {
  std::vector<uint8_t> bytes = read_file(path, kMaxFileBytes);
  return device_from_json(parse_json(bytes, path), path);
}

void write_device(const std::string& path, const Device& device) {
  write_file(path, to_json(device).dump(2, ' ', false, json::error_handler_t::replace) + "\n");
}

}  // namespace lathe
