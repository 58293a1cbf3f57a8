#include "gelu.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "row_loops.hpp"

namespace pyengine {
namespace {

constexpr int kBlock = 128;  // values computed at once
constexpr std::int64_t kGrain = 1 << 14;  // values that a thread takes at once

template <typename To, typename From>
PYENGINE_INLINE To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// t within [-126, 128]. Integers, because compilers follow each side of a comparison of floats and
// divide twice: unsigned, floats below -126 are the largest; signed, those above 128. NaN is lost.
PYENGINE_INLINE float bounded(float t) {
    const std::uint32_t low = std::min(bits_as<std::uint32_t>(t), 0xC2FC0000u);
    return bits_as<float>(std::min(bits_as<std::int32_t>(low), 0x43000000));
}

// For t in [-126, 128]: 2^n * 2^f with |f| <= 1/2, and Cephes' polynomial; inf from 127.5.
PYENGINE_INLINE float power_of_two(float t) {
    constexpr float kRound = 12582912.0f + 127.0f;  // adding 1.5 * 2^23 rounds to an integer
    const float shifted = t + kRound;
    const float f = t - (shifted - kRound);
    float p = 1.535336188319500e-4f;
    p = p * f + 1.339887440266574e-3f;
    p = p * f + 9.618437357674640e-3f;
    p = p * f + 5.550332471162809e-2f;
    p = p * f + 2.402264791363012e-1f;
    p = p * f + 6.931472028550421e-1f;
    p = p * f + 1.0f;
    // n + 127 stands in the lowest bits of `shifted`; moved, it is the exponent.
    return p * bits_as<float>(bits_as<std::uint32_t>(shifted) << 23);
}

PYENGINE_INLINE float gelu_tanh(float x) {
    constexpr double kScale = -2 * 0.79788456080286536 * 1.4426950408889634;  // of u, for 2^t
    constexpr auto kLinear = static_cast<float>(kScale);
    constexpr auto kCubic = static_cast<float>(kScale * 0.044715);
    return x / (1.0f + power_of_two(bounded(x * (kLinear + kCubic * (x * x)))));
}

// Return the number of NaN. Results are copied, since `out` may be `x`.
PYENGINE_INLINE int compute_block(const float* x, float* out) {
    float y[kBlock];
    for (int i = 0; i < kBlock; ++i) y[i] = gelu_tanh(x[i]);
    int n_nan = 0;
    for (int i = 0; i < kBlock; ++i) n_nan += y[i] != y[i];
    std::memcpy(out, y, sizeof y);
    return n_nan;
}

// The rest goes through the same loop, so that no result depends on where a value stands.
PYENGINE_CLONES std::int64_t compute(const float* x, std::int64_t n, float* out) {
    std::int64_t n_nan = 0;
    std::int64_t at = 0;
    for (; at + kBlock <= n; at += kBlock) n_nan += compute_block(x + at, out + at);
    if (at == n) return n_nan;
    float rest[kBlock] = {};
    std::copy(x + at, x + n, rest);
    n_nan += compute_block(rest, rest);
    std::copy(rest, rest + (n - at), out + at);
    return n_nan;
}

}  // namespace

std::int64_t gelu_tanh(const float* values, const std::int64_t* ids, std::int64_t n_rows,
                       std::int64_t n_columns, int n_threads, float* out) {
    const std::int64_t step = kGrain / std::max<std::int64_t>(n_columns, 1) + 1;
    const std::int64_t n_steps = (n_rows + step - 1) / step;
    std::atomic<std::int64_t> n_nan{0};
    for_rows(n_steps, n_threads, [&](const auto& take) {
        std::int64_t found = 0;
        for (std::int64_t i = take(); i < n_steps; i = take()) {
            for (std::int64_t row = i * step; row < std::min(n_rows, (i + 1) * step); ++row) {
                const std::int64_t at = row * n_columns;
                const std::int64_t n = compute(values + at, n_columns, out + at);
                if (ids[row] >= 0) found += n;
            }
        }
        n_nan += found;
    });
    return n_nan;
}

}  // namespace pyengine
