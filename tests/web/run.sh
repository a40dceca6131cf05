#!/usr/bin/env bash
# Tests the pages of `shadernet export --html` and reports in Chromium, whose WebGPU is SwiftShader: README.md. Needs Node 20, npm and
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

# Four networks: the one that ships, a small one with every other layer, trained on noise, and two trained on pictures.
prepare() {
    "$target/shadernet" export "$2" --html "$work/$1.html"
    "$target/shadernet" eval "$2" --data "$3" --device cpu --logits "$work/$1.logits"
}
prepare seed ../../data/models/seed.safetensors ../../data/mnist
node noise.mjs "$work/noise"
"$target/shadernet" train ../all_layers.toml --data "$work/noise" --epochs 2 --device cpu --out "$work/run" --quiet
prepare all_layers "$work/run/model.safetensors" "$work/noise"
cp "$work/run/metrics.csv" "$work/all_layers.csv"
train_here() {
    "$target/shadernet" export "$2" --html "$work/$1_here.html" --train-here --data "$3"
}
train_here seed ../../data/models/seed.safetensors ../../data/mnist
train_here all_layers "$work/run/model.safetensors" "$work/noise"
node make_pictures.mjs "$work"
digits=(../../data/digits/*.png)
"$target/examples/prepare_json" ../../data/models/seed.safetensors "${digits[@]}" "$work/7_finished.png" >"$work/seed.prepared"
for set in colours greys; do
    "$target/shadernet" new --data "$work/$set" --out "$work/$set.toml"
    "$target/shadernet" train "$work/$set.toml" --data "$work/$set" --device cpu --out "$work/$set.run" --quiet
    model=$work/$set.run/model.safetensors
    prepare "$set" "$model" "$work/$set"
    pictures=("$work/$set"/test/*/*)
    "$target/examples/prepare_json" "$model" "${pictures[@]}" "${digits[@]}" >"$work/$set.prepared"
    "$target/shadernet" classify "${pictures[@]}" --model "$model" --device cpu --json >"$work/$set.answers"
done
for classes in 26 100; do
    node noise.mjs "$work/noise_$classes" "$classes"
    names=$(seq -f '"class number %g"' -s ', ' "$classes")
    cat >"$work/classes_$classes.toml" <<END
name = "classes"
input = [1, 17, 15]
classes = [$names]
layers = [{ type = "flatten" }, { type = "linear", out_features = $classes }]
END
    "$target/shadernet" train "$work/classes_$classes.toml" --data "$work/noise_$classes" --epochs 1 --device cpu \
        --out "$work/classes_$classes" --quiet
done
node check_report.mjs "$work"
node check.mjs "$work"
node check_pictures.mjs "$work"
node check_training.mjs "$work"
echo "web: all is well"
