#!/usr/bin/env bash
# Everything that needs a GPU, in one call under 9 minutes on a machine without network: builds the C++ extension,
# runs the GPU tests, the benchmarks with a profile of a rollout and of each gradient step (in training_steps.json), the
# public implementation beside them, and trains Pong shortly for real. A step that fails or takes too long leaves the
# others alone; what matters most comes first, and each step has the time that it is expected to take, and some.
# Usage: benchmarks/gpu.sh FOLDER [CHECKOUT]   FOLDER takes JSON and logs (benchmarks/results/h200); CHECKOUT is the
# public implementation's. STEPS="kernel_tests kernels" runs those steps alone, for a second call; SANITIZE=1 runs the
# kernels' GPU tests under compute-sanitizer instead of all that.
set -uo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
checkout=${2:+$(cd "$2" && pwd)}
[ -n "$checkout" ] || [ -z "${2:-}" ] || exit 2
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
limit=530
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# step NAME SECONDS LINES COMMAND…: runs within that time and what is left of the whole; keeps its log in FOLDER.
step() {
  local name=$1 seconds=$2 lines=$3 left=$((limit - SECONDS))
  shift 3
  [[ " ${STEPS:-$name} " == *" $name "* ]] || return 0
  printf '\n== %s (at %d s)\n' "$name" "$SECONDS"
  if [ "$left" -lt 10 ]; then
    echo "no time left: left out (STEPS=$name runs it)" | tee "$out/$name.log" | tee -a "$out/failures.log"
    return
  fi
  timeout -k 5 -s INT "$((left < seconds ? left : seconds))" "$@" >"$out/$name.log" 2>&1
  local code=$?
  tail -n "$lines" "$out/$name.log"
  [ "$code" = 0 ] || printf '%s: exit %d after %d s\n' "$name" "$code" "$SECONDS" | tee -a "$out/failures.log"
}

# GPU tests run in several processes where that is possible, since most of their time goes into compiling kernels.
tests=(python3 -m pytest -q -m gpu -p no:cacheprovider)
python3 -c 'import xdist' 2>/dev/null && tests+=(-n 4)

rm -f "$out/failures.log"
nvidia-smi >"$out/nvidia_smi.log" 2>&1
needed="torch triton numpy gymnasium ale_py av yaml PIL tqdm tensorboard matplotlib pytest hypothesis pybind11 cmake ninja"
missing=$(python3 -c 'import sys, importlib.util as u; print(*(n for n in sys.argv[1:] if not u.find_spec(n)))' $needed)
[ -z "$missing" ] || echo "not installed, so that what needs them fails: $missing" | tee -a "$out/failures.log"
STEPS=${STEPS:+build $STEPS} step build 90 3 python3 setup.py -q build_ext --inplace

if [ "${SANITIZE:-0}" = 1 ]; then
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1  # a tensor's memory is its own; a graph cannot be captured that way
  for tool in memcheck racecheck; do
    step "$tool" 220 5 compute-sanitizer --tool "$tool" --error-exitcode 9 \
      python3 -m pytest -q -m gpu -k "not captur" -p no:cacheprovider tests/kernels
  done
  exit 0
fi

# Expected on an H200, in seconds (no GPU has run this yet): 25 to build, 45, 110, 135, 5, 70 and 135 to same_learning,
# which ends at 525. What follows, of the kernels alone, wants a second call.
step engine_tests 80 8 "${tests[@]}" tests/imagination tests/training tests/test_acting.py
step training_steps 130 4 python3 -m benchmarks --only training_steps --device cuda --json "$out"
step layer_launches 90 20 python3 -m benchmarks --only layer_launches --device cuda --json "$out"

# Ours beside plain PyTorch and the public implementation, at the paper's batch; outputs are compared first.
reference=(${checkout:+--reference "$checkout"})
step compare 160 40 python3 -m benchmarks "${reference[@]}" --device cuda --batches 64 --minutes 2.4 \
  --only environments,rollout,gradient_steps,playing,projection --json "$out"
step captured_projection 20 4 python3 -m benchmarks.report.captured_projection "$out"

step train 100 8 python3 -m iris_fast.train --game Pong --preset paper --run-dir "$scratch/run" \
  env.backend=ale common.precision=bf16 collection.train.config.num_steps=100 common.epochs=6 \
  training.tokenizer.start_after_epochs=0 training.world_model.start_after_epochs=1 \
  training.actor_critic.start_after_epochs=2 training.tokenizer.steps_per_epoch=50 \
  training.world_model.steps_per_epoch=50 training.actor_critic.steps_per_epoch=20 \
  collection.test.num_envs=4 collection.test.config.num_episodes=4 evaluation.every=6 \
  evaluation.num_imagined_episodes=0
cp "$scratch/run/logs/metrics.jsonl" "$out/train_metrics.jsonl" 2>/dev/null

step same_learning 150 12 python3 -m benchmarks --only same_learning --device cuda --json "$out"
step kernel_tests 100 8 "${tests[@]}" tests/kernels
step kernels 200 3 python3 -m benchmarks --only 'kernel_*' --device cuda --minutes 3 --json "$out"
printf '\n== done (at %d s)\n' "$SECONDS"
if [ -s "$out/failures.log" ]; then
  cat "$out/failures.log"
  exit 1
fi
