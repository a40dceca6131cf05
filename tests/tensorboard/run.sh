#!/usr/bin/env bash
# Trains with --tensorboard, one net and several, stopped and resumed, and reads the event files with TensorBoard's own reader:
# check.py. Needs Python 3 with venv; on Debian and Ubuntu it installs that.
set -euo pipefail
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
fi
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "setuptools<81" tensorboard==2.21.0

shadernet() { cargo run --quiet --release -- "$@"; }
train() { shadernet train data/models/small-1k.toml --device cpu --no-report --quiet --tensorboard --batch-size 512 "$@"; }
train --epochs 3 --max-steps 98 --hold-out 10000 --out "$work/one"
shadernet train --resume "$work/one" --device cpu --no-report --quiet --tensorboard
train --epochs 1 --sweep learning_rate=0.02,0.05 --replicas 2 --out "$work/many"
"$work/venv/bin/python" tests/tensorboard/check.py "$work/one" "$work/many"
