#!/usr/bin/env bash
# Exports trained networks, those named and one with branches, and checks them with onnx's checker, onnxruntime and
# PyTorch: check.py. Needs Python 3 with venv; on Debian and Ubuntu it installs that, and uses the system's PyTorch if
# there is one.
set -euo pipefail
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
fi
packages=(onnx==1.23.2 onnxruntime==1.32.0 safetensors==0.8.0)
python=$(for p in /usr/bin/python3 python3; do "$p" -c "import torch" 2>/dev/null && echo "$p" && break; done || true)
[ -n "$python" ] || packages+=(torch)
"${python:-python3}" -m venv --system-site-packages "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}"

cargo run --quiet --release -- train tests/export/branches.toml --max-steps 200 --device cpu --out "$work/branches" --quiet
for model in "$@" "$work/branches/model.safetensors"; do
    out="$work/$(basename "$(dirname "$model")")-$(basename "$model" .safetensors)"
    mkdir "$out"
    cp "$model" "$out/model.safetensors"
    export_() { cargo run --quiet --release -- export "$model" "$@"; }
    export_ --onnx "$out/net.onnx" --pytorch "$out/net.py" --verify
    export_ --onnx "$out/folded.onnx" --fold-batch-norm --verify
    # After 200 steps answers are too close to each other for 999 of 1,000 to agree.
    [ "$(basename "$out")" = branches-model ] || export_ --onnx "$out/int8.onnx" --int8 --verify
    cargo run --quiet --release -- eval "$model" --device cpu --int8 --logits "$out/logits.safetensors"
    "$work/venv/bin/python" tests/export/check.py "$out" data/mnist/t10k-images-idx3-ubyte.gz
done
