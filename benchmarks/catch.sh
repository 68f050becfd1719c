#!/usr/bin/env bash
# Trains Catch from an empty folder with three seeds, evaluates each over 100 episodes, and writes returns, metrics,
# times and learning curves. Usage: benchmarks/catch.sh [FOLDER [JOBS [OVERRIDES]]]   (about 30 minutes). With JOBS=2
# two seeds train at a time, one thread each. OVERRIDES is one argument, such as
# "common.weights_dtype=int8 common.decoder_dtype=int8"; SEEDS="0" trains that seed alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-benchmarks/results/cpu/catch}
jobs=${2:-1}
overrides=${3:-}
mkdir -p "$out"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
commit=$(git describe --always --dirty --abbrev=12 '--exclude=*')  # of what runs, whatever is edited meanwhile
[ "$jobs" -eq 1 ] || export OMP_NUM_THREADS=1

train() {
  local seed=$1 run="$scratch/seed_$1" began seconds
  began=$(date +%s)
  # shellcheck disable=SC2086  # several
  python -m iris_fast.train --game Catch --seed "$seed" --run-dir "$run" $overrides
  seconds=$(($(date +%s) - began))
  python -m iris_fast.evaluate "$run" --episodes 100 --json "$run/evaluation.json"
  python -m benchmarks.run_record "$out" --name "run_$seed" --seconds "$seconds" --seed "$seed" --commit "$commit" \
    --run "$run" --evaluation "$run/evaluation.json" \
    --command "python -m iris_fast.train --game Catch --seed $seed${overrides:+ $overrides}"
}
export -f train
export out scratch commit overrides
tr ' ' '\n' <<<"${SEEDS:-0 1 2}" | xargs -P "$jobs" -I {} bash -euo pipefail -c 'train {}'
python -m iris_fast.plot "$scratch"/seed_* --out "$scratch"
cp "$scratch/learning_curve.png" "$out"
python -m benchmarks.report.pictures "$out/learning_curve.png"
