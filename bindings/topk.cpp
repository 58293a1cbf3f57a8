#include "topk.hpp"

#include <cstdint>
#include <string>

#include "arrays.hpp"
#include "topk_fold.hpp"

namespace {

pyengine::TopKHeaps to_heaps(const py::dict& heaps, std::int64_t k) {
    const py::array entries = checked<std::int64_t>(heaps["entries"], 2, "entries");
    const py::ssize_t n_keys = entries.shape(0);
    const py::ssize_t capacity = entries.shape(1);
    if (k < 1 || k >= capacity || capacity > INT32_MAX) {
        fail("k", "is " + std::to_string(k) + ", must be at least 1 and below the capacity, " +
                      std::to_string(capacity));
    }
    return {in_place<std::int64_t>(entries, n_keys, capacity, "entries"),
            in_place<std::int32_t>(heaps["counts"], n_keys, 0, "counts"),
            in_place<std::int64_t>(heaps["thresholds"], n_keys, 0, "thresholds"),
            in_place<std::int64_t>(heaps["newest"], n_keys, 0, "newest"),
            in_place<std::uint8_t>(heaps["repeats"], n_keys, 0, "repeats"),
            k,
            capacity};
}

pyengine::TopKUndo to_undo(const py::dict& undo, py::ssize_t n_keys, py::ssize_t capacity) {
    if (undo.empty()) return {nullptr, nullptr, nullptr};
    return {in_place<std::int32_t>(undo["counts"], n_keys, 0, "undo counts"),
            in_place<std::uint8_t>(undo["saved"], n_keys, 0, "undo saved"),
            in_place<std::int64_t>(undo["kept"], n_keys, capacity, "undo kept")};
}

// Keys must be adjacent; rows and positions may lie anywhere.
py::array to_values(py::handle value) {
    auto array = checked<float>(value, 3, "values");
    constexpr py::ssize_t size = sizeof(float);
    const bool aligned = array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_;
    if (!aligned || array.strides(0) % size || array.strides(1) % size ||
        (array.shape(2) > 1 && array.strides(2) != size)) {
        fail("values", "must be aligned, and contiguous along the keys");
    }
    return array;
}

std::int64_t fold_topk(const py::dict& heaps, const py::dict& undo, const py::object& all_values,
               const py::object& all_ids, std::int64_t k, int sign, bool per_unit,
               int n_threads) {
    const pyengine::TopKHeaps into = to_heaps(heaps, k);
    const py::array values = to_values(all_values);
    const auto ids = to_array<std::int64_t>(all_ids, 2, "ids");
    if (ids.shape(0) != values.shape(0) || ids.shape(1) != values.shape(1)) {
        fail("ids", "have shape " + shape_text(ids) + ", values " + shape_text(values));
    }
    const py::ssize_t n_keys = py::array(heaps["entries"]).shape(0);
    if (values.shape(2) != n_keys) {
        fail("values", "have shape " + shape_text(values) + ", the heaps have " +
                           std::to_string(n_keys) + " keys");
    }
    if (sign != 1 && sign != -1) fail("sign", "is " + std::to_string(sign) + ", must be 1 or -1");
    const pyengine::TopKUndo back = to_undo(undo, n_keys, into.capacity);
    constexpr py::ssize_t size = sizeof(float);
    const pyengine::Activations batch{static_cast<const float*>(values.data()), ids.data(),
                                      values.shape(0), values.shape(1), n_keys,
                                      values.strides(0) / size, values.strides(1) / size};
    const pyengine::TopKFoldOptions options{static_cast<float>(sign), per_unit, n_threads};
    const py::gil_scoped_release release;
    return pyengine::fold_topk(into, back, batch, options);
}

py::array_t<std::int64_t> best_entries(const py::dict& heaps, std::int64_t k, int n_threads) {
    const pyengine::TopKHeaps from = to_heaps(heaps, k);
    const py::ssize_t n_keys = py::array(heaps["entries"]).shape(0);
    py::array_t<std::int64_t> best({n_keys, static_cast<py::ssize_t>(k)});
    std::int64_t* const out = best.mutable_data();
    const py::gil_scoped_release release;
    pyengine::best_entries(from, n_keys, n_threads, out);
    return best;
}

}  // namespace

void add_topk(py::module_& module) {
    module.def("fold_topk", &fold_topk, py::arg("heaps"), py::arg("undo"), py::arg("values"),
               py::arg("ids"), py::arg("k"), py::arg("sign") = 1, py::arg("per_unit") = false,
               py::arg("n_threads") = 1, "See pyengine.native_topk.NativeHeaps.");
    module.def("best_entries", &best_entries, py::arg("heaps"), py::arg("k"),
               py::arg("n_threads") = 1, "See pyengine.native_topk.NativeHeaps.");
}
