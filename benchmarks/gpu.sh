#!/usr/bin/env bash
# Everything that needs a GPU, in one call under 9 minutes on a machine without network: builds the C++ extension,
# runs the GPU tests, the benchmarks, a profile of a rollout and of each gradient step, the public implementation
# beside them, and trains Pong shortly for real. A step that fails or takes too long leaves the others alone.
# Usage: benchmarks/gpu.sh FOLDER [CHECKOUT]   FOLDER takes JSON and logs (benchmarks/results/h200); CHECKOUT is the
# public implementation's. SANITIZE=1 runs the kernels' GPU tests under compute-sanitizer instead of all that.
set -uo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
checkout=${2:+$(cd "$2" && pwd)}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
limit=530
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# step NAME SECONDS LINES COMMAND…: runs within that time and what is left of the whole; keeps its log in FOLDER.
step() {
  local name=$1 seconds=$2 lines=$3 left=$((limit - SECONDS))
  shift 3
  printf '\n== %s (at %d s)\n' "$name" "$SECONDS"
  if [ "$left" -lt 10 ]; then
    echo "no time left: left out" | tee "$out/$name.log"
    return
  fi
  timeout -k 5 -s INT "$((left < seconds ? left : seconds))" "$@" >"$out/$name.log" 2>&1
  local code=$?
  tail -n "$lines" "$out/$name.log"
  [ "$code" = 0 ] || printf '%s: exit %d\n' "$name" "$code" | tee -a "$out/failures.log"
}

rm -f "$out/failures.log"
nvidia-smi >"$out/nvidia_smi.log" 2>&1
step build 90 3 python3 setup.py -q build_ext --inplace

if [ "${SANITIZE:-0}" = 1 ]; then
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1
  for tool in memcheck racecheck; do
    step "$tool" 220 5 compute-sanitizer --tool "$tool" --error-exitcode 9 \
      python3 -m pytest -q -m gpu -p no:cacheprovider tests/kernels
  done
  exit 0
fi

# The engine and the steps first: the figures that matter most, should the rest run out of time.
step engine_tests 80 8 python3 -m pytest -q -m gpu -p no:cacheprovider \
  tests/imagination tests/training tests/test_acting.py
step training_steps 110 60 python3 -m benchmarks --only training_steps --json "$out"
step layer_launches 90 20 python3 -m benchmarks --only layer_launches --json "$out"
step profile 60 3 python3 -m benchmarks.profile_steps "$out/profile"

step train 100 8 python3 -m iris_fast.train --game Pong --preset paper --run-dir "$scratch/run" \
  env.backend=ale common.precision=bf16 collection.train.config.num_steps=100 common.epochs=6 \
  training.tokenizer.start_after_epochs=0 training.world_model.start_after_epochs=1 \
  training.actor_critic.start_after_epochs=2 training.tokenizer.steps_per_epoch=50 \
  training.world_model.steps_per_epoch=50 training.actor_critic.steps_per_epoch=20 \
  collection.test.num_envs=4 collection.test.config.num_episodes=4 evaluation.every=6 \
  evaluation.num_imagined_episodes=0
cp "$scratch/run/logs/metrics.jsonl" "$out/train_metrics.jsonl" 2>/dev/null

step same_learning 90 12 python3 -m benchmarks --only same_learning --json "$out"
if [ -n "$checkout" ]; then
  step public 60 20 python3 -m benchmarks.public_steps "$checkout" "$out/public_steps.json"
fi
step kernel_tests 80 8 python3 -m pytest -q -m gpu -p no:cacheprovider tests/kernels
kernels=$(python3 -m benchmarks --list | awk '$1 ~ /^kernel_/ {print $1}' | paste -sd,)
step kernels 150 3 python3 -m benchmarks --only "$kernels" --json "$out"
step other_gpu_tests 60 8 python3 -m pytest -q -m gpu -p no:cacheprovider \
  --ignore tests/kernels --ignore tests/imagination --ignore tests/training --ignore tests/test_acting.py
printf '\n== done (at %d s)\n' "$SECONDS"
cat "$out/failures.log" 2>/dev/null
