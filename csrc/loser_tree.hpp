// The k-way tournament behind heap_merge.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace pyengine {

// The best entry of one shard that has not been taken yet.
struct Head {
    std::int32_t rank;    // order-preserving bits of the score; exhausted shards hold the minimum
    std::uint32_t shard;  // beside rank, so that a head is two words
    std::int64_t id;

    // Not short-circuited: the branch would be mispredicted half of the time.
    bool before(const Head& other) const {
        return (rank > other.rank) | ((rank == other.rank) & (id < other.id));
    }
};
constexpr std::int32_t kExhausted = std::numeric_limits<std::int32_t>::min();

// Floats compare as these integers do; -0.0 and +0.0 give the same one. It is its own inverse.
inline std::int32_t order_bits(std::int32_t bits) { return bits ^ ((bits >> 31) & 0x7FFFFFFF); }

inline std::int32_t float_to_rank(float value) {
    value += 0.0f;  // -0.0 becomes +0.0
    std::int32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return order_bits(bits);
}

inline float rank_to_float(std::int32_t rank) {
    const std::int32_t bits = order_bits(rank);
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Finds the best of n heads. Every inner node remembers the loser of its match, so replacing the
// winner replays log2(n) matches.
class LoserTree {
public:
    explicit LoserTree(std::size_t n) : losers_(n), winners_(2 * n) {}

    std::size_t size() const { return losers_.size(); }

    // Fill every leaf, then build.
    Head& leaf(std::size_t shard) { return winners_[size() + shard]; }

    void build() {
        for (std::size_t node = size() - 1; node > 0; --node) {
            winners_[node] = winners_[2 * node];
            losers_[node] = winners_[2 * node + 1];
            swap_if(losers_[node].before(winners_[node]), losers_[node], winners_[node]);
        }
        winner = winners_[1];
    }

    void replace_winner(Head head) {
        for (std::size_t node = (size() + winner.shard) / 2; node > 0; node /= 2) {
            swap_if(losers_[node].before(head), losers_[node], head);
        }
        winner = head;
    }

    Head winner{};

private:
    // Without a branch, for the same reason.
    static void swap_if(bool wanted, Head& a, Head& b) {
        const Head either[2] = {a, b};
        a = either[wanted];
        b = either[!wanted];
    }

    std::vector<Head> losers_;
    std::vector<Head> winners_;
};

}  // namespace pyengine
