#include <map>

#include "kernels/reference/families.h"

namespace lathe::reference {
namespace {

using Ints = std::vector<int64_t>;

// The pool: n-grams by length, each with its place in ngram_indexes. ngram_counts[n − 1] says where those of n words begin.
std::vector<std::map<Ints, size_t>> read_pool(const Node& n) {
  const Ints &pool = n.get_ints("pool_int64s"), &starts = n.get_ints("ngram_counts");
  size_t entries = n.get_ints("ngram_indexes").size(), entry = 0;
  std::vector<std::map<Ints, size_t>> grams(starts.size() + 1);
  for (size_t length = 1; length <= starts.size(); ++length) {
    int64_t begin = starts[length - 1], end = length < starts.size() ? starts[length] : static_cast<int64_t>(pool.size());
    check_model(begin >= 0 && begin <= end && end <= static_cast<int64_t>(pool.size()) && (end - begin) % static_cast<int64_t>(length) == 0,
                "ngram_counts does not fit the pool of {} words", pool.size());
    for (int64_t at = begin; at < end; at += static_cast<int64_t>(length)) {
      check_model(entry < entries, "ngram_indexes has {} entries, the pool more", entries);
      grams[length].emplace(Ints(pool.begin() + at, pool.begin() + at + static_cast<int64_t>(length)), entry++);
    }
  }
  return grams;
}

// Counts the n-grams of one row, with up to max_skip_count words left out between neighbours; those of one word once.
Ints count_grams(const Node& n, const std::vector<std::map<Ints, size_t>>& grams, const Ints& words) {
  Ints counts(n.get_ints("ngram_indexes").size());
  int64_t shortest = n.get_int("min_gram_length"), longest = n.get_int("max_gram_length"), skips = n.get_int("max_skip_count");
  check_model(shortest >= 1 && longest >= shortest && skips >= 0, "gram lengths {} to {} with {} skips", shortest, longest, skips);
  auto size = static_cast<int64_t>(words.size());
  longest = std::min(longest, static_cast<int64_t>(grams.size()) - 1);
  skips = std::min(skips, size);
  for (int64_t length = shortest; length <= longest; ++length) {
    const auto& known = grams[static_cast<size_t>(length)];
    if (known.empty()) continue;
    for (int64_t step = 1; step <= (length == 1 ? 1 : skips + 1); ++step) {
      if ((length - 1) > (size - 1) / step) continue;
      for (int64_t begin = 0; begin + (length - 1) * step < size; ++begin) {
        Ints gram;
        for (int64_t i = 0; i < length; ++i) gram.push_back(words[static_cast<size_t>(begin + i * step)]);
        if (auto it = known.find(gram); it != known.end()) ++counts[it->second];
      }
    }
  }
  return counts;
}

void tf_idf(Context& c) {
  const Node& n = c.node();
  const Tensor& x = c.input();
  Tensor& y = c.output();
  check_model(is_integer(x.dtype()), "TfIdfVectorizer takes integers here, found {}", name_of(x.dtype()));
  const Ints& indexes = n.get_ints("ngram_indexes");
  const std::vector<float>& weights = n.get_floats("weights");
  const std::string& mode = n.get_string("mode");
  check_model(mode == "TF" || mode == "IDF" || mode == "TFIDF", "unknown mode '{}'", mode);
  check_model(weights.empty() || weights.size() == indexes.size(), "{} weights for {} n-grams", weights.size(), indexes.size());
  auto grams = read_pool(n);
  int64_t columns = x.shape().back(), rows = x.rank() == 2 ? x.shape()[0] : 1, out = y.shape().back();
  for (int64_t i = 0; i < y.size(); ++i) y.set(i, 0);
  for (int64_t row = 0; row < rows; ++row) {
    Ints words;
    for (int64_t i = 0; i < columns; ++i) words.push_back(x.get_int(row * columns + i));
    Ints counts = count_grams(n, grams, words);
    for (size_t k = 0; k < counts.size(); ++k) {
      if (counts[k] == 0) continue;
      double weight = weights.empty() ? 1 : weights[k];
      double value = mode == "TF" ? static_cast<double>(counts[k]) : mode == "IDF" ? weight : static_cast<double>(counts[k]) * weight;
      y.set(row * out + indexes[k], value);
    }
  }
}

}  // namespace

void register_text(Registry& r) { r.add("TfIdfVectorizer", tf_idf); }

}  // namespace lathe::reference
