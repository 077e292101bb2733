// A graph run as it is planned and by the reference kernels alone, for tests of passes.
#pragma once

#include <gtest/gtest.h>

#include "graph/op.h"
#include "planner/plan.h"
#include "runtime/load.h"
#include "runtime/session.h"

namespace lathe::testing {

inline ValueId weights(Graph& g, const Shape& s, uint64_t seed) {
  Tensor t = random_tensor(DType::kF32, s, seed);
  for (int64_t i = 0; i < t.size(); ++i) t.set(i, t.get(i) - 0.5);
  return g.add_constant(t);
}

// Runs both ways; no step may be left to a reference kernel. Returns the number of transposes.
inline int compare(const Graph& graph, const std::string& text) {
  PlanOptions slow;
  slow.reference = true;
  slow.fuse = false;
  Session fast(make_plan(graph)), plain(make_plan(graph, slow));
  const std::vector<Tensor> inputs = random_inputs(fast.plan().graph, 5);
  const std::vector<Tensor>&a = fast.run(inputs), &b = plain.run(inputs);
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].shape(), b[i].shape()) << text;
    for (int64_t k = 0; k < a[i].size(); ++k)
      if (std::abs(a[i].get(k) - b[i].get(k)) > 1e-4 * std::max(1.0, std::abs(b[i].get(k)))) {
        ADD_FAILURE() << text << ": element " << k << " is " << a[i].get(k) << ", expected " << b[i].get(k);
        break;
      }
  }
  int references = 0, transposes = 0;
  for (const Step& s : fast.plan().steps) {
    references += !s.view && s.kernel_name.starts_with("reference");
    transposes += fast.plan().graph[s.node].op->name == "Transpose";
  }
  EXPECT_EQ(references, 0) << text << "\n" << print_plan(fast.plan());
  return transposes;
}

}  // namespace lathe::testing
