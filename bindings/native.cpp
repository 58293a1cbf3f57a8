// pyengine._native: check types and shapes, release the GIL, call csrc; nothing else.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "gelu.hpp"
#include "heap_merge.hpp"
#include "row_summary.hpp"
#include "topk.hpp"

namespace py = pybind11;

namespace {

// The arrays of all shards, kept alive while the merge reads them.
struct Shards {
    std::vector<Packed<float>> scores;
    std::vector<Packed<std::int64_t>> ids;

    Shards(const py::sequence& all_scores, const py::sequence& all_ids) {
        if (all_scores.size() != all_ids.size()) {
            fail("scores", "holds " + std::to_string(all_scores.size()) + " shards, ids holds " +
                               std::to_string(all_ids.size()));
        }
        for (std::size_t shard = 0; shard < all_scores.size(); ++shard) {
            const std::string name = "shard " + std::to_string(shard) + ":";
            scores.push_back(to_array<float>(all_scores[shard], 2, name + " scores"));
            ids.push_back(to_array<std::int64_t>(all_ids[shard], 2, name + " ids"));
            check_shapes(scores.back(), ids.back(), name);
        }
    }

    void check_shapes(const py::array& shard_scores, const py::array& shard_ids,
                      const std::string& name) const {
        if (shape_text(shard_scores) != shape_text(shard_ids)) {
            fail(name, "scores have shape " + shape_text(shard_scores) + ", ids " +
                           shape_text(shard_ids));
        }
        if (shard_scores.shape(0) != scores[0].shape(0)) {
            fail(name, "has " + std::to_string(shard_scores.shape(0)) + " keys, shard 0 has " +
                           std::to_string(scores[0].shape(0)));
        }
    }

    std::vector<pyengine::Heaps> heaps() const {
        std::vector<pyengine::Heaps> heaps;
        for (std::size_t i = 0; i < scores.size(); ++i) {
            heaps.push_back({scores[i].data(), ids[i].data(), scores[i].shape(1)});
        }
        return heaps;
    }
};

py::tuple merge_heaps(const py::sequence& all_scores, const py::sequence& all_ids, std::int64_t k,
                      const py::object& unit_starts, bool largest, int n_threads) {
    const Shards shards(all_scores, all_ids);
    if (shards.scores.empty()) fail("scores", "holds no shard");
    if (k < 1) fail("k", "is " + std::to_string(k) + ", must be at least 1");
    pyengine::HeapMergeOptions options;
    options.k = k;
    options.largest = largest;
    options.n_threads = n_threads;
    std::optional<Packed<std::int64_t>> starts;
    if (!unit_starts.is_none()) {
        starts = to_array<std::int64_t>(unit_starts, 1, "unit_starts");
        options.unit_starts = starts->data();
        options.n_unit_starts = starts->size();
    }
    const py::ssize_t n_keys = shards.scores[0].shape(0);
    py::array_t<float> scores({n_keys, static_cast<py::ssize_t>(k)});
    py::array_t<std::int64_t> ids({n_keys, static_cast<py::ssize_t>(k)});
    const auto heaps = shards.heaps();
    float* const scores_out = scores.mutable_data();
    std::int64_t* const ids_out = ids.mutable_data();
    {
        const py::gil_scoped_release release;
        pyengine::merge_heaps(heaps, n_keys, options, scores_out, ids_out);
    }
    return py::make_tuple(std::move(scores), std::move(ids));
}

template <typename T>
py::tuple summarize_rows_of(const py::array& all_logits, const py::array& all_targets,
                            int n_threads) {
    const auto logits = to_array<T>(all_logits, 2, "logits");
    const auto targets = to_array<std::int64_t>(all_targets, 2, "targets");
    if (logits.shape(0) != targets.shape(0)) {
        fail("targets", "have shape " + shape_text(targets) + ", logits " + shape_text(logits));
    }
    if (logits.shape(1) == 0) fail("logits", "have shape " + shape_text(logits) + ", no tokens");
    const pyengine::LogitRows<T> rows{logits.data(), targets.data(), logits.shape(0),
                                      logits.shape(1), targets.shape(1)};
    const py::ssize_t n_groups = (logits.shape(1) - 1) / pyengine::kTokensPerGroup + 1;
    py::array_t<T> maxima({logits.shape(0), n_groups});
    py::array_t<T> minima({logits.shape(0), n_groups});
    py::array_t<T> highest(logits.shape(0));
    py::array_t<double> s(logits.shape(0));
    py::array_t<double> u(logits.shape(0));
    py::array_t<std::int64_t> ranks({targets.shape(0), targets.shape(1)});
    const pyengine::RowSummaries<T> out{maxima.mutable_data(),  minima.mutable_data(),
                                        highest.mutable_data(), s.mutable_data(),
                                        u.mutable_data(),       ranks.mutable_data()};
    {
        const py::gil_scoped_release release;
        pyengine::summarize_rows(rows, n_threads, out);
    }
    return py::make_tuple(std::move(maxima), std::move(minima), std::move(highest), std::move(s),
                          std::move(u), std::move(ranks));
}

py::tuple summarize_rows(const py::array& logits, const py::array& targets, int n_threads) {
    if (logits.dtype().equal(py::dtype::of<double>())) {
        return summarize_rows_of<double>(logits, targets, n_threads);
    }
    return summarize_rows_of<float>(logits, targets, n_threads);
}

std::int64_t gelu_tanh(const py::object& all_values, const py::object& all_ids,
                       const py::object& all_out, int n_threads) {
    const auto values = to_array<float>(all_values, 1, "values");
    const auto ids = to_array<std::int64_t>(all_ids, 1, "ids");
    float* const out = in_place<float>(all_out, values.size(), 0, "out");
    const std::int64_t n_rows = ids.size();
    if (n_rows ? values.size() % n_rows != 0 : values.size() > 0) {
        fail("values", "have shape " + shape_text(values) + ", which is no multiple of the " +
                           std::to_string(n_rows) + " ids");
    }
    const std::int64_t n_columns = n_rows ? values.size() / n_rows : 0;
    const py::gil_scoped_release release;
    return pyengine::gelu_tanh(values.data(), ids.data(), n_rows, n_columns, n_threads, out);
}

}  // namespace

PYBIND11_MODULE(_native, module) {
    module.doc() = "Compiled parts of pyengine; use them through its Python modules.";
    module.def("merge_heaps", &merge_heaps, py::arg("scores"), py::arg("ids"), py::arg("k"),
               py::arg("unit_starts") = py::none(), py::arg("largest") = true,
               py::arg("n_threads") = 0, "See pyengine.merge.merge_heaps.");
    module.def("summarize_rows", &summarize_rows, py::arg("logits"), py::arg("targets"),
               py::arg("n_threads") = 0, "See pyengine.torch_vocab.Summary.");
    module.def("gelu_tanh", &gelu_tanh, py::arg("values"), py::arg("ids"), py::arg("out"),
               py::arg("n_threads") = 1, "See pyengine.torch_ops.native_gelu_tanh.");
    add_topk(module);
}
