// Intervals. All are of 95 %, all random choices by seed.
#pragma once

#include <cstdint>
#include <vector>

namespace lathe {

struct Interval {
  double value = 0, low = 0, high = 0;
};

double median(std::vector<double> values);
// Percentile bootstrap (Efron 1979) of the median.
Interval bootstrap_median(const std::vector<double>& values, uint64_t seed);
// The same of the mean.
Interval bootstrap_mean(const std::vector<double>& values, uint64_t seed);
// Wilson's interval (1927) of a share: holds for few samples and for shares near 0 and 1.
Interval wilson(int64_t hits, int64_t count);
// Difference of two shares measured on the same samples: `lost` were right only before, `won` only after.
// Agresti and Min 2005 (half a sample added to each cell), so that no difference seen on few samples is not
// taken for none.
Interval paired_difference(int64_t lost, int64_t won, int64_t count);
// McNemar's test (1947) in its exact form: how likely it is that `lost` and `won` differ so much or more when both ways are equally
// likely. Two-sided.
double mcnemar(int64_t lost, int64_t won);

}  // namespace lathe
