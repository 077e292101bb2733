// Places what lives for a while in a memory of addresses: rectangles in the plane of time and address that may not overlap
// (dynamic storage allocation). Heuristics first, then branch and bound.
#pragma once

#include <cstdint>
#include <vector>

namespace lathe {

// What keeps one address from its first part to its last. Parts follow each other in time: a residence, and behind it the outputs
// that take its place one after the other.
struct PackItem {
  struct Part {
    int first = 0, last = 0;  // steps, inclusive
    int64_t height = 0;
  };
  std::vector<Part> parts;
  int64_t address = 0;        // the answer
  int first() const { return parts.front().first; }
  int last() const { return parts.back().last; }
  int64_t height() const {
    int64_t most = 0;
    for (const Part& p : parts) most = p.height > most ? p.height : most;
    return most;
  }
};

enum class PackResult { kPlaced, kImpossible, kUnknown };

// The most that is alive at once: no packing is lower.
int64_t pack_bound(const std::vector<PackItem>& items);
// Greedy: best fit in several orders (size, area, lifetime, start), then in orders changed by what stands on top, until `height` is
// reached or `tries` are used up. Leaves the lowest packing in the items and returns its height.
int64_t pack_greedily(std::vector<PackItem>& items, int64_t height, int tries);
// Within `height`, or the proof that it is impossible, or kUnknown after `nodes` of the search. Exact: each packing can be pushed down until
// every item lies on the ground or on one that it overlaps in time, so the search places items by rising address, each as low as
// those below it allow; it gives up where what is left at a step no longer fits above what lies there.
PackResult pack_within(std::vector<PackItem>& items, int64_t height, int tries = 200, int64_t nodes = 200'000);

}  // namespace lathe
