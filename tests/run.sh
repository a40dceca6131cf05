#!/usr/bin/env bash
# Runs every test. The GPU tests need an adapter: on Debian and Ubuntu, where none is installed, this installs Mesa's
# software driver first. macOS has Metal, Windows has WARP.
set -euo pipefail
cd "$(dirname "$0")/.."

has_vulkan_driver() {
    local folders=(/usr/share/vulkan/icd.d /usr/local/share/vulkan/icd.d /etc/vulkan/icd.d)
    [ -n "${VK_DRIVER_FILES:-${VK_ICD_FILENAMES:-}}" ] || compgen -G "/usr/share/vulkan/icd.d/*.json" >/dev/null ||
        [ -n "$(find "${folders[@]}" -name '*.json' 2>/dev/null)" ]
}

if [ "$(uname)" = Linux ] && ! has_vulkan_driver; then
    if command -v apt-get >/dev/null; then
        as_root=()
        [ "$(id -u)" = 0 ] || as_root=(sudo)
        "${as_root[@]}" apt-get update -qq
        "${as_root[@]}" apt-get install -y -qq mesa-vulkan-drivers libvulkan1
    else
        echo "There is no Vulkan driver: install your distribution's Mesa Vulkan drivers (lavapipe needs no GPU)." >&2
        exit 1
    fi
fi

# A missing adapter is then a failure, not a skip. Release: the tests train real nets.
SHADERNET_REQUIRE_GPU=1 cargo test --release "$@"
