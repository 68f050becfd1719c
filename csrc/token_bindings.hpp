// The token engine's part of the Python module.
#pragma once

#include <pybind11/pybind11.h>

void bind_token_engine(pybind11::module_& module);
