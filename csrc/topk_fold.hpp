// The k best entries of every key over a stream of activations. Standard C++ only.
#pragma once

#include <cstdint>

namespace pyengine {

// What is kept of n_keys keys, as entries (see topk_entries.hpp); the arrays are the caller's, row-major. Each key has room for
// `capacity` > k entries, in any order. When it is full, all but the best k are dropped and the
// threshold rises to the worst of them.
struct TopKHeaps {
    std::int64_t* entries;     // [n_keys, capacity]
    std::int32_t* counts;      // [n_keys], entries in use, below capacity
    std::int64_t* thresholds;  // [n_keys]; only entries above it can be among the best
    std::int64_t* newest;      // [n_keys], the largest id so far, -1: none
    std::uint8_t* repeats;     // [n_keys], whether an entry may be there twice
    std::int64_t k;
    std::int64_t capacity;
};

// What TopKHeaps were when the caller copied their counts. Entries that stood there then are saved
// here before a key is first tidied up; until then they stay where they are. `kept` may be null.
struct TopKUndo {
    const std::int32_t* counts;  // [n_keys], of then
    std::uint8_t* saved;         // [n_keys], whether `kept` holds the entries
    std::int64_t* kept;          // [n_keys, capacity]
};

// Activations [n_rows, n_positions, n_keys], keys adjacent, and the ids of the positions, row-major
// [n_rows, n_positions], -1 where a position does not compete. Strides in elements.
struct Activations {
    const float* values;
    const std::int64_t* ids;
    std::int64_t n_rows;
    std::int64_t n_positions;
    std::int64_t n_keys;
    std::int64_t row_stride;
    std::int64_t position_stride;
};

struct TopKFoldOptions {
    float sign = 1;         // -1: the smallest activations are the best
    bool per_unit = false;  // only the best position of each row competes
    int n_threads = 1;      // 0: one per hardware thread
};

// Fold activations into heaps, whose arrays begin at the key of the first column. The best k are
// then the unique answer, whatever the order, the cut and the number of threads; the same position
// twice counts once. NaN never competes, infinities do. Returns the number of NaN at positions with an
// id. Throws std::invalid_argument for ids that
// do not ascend along a run of competing positions or exceed 2^32 - 2.
std::int64_t fold_topk(const TopKHeaps& heaps, const TopKUndo& undo, const Activations& batch,
                       const TopKFoldOptions& options);

// Write the best k distinct entries of every key, [n_keys, k], descending, then
// kNoEntry.
void best_entries(const TopKHeaps& heaps, std::int64_t n_keys, int n_threads, std::int64_t* out);

}  // namespace pyengine
