#include "topk_fold.hpp"

#include <algorithm>
#include <atomic>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "key_scan.hpp"
#include "row_loops.hpp"
#include "topk_entries.hpp"

namespace pyengine {
namespace {

constexpr int kTile = 1024;  // keys at once: what the loop needs of them stays in the L1 cache
constexpr int kLine = 64;
constexpr int kSpare = 8;  // of the room beyond k, the part that may stay in use
constexpr std::int64_t kLastId = 0xFFFFFFFE;

struct Position {
    std::int64_t row;
    std::int64_t column;
    std::int64_t id;
    std::int64_t lowest_later;  // the lowest id of all positions after it
};

// Everything that the threads share, and only read.
struct Fold {
    const TopKHeaps& heaps;
    const TopKUndo& undo;
    const Activations& batch;
    const float sign;
    std::vector<Position> positions;  // by row, then by id: the first of equal scores is the best
    std::int64_t lowest_id = INT64_MAX;
    std::int64_t highest_id = -1;

    const float* values(const Position& position) const {
        return batch.values + position.row * batch.row_stride +
               position.column * batch.position_stride;
    }

    void list_positions() {
        for (std::int64_t row = 0; row < batch.n_rows; ++row) {
            const auto first = static_cast<std::ptrdiff_t>(positions.size());
            list_row(row, batch.ids + row * batch.n_positions);
            const auto by_id = [](const Position& a, const Position& b) { return a.id < b.id; };
            if (std::is_sorted(positions.begin() + first, positions.end(), by_id)) continue;
            std::sort(positions.begin() + first, positions.end(), by_id);
        }
        for (auto position = positions.rbegin(); position != positions.rend(); ++position) {
            position->lowest_later = lowest_id;
            lowest_id = std::min(lowest_id, position->id);
            highest_id = std::max(highest_id, position->id);
        }
    }

    void list_row(std::int64_t row, const std::int64_t* ids) {
        for (std::int64_t column = 0; column < batch.n_positions; ++column) {
            const std::int64_t id = ids[column];
            if (id < 0) continue;
            if (column > 0 && id <= ids[column - 1]) {
                throw std::invalid_argument("ids must ascend along each row");
            }
            if (id > kLastId) {
                throw std::invalid_argument("ids must be below 2**32 - 1, got " +
                                            std::to_string(id));
            }
            positions.push_back({row, column, id, 0});
        }
    }
};

// Up to kTile adjacent keys, which no other thread touches meanwhile.
class Tile {
public:
    Tile(const Fold& fold, std::int64_t first_key, int n)
        : fold_(fold), heaps_(fold.heaps), first_key_(first_key), n_(n) {
        for (int i = 0; i < n; ++i) {
            const std::int64_t key = first_key + i;
            bounds_[i] = bound_of(heaps_.thresholds[key], fold.lowest_id);
            // Only an id that is not beyond all others can be there already.
            may_repeat_[i] = fold.lowest_id <= heaps_.newest[key];
            heaps_.repeats[key] |= may_repeat_[i];
            heaps_.newest[key] = std::max(heaps_.newest[key], fold.highest_id);
        }
    }

    // Return the number of NaN.
    std::int64_t fold_positions() {
        const std::vector<Position>& all = fold_.positions;
        for (std::size_t number = 0; number < all.size(); ++number) {
            const Position& position = all[number];
            const float* x = values_of(number);
            const int n_found =
                find_reaching(x, bounds_, fold_.sign, n_, values_of(number + 1), found_);
            for (int at = 0; at < n_found; ++at) {
                const int i = found_[at];
                append(i, fold_.sign * x[i], position.id, position.lowest_later);
            }
        }
        return n_nan_;
    }

    // Return the number of NaN.
    std::int64_t fold_rows() {
        float best[kTile];
        std::int32_t best_number[kTile];
        const std::vector<Position>& all = fold_.positions;
        std::int64_t n_nan = 0;
        for (std::size_t first = 0, last; first < all.size(); first = last) {
            std::fill(best, best + n_, -kInfinity);
            std::fill(best_number, best_number + n_, -1);
            last = first;
            for (; last < all.size() && all[last].row == all[first].row; ++last) {
                n_nan += take_best(values_of(last), fold_.sign, n_,
                                   static_cast<std::int32_t>(last - first), values_of(last + 1),
                                   best, best_number);
            }
            const int n_found = find_reaching(best, bounds_, 1, n_, best, found_);
            for (int at = 0; at < n_found; ++at) {
                const int i = found_[at];
                const Position* position = best_number[i] >= 0
                                               ? &all[first + static_cast<std::size_t>(best_number[i])]
                                               : first_infinite(i, &all[first], &all[0] + last);
                if (position) append(i, best[i], position->id, all[last - 1].lowest_later);
            }
        }
        return n_nan;
    }

private:
    // The last position also follows itself.
    const float* values_of(std::size_t number) const {
        const std::vector<Position>& all = fold_.positions;
        return fold_.values(all[std::min(number, all.size() - 1)]) + first_key_;
    }

    // A row without a number above -inf may still hold -inf itself, or nothing but NaN.
    const Position* first_infinite(int i, const Position* position, const Position* last) const {
        for (; position < last; ++position) {
            if (fold_.sign * fold_.values(*position)[first_key_ + i] == -kInfinity) {
                return position;
            }
        }
        return nullptr;
    }

    void append(int i, float score, std::int64_t id, std::int64_t lowest_later) {
        if (score != score) {
            ++n_nan_;
            return;
        }
        const std::int64_t key = first_key_ + i;
        const std::int64_t entry = entry_of(score, id);
        if (entry <= heaps_.thresholds[key]) return;
        heaps_.entries[key * heaps_.capacity + heaps_.counts[key]++] = entry;
        if (heaps_.counts[key] < heaps_.capacity) return;
        tidy(key, i);
        bounds_[i] = bound_of(heaps_.thresholds[key], lowest_later);
    }

    // Drop what is not among the best k, raise the threshold.
    void tidy(std::int64_t key, int i) {
        std::int64_t* entries = heaps_.entries + key * heaps_.capacity;
        const TopKUndo& undo = fold_.undo;
        if (undo.kept && !undo.saved[key]) {
            std::copy(entries, entries + undo.counts[key], undo.kept + key * heaps_.capacity);
            undo.saved[key] = 1;
        }
        std::int64_t n = heaps_.capacity;
        std::int64_t cut = kNoEntry;
        if (heaps_.repeats[key]) {
            n = distinct(entries, n);
            heaps_.repeats[key] = may_repeat_[i];
        }
        const std::int64_t most = heaps_.k + (heaps_.capacity - heaps_.k) / kSpare;
        if (n > most) n = keep_high_scores(entries, n, heaps_.k, most, &cut);
        if (n > most) n = select_best(entries, n, heaps_.k);
        heaps_.counts[key] = static_cast<std::int32_t>(n);
        if (n == heaps_.k) cut = *std::min_element(entries, entries + n);
        heaps_.thresholds[key] = std::max(heaps_.thresholds[key], cut);
    }

    const Fold& fold_;
    const TopKHeaps& heaps_;
    const std::int64_t first_key_;
    const int n_;
    std::int64_t n_nan_ = 0;
    float bounds_[kTile];
    std::uint8_t may_repeat_[kTile];
    std::uint16_t found_[kTile];
};

// Some tiles for every thread, of whole cache lines.
std::int64_t tile_width(std::int64_t n_keys, int n_threads) {
    if (n_threads < 2) return kTile;
    const std::int64_t wanted = n_keys / (2 * n_threads) / kLine * kLine + kLine;
    return std::min<std::int64_t>(kTile, wanted);
}

}  // namespace

std::int64_t fold_topk(const TopKHeaps& heaps, const TopKUndo& undo, const Activations& batch,
                       const TopKFoldOptions& options) {
    Fold fold{heaps, undo, batch, options.sign, {}};
    fold.list_positions();
    if (fold.positions.empty()) return 0;
    const std::int64_t width = tile_width(batch.n_keys, options.n_threads);
    const std::int64_t n_tiles = (batch.n_keys + width - 1) / width;
    std::atomic<std::int64_t> n_nan{0};
    for_rows(n_tiles, options.n_threads, [&](const auto& take) {
        for (std::int64_t i = take(); i < n_tiles; i = take()) {
            const std::int64_t first_key = i * width;
            const std::int64_t n = std::min(width, batch.n_keys - first_key);
            Tile tile(fold, first_key, static_cast<int>(n));
            n_nan += options.per_unit ? tile.fold_rows() : tile.fold_positions();
        }
    });
    return n_nan;
}

void best_entries(const TopKHeaps& heaps, std::int64_t n_keys, int n_threads, std::int64_t* out) {
    for_rows(n_keys, n_threads, [&](const auto& take) {
        std::vector<std::int64_t> entries(static_cast<std::size_t>(heaps.capacity));
        for (std::int64_t key = take(); key < n_keys; key = take()) {
            const std::int64_t* row = heaps.entries + key * heaps.capacity;
            std::int64_t n = std::copy(row, row + heaps.counts[key], entries.data()) - entries.data();
            if (heaps.repeats[key]) n = distinct(entries.data(), n);
            n = select_best(entries.data(), n, heaps.k);
            std::int64_t* const best = out + key * heaps.k;
            if (n <= kFew) {
                order_distinct(entries.data(), n, best);
            } else {
                std::partial_sort_copy(entries.data(), entries.data() + n, best, best + n,
                                       std::greater<std::int64_t>());
            }
            std::fill(best + n, best + heaps.k, kNoEntry);
        }
    });
}

}  // namespace pyengine
