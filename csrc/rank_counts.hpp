// Count the tokens that stand before given tokens in rows of logits. Standard C++ only.
#pragma once

#include <cstdint>

namespace pyengine {

// For row r and target t of [n_rows, n_targets], write the number of tokens with a higher logit
// than the target's, or an equal one and a lower id; -1 where the target is -1.
//
// logits is row-major [n_rows, n_tokens]; targets and ranks are row-major [n_rows, n_targets].
// -0.0 equals +0.0, infinities are legal; a row that holds NaN gets some numbers, not the same on
// every machine. Repeated targets of a row are counted once. n_threads 0: one per hardware thread;
// the result does not depend on it. Scratch memory is O(n_targets) per thread.
//
// Throws std::invalid_argument naming row and slot when a target is below -1 or >= n_tokens; ranks
// are then unspecified.
void rank_counts(const float* logits, const std::int64_t* targets, std::int64_t n_rows,
                 std::int64_t n_tokens, std::int64_t n_targets, int n_threads,
                 std::int64_t* ranks);
void rank_counts(const double* logits, const std::int64_t* targets, std::int64_t n_rows,
                 std::int64_t n_tokens, std::int64_t n_targets, int n_threads,
                 std::int64_t* ranks);

}  // namespace pyengine
