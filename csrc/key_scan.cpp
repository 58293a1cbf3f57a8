#include "key_scan.hpp"

#include <algorithm>

#include "row_loops.hpp"

namespace pyengine {
namespace {

constexpr int kWide = 64;  // values dismissed by one branch
constexpr int kWord = 32;
constexpr int kLine = 16;  // values of a cache line
constexpr std::int64_t kMostEntries = 4096;

// A table, since a vector of shifts is made of two vectors: compilers load this one.
struct Bits {
    std::uint32_t of[kWord];
    constexpr Bits() : of() {
        for (int i = 0; i < kWord; ++i) of[i] = std::uint32_t{1} << i;
    }
};
constexpr Bits kBit;

// "Not below", so that NaN are among them.
PYENGINE_INLINE bool any_reaches(const float* x, const float* bounds, float sign) {
    int any = 0;
    for (int i = 0; i < kWide; ++i) any |= !(sign * x[i] < bounds[i]);
    return any;
}

// Make a word whose bit i says whether x[i] reaches its bound, and write those i after `first`.
PYENGINE_INLINE int append_reaching(const float* x, const float* bounds, float sign, int n,
                                    int first, std::uint16_t* found) {
    std::uint32_t reaches = 0;
    for (int i = 0; i < n; ++i) reaches |= !(sign * x[i] < bounds[i]) ? kBit.of[i] : 0;
    int n_found = 0;
    for (; reaches; reaches &= reaches - 1) {
        found[n_found++] = static_cast<std::uint16_t>(first + __builtin_ctz(reaches));
    }
    return n_found;
}

PYENGINE_INLINE void prefetch(const float* x) {
    for (int i = 0; i < kWide; i += kLine) __builtin_prefetch(x + i);
}

PYENGINE_INLINE std::int64_t count_above(const std::int32_t* scores, std::int64_t n,
                                         std::int32_t cut) {
    std::int32_t above = 0;
    for (std::int64_t i = 0; i < n; ++i) above += scores[i] > cut;
    return above;
}

}  // namespace

PYENGINE_CLONES int find_reaching(const float* x, const float* bounds, float sign, int n,
                                  const float* next, std::uint16_t* found) {
    int n_found = 0;
    int at = 0;
    for (; at + kWide <= n; at += kWide) {
        prefetch(next + at);
        if (!any_reaches(x + at, bounds + at, sign)) continue;
        for (int i = at; i < at + kWide; i += kWord) {
            n_found += append_reaching(x + i, bounds + i, sign, kWord, i, found + n_found);
        }
    }
    for (; at < n; at += kWord) {
        const int width = std::min(kWord, n - at);
        n_found += append_reaching(x + at, bounds + at, sign, width, at, found + n_found);
    }
    return n_found;
}

PYENGINE_CLONES int take_best(const float* x, float sign, int n, std::int32_t number,
                              const float* next, float* best, std::int32_t* best_number) {
    for (int i = 0; i < n; i += kLine) __builtin_prefetch(next + i);
    int n_nan = 0;
    for (int i = 0; i < n; ++i) {
        const float score = sign * x[i];
        const bool better = score > best[i];
        best[i] = better ? score : best[i];
        best_number[i] = better ? number : best_number[i];
        n_nan += score != score;
    }
    return n_nan;
}

PYENGINE_CLONES std::int64_t keep_high_scores(std::int64_t* entries, std::int64_t n, std::int64_t k,
                                              std::int64_t most, std::int64_t* cut) {
    if (n > kMostEntries) return n;
    std::int32_t scores[kMostEntries];
    std::int32_t lowest = INT32_MAX;
    std::int32_t highest = INT32_MIN;
    for (std::int64_t i = 0; i < n; ++i) {
        scores[i] = static_cast<std::int32_t>(entries[i] >> 32);
        lowest = std::min(lowest, scores[i]);
        highest = std::max(highest, scores[i]);
    }
    // At least k are above `low`, fewer above `high`.
    std::int64_t low = std::int64_t{lowest} - 1;
    std::int64_t high = highest;
    std::int64_t n_above = n;
    while (n_above > most && high - low > 1) {
        const std::int64_t middle = low + (high - low) / 2;
        const std::int64_t above = count_above(scores, n, static_cast<std::int32_t>(middle));
        (above < k ? high : low) = middle;
        if (above >= k) n_above = above;
    }
    if (n_above > most) return n;
    std::int64_t kept = 0;
    for (std::int64_t i = 0; i < n; ++i) {
        entries[kept] = entries[i];
        kept += scores[i] > low;
    }
    *cut = low * (std::int64_t{1} << 32) + 0xFFFFFFFF;
    return kept;
}

PYENGINE_CLONES void order_distinct(const std::int64_t* entries, std::int64_t n,
                                    std::int64_t* ordered) {
    std::int64_t n_above[kFew] = {};
    for (std::int64_t other = 0; other < n; ++other) {
        const std::int64_t entry = entries[other];
        for (std::int64_t i = 0; i < n; ++i) n_above[i] += entry > entries[i];
    }
    for (std::int64_t i = 0; i < n; ++i) ordered[n_above[i]] = entries[i];
}

}  // namespace pyengine
