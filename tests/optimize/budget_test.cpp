#include "optimize/budget.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace lathe {
namespace {

using testing::HasSubstr;

std::string fault_of(const std::string& text) {
  try {
    parse_budget(text);
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUsage) << text;
    return e.what();
  }
  return "";
}

double value_of(const std::string& text) {
  Budget b = parse_budget(text);
  EXPECT_EQ(b.limits.size(), 1u) << text;
  return b.limits[0].value;
}

TEST(Budget, ReadsEveryFieldAndUnit) {
  EXPECT_DOUBLE_EQ(value_of("latency<=5ms"), 5e-3);
  EXPECT_DOUBLE_EQ(value_of("latency<=250us"), 250e-6);
  EXPECT_DOUBLE_EQ(value_of("latency<=250µs"), 250e-6);
  EXPECT_DOUBLE_EQ(value_of("latency<0.5 s"), 0.5);
  EXPECT_DOUBLE_EQ(value_of("memory<=64MiB"), 64.0 * 1048576);
  EXPECT_DOUBLE_EQ(value_of("memory<=64MB"), 64e6);
  EXPECT_DOUBLE_EQ(value_of("size<=512kB"), 512e3);
  EXPECT_DOUBLE_EQ(value_of("size<=1.5GiB"), 1.5 * 1073741824);
  EXPECT_DOUBLE_EQ(value_of("drop<=1%"), 0.01);
  EXPECT_DOUBLE_EQ(value_of("drop <= 0.5 points"), 0.005);
  EXPECT_DOUBLE_EQ(value_of("error<2%"), 0.02);
  EXPECT_DOUBLE_EQ(value_of("agreement>=99%"), 0.99);
}

TEST(Budget, ReadsLists) {
  Budget b = parse_budget("  latency<=5ms , drop<1%,\tsize <= 10 MB ");
  ASSERT_EQ(b.limits.size(), 3u);
  EXPECT_FALSE(b.limits[0].strict);
  EXPECT_TRUE(b.limits[1].strict);
  EXPECT_TRUE(b.asks_for(BudgetField::kSize));
  EXPECT_FALSE(b.asks_for(BudgetField::kMemory));
  EXPECT_EQ(to_string(b), "latency <= 5 ms, drop < 1 points, size <= 10 MB");
}

TEST(Budget, FaultsNameTheirPosition) {
  EXPECT_THAT(fault_of(""), HasSubstr("empty"));
  EXPECT_THAT(fault_of("latensy<=5ms"), HasSubstr("position 1: 'latensy' is not one of"));
  EXPECT_THAT(fault_of("latency<=5ms, speed<=2%"), HasSubstr("position 15"));
  EXPECT_THAT(fault_of("latency=5ms"), HasSubstr("position 8: expected <= or <"));
  EXPECT_THAT(fault_of("latency>=5ms"), HasSubstr("upper bound"));
  EXPECT_THAT(fault_of("agreement<=5%"), HasSubstr("lower bound"));
  EXPECT_THAT(fault_of("latency<=ms"), HasSubstr("position 10: expected a number"));
  EXPECT_THAT(fault_of("latency<=5"), HasSubstr("needs a unit"));
  EXPECT_THAT(fault_of("latency<=5MB"), HasSubstr("'MB' is no unit of latency"));
  EXPECT_THAT(fault_of("drop<=1ms"), HasSubstr("no unit of drop"));
  EXPECT_THAT(fault_of("latency<=-5ms"), HasSubstr("negative"));
  EXPECT_THAT(fault_of("latency<=5ms drop<=1%"), HasSubstr("expected ','"));
  EXPECT_THAT(fault_of("latency<=5ms,"), HasSubstr("position 14"));
  EXPECT_THAT(fault_of("drop<=1%, drop<=2%"), HasSubstr("twice"));
  for (const char* text : {",", "<", "latency", "latency<", "latency<=nanms", "latency<=infms", "latency<=1e999ms", "latency<=5ms;", "\xff\xfe"})
    EXPECT_NE(fault_of(text), "") << text;
}

TEST(Budget, ChecksBothWays) {
  Budget b = parse_budget("latency<=5ms, size<1kB, agreement>=99%, drop<=1%");
  Figures f{.latency = 5e-3, .memory = {}, .size = 1000.0, .drop = 0.03, .error = {}, .agreement = 0.98};
  std::vector<Miss> misses = check(b, f);
  ASSERT_EQ(misses.size(), 3u);  // strictly less than 1000 bytes, agreement, drop
  EXPECT_EQ(misses[0].limit.field, BudgetField::kSize);
  EXPECT_THAT(misses[1].text(), HasSubstr("agreement is 98 %, 1 points below"));
  EXPECT_THAT(misses[2].text(), HasSubstr("drop is 3 points, 2 points above what drop <= 1 points allows"));
  f = {.latency = 4e-3, .memory = {}, .size = 999.0, .drop = -0.02, .error = {}, .agreement = 0.99};
  EXPECT_TRUE(check(b, f).empty());
  f.drop.reset();
  EXPECT_THROW(check(b, f), Error);
  EXPECT_NEAR(parse_budget("latency<=5ms").limits[0].excess(7.5e-3), 0.5, 1e-9);
}

}  // namespace
}  // namespace lathe
