// Random streams folded into heaps and compared with a sort, and ids that must be refused.
// Usage: topk_driver ROUNDS SEED. Prints how many of each it saw; exits 1 at a difference.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <random>
#include <set>
#include <stdexcept>
#include <vector>

#include "key_scan.hpp"
#include "topk_entries.hpp"
#include "topk_fold.hpp"

namespace {

constexpr std::int64_t kKeys[] = {1, 3, 63, 64, 65, 130};

// Arrays exactly as long as may be read and written, so that one step beyond is caught.
struct Stream {
    std::int64_t n_keys, k, capacity;
    float sign;
    bool per_unit;
    std::vector<std::int64_t> entries, thresholds, newest, kept;
    std::vector<std::int32_t> counts, counts_then;
    std::vector<std::uint8_t> repeats, saved;
    std::vector<std::set<std::int64_t, std::greater<std::int64_t>>> all;

    explicit Stream(std::mt19937_64& random)
        : n_keys(kKeys[random() % 6]),
          k(static_cast<std::int64_t>(1 + random() % 9)),
          capacity(k + static_cast<std::int64_t>(1 + random() % 9)),
          sign(random() % 2 ? 1.0f : -1.0f),
          per_unit(random() % 2) {
        const auto n = static_cast<std::size_t>(n_keys);
        entries.resize(n * static_cast<std::size_t>(capacity));
        kept.resize(entries.size());
        thresholds.assign(n, pyengine::kNoEntry);
        newest.assign(n, -1);
        counts.resize(n);
        counts_then.resize(n);
        repeats.resize(n);
        saved.resize(n);
        all.resize(n);
    }

    pyengine::TopKHeaps heaps() {
        return {entries.data(), counts.data(),  thresholds.data(), newest.data(),
                repeats.data(), k,              capacity};
    }

    void fold(std::mt19937_64& random, bool broken) {
        const auto n_rows = static_cast<std::int64_t>(random() % 4);
        const auto n_positions = static_cast<std::int64_t>(random() % 9);
        const auto first_id = static_cast<std::int64_t>(random() % 5 * 20);
        constexpr float kInf = std::numeric_limits<float>::infinity();
        const float few[] = {0, -0.0f, 1, -1, kInf, -kInf, std::numeric_limits<float>::quiet_NaN()};
        std::vector<float> values(static_cast<std::size_t>(n_rows * n_positions * n_keys));
        std::normal_distribution<float> normal;
        for (float& value : values) value = random() % 3 ? normal(random) : few[random() % 7];
        std::vector<std::int64_t> ids(static_cast<std::size_t>(n_rows * n_positions));
        for (std::size_t i = 0; i < ids.size(); ++i) {
            ids[i] = random() % 4 ? first_id + static_cast<std::int64_t>(i) : -1;
        }
        if (broken) ids.at(0) = std::int64_t{1} << 32;
        const pyengine::Activations batch{values.data(),        ids.data(), n_rows, n_positions,
                                          n_keys,               n_positions * n_keys, n_keys};
        const pyengine::TopKUndo undo{counts_then.data(), saved.data(), kept.data()};
        const int n_threads = static_cast<int>(1 + random() % 4);
        const auto n_nan =
            pyengine::fold_topk(heaps(), undo, batch, {sign, per_unit, n_threads});
        if (n_nan != expected_nan(values, ids)) {
            std::printf("%lld NaN were counted\n", static_cast<long long>(n_nan));
            std::exit(1);
        }
        for (std::int64_t row = 0; row < n_rows; ++row) remember(row, values, ids, n_positions);
    }

    std::int64_t expected_nan(const std::vector<float>& values,
                              const std::vector<std::int64_t>& ids) const {
        std::int64_t n_nan = 0;
        for (std::size_t i = 0; i < values.size(); ++i) {
            n_nan += std::isnan(values[i]) && ids[i / static_cast<std::size_t>(n_keys)] >= 0;
        }
        return n_nan;
    }

    void remember(std::int64_t row, const std::vector<float>& values,
                  const std::vector<std::int64_t>& ids, std::int64_t n_positions) {
        for (std::int64_t key = 0; key < n_keys; ++key) {
            std::vector<std::int64_t> found;
            for (std::int64_t at = row * n_positions; at < (row + 1) * n_positions; ++at) {
                const std::int64_t id = ids[static_cast<std::size_t>(at)];
                const float score = sign * values[static_cast<std::size_t>(at * n_keys + key)];
                if (id >= 0 && score == score) found.push_back(pyengine::entry_of(score, id));
            }
            if (per_unit && !found.empty()) found = {*std::max_element(found.begin(), found.end())};
            all[static_cast<std::size_t>(key)].insert(found.begin(), found.end());
        }
    }

    bool is_right() {
        std::vector<std::int64_t> best(static_cast<std::size_t>(n_keys * k));
        pyengine::best_entries(heaps(), n_keys, 2, best.data());
        auto found = best.begin();
        for (const auto& expected : all) {
            auto entry = expected.begin();
            for (std::int64_t i = 0; i < k; ++i) {
                const bool more = entry != expected.end();
                if (*found++ != (more ? *entry : pyengine::kNoEntry)) return false;
                if (more) ++entry;
            }
        }
        return true;
    }
};

// Dropping low scores keeps the best k, between k and `most` in all, and puts a cut below them.
bool dropping_is_right(std::mt19937_64& random) {
    std::vector<std::int64_t> entries(static_cast<std::size_t>(2 + random() % 6000));
    const bool ties = random() % 2;
    std::normal_distribution<float> normal;
    for (std::size_t i = 0; i < entries.size(); ++i) {
        const float score = ties ? static_cast<float>(random() % 3) : normal(random);
        entries[i] = pyengine::entry_of(score, static_cast<std::int64_t>(i));
    }
    auto sorted = entries;
    std::sort(sorted.begin(), sorted.end(), std::greater<std::int64_t>());
    const auto n = static_cast<std::int64_t>(entries.size());
    const std::int64_t k = 1 + static_cast<std::int64_t>(random() % 1000) % (n - 1);
    const std::int64_t most = std::min(n - 1, k + static_cast<std::int64_t>(random() % 20));
    std::int64_t cut = 0;
    const std::int64_t kept = pyengine::keep_high_scores(entries.data(), n, k, most, &cut);
    if (kept == n) return ties || n > 4096;
    std::sort(entries.begin(), entries.begin() + kept, std::greater<std::int64_t>());
    return k <= kept && kept <= most &&
           std::equal(entries.begin(), entries.begin() + kept, sorted.begin()) &&
           sorted[static_cast<std::size_t>(kept - 1)] > cut &&
           sorted[static_cast<std::size_t>(kept)] <= cut;
}

// Orders that mislead a selection by the median of three.
bool selection_is_right(std::mt19937_64& random) {
    std::vector<std::int64_t> entries(static_cast<std::size_t>(1 + random() % 600));
    const auto n = static_cast<std::int64_t>(entries.size());
    for (std::int64_t i = 0; i < n; ++i) {
        const std::int64_t values[] = {i, -i, 7, std::min(i, n - i), -std::min(i, n - i),
                                       static_cast<std::int64_t>(random() % 1000)};
        entries[static_cast<std::size_t>(i)] = values[n % 6];
    }
    auto sorted = entries;
    std::sort(sorted.begin(), sorted.end(), std::greater<std::int64_t>());
    const auto k = static_cast<std::int64_t>(1 + random() % 600);
    const std::int64_t n_best = pyengine::select_best(entries.data(), n, k);
    std::sort(entries.begin(), entries.begin() + n_best, std::greater<std::int64_t>());
    return n_best == std::min(n, k) &&
           std::equal(entries.begin(), entries.begin() + n_best, sorted.begin());
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    std::mt19937_64 random(static_cast<unsigned>(std::atoi(argv[2])));
    int folded = 0;
    int refused = 0;
    for (int round = 0; round < std::atoi(argv[1]); ++round) {
        Stream stream(random);
        for (int batch = 0; batch < 6; ++batch) stream.fold(random, false);
        if (!stream.is_right() || !selection_is_right(random) ||
            !dropping_is_right(random)) {
            std::printf("difference in round %d\n", round);
            return 1;
        }
        ++folded;
        try {
            stream.fold(random, true);
            std::printf("a bad id was accepted\n");
            return 1;
        } catch (const std::invalid_argument&) {
            ++refused;
        } catch (const std::out_of_range&) {  // an empty batch has no id to break
        }
    }
    std::printf("folded %d refused %d\n", folded, refused);
    return 0;
}
