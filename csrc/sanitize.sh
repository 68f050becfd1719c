#!/usr/bin/env bash
# The extension's tests under sanitizers: the C++ unit tests, then the tests of the Python binding and a minute of
# fuzzing, each for AddressSanitizer with UndefinedBehaviorSanitizer and for ThreadSanitizer.
#
#   csrc/sanitize.sh            both
#   csrc/sanitize.sh address    or thread: one of them
#
# Works in a scratch folder on what is tracked or new in this checkout; needs g++, CMake, Ninja and the packages of the
# extra `test`. FUZZ_SECONDS changes the minute.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OMP_NUM_THREADS=1

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
git ls-files --cached --others --exclude-standard -z | tar --null -T - -cf - | tar -xf - -C "$scratch"

build() { # sanitizers: the unit tests and the module, beside the package in the scratch folder
  cmake -S "$scratch" -B "$scratch/build_$1" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DIRIS_FAST_TESTS=ON \
    -DIRIS_FAST_SANITIZE="$2" -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$scratch/iris_fast" \
    -DPython_EXECUTABLE="$(command -v python)" -Dpybind11_DIR="$(python -m pybind11 --cmakedir)"
  cmake --build "$scratch/build_$1"
}

binding_tests() { # libraries to load first: Python itself is not built with sanitizers
  (
    cd "$scratch"
    export LD_PRELOAD="$1"
    # What a sanitizer says of a process that it ends would be lost where pytest captures more.
    python -m pytest -q --capture=sys -p no:cacheprovider tests/imagination/test_cpu_*.py \
      tests/models/test_cpu_*.py tests/models/test_frame_*.py tests/kernels/test_extension.py \
      --deselect tests/kernels/test_extension.py::test_keep_large_blocks_ends_page_faults_of_a_loop
    python -m tests.imagination.fuzz_cpu_engine --seconds "${FUZZ_SECONDS:-60}"
  )
}

library() { g++ -print-file-name="$1"; }

address() {
  # Python never frees some of its memory, and a failed allocation is an exception as without sanitizers.
  export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:halt_on_error=1
  build address address,undefined
  ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 ctest --test-dir "$scratch/build_address" --output-on-failure
  binding_tests "$(library libasan.so) $(library libubsan.so) $(library libstdc++.so)"
}

thread() {
  # Only memory that the extension itself touches is looked at: PyTorch's own threads are not built for it. By itself
  # the sanitizer ends a process that starts threads after a fork of several, as the tests of forks do.
  export TSAN_OPTIONS=halt_on_error=1:ignore_noninstrumented_modules=1:die_after_fork=0
  build thread thread
  ctest --test-dir "$scratch/build_thread" --output-on-failure
  binding_tests "$(library libtsan.so) $(library libstdc++.so)"
}

for sanitizer in "${@:-address thread}"; do
  for name in $sanitizer; do "$name"; done
done
