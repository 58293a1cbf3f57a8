// Random merges compared with a sort, and random garbage that must be refused or merged without a
// bad read. Usage: driver ROUNDS SEED. Prints how many of each it saw; exits 1 at a difference.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include "heap_merge.hpp"

namespace {

using Entry = std::pair<float, std::int64_t>;  // rank (lower is better) and id
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Case {
    std::int64_t n_keys;
    std::vector<std::int64_t> widths;
    std::vector<std::int64_t> unit_starts;
    pyengine::HeapMergeOptions options;
    // Exactly as long as the merge may read, so that one step beyond is caught.
    std::vector<std::vector<float>> scores;
    std::vector<std::vector<std::int64_t>> ids;
};

class Random {
public:
    explicit Random(unsigned seed) : engine_(seed) {}
    std::int64_t below(std::int64_t n) {
        return std::uniform_int_distribution<std::int64_t>(0, n - 1)(engine_);
    }
    float score() {
        const float few[] = {0.0f, -0.0f, 1.0f, -1.0f, kInfinity, -kInfinity};
        return below(2) ? few[below(6)] : std::normal_distribution<float>()(engine_);
    }

private:
    std::mt19937_64 engine_;
};

Case make_case(Random& random) {
    Case c;
    c.n_keys = random.below(6);
    c.options.k = 1 + random.below(9);
    c.options.largest = random.below(2);
    c.options.n_threads = static_cast<int>(1 + random.below(4));
    const std::int64_t limit = random.below(2) ? 30 : std::int64_t{1} << 62;
    if (random.below(2)) {
        c.unit_starts = {0, limit};
        for (std::int64_t i = random.below(12); i > 0; --i) {
            c.unit_starts.push_back(random.below(limit));
        }
        std::sort(c.unit_starts.begin(), c.unit_starts.end());
        c.options.unit_starts = c.unit_starts.data();
        c.options.n_unit_starts = static_cast<std::int64_t>(c.unit_starts.size());
    }
    const float sign = c.options.largest ? -1.0f : 1.0f;
    for (std::int64_t shard = 1 + random.below(9); shard > 0; --shard) {
        const std::int64_t width = random.below(6);
        std::vector<float> scores;
        std::vector<std::int64_t> ids;
        for (std::int64_t key = 0; key < c.n_keys; ++key) {
            std::vector<Entry> row;
            for (std::int64_t i = random.below(width + 1); i > 0; --i) {
                row.emplace_back(sign * random.score(), random.below(limit));
            }
            std::sort(row.begin(), row.end());
            for (std::int64_t i = 0; i < width; ++i) {
                const bool filled = i < static_cast<std::int64_t>(row.size());
                scores.push_back(filled ? sign * row[static_cast<std::size_t>(i)].first : kNaN);
                ids.push_back(filled ? row[static_cast<std::size_t>(i)].second : -1);
            }
        }
        c.widths.push_back(width);
        c.scores.push_back(std::move(scores));
        c.ids.push_back(std::move(ids));
    }
    return c;
}

// Overwrite a few slots with values that may or may not be legal there.
void corrupt(Case& c, Random& random) {
    const std::int64_t ids[] = {-1, -2, 0, 29, std::numeric_limits<std::int64_t>::min(),
                                std::numeric_limits<std::int64_t>::max()};
    for (std::size_t shard = 0; shard < c.scores.size(); ++shard) {
        const auto n = static_cast<std::int64_t>(c.scores[shard].size());
        if (n == 0 || random.below(2)) continue;
        const auto at = static_cast<std::size_t>(random.below(n));
        if (random.below(2)) c.scores[shard][at] = random.below(2) ? kNaN : random.score();
        if (random.below(2)) c.ids[shard][at] = ids[random.below(6)];
    }
    if (!c.unit_starts.empty() && random.below(4) == 0) c.unit_starts[0] = random.below(60) - 30;
}

std::vector<Entry> expected_row(const Case& c, std::int64_t key) {
    const float sign = c.options.largest ? -1.0f : 1.0f;
    std::vector<Entry> all;
    for (std::size_t shard = 0; shard < c.ids.size(); ++shard) {
        for (std::int64_t i = key * c.widths[shard]; i < (key + 1) * c.widths[shard]; ++i) {
            const auto at = static_cast<std::size_t>(i);
            if (c.ids[shard][at] >= 0) all.emplace_back(sign * c.scores[shard][at], c.ids[shard][at]);
        }
    }
    std::sort(all.begin(), all.end());
    std::set<std::int64_t> groups;
    std::vector<Entry> kept;
    for (const Entry& entry : all) {
        const auto& starts = c.unit_starts;
        const std::int64_t group =
            starts.empty() ? entry.second
                           : std::count_if(starts.begin(), starts.end(),
                                           [&](std::int64_t s) { return s <= entry.second; });
        if (groups.insert(group).second) kept.push_back(entry);
    }
    if (static_cast<std::int64_t>(kept.size()) > c.options.k) {
        kept.resize(static_cast<std::size_t>(c.options.k));
    }
    for (Entry& entry : kept) entry.first = sign * entry.first + 0.0f;
    return kept;
}

bool matches(const std::vector<Entry>& row, const Case& c, const float* scores,
             const std::int64_t* ids) {
    for (std::int64_t i = 0; i < c.options.k; ++i) {
        const bool filled = i < static_cast<std::int64_t>(row.size());
        const Entry want = filled ? row[static_cast<std::size_t>(i)] : Entry{kNaN, -1};
        const bool same_score = filled ? scores[i] == want.first && !(scores[i] == 0.0f &&
                                                                      std::signbit(scores[i]))
                                       : std::isnan(scores[i]);
        if (!same_score || ids[i] != want.second) return false;
    }
    return true;
}

// Returns whether the merge accepted the case.
bool run(const Case& c) {
    std::vector<pyengine::Heaps> shards;
    for (std::size_t i = 0; i < c.widths.size(); ++i) {
        shards.push_back({c.scores[i].data(), c.ids[i].data(), c.widths[i]});
    }
    const auto n = static_cast<std::size_t>(c.n_keys * c.options.k);
    std::vector<float> scores(n);
    std::vector<std::int64_t> ids(n);
    try {
        pyengine::merge_heaps(shards, c.n_keys, c.options, scores.data(), ids.data());
    } catch (const std::invalid_argument&) {
        return false;
    }
    for (std::int64_t key = 0; key < c.n_keys; ++key) {
        const std::int64_t at = key * c.options.k;
        if (!matches(expected_row(c, key), c, scores.data() + at, ids.data() + at)) {
            std::printf("difference at key %lld\n", static_cast<long long>(key));
            std::exit(1);
        }
    }
    return true;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    const int rounds = std::atoi(argv[1]);
    Random random(static_cast<unsigned>(std::atoi(argv[2])));
    int merged = 0;
    int refused = 0;
    for (int round = 0; round < rounds; ++round) {
        Case c = make_case(random);
        if (!run(c)) {
            std::printf("a well-formed case was refused\n");
            return 1;
        }
        corrupt(c, random);
        ++(run(c) ? merged : refused);
    }
    std::printf("merged %d refused %d\n", merged, refused);
    return 0;
}
