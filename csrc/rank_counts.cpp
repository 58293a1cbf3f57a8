#include "rank_counts.hpp"

#include <algorithm>

#include "row_loops.hpp"

namespace pyengine {
namespace {

constexpr std::int64_t kBlock = 4096;  // logits that stay in the first-level cache

// Add to found[i] how many of n logits are >= bounds[i] (OR_EQUAL), or > bounds[i]. Several bounds
// at once, since a single sum would wait for itself.
template <int WIDTH, bool OR_EQUAL, typename T>
PYENGINE_INLINE void add_counts(const T* z, std::int64_t n, const T* bounds, std::int64_t* found) {
    T bound[WIDTH];
    std::int32_t sum[WIDTH] = {};
    for (int i = 0; i < WIDTH; ++i) bound[i] = bounds[i];
    for (std::int64_t at = 0; at < n; ++at) {
        for (int i = 0; i < WIDTH; ++i) sum[i] += OR_EQUAL ? z[at] >= bound[i] : z[at] > bound[i];
    }
    for (int i = 0; i < WIDTH; ++i) found[i] += sum[i];
}

template <bool OR_EQUAL, typename T>
PYENGINE_INLINE void add_all_counts(const T* z, std::int64_t n, const T* bounds,
                                    std::int64_t n_bounds, std::int64_t* found) {
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

}  // namespace

template <typename T>
void RankCounter<T>::count(const T* logits, std::int64_t n_tokens, const std::int64_t* targets,
                           std::int64_t n_targets, std::int64_t* ranks) {
    tokens_.assign(targets, targets + n_targets);
    std::sort(tokens_.begin(), tokens_.end());
    tokens_.erase(std::unique(tokens_.begin(), tokens_.end()), tokens_.end());
    if (!tokens_.empty() && tokens_.front() == -1) tokens_.erase(tokens_.begin());
    bounds_.clear();
    for (const std::int64_t token : tokens_) bounds_.push_back(logits[token]);
    before_.assign(tokens_.size(), 0);
    count_tokens(logits, n_tokens);
    for (std::int64_t slot = 0; slot < n_targets; ++slot) {
        const auto at = std::lower_bound(tokens_.begin(), tokens_.end(), targets[slot]);
        ranks[slot] = targets[slot] == -1 ? -1 : before_[static_cast<std::size_t>(at - tokens_.begin())];
    }
}

// Tokens in front of a block see it as `above`, tokens behind it as `at least`; its own cut it.
template <typename T>
void RankCounter<T>::count_tokens(const T* logits, std::int64_t n_tokens) {
    const auto n = static_cast<std::int64_t>(tokens_.size());
    std::int64_t own = 0;
    for (std::int64_t first = 0; first < n_tokens; first += kBlock) {
        const std::int64_t width = std::min(kBlock, n_tokens - first);
        const T* z = logits + first;
        add_above(z, width, bounds_.data(), own, before_.data());
        for (; own < n && tokens_[own] < first + width; ++own) {
            const std::int64_t head = tokens_[own] - first;
            add_at_least(z, head, &bounds_[own], 1, &before_[own]);
            add_above(z + head, width - head, &bounds_[own], 1, &before_[own]);
        }
        add_at_least(z, width, bounds_.data() + own, n - own, before_.data() + own);
    }
}

template class RankCounter<float>;
template class RankCounter<double>;

}  // namespace pyengine
