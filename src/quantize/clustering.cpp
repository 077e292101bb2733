#include "quantize/clustering.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace lathe {
namespace {

struct Point {
  double x, weight;
};

// Sums over points [0, i).
struct Sums {
  std::vector<double> weight, first, second;
  explicit Sums(const std::vector<Point>& points) : weight(points.size() + 1), first(points.size() + 1), second(points.size() + 1) {
    for (size_t i = 0; i < points.size(); ++i) {
      weight[i + 1] = weight[i] + points[i].weight;
      first[i + 1] = first[i] + points[i].weight * points[i].x;
      second[i + 1] = second[i] + points[i].weight * points[i].x * points[i].x;
    }
  }
  double mean(size_t begin, size_t end) const {
    const double w = weight[end] - weight[begin];
    return w > 0 ? (first[end] - first[begin]) / w : 0;
  }
  double cost(size_t begin, size_t end) const {
    const double w = weight[end] - weight[begin], s = first[end] - first[begin];
    return w > 0 ? std::max(0.0, second[end] - second[begin] - s * s / w) : 0;
  }
};

// Best last split for every end in [low, high], which grows with the end.
void fill(const Sums& sums, const std::vector<double>& before, std::vector<double>& cost, std::vector<size_t>& split, size_t low, size_t high,
          size_t split_low, size_t split_high) {
  if (low > high) return;
  const size_t middle = low + (high - low) / 2;
  cost[middle] = std::numeric_limits<double>::infinity();
  split[middle] = split_low;
  for (size_t s = split_low; s <= std::min(middle, split_high); ++s) {
    const double c = before[s] + sums.cost(s, middle);
    if (c < cost[middle]) cost[middle] = c, split[middle] = s;
  }
  if (middle > low) fill(sums, before, cost, split, low, middle - 1, split_low, split[middle]);
  fill(sums, before, cost, split, middle + 1, high, split[middle], split_high);
}

std::vector<double> exact(const std::vector<Point>& points, int k) {
  const size_t n = points.size();
  // Around the middle: squares of numbers far from zero lose their differences.
  std::vector<Point> centred = points;
  const double shift = points[n / 2].x;
  for (Point& p : centred) p.x -= shift;
  const Sums sums(centred);
  std::vector<double> cost(n + 1), next(n + 1);
  for (size_t i = 0; i <= n; ++i) cost[i] = sums.cost(0, i);
  std::vector<std::vector<size_t>> splits(1, std::vector<size_t>(n + 1, 0));
  for (int used = 1; used < k; ++used) {
    splits.emplace_back(n + 1, 0);
    fill(sums, cost, next, splits.back(), 0, n, 0, n);
    std::swap(cost, next);
  }
  std::vector<double> centres;
  size_t end = n;
  for (int used = k - 1; used >= 0; --used) {
    const size_t begin = splits[static_cast<size_t>(used)][end];
    if (begin < end) centres.push_back(sums.mean(begin, end) + shift);
    end = begin;
  }
  std::reverse(centres.begin(), centres.end());
  return centres;
}

}  // namespace

std::vector<float> cluster(std::span<const float> x, std::span<const float> weight, int k) {
  std::vector<size_t> order(x.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return x[a] < x[b]; });
  std::vector<Point> points;
  for (size_t i : order) {
    const Point p{static_cast<double>(x[i]), static_cast<double>(weight[i])};
    if (!points.empty() && points.back().x == p.x) points.back().weight += p.weight;
    else points.push_back(p);
  }
  if (points.empty()) return {0};
  if (points.size() <= static_cast<size_t>(k)) {
    std::vector<float> all;
    all.reserve(points.size());
    for (const Point& p : points) all.push_back(static_cast<float>(p.x));
    return all;
  }
  std::vector<double> centres;
  if (points.size() <= kExact) {
    centres = exact(points, k);
  } else {
    // Neighbourhoods: half of the borders at equal numbers of points, half at equal distances, so that tails are seen.
    std::vector<double> borders;
    const double least = points.front().x, most = points.back().x;
    constexpr int kHalf = kExact / 2;
    borders.reserve(2 * kHalf);
    for (int i = 1; i < kHalf; ++i) {
      borders.push_back(points[points.size() * static_cast<size_t>(i) / kHalf].x);
      borders.push_back(least + (most - least) * i / kHalf);
    }
    std::sort(borders.begin(), borders.end());
    std::vector<Point> gathered;
    size_t at = 0;
    for (size_t b = 0; b <= borders.size(); ++b) {
      Point sum{0, 0};
      for (; at < points.size() && (b == borders.size() || points[at].x < borders[b]); ++at) {
        sum.x += points[at].x * points[at].weight;
        sum.weight += points[at].weight;
      }
      if (sum.weight > 0) gathered.push_back({sum.x / sum.weight, sum.weight});
    }
    centres = exact(gathered, std::min(k, static_cast<int>(gathered.size())));
    const Sums sums(points);
    for (int iteration = 0; iteration < 30; ++iteration) {
      bool moved = false;
      size_t begin = 0;
      for (size_t c = 0; c < centres.size(); ++c) {
        size_t end = points.size();
        if (c + 1 < centres.size()) {
          const double border = centres[c] + (centres[c + 1] - centres[c]) / 2;
          end = static_cast<size_t>(std::lower_bound(points.begin(), points.end(), border, [](const Point& p, double v) { return p.x < v; }) - points.begin());
        }
        if (begin < end) {
          const double mean = sums.mean(begin, end);
          moved |= mean != centres[c];
          centres[c] = mean;
        }
        begin = std::max(begin, end);
      }
      if (!moved) break;
    }
  }
  std::vector<float> result;
  result.reserve(centres.size());
  for (double c : centres) result.push_back(static_cast<float>(c));
  return result;
}

}  // namespace lathe
