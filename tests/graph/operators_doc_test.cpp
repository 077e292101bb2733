// docs/OPERATORS.md lists exactly the operators that lathe knows.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "graph/op.h"

namespace lathe {
namespace {

TEST(OperatorsDoc, ListsAllOperators) {
  std::vector<std::string> known, listed;
  for (const Op* op : all_ops()) known.push_back((op->domain.empty() ? "" : op->domain + "::") + op->name);
  std::ifstream file(LATHE_SOURCE "/docs/OPERATORS.md");
  ASSERT_TRUE(file);
  for (std::string line; std::getline(file, line);)  // "- `Name`", one a line
    if (line.starts_with("- `") && line.ends_with("`")) listed.push_back(line.substr(3, line.size() - 4));
  std::sort(known.begin(), known.end());
  std::sort(listed.begin(), listed.end());
  EXPECT_EQ(known, listed);
}

}  // namespace
}  // namespace lathe
