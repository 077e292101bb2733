// Loops over blocks of rows or numbers whose sums are f32, and f64 over blocks: the same however many threads there are.
#pragma once

#include <algorithm>

#include "core/parallel.h"

namespace lathe {

inline int64_t blocks_of(int64_t count, int64_t size) { return (count + size - 1) / size; }
// f(first, how many, block) for each block of `size`, at least `grain` blocks a thread.
template <class F>
void over_blocks(int64_t count, int64_t size, int64_t grain, F&& f) {
  parallel_for(blocks_of(count, size), grain, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) f(block * size, std::min(size, count - block * size), block);
  });
}

}  // namespace lathe
