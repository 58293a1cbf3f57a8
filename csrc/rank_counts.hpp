// Count the tokens that stand before given tokens in a row of logits. Standard C++ only.
#pragma once

#include <cstdint>
#include <vector>

namespace pyengine {

// For each target token of a row, the number of tokens with a higher logit, or an equal one and a
// lower id; -1 for the target -1. The others must lie in [0, n_tokens). -0.0 equals +0.0,
// infinities are legal; a row that holds NaN gets some numbers, not the same on every machine.
// Repeated targets are counted once. Keeps O(n_targets) scratch memory from row to row.
template <typename T>
class RankCounter {
public:
    void count(const T* logits, std::int64_t n_tokens, const std::int64_t* targets,
               std::int64_t n_targets, std::int64_t* ranks);

private:
    void count_tokens(const T* logits, std::int64_t n_tokens);

    std::vector<std::int64_t> tokens_;  // ascending, distinct
    std::vector<std::int64_t> before_;  // their ranks
    std::vector<T> bounds_;             // their logits
};

extern template class RankCounter<float>;
extern template class RankCounter<double>;

}  // namespace pyengine
