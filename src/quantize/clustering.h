// One-dimensional k-means: the k values that numbers are nearest to, with the least sum of squared distances.
// Up to kExact different numbers it is exact (dynamic programming over the sorted numbers; Wang and Song 2011, "Ckmeans.1d.dp",
// with divide and conquer over the split points); beyond, the numbers are first gathered in as many neighbourhoods, and Lloyd's
// iterations over all numbers follow.
#pragma once

#include <span>
#include <vector>

namespace lathe {

constexpr int kExact = 2048;

// Ascending, at most k of them. `weight`: how much each number counts, as many as numbers.
std::vector<float> cluster(std::span<const float> x, std::span<const float> weight, int k);

}  // namespace lathe
