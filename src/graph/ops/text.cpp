#include "graph/ops/axes.h"
#include "graph/ops/families.h"

namespace lathe::ops {
namespace {

using Ints = std::vector<int64_t>;

// [C] or [N, C] of words by number: one column of the output for each index of the pool.
void infer_tf_idf(InferContext& c) {
  const Node& n = c.node();
  if (!n.get_string_list("pool_strings").empty()) fail(ErrorKind::kUnsupported, "TfIdfVectorizer of strings is not supported");
  c.expect_rank(0, 1, 2);
  int64_t columns = 0;
  for (int64_t index : n.get_ints("ngram_indexes")) {
    check_model(index >= 0 && index < (int64_t{1} << 24), "an entry of ngram_indexes is {}", index);
    columns = std::max(columns, index + 1);
  }
  std::optional<Shape> shape = c.shape();
  if (shape) shape->back() = columns;
  c.set_output(0, DType::kF32, shape);
}

}  // namespace

void declare_text(OpRegistry& r) {
  r.add({.name = "TfIdfVectorizer",
         .attributes = {{"max_gram_length", int64_t{1}, true}, {"max_skip_count", int64_t{0}, true}, {"min_gram_length", int64_t{1}, true},
                        {"mode", std::string("TF"), true}, {"ngram_counts", Ints(), true}, {"ngram_indexes", Ints(), true},
                        {"pool_int64s", Ints()}, {"pool_strings", std::vector<std::string>()}, {"weights", std::vector<float>()}},
         .infer = infer_tf_idf});
}

}  // namespace lathe::ops
