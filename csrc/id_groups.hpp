// Which ids stand for the same thing, and which of them a key has already kept.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace pyengine {

// Which group an id belongs to (its unit, or itself), and which ids are legal.
class Groups {
public:
    Groups(const std::int64_t* starts, std::int64_t n_starts)
        : begin_(starts), end_(starts + n_starts) {
        if (starts == nullptr) return;
        if (n_starts < 1) throw std::invalid_argument("unit_starts is empty, not n_units + 1 ids");
        if (*begin_ < 0) {
            throw std::invalid_argument("unit_starts begins at " + std::to_string(*begin_) +
                                        ", below 0");
        }
        const auto fall = std::is_sorted_until(begin_, end_);
        if (fall != end_) {
            throw std::invalid_argument("unit_starts is not ascending at index " +
                                        std::to_string(fall - begin_));
        }
        first_id = *begin_;
        last_id = end_[-1] - 1;
        index();
    }

    std::int64_t of(std::int64_t id) const {
        if (begin_ == nullptr) return id;
        const std::int64_t* const window = windows_.data() + ((id - first_id) >> shift_);
        return std::upper_bound(begin_ + window[0], begin_ + window[1], id) - begin_ - 1;
    }

    // Both ends inclusive; no id is legal when last_id < first_id.
    std::int64_t first_id = 0;
    std::int64_t last_id = std::numeric_limits<std::int64_t>::max();

private:
    // Cut the ids into about n_units equal windows and note where the starts of each one begin:
    // searching one window costs two cache misses, searching millions of starts some twenty.
    void index() {
        while ((last_id - first_id) >> shift_ > end_ - begin_) ++shift_;
        windows_.assign(static_cast<std::size_t>((last_id - first_id) >> shift_) + 2, 0);
        const std::int64_t* start = begin_;
        for (std::size_t window = 1; window < windows_.size(); ++window) {
            const auto next = static_cast<std::int64_t>(window);
            while (start != end_ && (*start - first_id) >> shift_ < next) ++start;
            windows_[window] = start - begin_;
        }
    }

    const std::int64_t* begin_;
    const std::int64_t* end_;
    int shift_ = 0;
    std::vector<std::int64_t> windows_;
};

// The groups already written for the current key: open addressing, emptied in O(1) per key.
class SeenSet {
public:
    explicit SeenSet(std::int64_t capacity) {
        while ((std::int64_t{1} << bits_) < 2 * capacity) ++bits_;
        slots_.resize(std::size_t{1} << bits_);
    }

    void clear() { ++round_; }

    bool insert(std::int64_t group) {
        const std::size_t mask = slots_.size() - 1;
        // Fibonacci hashing: the top bits of the product are well mixed.
        std::size_t at = (static_cast<std::uint64_t>(group) * 0x9E3779B97F4A7C15u) >> (64 - bits_);
        for (; slots_[at].round == round_; at = (at + 1) & mask) {
            if (slots_[at].group == group) return false;
        }
        slots_[at] = {group, round_};
        return true;
    }

private:
    struct Slot {
        std::int64_t group = 0;
        std::uint64_t round = 0;
    };
    int bits_ = 1;
    std::uint64_t round_ = 0;
    std::vector<Slot> slots_;
};

}  // namespace pyengine
