#!/usr/bin/env bash
# The C++ unit tests as arm64 code with NEON, from any Linux machine: cross-compiled with warnings as errors, run in an
# emulator. Needs CMake, Ninja and, of Debian or Ubuntu, the packages g++-aarch64-linux-gnu and qemu-user.
#
#   csrc/arm64.sh
#
# The thread pool's test is left out: it forks a process with threads, which QEMU's user mode does not do, and has
# nothing of the architecture in it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cmake -S . -B "$scratch" -G Ninja -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
  -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_CROSSCOMPILING_EMULATOR='qemu-aarch64;-L;/usr/aarch64-linux-gnu' \
  -DIRIS_FAST_PYTHON=OFF -DIRIS_FAST_TESTS=ON -DIRIS_FAST_WERROR=ON
cmake --build "$scratch"
ctest --test-dir "$scratch" --output-on-failure --exclude-regex '^thread_pool$'
