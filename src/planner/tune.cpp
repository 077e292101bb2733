#include "planner/tune.h"

#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "kernels/probe.h"
#include "planner/plan.h"

namespace lathe {
namespace {

// Turns. The minimum of so many is stable to a few per cent on a machine whose cores are shared with one
// other busy process; work of others only ever adds time, so that the minimum is the estimate to take.
constexpr int kTurns = 9;
// After so many turns a kernel that needs twice the time of the best is not timed again.
constexpr int kEarlyTurns = 3;
// The best guess stays unless another is faster by more than the minimum's scatter (see kTurns): the same
// network should not get other kernels on every machine start for nothing.
constexpr double kMargin = 0.97;

// In a network, a layer finds its input where the layer before has just left it, but its weights and its
// code have been pushed out by all the others. So between runs as much as twice the second-level cache is read.
int64_t second_level_cache() {
  long l2 = ::sysconf(_SC_LEVEL2_CACHE_SIZE);  // 0 or −1 where the kernel does not say
  return std::clamp<int64_t>(l2 > 0 ? l2 : 1 << 21, 1 << 19, 1 << 23);
}
int64_t sweep_bytes() { return 2 * second_level_cache(); }

Tensor dummy(const Value& v) {
  Tensor t(v.dtype, *v.shape);
  std::memset(t.raw(), 0, t.bytes());
  if (!is_float(v.dtype)) return t;  // zeros are valid as indices and sizes
  // Ordinary numbers of both signs, so that no path for zeros or denormals is taken.
  for (int64_t i = 0; i < t.size(); ++i) t.set(i, static_cast<double>(i * 2654435761 % 2048) / 1024 - 1);
  return t;
}

void append_attribute(std::string& text, const Attribute& a) {
  std::visit([&](const auto& x) {
    using T = std::decay_t<decltype(x)>;
    if constexpr (std::is_same_v<T, Tensor>) text += fmt::format("{}{}", name_of(x.dtype()), to_string(x.shape()));
    else if constexpr (std::is_same_v<T, std::shared_ptr<Graph>>) text += "graph";
    else if constexpr (requires { x.begin(); } && !std::is_same_v<T, std::string>) text += fmt::format("[{}]", fmt::join(x, ","));
    else text += fmt::format("{}", x);
  }, a);
}

}  // namespace

std::string request_text(const KernelRequest& r) {
  std::string text = fmt::format("{}{}{}", r.node.op->domain, r.node.op->domain.empty() ? "" : "::", r.node.op->name);
  for (const auto& [name, value] : r.node.attributes) {
    text += " " + name + "=";
    append_attribute(text, value);
  }
  auto describe = [&](ValueId v) {
    if (!v) return std::string(" -");
    const Value& value = r.graph[v];
    return fmt::format(" {}{}{}", value.is_constant() ? "const " : "", name_of(value.dtype), to_string(*value.shape));
  };
  for (ValueId v : r.node.inputs) text += describe(v);
  text += " →";
  for (ValueId v : r.node.outputs) text += describe(v);
  return text;
}

namespace {

void read(const char* data, size_t bytes) {
  volatile char sink = 0;
  for (size_t i = 0; i < bytes; i += 64) sink = data[i];
  (void)sink;
}

// Memory of a stage as a plan gives it: maps that are there in part share what is free.
class PatchMemory {
 public:
  PatchMemory(const PatchSteps& steps, const Graph& g) {
    std::vector<Buffer> buffers;
    const auto& nodes = steps.stage().nodes;
    const int end = static_cast<int>(nodes.size()) - 1;
    for (size_t m = 0; m < steps.maps().size(); ++m) {
      const ValueId v = steps.maps()[m];
      Buffer b{steps.buffer_bytes(m), 0, end, 0};
      if (b.bytes == 0) b.bytes = bytes_of(g[v]) + 64;
      else if (!steps.persists(m)) {
        for (int i = 0; i <= end; ++i) {
          const Node& n = g[nodes[static_cast<size_t>(i)].node];
          if (std::count(n.outputs.begin(), n.outputs.end(), v)) b.first_step = b.last_step = i;
          else if (std::count(n.inputs.begin(), n.inputs.end(), v)) b.last_step = i;
        }
      }
      buffers.push_back(b);
    }
    int64_t bytes = place_buffers(buffers);
    scratch_ = (bytes + 63) / 64 * 64;
    memory_ = Tensor(DType::kU8, {scratch_ + steps.scratch_bytes() + 64});
    std::memset(memory_.raw(), 0, memory_.bytes());
    for (const Buffer& b : buffers) offsets_.push_back(b.offset);
  }
  char* map(size_t m) { return memory_.data<char>() + offsets_[m]; }
  char* scratch() { return memory_.data<char>() + scratch_; }

 private:
  Tensor memory_;
  std::vector<int64_t> offsets_;
  int64_t scratch_ = 0;
};

}  // namespace

std::vector<double> time_patches(const std::vector<PatchSteps*>& ways, const Graph& graph, std::vector<char>& sweep) {
  using Clock = std::chrono::steady_clock;
  std::vector<Tensor> values(graph.value_count());
  for (size_t i = 0; i < values.size(); ++i) values[i] = graph[ValueId{static_cast<int32_t>(i)}].constant;
  if (sweep.empty()) sweep.resize(static_cast<size_t>(sweep_bytes()));
  const Value& entry = graph[ways[0]->maps()[0]];
  const Tensor input = dummy(entry);
  std::vector<PatchMemory> memories;
  for (PatchSteps* way : ways) {
    PatchMemory& memory = memories.emplace_back(*way, graph);
    way->bind(values);
    for (size_t m = 0; m < way->maps().size(); ++m) way->point(m, memory.map(m));
  }
  std::vector<double> best(ways.size(), 1e30);
  for (int turn = 0; turn <= kTurns; ++turn)
    for (size_t k = 0; k < ways.size(); ++k) {
      const size_t i = turn % 2 ? ways.size() - 1 - k : k;
      read(sweep.data(), sweep.size());
      std::memcpy(memories[i].map(0), input.raw(), input.bytes());  // as the step before it leaves it
      const auto begin = Clock::now();
      ways[i]->run(memories[i].scratch());
      if (turn > 0) best[i] = std::min(best[i], std::max(std::chrono::duration<double>(Clock::now() - begin).count(), 1e-9));
    }
  return best;
}

std::vector<double> time_kernels(const KernelRequest& r, const std::vector<Kernel*>& kernels, std::vector<char>& sweep) {
  using Clock = std::chrono::steady_clock;
  std::vector<Tensor> in, out;
  for (ValueId v : r.node.inputs) in.push_back(!v ? Tensor() : r.graph[v].is_constant() ? r.graph[v].constant : dummy(r.graph[v]));
  for (ValueId v : r.node.outputs) out.push_back(v ? Tensor(r.graph[v].dtype, *r.graph[v].shape) : Tensor());
  std::vector<const Tensor*> in_pointers;
  std::vector<Tensor*> out_pointers;
  for (size_t i = 0; i < in.size(); ++i) in_pointers.push_back(r.node.inputs[i] ? &in[i] : nullptr);
  for (size_t i = 0; i < out.size(); ++i) out_pointers.push_back(r.node.outputs[i] ? &out[i] : nullptr);
  size_t scratch_bytes = 0;
  for (Kernel* k : kernels) scratch_bytes = std::max(scratch_bytes, k->scratch_bytes());
  Tensor scratch(DType::kU8, {static_cast<int64_t>(scratch_bytes) + 64});
  if (sweep.empty()) sweep.resize(sweep_bytes());
  std::vector<double> best(kernels.size(), 1e30);
  for (int turn = 0; turn <= kTurns; ++turn) {
    double fastest = *std::min_element(best.begin(), best.end());
    for (size_t k = 0; k < kernels.size(); ++k) {
      // Forwards and backwards in turn, so that none always follows the same one.
      size_t i = turn % 2 ? kernels.size() - 1 - k : k;
      if (turn > kEarlyTurns && best[i] > 2 * fastest) continue;
      read(sweep.data(), sweep.size());
      for (size_t t = 0; t < in.size(); ++t)
        if (r.node.inputs[t] && !r.graph[r.node.inputs[t]].is_constant()) read(in[t].data<char>(), in[t].bytes());
      auto begin = Clock::now();
      kernels[i]->run(in_pointers.data(), out_pointers.data(), scratch.raw());
      double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
      if (turn > 0) best[i] = std::min(best[i], std::max(seconds, 1e-9));  // turn 0 faults pages in
    }
  }
  return best;
}

KernelTuner::KernelTuner(const std::string& cache_file)
    : times_(cache_file), machine_(host_identity()), build_(kernel_build()) {}

int KernelTuner::choose(const KernelRequest& request, const std::vector<const KernelEntry*>& entries, std::unique_ptr<Kernel>* made) {
  std::vector<std::unique_ptr<Kernel>> kernels;
  std::vector<int> index;
  std::string names;
  for (size_t i = 0; i < entries.size(); ++i) {
    try {
      kernels.push_back(entries[i]->make(request));
    } catch (const Error&) {
      throw;
    } catch (const std::exception&) {  // a library refuses what `supports` let through
      continue;
    }
    index.push_back(static_cast<int>(i));
    names += fmt::format("{}{}", names.empty() ? "" : ",", entries[i]->name);
  }
  if (kernels.empty()) return -1;
  size_t best = 0;
  if (kernels.size() > 1) {
    const std::vector<double> seconds = remembered(request_text(request), names, kernels.size(), [&] {
      std::vector<Kernel*> pointers;
      pointers.reserve(kernels.size());
      for (auto& k : kernels) pointers.push_back(k.get());
      return time_kernels(request, pointers, sweep_);
    });
    auto fastest = static_cast<size_t>(std::min_element(seconds.begin(), seconds.end()) - seconds.begin());
    if (seconds[fastest] < kMargin * seconds[0]) best = fastest;
  }
  *made = std::move(kernels[best]);
  return index[best];
}

std::vector<double> KernelTuner::remembered(const std::string& request, const std::string& names, size_t count, const std::function<std::vector<double>()>& measure) {
  const KernelTimesKey key{machine_, build_, omp_get_max_threads(), request, names};
  if (auto known = times_.find(key, count)) return *known;
  std::vector<double> seconds = measure();
  times_.add(key, seconds);
  ++measured_;
  return seconds;
}

std::optional<PatchSetting> KernelTuner::choose_patches(const Graph& graph, const PatchSteps::Choose& choose) {
  const std::vector<PatchSetting> settings = patch_settings(graph, second_level_cache());
  std::optional<PatchSetting> best;
  double most = 0;
  for (size_t i = 0; i < settings.size();) {
    // All of one stage, whole maps first.
    std::vector<PatchSetting> ways{{settings[i].entry, settings[i].nodes, 1, settings[i].cache}};
    for (; i < settings.size() && settings[i].nodes == ways[0].nodes; ++i) ways.push_back(settings[i]);
    std::string request = "patches", names;
    for (const PatchNode& n : stage_in_strips(graph, ways[0]).nodes) request += "; " + request_text({.graph = graph, .node = graph[n.node]});
    for (const PatchSetting& way : ways) names += fmt::format("{}{} strips", names.empty() ? "" : ",", way.strips);
    std::vector<double> seconds;
    try {
      seconds = remembered(request, names, ways.size(), [&] {
        std::vector<std::unique_ptr<PatchSteps>> made;
        std::vector<PatchSteps*> pointers;
        made.reserve(ways.size());
        pointers.reserve(ways.size());
        for (const PatchSetting& way : ways) pointers.push_back(made.emplace_back(std::make_unique<PatchSteps>(graph, way, choose)).get());
        return time_patches(pointers, graph, sweep_);
      });
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::kUnsupported) throw;
      continue;  // a node without a kernel
    }
    for (size_t k = 1; k < ways.size(); ++k)
      if (seconds[k] < kMargin * seconds[0] && seconds[0] - seconds[k] > most) {
        most = seconds[0] - seconds[k];
        best = ways[k];
      }
  }
  if (!best) return best;
  // The best of many is also the luckiest: it has to win once more, alone against whole maps.
  std::string request = "patches again";
  PatchSetting whole = *best;
  whole.strips = 1;
  for (const PatchNode& n : stage_in_strips(graph, whole).nodes) request += "; " + request_text({.graph = graph, .node = graph[n.node]});
  const std::vector<double> seconds = remembered(request, fmt::format("1 strips,{} strips", best->strips), 2, [&] {
    PatchSteps plain(graph, whole, choose), strips(graph, *best, choose);
    return time_patches({&plain, &strips}, graph, sweep_);
  });
  return seconds[1] < kMargin * seconds[0] ? best : std::nullopt;
}

}  // namespace lathe
