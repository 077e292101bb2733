#include "planner/scratchpad/search.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

namespace lathe {
namespace {

// Bits of one state: operators done, then tensors in the scratchpad, then tensors with a copy outside (or, of those from outside, read once).
class Layout {
 public:
  Layout(size_t operators, size_t tensors) : op_words((operators + 63) / 64), tensor_words((tensors + 63) / 64), words(op_words + 2 * tensor_words) {}
  size_t op_words, tensor_words, words;
};

constexpr size_t kMostNodes = size_t{1} << 26;  // of the history: 1.5 GiB

bool bit(const uint64_t* words, int i) { return words[static_cast<size_t>(i) / 64] >> (i % 64) & 1; }
void set(uint64_t* words, int i) { words[static_cast<size_t>(i) / 64] |= uint64_t{1} << (i % 64); }
void clear(uint64_t* words, int i) { words[static_cast<size_t>(i) / 64] &= ~(uint64_t{1} << (i % 64)); }

// The states after some number of operators, found by their bits.
class Layer {
 public:
  explicit Layer(const Layout& layout) : words_(layout.words), slots_(64, -1) {}
  size_t count() const { return costs.size(); }
  const uint64_t* at(size_t i) const { return bits_.data() + i * words_; }
  // The state's index, and whether it is new.
  std::pair<size_t, bool> insert(const uint64_t* bits) {
    if (2 * count() >= slots_.size()) grow();
    size_t slot = hash(bits) & (slots_.size() - 1);
    for (; slots_[slot] >= 0; slot = (slot + 1) & (slots_.size() - 1))
      if (std::equal(bits, bits + words_, at(static_cast<size_t>(slots_[slot])))) return {static_cast<size_t>(slots_[slot]), false};
    slots_[slot] = static_cast<int32_t>(count());
    bits_.insert(bits_.end(), bits, bits + words_);
    costs.push_back(0);
    resident.push_back(0);
    nodes.push_back(0);
    return {count() - 1, true};
  }
  std::vector<double> costs;
  std::vector<int64_t> resident;  // bytes in the scratchpad
  std::vector<int32_t> nodes;     // how it was reached

 private:
  uint64_t hash(const uint64_t* bits) const {
    uint64_t h = 0x9e3779b97f4a7c15;
    for (size_t w = 0; w < words_; ++w) h = (h ^ bits[w]) * 0xff51afd7ed558ccd, h ^= h >> 29;
    return h;
  }
  void grow() {
    slots_.assign(slots_.size() * 4, -1);
    for (size_t i = 0; i < count(); ++i) {
      size_t slot = hash(at(i)) & (slots_.size() - 1);
      while (slots_[slot] >= 0) slot = (slot + 1) & (slots_.size() - 1);
      slots_[slot] = static_cast<int32_t>(i);
    }
  }
  size_t words_;
  std::vector<uint64_t> bits_;
  std::vector<int32_t> slots_;
};

class Search {
 public:
  Search(const ScheduleIndex& index, const SearchOptions& options) : index_(index), options_(options), slot_(index.tensor_count, -1), layout_(index.operator_count, number_tensors()), best_(options.below) {
    const size_t n = index.operator_count;
    if (!options.piece.empty()) {
      std::vector<int> counts;
      for (int p : options.piece) {
        if (static_cast<size_t>(p) >= counts.size()) counts.resize(static_cast<size_t>(p) + 1, 0);
        ++counts[static_cast<size_t>(p)];
      }
      for (size_t p = 0; p < counts.size(); ++p) piece_at_.insert(piece_at_.end(), static_cast<size_t>(counts[p]), static_cast<int>(p));
    }
    fixed_.resize(n);
    for (size_t k = 0; k < n; ++k) {
      fixed_[k] = index.scratch[k];
      for (int e : index.problem.operators[k].inputs)
        if (index.once[static_cast<size_t>(e)]) fixed_[k] += index.size[static_cast<size_t>(e)];
    }
    // Ready sets are found from the operators behind what is done.
    work_.resize(layout_.words);
  }

  SearchResult run() {
    SearchResult result;
    result.exact = true;
    Layer layer(layout_);
    std::vector<uint64_t> start(layout_.words, 0);
    layer.insert(start.data());
    nodes_.push_back({-1, -1, 0, 0, 0, 0});
    layer.nodes[0] = 0;
    for (size_t step = 0; step < index_.operator_count; ++step) {
      if (options_.progress) options_.progress(step, layer.count());
      Layer next(layout_);
      std::vector<size_t> kept(layer.count());
      std::iota(kept.begin(), kept.end(), size_t{0});
      const size_t limit = options_.width > 0 ? options_.width : options_.most_states;
      if (kept.size() > limit) {
        result.exact = false;
        std::nth_element(kept.begin(), kept.begin() + static_cast<std::ptrdiff_t>(limit), kept.end(), [&](size_t a, size_t b) {
          return layer.costs[a] != layer.costs[b] ? layer.costs[a] < layer.costs[b] : layer.resident[a] < layer.resident[b];
        });
        kept.resize(limit);
      }
      size_t seen = 0;
      for (size_t i : kept) {
        expand(step, layer, i, next);
        if (nodes_.size() > kMostNodes || ((++seen & 63) == 0 && std::chrono::steady_clock::now() > options_.deadline)) {
          result.exact = false;
          return result;
        }
      }
      result.exact = result.exact && !cut_;
      layer = std::move(next);
      if (layer.count() == 0) return result;  // nothing below the limit
    }
    size_t best = 0;
    for (size_t i = 1; i < layer.count(); ++i)
      if (layer.costs[i] < layer.costs[best]) best = i;
    result.found = true;
    result.cost = layer.costs[best];
    for (int32_t at = layer.nodes[best]; nodes_[static_cast<size_t>(at)].parent >= 0; at = nodes_[static_cast<size_t>(at)].parent) {
      const HistoryNode& h = nodes_[static_cast<size_t>(at)];
      StepChoice c{h.op};
      for (int32_t v = 0; v < h.evictions; ++v) c.evict.push_back(pool_[static_cast<size_t>(h.first) + static_cast<size_t>(v)]);
      for (int32_t v = 0; v < h.in_place; ++v) {
        const int option = pool_[static_cast<size_t>(h.first) + static_cast<size_t>(h.evictions) + static_cast<size_t>(v)];
        c.in_place.push_back(index_.problem.operators[static_cast<size_t>(h.op)].in_place[static_cast<size_t>(option)]);
      }
      result.choices.push_back(std::move(c));
    }
    std::reverse(result.choices.begin(), result.choices.end());
    return result;
  }

 private:
  // Bits are for tensors that may stay: not for what comes and goes with one operator.
  size_t number_tensors() {
    for (size_t e = 0; e < index_.tensor_count; ++e)
      if (!index_.once[e] && !index_.consumers[e].empty()) {
        slot_[e] = static_cast<int>(tensors_.size());
        tensors_.push_back(static_cast<int>(e));
      }
    return tensors_.size();
  }

  struct HistoryNode {
    int32_t parent, op, first, evictions, in_place, unused;
  };
  // What may make room: a tensor that is evicted, or an input that the output overwrites although it is needed again.
  struct Victim {
    int tensor;
    int option;       // of the operator's in_place; −1: evicted
    int64_t bytes;
    double cost;
  };

  int slot(int e) const { return slot_[static_cast<size_t>(e)]; }
  bool ready(const uint64_t* done, int k) const {
    for (int j : index_.before[static_cast<size_t>(k)])
      if (!bit(done, j)) return false;
    return true;
  }
  bool last_use(const uint64_t* done, int e, int k) const {
    for (int j : index_.consumers[static_cast<size_t>(e)])
      if (j != k && !bit(done, j)) return false;
    return true;
  }

  void expand(size_t step, const Layer& layer, size_t i, Layer& next) {
    const uint64_t* bits = layer.at(i);
    candidates_.clear();
    if (!options_.order.empty()) {
      candidates_.push_back(options_.order[step]);
    } else {
      for (int k = 0; k < static_cast<int>(index_.operator_count); ++k) {
        if (!piece_at_.empty() && options_.piece[static_cast<size_t>(k)] != piece_at_[step]) continue;
        if (!bit(bits, k) && ready(bits, k)) candidates_.push_back(k);
      }
      for (int k : candidates_)
        if (runs_at_once(bits, layer.resident[i], k)) {
          candidates_.assign(1, k);
          break;
        }
    }
    for (int k : candidates_) run_operator(bits, layer.costs[i], layer.resident[i], layer.nodes[i], k, next);
  }

  // Bytes that operator k adds to what is there, without evictions, before anything of its own dies; inputs in place that die are taken.
  int64_t needed(const uint64_t* bits, int k, std::vector<int>* in_place) const {
    const ScheduleOperator& o = index_.problem.operators[static_cast<size_t>(k)];
    const uint64_t* here = bits + layout_.op_words;
    int64_t need = fixed_[static_cast<size_t>(k)];
    for (int e : o.inputs)
      if (!index_.once[static_cast<size_t>(e)] && !bit(here, slot(e))) need += index_.size[static_cast<size_t>(e)];
    for (int e : o.outputs) need += index_.size[static_cast<size_t>(e)];
    for (size_t x = 0; x < o.in_place.size(); ++x) {
      const InPlaceOption& option = o.in_place[x];
      if (index_.size[static_cast<size_t>(option.output)] > index_.size[static_cast<size_t>(option.input)] || !last_use(bits, option.input, k)) continue;
      bool free = true;
      if (in_place)
        for (int y : *in_place) {
          const InPlaceOption& other = o.in_place[static_cast<size_t>(y)];
          free = free && other.input != option.input && other.output != option.output;
        }
      else
        for (size_t y = 0; y < x; ++y) free = free && o.in_place[y].input != option.input && o.in_place[y].output != option.output;
      if (!free) continue;
      need -= index_.size[static_cast<size_t>(option.output)];
      if (in_place) in_place->push_back(static_cast<int>(x));
    }
    return need;
  }

  bool runs_at_once(const uint64_t* bits, int64_t resident, int k) const {
    const ScheduleOperator& o = index_.problem.operators[static_cast<size_t>(k)];
    const uint64_t *here = bits + layout_.op_words, *outside = here + layout_.tensor_words;
    if (resident + needed(bits, k, nullptr) > index_.problem.capacity) return false;
    for (int e : o.inputs)
      if (!index_.once[static_cast<size_t>(e)] && !bit(here, slot(e))) return false;
    int alive = -1;
    for (int e : o.outputs) {
      if (index_.consumers[static_cast<size_t>(e)].empty()) continue;
      if (alive >= 0) return false;
      alive = e;
    }
    if (alive < 0) return true;
    for (int e : o.inputs) {
      const auto i = static_cast<size_t>(e);
      if (!index_.from_outside(e) && !bit(outside, slot(e)) && last_use(bits, e, k) && index_.size[i] >= index_.size[static_cast<size_t>(alive)] &&
          index_.problem.tensors[i].bytes >= index_.problem.tensors[static_cast<size_t>(alive)].bytes)
        return true;
    }
    return false;
  }

  void run_operator(const uint64_t* bits, double cost, int64_t resident, int32_t node, int k, Layer& next) {
    const ScheduleOperator& o = index_.problem.operators[static_cast<size_t>(k)];
    const uint64_t *here = bits + layout_.op_words, *outside = here + layout_.tensor_words;
    in_place_.clear();
    const int64_t deficit = resident + needed(bits, k, &in_place_) - index_.problem.capacity;
    if (deficit <= 0) {
      chosen_.clear();
      finish(bits, cost, resident, node, k, next);
      return;
    }
    victims_.clear();
    for (size_t w = 0; w < layout_.tensor_words; ++w)
      for (uint64_t word = here[w]; word; word &= word - 1) {
        const int e = tensors_[64 * w + static_cast<size_t>(std::countr_zero(word))];
        if (std::find(o.inputs.begin(), o.inputs.end(), e) == o.inputs.end()) victims_.push_back({e, -1, index_.size[static_cast<size_t>(e)], eviction_cost(outside, e)});
      }
    for (size_t x = 0; x < o.in_place.size(); ++x) {
      const InPlaceOption& option = o.in_place[x];
      if (index_.size[static_cast<size_t>(option.output)] > index_.size[static_cast<size_t>(option.input)] || last_use(bits, option.input, k)) continue;
      victims_.push_back({option.input, static_cast<int>(x), index_.size[static_cast<size_t>(option.output)], eviction_cost(outside, option.input)});
    }
    std::sort(victims_.begin(), victims_.end(), [](const Victim& a, const Victim& b) { return a.bytes > b.bytes; });
    rest_.assign(victims_.size() + 1, 0);
    for (size_t v = victims_.size(); v-- > 0;) rest_[v] = rest_[v + 1] + victims_[v].bytes;
    chosen_.clear();
    covers_ = 0;
    cover(0, deficit, bits, cost, resident, node, k, next);
  }

  double eviction_cost(const uint64_t* outside, int e) const {
    return index_.load_cost(e) + (bit(outside, slot(e)) || index_.from_outside(e) ? 0 : index_.store_cost(e));
  }

  // Every set of victims that is enough and of which none is too many. Victims fall in size: the last one taken makes it enough, so
  // the set is minimal where without its smallest it would lack.
  void cover(size_t v, int64_t deficit, const uint64_t* bits, double cost, int64_t resident, int32_t node, int k, Layer& next) {
    if (cost >= best_) return;
    if (deficit <= 0) {
      if (++covers_ > (options_.width > 0 ? 64 : 4096)) {
        cut_ = true;
        return;
      }
      finish(bits, cost, resident, node, k, next);
      return;
    }
    if (v == victims_.size() || rest_[v] < deficit || covers_ > 4096) return;
    bool possible = true;  // one output takes one place, one input gives it once
    if (victims_[v].option >= 0) {
      const auto& options = index_.problem.operators[static_cast<size_t>(k)].in_place;
      const InPlaceOption& mine = options[static_cast<size_t>(victims_[v].option)];
      for (int x : in_place_)
        possible = possible && options[static_cast<size_t>(x)].output != mine.output;
      for (size_t c : chosen_)
        if (victims_[c].option >= 0) {
          const InPlaceOption& other = options[static_cast<size_t>(victims_[c].option)];
          possible = possible && other.output != mine.output && other.input != mine.input;
        }
    }
    if (possible) {
      chosen_.push_back(v);
      cover(v + 1, deficit - victims_[v].bytes, bits, cost + victims_[v].cost, resident, node, k, next);
      chosen_.pop_back();
    }
    cover(v + 1, deficit, bits, cost, resident, node, k, next);
  }

  void finish(const uint64_t* bits, double cost, int64_t resident, int32_t node, int k, Layer& next) {
    if (cost >= best_) return;
    const ScheduleOperator& o = index_.problem.operators[static_cast<size_t>(k)];
    std::copy(bits, bits + layout_.words, work_.begin());
    uint64_t *done = work_.data(), *here = done + layout_.op_words, *outside = here + layout_.tensor_words;
    const auto leave = [&](int e) {
      if (!bit(here, slot(e))) return;
      clear(here, slot(e));
      resident -= index_.size[static_cast<size_t>(e)];
    };
    for (size_t c : chosen_) {
      const Victim& v = victims_[c];
      if (!index_.from_outside(v.tensor)) set(outside, slot(v.tensor));
      leave(v.tensor);
    }
    set(done, k);
    for (int e : o.inputs) {
      if (index_.once[static_cast<size_t>(e)]) continue;
      const bool overwritten = std::any_of(chosen_.begin(), chosen_.end(), [&](size_t c) { return victims_[c].option >= 0 && victims_[c].tensor == e; });
      if (last_use(done, e, -1)) {
        leave(e);
        clear(outside, slot(e));
      } else if (!overwritten && !bit(here, slot(e))) {
        set(here, slot(e));
        resident += index_.size[static_cast<size_t>(e)];
      }
    }
    for (int e : o.outputs) {
      if (index_.consumers[static_cast<size_t>(e)].empty()) continue;
      set(here, slot(e));
      resident += index_.size[static_cast<size_t>(e)];
      if (index_.is_output(e)) set(outside, slot(e));
    }
    auto [i, fresh] = next.insert(work_.data());
    if (!fresh && next.costs[i] <= cost) return;
    next.costs[i] = cost;
    next.resident[i] = resident;
    next.nodes[i] = static_cast<int32_t>(nodes_.size());
    HistoryNode h{node, k, static_cast<int32_t>(pool_.size()), 0, 0, 0};
    for (size_t c : chosen_)
      if (victims_[c].option < 0) pool_.push_back(victims_[c].tensor), ++h.evictions;
    for (int x : in_place_) pool_.push_back(x), ++h.in_place;
    for (size_t c : chosen_)
      if (victims_[c].option >= 0) pool_.push_back(victims_[c].option), ++h.in_place;
    nodes_.push_back(h);
  }

  const ScheduleIndex& index_;
  const SearchOptions& options_;
  std::vector<int> slot_, tensors_;
  Layout layout_;
  double best_;
  std::vector<int> piece_at_;
  std::vector<int64_t> fixed_;
  std::vector<HistoryNode> nodes_;
  std::vector<int> pool_, candidates_, in_place_;
  std::vector<Victim> victims_;
  std::vector<int64_t> rest_;
  std::vector<size_t> chosen_;
  std::vector<uint64_t> work_;
  size_t covers_ = 0;
  bool cut_ = false;
};

}  // namespace

SearchResult search_schedules(const ScheduleIndex& index, const SearchOptions& options) { return Search(index, options).run(); }

}  // namespace lathe
