// Loops over the values of one position, many keys at once, that compilers vectorise.
#pragma once

#include <cstdint>

namespace pyengine {

// Write the i < n with sign * x[i] >= bounds[i] to `found`, ascending; return how many there are.
// NaN reaches nothing. n < 65536.
int find_reaching(const float* x, const float* bounds, float sign, int n, std::uint16_t* found);

// Where sign * x[i] > best[i], put it there and `number` into best_number[i]; NaN is never larger.
void take_best(const float* x, float sign, int n, std::int32_t number, float* best,
               std::int32_t* best_number);

}  // namespace pyengine
