// The frame codec's part of the Python module.
#pragma once

#include <pybind11/pybind11.h>

void bind_frame_codec(pybind11::module_& module);
