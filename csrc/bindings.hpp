// The parts of the Python module, a file each.
#pragma once

#include <pybind11/pybind11.h>

void bind_pool(pybind11::module_& module);
void bind_tokens(pybind11::module_& module);
void bind_frames(pybind11::module_& module);
void bind_policy(pybind11::module_& module);
void bind_attention(pybind11::module_& module);
void bind_norms(pybind11::module_& module);
void bind_rollout(pybind11::module_& module);
