// Random rows of logits summarised and compared with plain loops, and bad targets that must be
// refused. Usage: rows_driver ROUNDS SEED. Prints how many of each it saw; exits 1 at a difference.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <stdexcept>
#include <vector>

#include "row_summary.hpp"

namespace {

constexpr std::int64_t kSizes[] = {1, 2, 63, 64, 65, 255, 256, 257, 4096, 4099};

// Exactly as long as may be read and written, so that one step beyond is caught.
template <typename T>
struct Case {
    std::int64_t n_rows, n_tokens, n_targets, n_groups;
    std::vector<T> logits, maxima, minima, highest;
    std::vector<double> s, u;
    std::vector<std::int64_t> targets, ranks;

    explicit Case(std::mt19937_64& random)
        : n_rows(static_cast<std::int64_t>(random() % 4)),
          n_tokens(kSizes[random() % 10]),
          n_targets(static_cast<std::int64_t>(random() % 9)),
          n_groups((n_tokens + 63) / 64) {
        const T infinity = std::numeric_limits<T>::infinity();
        const T few[] = {0, T(-0.0), 1, -1, 2, infinity, -infinity, -90};
        const bool smooth = random() % 2;
        std::normal_distribution<T> normal;
        for (std::int64_t i = 0; i < n_rows * n_tokens; ++i) {
            logits.push_back(smooth ? normal(random) : few[random() % 8]);
        }
        for (std::int64_t i = 0; i < n_rows * n_targets; ++i) {
            targets.push_back(static_cast<std::int64_t>(random() % (n_tokens + 1)) - 1);
        }
        const auto groups = static_cast<std::size_t>(n_rows * n_groups);
        maxima.resize(groups);
        minima.resize(groups);
        const auto rows = static_cast<std::size_t>(n_rows);
        highest.resize(rows);
        s.resize(rows);
        u.resize(rows);
        ranks.resize(targets.size());
    }

    void run(int n_threads) {
        const pyengine::LogitRows<T> rows{logits.data(), targets.data(), n_rows, n_tokens,
                                          n_targets};
        pyengine::summarize_rows(rows, n_threads,
                                 {maxima.data(), minima.data(), highest.data(), s.data(),
                                  u.data(), ranks.data()});
    }

    bool is_right(std::int64_t row) const {
        const T* z = logits.data() + row * n_tokens;
        for (std::int64_t group = 0; group < n_groups; ++group) {
            const T* last = z + std::min(n_tokens, (group + 1) * 64);
            const auto at = static_cast<std::size_t>(row * n_groups + group);
            if (maxima[at] != *std::max_element(z + group * 64, last)) return false;
            if (minima[at] != *std::min_element(z + group * 64, last)) return false;
        }
        const auto at = static_cast<std::size_t>(row);
        const T best = *std::max_element(z, z + n_tokens);
        double sum = 0, moment = 0;
        for (std::int64_t i = 0; i < n_tokens; ++i) {
            const double d = z[i] == best ? 0 : static_cast<double>(z[i]) - best;
            if (d < -1000) continue;
            sum += std::exp(d);
            moment += std::exp(d) * d;
        }
        if (highest[at] != best || std::fabs(s[at] / sum - 1) > 1e-6) return false;
        if (std::fabs(u[at] - moment) > 1e-6 * std::fabs(moment) + 1e-30) return false;
        for (std::int64_t slot = row * n_targets; slot < (row + 1) * n_targets; ++slot) {
            const std::int64_t token = targets[static_cast<std::size_t>(slot)];
            std::int64_t before = token == -1 ? -1 : 0;
            for (std::int64_t i = 0; token != -1 && i < n_tokens; ++i) {
                before += z[i] > z[token] || (z[i] == z[token] && i < token);
            }
            if (ranks[static_cast<std::size_t>(slot)] != before) return false;
        }
        return true;
    }
};

template <typename T>
void run_round(std::mt19937_64& random, int* summarized, int* refused) {
    Case<T> c(random);
    c.run(static_cast<int>(1 + random() % 4));
    for (std::int64_t row = 0; row < c.n_rows; ++row) {
        if (c.is_right(row)) continue;
        std::printf("difference at row %lld\n", static_cast<long long>(row));
        std::exit(1);
    }
    ++*summarized;
    if (c.targets.empty()) return;
    c.targets[random() % c.targets.size()] = random() % 2 ? c.n_tokens : -2;
    try {
        c.run(2);
        std::printf("a bad target was accepted\n");
        std::exit(1);
    } catch (const std::invalid_argument&) {
        ++*refused;
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    std::mt19937_64 random(static_cast<unsigned>(std::atoi(argv[2])));
    int summarized = 0;
    int refused = 0;
    for (int round = 0; round < std::atoi(argv[1]); ++round) {
        if (round % 2) {
            run_round<float>(random, &summarized, &refused);
        } else {
            run_round<double>(random, &summarized, &refused);
        }
    }
    std::printf("summarized %d refused %d\n", summarized, refused);
    return 0;
}
