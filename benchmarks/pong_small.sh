#!/usr/bin/env bash
# Trains Pong with the small preset for an hour or more on a CPU and keeps what it learned, whatever it is.
# Usage: benchmarks/pong_small.sh [SECONDS] [FOLDER]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${1:-3900}
out=${2:-benchmarks/results/cpu/pong_small}
mkdir -p "$out"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
commit=$(git describe --always --dirty --abbrev=12 '--exclude=*')  # of what runs, whatever is edited meanwhile

began=$(date +%s)
timeout -s INT "$seconds" python -m iris_fast.train --game Pong --preset small --run-dir "$scratch/run" || test $? -eq 124
python -m benchmarks.run_record "$out" --name run --run "$scratch/run" --seconds $(($(date +%s) - began)) --seed 0 --commit "$commit" \
  --command "python -m iris_fast.train --game Pong --preset small"
for kind in reconstructions episodes/imagination; do
  last=$(ls "$scratch/run/media/$kind" | tail -n 1)
  [ -z "$last" ] || cp "$scratch/run/media/$kind/$last" "$out/$(echo "$kind" | tr / _)_$last"
done
python -m iris_fast.plot "$scratch/run" --out "$out"
python -m benchmarks.report.pictures "$out"/*.png "$out"/*.mp4
