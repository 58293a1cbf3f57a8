// What all bindings ask of numpy arrays. A wrong dtype is never converted.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>

namespace py = pybind11;

// A non-contiguous or misaligned array is copied; a wrong dtype never is.
template <typename T>
using Packed =
    py::array_t<T, py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_>;

[[noreturn]] inline void fail(const std::string& name, const std::string& problem) {
    throw py::value_error(name + " " + problem);
}

// An array as it is, of this dtype and number of dimensions.
template <typename T>
py::array checked(py::handle value, py::ssize_t n_dims, const std::string& name) {
    const py::dtype wanted = py::dtype::of<T>();
    const std::string wanted_text = "must be a " + std::to_string(n_dims) + "-D " +
                                    py::str(py::handle(wanted)).cast<std::string>() + " array, not ";
    if (!py::isinstance<py::array>(value)) {
        fail(name, wanted_text + py::str(py::type::of(value)).cast<std::string>());
    }
    const auto array = py::reinterpret_borrow<py::array>(value);
    if (!array.dtype().equal(wanted)) {
        fail(name, wanted_text + py::str(array.dtype()).cast<std::string>());
    }
    if (array.ndim() != n_dims) fail(name, wanted_text + std::to_string(array.ndim()) + "-D");
    return array;
}

template <typename T>
Packed<T> to_array(py::handle value, py::ssize_t n_dims, const std::string& name) {
    const Packed<T> packed = Packed<T>::ensure(checked<T>(value, n_dims, name));
    if (!packed) throw py::error_already_set();
    return packed;
}

inline std::string shape_text(const py::array& array) {
    std::string text = "(";
    for (py::ssize_t i = 0; i < array.ndim(); ++i) {
        text += (i ? ", " : "") + std::to_string(array.shape(i));
    }
    return text + (array.ndim() == 1 ? ",)" : ")");
}

// Where an array [n_keys] or [n_keys, width] lies that is written in place, and so never copied.
template <typename T>
T* in_place(py::handle value, py::ssize_t n_keys, py::ssize_t width, const std::string& name) {
    const py::ssize_t n_dims = width ? 2 : 1;
    auto array = checked<T>(value, n_dims, name);
    const auto flags = py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_ |
                       py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
    if ((array.flags() & flags) != flags) {
        fail(name, "must be contiguous, aligned and writeable");
    }
    if (array.shape(0) != n_keys || (width && array.shape(1) != width)) {
        const std::string last = width ? ", " + std::to_string(width) + ")" : ",)";
        fail(name, "must have shape (" + std::to_string(n_keys) + last + ", not " +
                       shape_text(array));
    }
    return static_cast<T*>(array.mutable_data());
}
