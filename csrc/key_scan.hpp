// Loops over the values of one position, many keys at once, that compilers vectorise.
#pragma once

#include <cstdint>

namespace pyengine {

// Write the i < n where sign * x[i] is NaN or reaches bounds[i], no NaN, to `found`, ascending;
// return how many there are. n < 65536. `next`: what is read after x, fetched meanwhile.
int find_reaching(const float* x, const float* bounds, float sign, int n, const float* next,
                  std::uint16_t* found);

// Where sign * x[i] > best[i], put it there and `number` into best_number[i]; NaN is never larger.
// Return the number of NaN.
int take_best(const float* x, float sign, int n, std::int32_t number, const float* next,
              float* best, std::int32_t* best_number);

// Drop low ones of n entries (see topk_entries.hpp), so that from k to `most` < n are left; return
// how many those are, and in `cut` an entry below them, not below any that was dropped. Where equal
// scores do not allow it, return n: then nothing has changed.
std::int64_t keep_high_scores(std::int64_t* entries, std::int64_t n, std::int64_t k,
                              std::int64_t most, std::int64_t* cut);

constexpr std::int64_t kFew = 128;

// Write n <= kFew entries, of which no two are equal, in descending order: faster than sorting them,
// since no branch depends on a single entry.
void order_distinct(const std::int64_t* entries, std::int64_t n, std::int64_t* ordered);

}  // namespace pyengine
