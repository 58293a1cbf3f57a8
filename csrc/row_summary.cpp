#include "row_summary.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "rank_counts.hpp"
#include "row_loops.hpp"

namespace pyengine {
namespace {

constexpr int kHalf = kTokensPerGroup / 2;
constexpr int kLanes = 256;  // separate sums, so that none is long and all can be vectorised

PYENGINE_INLINE double exponential(double d) { return std::exp(d); }

// For d in [-80, 0], or NaN: 2^n * exp(r) with |r| <= log(2) / 2, and Cephes' polynomial for exp.
PYENGINE_INLINE float exponential(float d) {
    constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    const float shifted = d * 1.44269504f + kRound;
    const float n = shifted - kRound;
    const float r = (d - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    std::uint32_t bits;  // n stands in the lowest bits of `shifted`; moved, it is an exponent
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return p * power;
}

template <typename T>
PYENGINE_INLINE T larger(T a, T b) {
    return a > b ? a : b;
}

template <typename T>
PYENGINE_INLINE T smaller(T a, T b) {
    return a < b ? a : b;
}

template <typename T>
PYENGINE_INLINE void find_extremes(const T* z, std::int64_t n, T* maxima, T* minima) {
    for (; n >= kTokensPerGroup; n -= kTokensPerGroup, z += kTokensPerGroup) {
        T high[kHalf];
        T low[kHalf];
        for (int i = 0; i < kHalf; ++i) {
            high[i] = larger(z[i], z[i + kHalf]);
            low[i] = smaller(z[i], z[i + kHalf]);
        }
        for (int width = kHalf / 2; width > 0; width /= 2) {
            for (int i = 0; i < width; ++i) {
                high[i] = larger(high[i], high[i + width]);
                low[i] = smaller(low[i], low[i + width]);
            }
        }
        *maxima++ = high[0];
        *minima++ = low[0];
    }
    if (n == 0) return;
    T high = z[0];
    T low = z[0];
    for (std::int64_t i = 1; i < n; ++i) {
        high = larger(z[i], high);
        low = smaller(z[i], low);
    }
    *maxima = high;
    *minima = low;
}

template <typename T>
PYENGINE_INLINE void add_exponentials(const T* z, std::int64_t n, T highest, double* s,
                                      double* u) {
    constexpr T kSmallest = sizeof(T) == sizeof(float) ? -80 : -700;
    T sums[kLanes] = {};
    T moments[kLanes] = {};
    for (std::int64_t first = 0; first < n; first += kLanes) {
        const std::int64_t width = std::min<std::int64_t>(n - first, kLanes);
        for (std::int64_t i = 0; i < width; ++i) {
            const T below = z[first + i] - highest;
            const T d = z[first + i] == highest ? 0 : below;
            const T bounded = d < kSmallest ? kSmallest : d;  // hands NaN on
            const T full = exponential(bounded);
            const T e = d < kSmallest ? 0 : full;
            sums[i] += e;
            moments[i] += e * bounded;
        }
    }
    *s = *u = 0;
    for (int i = 0; i < kLanes; ++i) {
        *s += static_cast<double>(sums[i]);
        *u += static_cast<double>(moments[i]);
    }
}

// The only functions that are cloned; templates cannot be.
PYENGINE_CLONES void extremes(const float* z, std::int64_t n, float* maxima, float* minima) {
    find_extremes(z, n, maxima, minima);
}
PYENGINE_CLONES void extremes(const double* z, std::int64_t n, double* maxima, double* minima) {
    find_extremes(z, n, maxima, minima);
}
PYENGINE_CLONES void exponentials(const float* z, std::int64_t n, float highest, double* s,
                                  double* u) {
    add_exponentials(z, n, highest, s, u);
}
PYENGINE_CLONES void exponentials(const double* z, std::int64_t n, double highest, double* s,
                                  double* u) {
    add_exponentials(z, n, highest, s, u);
}

template <typename T>
void check_targets(const LogitRows<T>& rows) {
    for (std::int64_t i = 0; i < rows.n_rows * rows.n_targets; ++i) {
        if (rows.targets[i] >= -1 && rows.targets[i] < rows.n_tokens) continue;
        throw std::invalid_argument("row " + std::to_string(i / rows.n_targets) + ", slot " +
                                    std::to_string(i % rows.n_targets) + ": target " +
                                    std::to_string(rows.targets[i]) + " is outside [-1, " +
                                    std::to_string(rows.n_tokens) + ")");
    }
}

template <typename T>
void summarize(const LogitRows<T>& rows, int n_threads, const RowSummaries<T>& out) {
    check_targets(rows);
    const std::int64_t n_groups = (rows.n_tokens + kTokensPerGroup - 1) / kTokensPerGroup;
    for_rows(rows.n_rows, n_threads, [&](const auto& take) {
        RankCounter<T> counter;
        for (std::int64_t row = take(); row < rows.n_rows; row = take()) {
            const T* z = rows.logits + row * rows.n_tokens;
            T* maxima = out.maxima + row * n_groups;
            extremes(z, rows.n_tokens, maxima, out.minima + row * n_groups);
            out.highest[row] = *std::max_element(maxima, maxima + n_groups);
            exponentials(z, rows.n_tokens, out.highest[row], out.s + row, out.u + row);
            counter.count(z, rows.n_tokens, rows.targets + row * rows.n_targets, rows.n_targets,
                          out.ranks + row * rows.n_targets);
        }
    });
}

}  // namespace

void summarize_rows(const LogitRows<float>& rows, int n_threads, const RowSummaries<float>& out) {
    summarize(rows, n_threads, out);
}

void summarize_rows(const LogitRows<double>& rows, int n_threads,
                    const RowSummaries<double>& out) {
    summarize(rows, n_threads, out);
}

}  // namespace pyengine
