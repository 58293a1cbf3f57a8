// Random rows activated and compared with float64, and bad numbers of threads that must be refused.
// Usage: gelu_driver ROUNDS SEED. Prints how many of each it saw; exits 1 at a difference.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <stdexcept>
#include <vector>

#include "gelu.hpp"

namespace {

constexpr std::int64_t kColumns[] = {0, 1, 3, 127, 128, 129, 300, 20000};

bool is_right(float x, float y) {
    const double u = std::sqrt(2 / M_PI) * (x + 0.044715 * std::pow(double{x}, 3));
    const double expected = x / (1 + std::exp(-2 * u));
    if (std::isnan(expected)) return std::isnan(y);
    return y == expected || std::fabs(y - expected) <= 2e-7 * std::max(1.0, std::fabs(double{x}));
}

bool run_round(std::mt19937_64& random, int n_threads) {
    constexpr float kInf = std::numeric_limits<float>::infinity();
    const float few[] = {0, -0.0f, 1e-40f, 3e38f, -3e38f, kInf, -kInf, kInf - kInf};
    const auto n_rows = static_cast<std::int64_t>(random() % 5);
    const std::int64_t n_columns = kColumns[random() % 64 ? random() % 7 : 7];
    std::normal_distribution<float> normal(0, 4);
    std::vector<float> x(static_cast<std::size_t>(n_rows * n_columns));
    for (float& value : x) value = random() % 8 ? normal(random) : few[random() % 8];
    std::vector<std::int64_t> ids;
    for (std::int64_t row = 0; row < n_rows; ++row) {
        ids.push_back(static_cast<std::int64_t>(random() % 3) - 1);
    }
    std::vector<float> y = x;
    std::vector<float> apart(x.size());
    const auto n_nan =
        pyengine::gelu_tanh(y.data(), ids.data(), n_rows, n_columns, n_threads, y.data());
    pyengine::gelu_tanh(x.data(), ids.data(), n_rows, n_columns, n_threads, apart.data());
    std::int64_t expected = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        const bool is_nan = std::isnan(y[i]);
        if (!is_right(x[i], y[i]) || (is_nan ? !std::isnan(apart[i]) : apart[i] != y[i])) {
            return false;
        }
        expected += is_nan && ids[i / static_cast<std::size_t>(n_columns)] >= 0;
    }
    return n_nan == expected;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    std::mt19937_64 random(static_cast<unsigned>(std::atoi(argv[2])));
    int activated = 0;
    int refused = 0;
    for (int round = 0; round < std::atoi(argv[1]); ++round) {
        if (!run_round(random, static_cast<int>(1 + random() % 4))) {
            std::printf("difference in round %d\n", round);
            return 1;
        }
        ++activated;
        try {
            run_round(random, -1);
            std::printf("a bad number of threads was accepted\n");
            return 1;
        } catch (const std::invalid_argument&) {
            ++refused;
        }
    }
    std::printf("activated %d refused %d\n", activated, refused);
    return 0;
}
