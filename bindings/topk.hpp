// Bindings of csrc/topk_fold.hpp.
#pragma once

#include <pybind11/pybind11.h>

void add_topk(pybind11::module_& module);
