#include "planner/scratchpad/check.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace lathe {
namespace {

using nlohmann::json;

constexpr int64_t kMostSimulated = int64_t{1} << 34;  // bytes of memory that a check may take

class Machine {
 public:
  Machine(const json& schedule, const ScheduleMachine& machine) : text_(schedule), machine_(machine) {
    if (schedule.value("format", "") != "lathe scratchpad schedule 1") fail(ErrorKind::kInput, "this is no scratchpad schedule");
    capacity_ = schedule.at("capacity").get<int64_t>();
    alignment_ = std::max<int64_t>(1, schedule.at("alignment").get<int64_t>());
    if (capacity_ < 1 || (machine.run && capacity_ > kMostSimulated)) fail(ErrorKind::kInput, "a scratchpad of {} bytes", capacity_);
    for (const json& t : schedule.at("tensors")) {
      tensors_.push_back({t.at("name").get<std::string>(), t.at("bytes").get<int64_t>(), t.at("kind").get<std::string>(), 0, {}});
      tensors_.back().outside = tensors_.back().kind == "input" || tensors_.back().kind == "weight";
      if (tensors_.back().bytes < 1) fail(ErrorKind::kInput, "tensor '{}' has {} bytes", tensors_.back().name, tensors_.back().bytes);
    }
    for (const json& o : schedule.at("operators")) {
      for (int e : o.at("inputs")) tensor(e).readers += 1;
      for (int e : o.at("outputs")) tensor(e).made_by += 1;
    }
    if (machine_.run) {
      memory_.resize(static_cast<size_t>(capacity_), std::byte{0xCD});
      for (size_t e = 0; e < tensors_.size(); ++e) {
        tensors_[e].copy.resize(static_cast<size_t>(tensors_[e].bytes));
        if (e < machine_.outside.size() && !machine_.outside[e].empty()) {
          if (static_cast<int64_t>(machine_.outside[e].size()) != tensors_[e].bytes) fail(ErrorKind::kInput, "tensor '{}' has {} bytes, given are {}", tensors_[e].name, tensors_[e].bytes, machine_.outside[e].size());
          tensors_[e].copy = machine_.outside[e];
        }
      }
    }
  }

  ScheduleRun run() {
    std::vector<char> ran(text_.at("operators").size(), 0);
    for (const json& step : text_.at("steps")) {
      for (int e : list(step, "store")) store(e, false);
      for (int e : list(step, "evict")) evict(e);
      for (const json& l : step.value("load", json::array())) load(l.at(0), l.at(1));
      const int op = step.at("run");
      if (op < 0 || static_cast<size_t>(op) >= ran.size()) broken("runs operator {} of {}", op, ran.size());
      if (ran[static_cast<size_t>(op)]++) broken("runs operator {} a second time", op);
      run_operator(text_.at("operators").at(static_cast<size_t>(op)), op, step);
      for (int e : list(step, "write")) store(e, true);
      ++step_;
    }
    for (size_t k = 0; k < ran.size(); ++k)
      if (!ran[k]) fail(ErrorKind::kInput, "the schedule never runs operator {}", k);
    for (const Item& t : tensors_)
      if (t.kind == "output" && !t.outside) fail(ErrorKind::kInput, "the schedule never writes output '{}'", t.name);
    for (Item& t : tensors_) result_.outside.push_back(t.outside ? std::move(t.copy) : std::vector<std::byte>());
    return std::move(result_);
  }

 private:
  struct Item {
    std::string name;
    int64_t bytes;
    std::string kind;
    int readers;
    std::vector<std::byte> copy;  // outside
    bool outside = false, touched = false;
    int made_by = 0;
    int64_t address = -1;         // in the scratchpad
  };
  template <class... Args>
  [[noreturn]] void broken(fmt::format_string<Args...> what, Args&&... args) const {
    fail(ErrorKind::kInput, "step {} of the schedule {}", step_, fmt::format(what, std::forward<Args>(args)...));
  }
  Item& tensor(int e) {
    if (e < 0 || static_cast<size_t>(e) >= tensors_.size()) broken("names tensor {} of {}", e, tensors_.size());
    return tensors_[static_cast<size_t>(e)];
  }
  static std::vector<int> list(const json& step, const char* key) { return step.contains(key) ? step.at(key).get<std::vector<int>>() : std::vector<int>(); }
  std::span<std::byte> bytes_of(const Item& t) { return machine_.run ? std::span(memory_).subspan(static_cast<size_t>(t.address), static_cast<size_t>(t.bytes)) : std::span<std::byte>(); }

  // [address, address + bytes) becomes taken.
  void occupy(int64_t address, int64_t bytes, const std::string& name) {
    const int64_t size = (bytes + alignment_ - 1) / alignment_ * alignment_;
    if (address < 0 || address % alignment_ != 0 || address > capacity_ - size) broken("puts '{}' of {} bytes at {}, outside the {} bytes of the scratchpad or not aligned", name, bytes, address, capacity_);
    auto next = taken_.lower_bound(address);
    if (next != taken_.end() && next->first < address + size) broken("puts '{}' over what lies at {}", name, next->first);
    if (next != taken_.begin() && std::prev(next)->second > address) broken("puts '{}' over what lies at {}", name, std::prev(next)->first);
    taken_[address] = address + size;
    result_.peak_bytes = std::max(result_.peak_bytes, address + size);
  }
  void store(int e, bool output) {
    Item& t = tensor(e);
    if (t.address < 0) broken("stores '{}', which is not there", t.name);
    if (t.outside) broken("stores '{}' a second time", t.name);
    if (output != (t.kind == "output")) broken("stores '{}', an {}, as what it is not", t.name, t.kind);
    (output ? result_.compulsory_bytes : result_.store_bytes) += t.bytes;
    t.outside = true;
    if (machine_.run) std::copy_n(bytes_of(t).begin(), t.copy.size(), t.copy.begin());
  }
  void evict(int e) {
    Item& t = tensor(e);
    if (t.address < 0) broken("evicts '{}', which is not there", t.name);
    // Whoever reads on finds rubbish.
    if (machine_.run) std::ranges::fill(bytes_of(t), std::byte{0xCD});
    taken_.erase(t.address);
    t.address = -1;
  }
  void load(int e, int64_t address) {
    Item& t = tensor(e);
    if (t.address >= 0) broken("loads '{}', which is there", t.name);
    if (!t.outside) broken("loads '{}', which was never stored", t.name);
    occupy(address, t.bytes, t.name);
    t.address = address;
    const bool first = !t.touched && (t.kind == "input" || t.kind == "weight");
    (first ? result_.compulsory_bytes : result_.load_bytes) += t.bytes;
    t.touched = true;
    if (machine_.run) std::copy(t.copy.begin(), t.copy.end(), bytes_of(t).begin());
  }
  void run_operator(const json& o, int op, const json& step) {
    std::vector<std::span<std::byte>> inputs, outputs;
    for (int e : o.at("inputs")) {
      if (tensor(e).address < 0) broken("runs '{}' without its input '{}'", o.at("name").get<std::string>(), tensor(e).name);
      inputs.push_back(bytes_of(tensor(e)));
    }
    std::map<int, int64_t> addresses;
    for (const json& out : step.at("outputs")) addresses[out.at(0).get<int>()] = out.at(1).get<int64_t>();
    std::map<int, int> replaced;  // output → input
    for (const json& pair : step.value("in_place", json::array())) {
      const json options = o.value("in_place", json::array());
      if (std::find(options.begin(), options.end(), pair) == options.end()) broken("lets '{}' work in place where it cannot", o.at("name").get<std::string>());
      replaced[pair.at(1).get<int>()] = pair.at(0).get<int>();
    }
    for (auto [output, input] : replaced) {
      if (!addresses.contains(output) || addresses[output] != tensor(input).address || tensor(output).bytes > (tensor(input).bytes + alignment_ - 1) / alignment_ * alignment_)
        broken("puts '{}' elsewhere than '{}', which it replaces", tensor(output).name, tensor(input).name);
      taken_.erase(tensor(input).address);
      tensor(input).address = -1;  // its elements are read by the operator alone
    }
    int64_t scratch = -1;
    for (auto [output, input] : replaced) { (void)input; occupy(addresses[output], tensor(output).bytes, tensor(output).name); tensor(output).address = addresses[output]; }
    for (int e : o.at("outputs")) {
      if (!addresses.contains(e)) broken("has no place for '{}'", tensor(e).name);
      if (tensor(e).address < 0) {
        occupy(addresses[e], tensor(e).bytes, tensor(e).name);
        tensor(e).address = addresses[e];
      } else if (!replaced.contains(e)) {
        broken("makes '{}', which is there", tensor(e).name);
      }
      outputs.push_back(bytes_of(tensor(e)));
    }
    if (const int64_t bytes = o.value("scratch", int64_t{0}); bytes > 0) {
      scratch = step.value("scratch", int64_t{-1});
      occupy(scratch, bytes, "scratch");
    }
    if (machine_.run) machine_.run(op, inputs, outputs);
    if (scratch >= 0) taken_.erase(scratch);
  }

  const json& text_;
  const ScheduleMachine& machine_;
  int64_t capacity_ = 0, alignment_ = 1;
  std::vector<Item> tensors_;
  std::vector<std::byte> memory_;
  std::map<int64_t, int64_t> taken_;
  ScheduleRun result_;
  size_t step_ = 0;
};

}  // namespace

ScheduleRun check_schedule(const nlohmann::json& schedule, const ScheduleMachine& machine) {
  try {
    return Machine(schedule, machine).run();
  } catch (const json::exception& e) {
    fail(ErrorKind::kInput, "the schedule's text is not as it should be: {}", e.what());
  }
}

}  // namespace lathe
