#!/usr/bin/env bash
# Seconds an epoch of the seed network at batch 128: PyTorch and shadernet in turn, ROUNDS times.
# Usage: bash benches/compare.sh [ROUNDS] [PYTHON]
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-2}
python=${2:-python3}
cargo build --release --quiet
binary=${CARGO_TARGET_DIR:-target}/release/shadernet
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# 234 steps, half an epoch, after which the summary tells the seconds of a whole one.
shadernet() {
    local label=$1
    shift
    "$binary" train --batch-size 128 --max-steps 234 --out "$out/run" --json "$@" 2>/dev/null |
        "$python" -c "import json, sys; print(f'shadernet $label  {json.load(sys.stdin)[\"train_seconds_per_epoch\"]:8.3f} s/epoch')"
    rm -rf "$out/run"
}

for _ in $(seq "$rounds"); do
    "$python" benches/pytorch_epoch.py --data data/mnist
    shadernet "cpu, no augmentation" --device cpu --augment off
    shadernet "cpu, augmentation   " --device cpu
    if "$binary" devices 2>/dev/null | grep -q llvmpipe; then
        shadernet "lavapipe            " --device llvmpipe
    fi
done
