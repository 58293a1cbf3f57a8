// What rows of logits come to: where the best tokens are, and the sums of a softmax. Standard C++
// only.
#pragma once

#include <cstdint>

namespace pyengine {

constexpr std::int64_t kTokensPerGroup = 64;

// Row-major logits [n_rows, n_tokens], n_tokens >= 1, and target tokens [n_rows, n_targets].
template <typename T>
struct LogitRows {
    const T* logits;
    const std::int64_t* targets;
    std::int64_t n_rows;
    std::int64_t n_tokens;
    std::int64_t n_targets;
};

// Where the results go; n_groups = ceil(n_tokens / 64).
template <typename T>
struct RowSummaries {
    T* maxima;            // [n_rows, n_groups], the largest logit of each group of 64 tokens
    T* minima;            // likewise, the smallest
    T* highest;           // [n_rows], the largest logit of all
    double* s;            // [n_rows], sum over tokens of exp(d), d = logit - highest
    double* u;            // [n_rows], sum over tokens of exp(d) * d
    std::int64_t* ranks;  // [n_rows, n_targets], see RankCounter
};

// Fill in the results, in one pass over memory.
//
// exp is within 1e-7 of the truth (float; double: std::exp), and 0 where d < -80 (float) or -700,
// which a sum that holds exp(0) does not feel; -inf counts as nothing in u as well. d is 0 where a
// logit equals the highest, also for infinities. If a logit of a row is NaN, s and u are NaN and
// the rest of that row is unspecified. n_threads 0: one per hardware thread; the result does not
// depend on it. Throws std::invalid_argument naming row and slot for a target below -1 or
// >= n_tokens.
void summarize_rows(const LogitRows<float>& rows, int n_threads, const RowSummaries<float>& out);
void summarize_rows(const LogitRows<double>& rows, int n_threads, const RowSummaries<double>& out);

}  // namespace pyengine
