// Entries of streaming top-k: how they are packed, and how the best of them are found.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>

namespace pyengine {

// One int64 that orders by (score descending, id ascending): the float32 score in order-preserving
// bits, then the inverted 32-bit id. -0.0 counts as +0.0; NaN has no entry.
constexpr std::int64_t kNoEntry = INT64_MIN;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int kMostRounds = 32;  // of a selection, before a slower one that cannot be misled

inline std::int32_t ordered_bits(float score) {
    std::int32_t bits;
    std::memcpy(&bits, &score, sizeof bits);
    if (bits == INT32_MIN) bits = 0;  // -0.0
    return bits ^ ((bits >> 31) & INT32_MAX);
}

inline std::int64_t entry_of(float score, std::int64_t id) {
    const auto high = static_cast<std::uint64_t>(static_cast<std::int64_t>(ordered_bits(score)));
    return static_cast<std::int64_t>((high << 32) | (0xFFFFFFFFu - static_cast<std::uint32_t>(id)));
}

inline std::int64_t id_of(std::int64_t entry) { return 0xFFFFFFFF - (entry & 0xFFFFFFFF); }

// The lowest score with which an id of at least `lowest_id` can be above a threshold; infinity where
// none can.
inline float bound_of(std::int64_t threshold, std::int64_t lowest_id) {
    if (threshold == kNoEntry) return -kInfinity;
    auto ordered = static_cast<std::int32_t>(threshold >> 32);
    if (lowest_id >= id_of(threshold) && ordered < ordered_bits(kInfinity)) ++ordered;
    const std::int32_t bits = ordered ^ ((ordered >> 31) & INT32_MAX);
    float bound;
    std::memcpy(&bound, &bits, sizeof bound);
    return bound;
}

// Drop all but the first of equal entries; return how many are left, descending.
inline std::int64_t distinct(std::int64_t* entries, std::int64_t n) {
    std::sort(entries, entries + n, std::greater<std::int64_t>());
    return std::unique(entries, entries + n) - entries;
}

inline std::int64_t median(std::int64_t a, std::int64_t b, std::int64_t c) {
    return std::max(std::min(a, b), std::min(std::max(a, b), c));
}

// Move the k largest of n entries to the front; return how many those are. std::nth_element does
// the same in twice the time: here no branch depends on a single entry.
inline std::int64_t select_best(std::int64_t* entries, std::int64_t n, std::int64_t k) {
    std::int64_t first = 0;
    std::int64_t last = n;
    for (int round = 0; first < k && k < last; ++round) {
        if (round == kMostRounds) {
            std::nth_element(entries + first, entries + k, entries + last,
                             std::greater<std::int64_t>());
            break;
        }
        const std::int64_t middle = first + (last - first) / 2;
        const std::int64_t pivot = median(entries[first], entries[middle], entries[last - 1]);
        std::int64_t larger = first;  // where those above the pivot end
        for (std::int64_t i = first; i < last; ++i) {
            const std::int64_t entry = entries[i];
            entries[i] = entries[larger];
            entries[larger] = entry;
            larger += entry > pivot;
        }
        if (larger >= k) {
            last = larger;
            continue;
        }
        std::iter_swap(entries + larger, std::find(entries + larger, entries + last, pivot));
        first = larger + 1;
    }
    return std::min(n, k);
}

}  // namespace pyengine
