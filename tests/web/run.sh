#!/usr/bin/env bash
# Tests the page of `shadernet export --html` in Chromium, whose WebGPU is SwiftShader: README.md. Needs Node 20, npm and
# Debian's chromium, or another one in CHROMIUM.
set -euo pipefail
cd "$(dirname "$0")"

npm ci --silent --no-audit --no-fund
echo "types of src/export/web"
npx tsc

cargo build --quiet --release --manifest-path ../../Cargo.toml --bin shadernet --example prepare_json
target=${CARGO_TARGET_DIR:-../../target}/release
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Two networks: the one that ships, and a small one with every other layer, taught some noise.
node noise.mjs "$work/noise"
"$target/shadernet" train every_layer.toml --data "$work/noise" --epochs 2 --device cpu --out "$work/run" --quiet
prepare() {
    "$target/shadernet" export "$2" --html "$work/$1.html"
    "$target/shadernet" eval "$2" --data "$3" --device cpu --logits "$work/$1.logits"
}
prepare seed ../../data/models/seed.safetensors ../../data/mnist
prepare every_layer "$work/run/model.safetensors" "$work/noise"
"$target/examples/prepare_json" ../../data/digits/*.png >"$work/prepared.json"
node check.mjs "$work"
