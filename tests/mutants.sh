#!/usr/bin/env bash
# Mutation testing of the reference layers, the planner, the readers of data and the schedules: docs/testing.md says what
# came out. Needs `cargo install cargo-mutants`. Results are in target/mutants, and caught mutants are not run again.
set -euo pipefail
cd "$(dirname "$0")/.."
# No GPU: these modules must be testable without one.
export VK_DRIVER_FILES=/nonexistent
# cargo-mutants works on a copy; without this it would rebuild the dependencies for each line below.
export CARGO_TARGET_DIR=$PWD/target/mutants/build

# Runs cargo-mutants with these arguments and a separate folder. Surviving (2) or looping (3) mutants are a result.
mutate() {
    local folder=target/mutants/$1
    mkdir -p "$folder"
    cargo mutants --output "$folder" --iterate "${@:2}" || [ $? -le 3 ]
}

mutate data -f src/schedule.rs -f src/dataset.rs -f src/dataset/idx.rs -C=--lib
mutate plan -f 'src/plan/*.rs' -C=--test=plan_golden
# The quick tests first; the slow ones get the survivors.
mutate layers -f 'src/layers/*.rs' -C=--test=gradients -C=--test=by_hand -C=--test=layers -C=--test=plan_golden -- -- --skip whole_networks
mutate layers -f 'src/layers/*.rs' -C=--lib -C=--test=gradients -C=--test=by_hand -C=--test=pytorch -C=--test=onnx
echo "== missed"
cat target/mutants/*/mutants.out/missed.txt
