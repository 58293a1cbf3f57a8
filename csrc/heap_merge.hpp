// Merge the top-k heaps of any number of shards, exactly. Standard C++ only.
#pragma once

#include <cstdint>
#include <vector>

namespace pyengine {

// One shard's heaps: two row-major arrays [n_keys, width], each row sorted best first.
// An unfilled slot holds id -1 and score NaN; unfilled slots come last.
struct Heaps {
    const float* scores;
    const std::int64_t* ids;
    std::int64_t width;
};

struct HeapMergeOptions {
    std::int64_t k = 1;
    // n_units + 1 ascending ids, or empty. Unit u owns the ids [unit_starts[u], unit_starts[u+1])
    // and only its best entry is kept.
    const std::int64_t* unit_starts = nullptr;
    std::int64_t n_unit_starts = 0;
    bool largest = true;
    int n_threads = 0;  // 0: one per hardware thread
};

// For every key, write the k best entries of all shards under the total order
// (score descending, id ascending), or (score ascending, id ascending) when !largest.
//
// -0.0 equals +0.0 and is written as +0.0; infinities are legal. Of several entries with one id, or
// of one unit, the best is kept. Rows with fewer than k entries end in score NaN, id -1. The output
// arrays are [n_keys, k]. The result depends neither on the order of the shards nor on n_threads,
// and merging merged shards again gives the same bits (associative, commutative, idempotent).
//
// Throws std::invalid_argument naming shard, key and slot when the input breaks these rules; the
// output is then unspecified. Reads every input once; scratch memory is O(shards + k) per thread.
void merge_heaps(const std::vector<Heaps>& shards, std::int64_t n_keys,
                 const HeapMergeOptions& options, float* out_scores, std::int64_t* out_ids);

}  // namespace pyengine
