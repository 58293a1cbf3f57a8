#include "heap_merge.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <future>
#include <limits>
#include <stdexcept>
#include <string>
#include <thread>

#include "id_groups.hpp"
#include "loser_tree.hpp"

namespace pyengine {
namespace {

constexpr std::int64_t kUnfilled = -1;

[[noreturn]] void fail(std::size_t shard, std::int64_t key, std::int64_t slot,
                       const std::string& problem) {
    throw std::invalid_argument("shard " + std::to_string(shard) + ", key " + std::to_string(key) +
                                ", slot " + std::to_string(slot) + ": " + problem);
}

class Merger {
public:
    Merger(const std::vector<Heaps>& shards, const HeapMergeOptions& options, float* out_scores,
           std::int64_t* out_ids)
        : shards_(shards),
          k_(options.k),
          sign_(options.largest ? 1.0f : -1.0f),
          groups_(options.unit_starts, options.n_unit_starts),
          out_scores_(out_scores),
          out_ids_(out_ids) {}

    // Thread-safe for disjoint ranges of keys. Throws at the first malformed row.
    void merge_keys(std::int64_t begin, std::int64_t end) const {
        std::int64_t total_width = 0;
        for (const Heaps& shard : shards_) total_width += shard.width;
        SeenSet seen(std::min(k_, total_width));
        LoserTree tree(shards_.size());
        std::vector<std::int64_t> taken(shards_.size());
        for (std::int64_t key = begin; key < end; ++key) {
            for (std::size_t shard = 0; shard < shards_.size(); ++shard) {
                check_row(shard, key);
                taken[shard] = 0;
                tree.leaf(shard) = head(shard, key, 0);
            }
            merge_key(key, seen, tree, taken);
        }
    }

private:
    void merge_key(std::int64_t key, SeenSet& seen, LoserTree& tree,
                   std::vector<std::int64_t>& taken) const {
        float* scores = out_scores_ + key * k_;
        std::int64_t* ids = out_ids_ + key * k_;
        std::int64_t n = 0;
        seen.clear();
        tree.build();
        while (n < k_ && tree.winner.rank != kExhausted) {
            const Head best = tree.winner;
            if (seen.insert(groups_.of(best.id))) {
                scores[n] = sign_ * rank_to_float(best.rank) + 0.0f;  // -1 * 0.0 is -0.0
                ids[n++] = best.id;
            }
            tree.replace_winner(head(best.shard, key, ++taken[best.shard]));
        }
        std::fill(scores + n, scores + k_, std::numeric_limits<float>::quiet_NaN());
        std::fill(ids + n, ids + k_, kUnfilled);
    }

    Head head(std::size_t shard, std::int64_t key, std::int64_t slot) const {
        const Heaps& heaps = shards_[shard];
        const std::int64_t at = key * heaps.width + slot;
        const auto name = static_cast<std::uint32_t>(shard);
        if (slot == heaps.width || heaps.ids[at] == kUnfilled) return {kExhausted, name, kUnfilled};
        return {float_to_rank(sign_ * heaps.scores[at]), name, heaps.ids[at]};
    }

    void check_row(std::size_t shard, std::int64_t key) const {
        const Heaps& heaps = shards_[shard];
        const float* scores = heaps.scores + key * heaps.width;
        const std::int64_t* ids = heaps.ids + key * heaps.width;
        if (is_full_and_strict(scores, ids, heaps.width)) return;
        for (std::int64_t slot = 0; slot < heaps.width; ++slot) {
            check_slot(shard, key, slot, scores, ids);
        }
    }

    // The common row (all filled, no ties) is proven in two loops that compilers vectorise.
    bool is_full_and_strict(const float* scores, const std::int64_t* ids, std::int64_t n) const {
        int strict = n == 0 || !std::isnan(scores[0]);
        for (std::int64_t i = 1; i < n; ++i) {
            strict &= sign_ * scores[i - 1] > sign_ * scores[i];
        }
        std::uint64_t sign_bits = 0;  // wraps only when ids[i] is negative, which counts already
        for (std::int64_t i = 0; i < n; ++i) {
            const auto id = static_cast<std::uint64_t>(ids[i]);
            sign_bits |= id | (id - static_cast<std::uint64_t>(groups_.first_id)) |
                         (static_cast<std::uint64_t>(groups_.last_id) - id);
        }
        return strict && sign_bits >> 63 == 0;
    }

    void check_slot(std::size_t shard, std::int64_t key, std::int64_t slot, const float* scores,
                    const std::int64_t* ids) const {
        const float score = scores[slot];
        const std::int64_t id = ids[slot];
        if (id < kUnfilled) fail(shard, key, slot, "id " + std::to_string(id) + " is below -1");
        if (id == kUnfilled) {
            if (!std::isnan(score)) {
                fail(shard, key, slot,
                     "score " + std::to_string(score) + " has id -1; an unfilled slot holds NaN");
            }
            return;
        }
        if (std::isnan(score)) {
            fail(shard, key, slot, "score is NaN but id is " + std::to_string(id));
        }
        if (id < groups_.first_id || id > groups_.last_id) {
            fail(shard, key, slot, "id " + std::to_string(id) + " is outside unit_starts");
        }
        if (slot == 0) return;
        if (ids[slot - 1] == kUnfilled) fail(shard, key, slot, "filled after an unfilled slot");
        const float rank = sign_ * score;
        const float previous = sign_ * scores[slot - 1];
        if (previous < rank || (previous == rank && ids[slot - 1] > id)) {
            fail(shard, key, slot,
                 std::string("not sorted by (score ") + (sign_ > 0 ? "descending" : "ascending") +
                     ", id ascending)");
        }
    }

    const std::vector<Heaps>& shards_;
    const std::int64_t k_;
    const float sign_;
    const Groups groups_;
    float* const out_scores_;
    std::int64_t* const out_ids_;
};

std::int64_t count_threads(int requested, std::int64_t n_keys) {
    const std::int64_t wanted = requested > 0 ? requested : std::thread::hardware_concurrency();
    return std::clamp<std::int64_t>(wanted, 1, n_keys);
}

}  // namespace

void merge_heaps(const std::vector<Heaps>& shards, std::int64_t n_keys,
                 const HeapMergeOptions& options, float* out_scores, std::int64_t* out_ids) {
    if (shards.empty()) throw std::invalid_argument("no shards to merge");
    if (options.k < 1) {
        throw std::invalid_argument("k is " + std::to_string(options.k) + ", below 1");
    }
    if (options.n_threads < 0) {
        throw std::invalid_argument("n_threads is " + std::to_string(options.n_threads) +
                                    ", below 0");
    }
    const Merger merger(shards, options, out_scores, out_ids);
    if (n_keys == 0) return;
    const std::int64_t n_threads = count_threads(options.n_threads, n_keys);
    const auto first_key = [&](std::int64_t thread) {
        return n_keys / n_threads * thread + std::min(thread, n_keys % n_threads);
    };
    std::vector<std::future<void>> others;
    for (std::int64_t thread = 1; thread < n_threads; ++thread) {
        others.push_back(std::async(std::launch::async, &Merger::merge_keys, &merger,
                                    first_key(thread), first_key(thread + 1)));
    }
    // In key order, so that the error reported is the first one for any number of threads.
    merger.merge_keys(0, first_key(1));
    for (std::future<void>& other : others) other.get();
}

}  // namespace pyengine
