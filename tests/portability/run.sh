#!/usr/bin/env bash
# Compiles all pipelines with Tint and looks for races with wgsl_reflect (README.md). Needs Node 20 and npm; on Debian and Ubuntu
# it installs chromium for its software Vulkan driver if no VK_DRIVER_FILES is set.
set -euo pipefail
cd "$(dirname "$0")"

driver=/usr/lib/chromium/vk_swiftshader_icd.json
if [ "$(uname)" = Linux ] && [ -z "${VK_DRIVER_FILES:-}" ]; then
    if [ ! -e "$driver" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends chromium >/dev/null
    fi
    # If there is none, Dawn uses the system's drivers.
    [ ! -e "$driver" ] || export VK_DRIVER_FILES=$driver
fi
npm ci --silent --no-audit --no-fund

plans=$(mktemp -d)
trap 'rm -rf "$plans"' EXIT
plan_json() {
    cargo run --quiet --release --manifest-path ../../Cargo.toml --example plan_json -- "$@"
}
# Other networks use the same shaders in other sizes; SwiftShader takes a third of a second per pipeline.
for model in seed seed-18k small-9.9k recurrent-1k; do
    plan_json "../../data/models/$model.toml" >"$plans/$model.json"
done
plan_json ../all_layers.toml --batch-size 5 >"$plans/all_layers.json"
# What real GPUs get.
plan_json --fine >"$plans/seed-fine.json"
plan_json ../all_layers.toml --batch-size 5 --fine >"$plans/all_layers-fine.json"
node check.mjs "$plans"/*.json
