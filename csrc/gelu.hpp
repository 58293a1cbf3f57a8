// GPT-2's activation: 0.5 x (1 + tanh u) == x / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3).
#pragma once

#include <cstdint>

namespace pyengine {

// Write the activations of values [n_rows, n_columns] to `out`, which is `values` or apart from it.
// Return the number of NaN in the rows whose id is not negative; as in torch, -inf becomes one.
// n_threads 0: one per hardware thread.
std::int64_t gelu_tanh(const float* values, const std::int64_t* ids, std::int64_t n_rows,
                       std::int64_t n_columns, int n_threads, float* out);

}  // namespace pyengine
