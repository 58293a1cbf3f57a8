#include "rank_counts.hpp"

#include <algorithm>
#include <future>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

// One loop, compiled for several instruction sets and chosen when the module is loaded. Sanitizers
// start after that choice and so cannot watch it.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define PYENGINE_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define PYENGINE_CLONES
#endif

namespace pyengine {
namespace {

constexpr std::int64_t kBlock = 4096;  // logits that stay in the first-level cache

// Add to found[i] how many of n logits are >= bounds[i] (OR_EQUAL), or > bounds[i]. Several bounds
// at once, since a single sum would wait for itself.
template <int WIDTH, bool OR_EQUAL, typename T>
inline __attribute__((always_inline)) void add_counts(const T* z, std::int64_t n, const T* bounds,
                                                      std::int64_t* found) {
    T bound[WIDTH];
    std::int32_t sum[WIDTH] = {};
    for (int i = 0; i < WIDTH; ++i) bound[i] = bounds[i];
    for (std::int64_t at = 0; at < n; ++at) {
        for (int i = 0; i < WIDTH; ++i) sum[i] += OR_EQUAL ? z[at] >= bound[i] : z[at] > bound[i];
    }
    for (int i = 0; i < WIDTH; ++i) found[i] += sum[i];
}

template <bool OR_EQUAL, typename T>
inline __attribute__((always_inline)) void add_all_counts(const T* z, std::int64_t n,
                                                          const T* bounds, std::int64_t n_bounds,
                                                          std::int64_t* found) {
    std::int64_t i = 0;
    for (; i + 4 <= n_bounds; i += 4) add_counts<4, OR_EQUAL>(z, n, bounds + i, found + i);
    for (; i < n_bounds; ++i) add_counts<1, OR_EQUAL>(z, n, bounds + i, found + i);
}

// The only functions that are cloned; templates cannot be.
#define PYENGINE_DEFINE(NAME, T, OR_EQUAL)                                             \
    PYENGINE_CLONES void NAME(const T* z, std::int64_t n, const T* bounds,             \
                              std::int64_t n_bounds, std::int64_t* found) {            \
        add_all_counts<OR_EQUAL>(z, n, bounds, n_bounds, found);                       \
    }
PYENGINE_DEFINE(add_at_least, float, true)
PYENGINE_DEFINE(add_at_least, double, true)
PYENGINE_DEFINE(add_above, float, false)
PYENGINE_DEFINE(add_above, double, false)
#undef PYENGINE_DEFINE

template <typename T>
class Counter {
public:
    Counter(const T* logits, const std::int64_t* targets, std::int64_t n_tokens,
            std::int64_t n_targets, std::int64_t* ranks)
        : logits_(logits),
          targets_(targets),
          n_tokens_(n_tokens),
          n_targets_(n_targets),
          ranks_(ranks) {}

    // Thread-safe for disjoint ranges of rows.
    void count_rows(std::int64_t begin, std::int64_t end) const {
        std::vector<std::int64_t> tokens;
        std::vector<std::int64_t> before;
        std::vector<T> bounds;
        for (std::int64_t row = begin; row < end; ++row) {
            const std::int64_t* targets = targets_ + row * n_targets_;
            check(targets, row);
            tokens.assign(targets, targets + n_targets_);
            std::sort(tokens.begin(), tokens.end());
            tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
            if (!tokens.empty() && tokens.front() == -1) tokens.erase(tokens.begin());
            const T* z = logits_ + row * n_tokens_;
            before.assign(tokens.size(), 0);
            bounds.clear();
            for (const std::int64_t token : tokens) bounds.push_back(z[token]);
            count_row(z, n_tokens_, tokens, bounds, before);
            for (std::int64_t slot = 0; slot < n_targets_; ++slot) {
                const auto at = std::lower_bound(tokens.begin(), tokens.end(), targets[slot]);
                ranks_[row * n_targets_ + slot] =
                    targets[slot] == -1 ? -1 : before[static_cast<std::size_t>(at - tokens.begin())];
            }
        }
    }

private:
    // tokens ascend: those of the block cut it, the ones behind come before, the others after it.
    static void count_row(const T* z, std::int64_t n_tokens,
                          const std::vector<std::int64_t>& tokens, const std::vector<T>& bounds,
                          std::vector<std::int64_t>& before) {
        const auto n = static_cast<std::int64_t>(tokens.size());
        std::int64_t own = 0;
        for (std::int64_t first = 0; first < n_tokens; first += kBlock) {
            const std::int64_t last = std::min(first + kBlock, n_tokens);
            add_above(z + first, last - first, bounds.data(), own, before.data());
            for (; own < n && tokens[own] < last; ++own) {
                const std::int64_t token = tokens[own];
                add_at_least(z + first, token - first, &bounds[own], 1, &before[own]);
                add_above(z + token, last - token, &bounds[own], 1, &before[own]);
            }
            add_at_least(z + first, last - first, bounds.data() + own, n - own,
                         before.data() + own);
        }
    }

    void check(const std::int64_t* targets, std::int64_t row) const {
        for (std::int64_t slot = 0; slot < n_targets_; ++slot) {
            if (targets[slot] >= -1 && targets[slot] < n_tokens_) continue;
            throw std::invalid_argument("row " + std::to_string(row) + ", slot " +
                                        std::to_string(slot) + ": target " +
                                        std::to_string(targets[slot]) + " is outside [-1, " +
                                        std::to_string(n_tokens_) + ")");
        }
    }

    const T* const logits_;
    const std::int64_t* const targets_;
    const std::int64_t n_tokens_;
    const std::int64_t n_targets_;
    std::int64_t* const ranks_;
};

template <typename T>
void count_all(const Counter<T>& counter, std::int64_t n_rows, int n_threads) {
    if (n_threads < 0) {
        throw std::invalid_argument("n_threads is " + std::to_string(n_threads) + ", below 0");
    }
    if (n_rows == 0) return;
    const std::int64_t wanted = n_threads > 0 ? n_threads : std::thread::hardware_concurrency();
    const std::int64_t n_parts = std::clamp<std::int64_t>(wanted, 1, n_rows);
    const auto first_row = [&](std::int64_t part) {
        return n_rows / n_parts * part + std::min(part, n_rows % n_parts);
    };
    std::vector<std::future<void>> others;
    for (std::int64_t part = 1; part < n_parts; ++part) {
        others.push_back(std::async(std::launch::async, &Counter<T>::count_rows, &counter,
                                    first_row(part), first_row(part + 1)));
    }
    // In row order, so that the error reported is the first one for any number of threads.
    counter.count_rows(0, first_row(1));
    for (std::future<void>& other : others) other.get();
}

}  // namespace

void rank_counts(const float* logits, const std::int64_t* targets, std::int64_t n_rows,
                 std::int64_t n_tokens, std::int64_t n_targets, int n_threads,
                 std::int64_t* ranks) {
    count_all(Counter<float>(logits, targets, n_tokens, n_targets, ranks), n_rows, n_threads);
}

void rank_counts(const double* logits, const std::int64_t* targets, std::int64_t n_rows,
                 std::int64_t n_tokens, std::int64_t n_targets, int n_threads,
                 std::int64_t* ranks) {
    count_all(Counter<double>(logits, targets, n_tokens, n_targets, ranks), n_rows, n_threads);
}

}  // namespace pyengine
