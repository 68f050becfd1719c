#!/usr/bin/env bash
# Trains Catch from an empty folder with three seeds, one after the other, evaluates each over 100 episodes, and
# writes returns, metrics, times and learning curves. Usage: benchmarks/catch.sh [FOLDER]   (about 40 minutes)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-benchmarks/results/cpu/catch}
mkdir -p "$out"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

for seed in 0 1 2; do
  began=$(date +%s)
  python -m iris_fast.train --game Catch --seed "$seed" --run-dir "$scratch/seed_$seed"
  seconds=$(($(date +%s) - began))
  python -m iris_fast.evaluate "$scratch/seed_$seed" --episodes 100 --json "$out/evaluation_$seed.json"
  cp "$scratch/seed_$seed/logs/metrics.jsonl" "$out/metrics_$seed.jsonl"
  python -m benchmarks.run_record "$out/run_$seed.json" --seconds "$seconds" --seed "$seed" \
    --command "python -m iris_fast.train --game Catch --seed $seed"
done
sed -i "s#$scratch/##" "$out"/evaluation_*.json
python -m iris_fast.plot "$scratch"/seed_{0,1,2} --out "$out"
