// What the loops over many values share: several instruction sets, several threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <future>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

// A function compiled for several instruction sets, one of which is chosen when the module is
// loaded. Sanitizers start after that choice and so cannot watch it.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define PYENGINE_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define PYENGINE_CLONES
#endif
#define PYENGINE_INLINE inline __attribute__((always_inline))

namespace pyengine {

// Run n_threads copies of `loop(take)`, where take() gives the next row, or n_rows when none is
// left. Rows are dealt out one by one: a thread may share its core with one of torch's, which
// spins for milliseconds after a product. n_threads 0: one per hardware thread.
template <typename Loop>
void for_rows(std::int64_t n_rows, int n_threads, const Loop& loop) {
    if (n_threads < 0) {
        throw std::invalid_argument("n_threads is " + std::to_string(n_threads) + ", below 0");
    }
    std::atomic<std::int64_t> next{0};
    const auto take = [&] { return std::min(next.fetch_add(1), n_rows); };
    const std::int64_t wanted = n_threads > 0 ? n_threads : std::thread::hardware_concurrency();
    std::vector<std::future<void>> others;
    for (std::int64_t thread = 1; thread < std::min(wanted, n_rows); ++thread) {
        others.push_back(std::async(std::launch::async, [&] { loop(take); }));
    }
    loop(take);
    for (std::future<void>& other : others) other.get();
}

}  // namespace pyengine
