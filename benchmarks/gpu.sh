#!/usr/bin/env bash
# What needs a GPU, in three calls on a machine without network:
#   first    200 s, PyTorch and Triton alone (nvcc where it is): the chip, every kernel, rollouts, parts, captured
#            steps, a profile
#   figures  400 s, in bf16: engine tests, training steps and layer launches, a short training, the same learning
#   compare  530 s, in float32 and bf16: beside the public implementation, and every kernel beside others; builds the
#            C++ extension
# Usage: benchmarks/gpu.sh first|figures|compare FOLDER [CHECKOUT]. FOLDER takes CALL.tar.gz with logs and JSON, made
# anew after each step, and CALL.txt, what was printed. A step that fails, hangs or finds the disk full leaves the
# others alone. STEPS="exact parts" runs those steps alone; MOST=30 gives each step 30 s at most; SANITIZE=1 runs
# the kernels' tests under compute-sanitizer instead. DEVICE=cpu rehearses a call in small without a GPU.
set -uo pipefail
call=${1:-}
declare -A limits=([first]=200 [figures]=400 [compare]=530)
limit=${limits[$call]:-0}
[ "$limit" -gt 0 ] && [ $# -ge 2 ] || { sed -n '2,11s/^# //p' "$0" >&2; exit 2; }
out=$(mkdir -p "$2" && cd "$2" && pwd) || exit 2
checkout=${3:+$(cd "$3" && pwd)}
[ -n "$checkout" ] || [ -z "${3:-}" ] || exit 2
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 TORCHINDUCTOR_COMPILE_THREADS=1
export TRITON_CACHE_DIR="${TRITON_CACHE_DIR:-$PWD/build/triton}"  # one for all steps
scratch=$(mktemp -d)
work=$scratch/$call
mkdir "$work"
trap 'rm -rf "$scratch"' EXIT
: >"$work/failures.log"

# keep: what there is so far, in one archive. A full disk costs the archive, and the printed lines remain.
keep() {
  tar -C "$scratch" -czf "$out/$call.tar.gz.part" "$call" 2>/dev/null &&
    mv -T "$out/$call.tar.gz.part" "$out/$call.tar.gz" 2>/dev/null || echo "results were not kept in $out"
}

# failed SENTENCE: says it now, and at the end.
failed() { echo "$1" | tee -a "$work/failures.log" 2>/dev/null; }

# shown LINES: the last LINES of what comes, or its `facts` and the last line that is none.
shown() {
  if [ "$1" = facts ]; then awk '/^\[/ { print; next } NF { last = $0 } END { if (last) print last }'; else tail -n "$1"; fi
}

# step NAME SECONDS LINES COMMAND…: runs within that time and what is left of the whole; keeps its log where there is
# room, and prints what is `shown` of it.
step() {
  local name=$1 seconds=$2 lines=$3 left=$((limit - SECONDS)) began=$SECONDS code printed
  shift 3
  [[ " ${STEPS:-$name} " == *" $name "* ]] || return 0
  if [ "$left" -lt 10 ]; then
    failed "$name: no time left (STEPS=$name runs it)"
    return
  fi
  seconds=$((left < seconds ? left : seconds))
  seconds=$((seconds < ${MOST:-600} ? seconds : MOST))
  printed=$(
    env --default-signal=INT timeout -k 5 -s INT "$seconds" "$@" 2>&1 | tee "$work/$name.log" 2>/dev/null | shown "$lines"
    exit "${PIPESTATUS[0]}"
  )
  code=$?
  printf '\n== %s (%d to %d s)\n%s\n' "$name" "$began" "$SECONDS" "$printed"
  [ "$code" = 0 ] || failed "$name: exit $code after $((SECONDS - began)) s"
  keep
}

tests=(python3 -m pytest -q -m gpu -p no:cacheprovider --continue-on-collection-errors)
python3 -c 'import xdist' 2>/dev/null && tests+=(-n 12)
contact=(python3 -m benchmarks.first_contact "$work")
measured=(python3 -m benchmarks --device "${DEVICE:-cuda}" --json "$work")
trained=(--preset paper common.precision=bf16)
if [ "${DEVICE:-cuda}" = cpu ]; then
  measured+=(--quick --threads 1)
  trained=(--preset tiny tokenizer.perceptual=lpips training.{tokenizer,world_model,actor_critic}.steps_per_epoch=1)
fi

sanitize() {
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1  # a tensor's memory is its own; a graph cannot be captured that way
  for tool in memcheck racecheck; do
    step "$tool" 220 5 compute-sanitizer --tool "$tool" --error-exitcode 9 \
      python3 -m pytest -q -m gpu -k "not captur" -p no:cacheprovider tests/kernels
  done
}

first() {
  step chip 30 facts "${contact[@]}" chip
  # Compiling takes most of these three, and none is timed.
  step kernel_tests 50 8 "${tests[@]}" -k "not compiles_whole and not well_formed" tests/kernels &
  step tokens 50 facts "${contact[@]}" tokens &
  step exact 50 facts "${contact[@]}" exact
  wait
  step rollouts 40 facts "${contact[@]}" rollouts
  step parts 25 facts "${contact[@]}" parts
  step training 40 facts "${contact[@]}" training
  step profiled 15 facts "${contact[@]}" profiled
}

figures() {
  step engine_tests 75 8 "${tests[@]}" tests/imagination tests/training tests/test_acting.py
  step training_steps 80 60 "${measured[@]}" --precision bf16 --only training_steps
  step layer_launches 45 20 "${measured[@]}" --precision bf16 --only layer_launches
  # The paper's loss has LPIPS, whose weights would be downloaded: made-up ones of its shape take the same time.
  STEPS=${STEPS:+lpips $STEPS} step lpips 15 2 python3 -c 'import sys, torch
from benchmarks.systems.weights import random_lpips
torch.save(random_lpips().state_dict(), sys.argv[1])' "$scratch/lpips.pt"
  step train 90 8 python3 -m iris_fast.train --game Pong --run-dir "$scratch/run" \
    initialization.lpips_weights="$scratch/lpips.pt" \
    env.backend=ale collection.train.config.num_steps=100 common.epochs=3 \
    training.tokenizer.start_after_epochs=0 training.world_model.start_after_epochs=1 \
    training.actor_critic.start_after_epochs=2 training.tokenizer.steps_per_epoch=50 \
    training.world_model.steps_per_epoch=50 training.actor_critic.steps_per_epoch=20 \
    collection.test.num_envs=4 collection.test.config.num_episodes=4 evaluation.every=3 \
    evaluation.num_imagined_episodes=0 "${trained[@]}"
  cp "$scratch/run/logs/metrics.jsonl" "$work/train_metrics.jsonl" 2>/dev/null
  step same_learning 95 60 "${measured[@]}" --minutes 1.4 --only same_learning
}

compare() {
  local reference=(${checkout:+--reference "$checkout"})
  STEPS=${STEPS:+build $STEPS} step build 90 3 python3 setup.py -q build_ext --inplace
  step compare 180 40 "${measured[@]}" "${reference[@]}" --batches 64 --minutes 2.4 \
    --only environments,rollout,gradient_steps,playing,projection
  step kernels 200 3 "${measured[@]}" --only 'kernel_*' --minutes 3
}

{
  nvidia-smi >"$work/nvidia_smi.log" 2>&1
  if [ "${SANITIZE:-0}" = 1 ]; then sanitize; else "$call"; fi
  printf '\n== done (at %d s)\n' "$SECONDS"
  cat "$work/failures.log"
  keep
} 2>&1 | tee "$out/$call.txt"
[ ! -s "$work/failures.log" ]
