#include "key_scan.hpp"

#include <algorithm>

#include "row_loops.hpp"

namespace pyengine {
namespace {

constexpr int kWide = 64;  // values dismissed by one branch
constexpr int kWord = 32;

// A table, since a vector of shifts is made of two vectors: compilers load this one.
struct Bits {
    std::uint32_t of[kWord];
    constexpr Bits() : of() {
        for (int i = 0; i < kWord; ++i) of[i] = std::uint32_t{1} << i;
    }
};
constexpr Bits kBit;

PYENGINE_INLINE bool any_reaches(const float* x, const float* bounds, float sign) {
    int any = 0;
    for (int i = 0; i < kWide; ++i) any |= sign * x[i] >= bounds[i];
    return any;
}

// Return a word whose bit i says whether x[i] reaches its bound, and write those i after `first`.
PYENGINE_INLINE int append_reaching(const float* x, const float* bounds, float sign, int n,
                                    int first, std::uint16_t* found) {
    std::uint32_t reaches = 0;
    for (int i = 0; i < n; ++i) reaches |= sign * x[i] >= bounds[i] ? kBit.of[i] : 0;
    int n_found = 0;
    for (; reaches; reaches &= reaches - 1) {
        found[n_found++] = static_cast<std::uint16_t>(first + __builtin_ctz(reaches));
    }
    return n_found;
}

}  // namespace

PYENGINE_CLONES int find_reaching(const float* x, const float* bounds, float sign, int n,
                                  std::uint16_t* found) {
    int n_found = 0;
    int at = 0;
    for (; at + kWide <= n; at += kWide) {
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

PYENGINE_CLONES void take_best(const float* x, float sign, int n, std::int32_t number, float* best,
                               std::int32_t* best_number) {
    for (int i = 0; i < n; ++i) {
        const float score = sign * x[i];
        const bool better = score > best[i];
        best[i] = better ? score : best[i];
        best_number[i] = better ? number : best_number[i];
    }
}

}  // namespace pyengine
