#!/usr/bin/env bash
# Everything that needs a GPU, in one call under 9 minutes on a machine without network: builds the C++ extension,
# runs the GPU tests, the benchmarks, a profile of a rollout and of the training steps, and trains shortly for real.
# Usage: benchmarks/gpu.sh FOLDER   (JSON and logs go there); SANITIZE=1 runs the kernels' GPU tests under
# compute-sanitizer instead of all that.
set -uo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

step() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

step "build"
python3 setup.py -q build_ext --inplace >"$out/build.log" 2>&1 || { echo "build failed"; tail -n 20 "$out/build.log"; }

if [ "${SANITIZE:-0}" = 1 ]; then
  for tool in memcheck racecheck; do
    step "kernels under $tool"
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout 240 compute-sanitizer --tool "$tool" --error-exitcode 9 \
      python3 -m pytest -q -m gpu -p no:cacheprovider tests/kernels >"$out/$tool.log" 2>&1
    printf 'exit %d\n' $? | tee -a "$out/$tool.log"
    tail -n 5 "$out/$tool.log"
  done
  exit 0
fi

step "GPU tests"
timeout 150 python3 -m pytest -q -m gpu -p no:cacheprovider 2>&1 | tee "$out/tests.log" | tail -n 15

step "kernels"
kernels=$(python3 -m benchmarks --list | awk '$1 ~ /^kernel_/ {print $1}' | paste -sd,)
timeout 150 python3 -m benchmarks --only "$kernels" --json "$out" >"$out/kernels.log" 2>&1
tail -n 5 "$out/kernels.log"

step "training steps"
timeout 90 python3 -m benchmarks --only training_steps --json "$out" >"$out/training_steps.log" 2>&1
tail -n 40 "$out/training_steps.log"

step "profile"
timeout 60 python3 -m benchmarks.profile_steps "$out/profile.txt" >"$out/profile.log" 2>&1 || tail -n 5 "$out/profile.log"

step "short training on Pong, paper preset, ALE backend"
left=$((520 - SECONDS))
[ "$left" -gt 30 ] && timeout -s INT "$((left < 90 ? left : 90))" \
  python3 -m iris_fast.train --game Pong --preset paper --run-dir "$out/run" \
  env.backend=ale collection.train.config.num_steps=100 common.epochs=4 training.tokenizer.start_after_epochs=0 \
  training.world_model.start_after_epochs=1 training.actor_critic.start_after_epochs=2 \
  training.tokenizer.steps_per_epoch=20 training.world_model.steps_per_epoch=20 \
  training.actor_critic.steps_per_epoch=5 evaluation.should=false >"$out/train.log" 2>&1
tail -n 8 "$out/train.log"
cp "$out/run/logs/metrics.jsonl" "$out/train_metrics.jsonl" 2>/dev/null
rm -rf "$out/run"
step "done"
