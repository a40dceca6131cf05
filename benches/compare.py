#!/usr/bin/env python3
"""The seed network at batch 128 in PyTorch and in shadernet, alternating in one session: milliseconds per step, and their ratios.

    pip install torch numpy
    cargo build --release
    python benches/compare.py [--rounds 3] [--binary target/release/shadernet] [--gpu NAME]

--gpu is part of the name of the adapter to measure besides the CPU engine (default llvmpipe; skipped if missing).
A ratio is the median of the rounds' ratios, since a machine's speed varies from one minute to the next.
"""
import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SEED_MODEL = ROOT / "data/models/seed.toml"
BATCH = ["--batch-size", "128"]


def pytorch(data, device):
    """Milliseconds per step of each way of running it."""
    command = [sys.executable, str(ROOT / "benches/pytorch_epoch.py"), "--data", str(data), "--device", device]
    run = subprocess.run(command, capture_output=True, text=True)
    found = re.findall(r"pytorch \S+ \S+ (\w+) +([\d.]+) ms/step", run.stdout)
    if run.returncode != 0 or not found:
        sys.exit(f"{' '.join(command)}:\n{run.stdout}{run.stderr}")
    return {f"PyTorch {mode}": float(ms) for mode, ms in found}


def bench(binary, *arguments, **environment):
    command = [str(binary), "bench", *arguments, "--json"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment})
    if run.returncode != 0:
        sys.exit(f"{' '.join(command)}:\n{run.stderr}")
    return json.loads(run.stdout)


def one_round(arguments, model, gpu):
    """Milliseconds per step of everything, once."""
    step = lambda *more: bench(arguments.binary, *more, *BATCH)["step"]["milliseconds"]
    row = pytorch(arguments.data, arguments.torch_device)
    row["CPU engine"] = step(model, "--device", "cpu")
    row["CPU engine, augmented"] = step("--device", "cpu")
    if gpu:
        row[gpu] = step(model, "--device", gpu)
        row[f"{gpu}, fused"] = step(model, "--device", gpu, "--fusion")
        row[f"{gpu}, 8 replicas"] = step(model, "--device", gpu, "--replicas", "8")
    return row


def ratios(row, gpu, torch_device):
    """The requested ratios, for one round."""
    best = min(ms for name, ms in row.items() if name.startswith("PyTorch"))
    made = {}
    if torch_device == "cpu":
        made["CPU engine ÷ PyTorch's best"] = row["CPU engine"] / best
        made["CPU engine, augmented ÷ PyTorch's best (not augmented)"] = row["CPU engine, augmented"] / best
    if gpu:
        made[f"{gpu} ÷ PyTorch's best"] = row[gpu] / best
        made[f"{gpu}, fused ÷ PyTorch's best"] = row[f"{gpu}, fused"] / best
        made[f"{gpu} ÷ PyTorch eager"] = row[gpu] / row["PyTorch eager"]
        made[f"{gpu}: fused ÷ each layer alone"] = row[f"{gpu}, fused"] / row[gpu]
        made[f"{gpu}: 8 replicas ÷ 8 single nets"] = row[f"{gpu}, 8 replicas"] / (8 * row[gpu])
    return made


def starts(binary, gpu):
    """Seconds from the choice of a device to the end of the first step, and of a whole `classify`."""
    seconds = lambda *more, **environment: bench(binary, "--steps", "1", *more, *BATCH, **environment)["start_up"]["seconds"]
    found = {"first step done, CPU engine": seconds("--device", "cpu")}
    if gpu:
        found[f"first step done, {gpu}"] = seconds("--device", gpu)
        found[f"first step done, {gpu}, fused"] = seconds("--device", gpu, "--fusion")
        for name, more in [("", []), (", fused", ["--fusion"])]:
            with tempfile.TemporaryDirectory() as empty:
                # Mesa's cache of compiled shaders, and our own of pipelines.
                cold = {"MESA_SHADER_CACHE_DIR": empty, "XDG_CACHE_HOME": empty}
                found[f"first step done, {gpu}{name}, nothing cached"] = seconds("--device", gpu, *more, **cold)
    images = sorted((ROOT / "data/digits").glob("*.png"))[:1]
    times = []
    for _ in range(11):
        start = time.perf_counter()
        subprocess.run([str(binary), "classify", *map(str, images)], capture_output=True, check=True, cwd=ROOT)
        times.append(time.perf_counter() - start)
    found["classify, whole process"] = statistics.median(times)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    target = os.environ.get("CARGO_TARGET_DIR", str(ROOT / "target"))
    parser.add_argument("--binary", type=pathlib.Path, default=pathlib.Path(target) / "release/shadernet")
    parser.add_argument("--data", type=pathlib.Path, default=ROOT / "data/mnist")
    parser.add_argument("--gpu", default="llvmpipe")
    parser.add_argument("--torch-device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    arguments.binary = arguments.binary.resolve()
    devices = subprocess.run([arguments.binary, "devices"], capture_output=True, text=True).stdout
    gpu = arguments.gpu if arguments.gpu.lower() in devices.lower() else None
    with tempfile.TemporaryDirectory() as folder:
        # PyTorch's program does not augment.
        model = pathlib.Path(folder) / "seed.toml"
        lines = SEED_MODEL.read_text().splitlines(keepends=True)
        model.write_text("".join(line for line in lines if not line.startswith("augment")))
        rounds = [one_round(arguments, str(model), gpu) for _ in range(arguments.rounds)]
    print("| | ms a step, each round | s an epoch (median) |\n|---|---|---|")
    for name in rounds[0]:
        values = [row[name] for row in rounds]
        print(f"| {name} | {' · '.join(f'{ms:.2f}' for ms in values)} | {statistics.median(values) * 0.469:.2f} |")
    print("\n| ratio | each round | median |\n|---|---|---|")
    made = [ratios(row, gpu, arguments.torch_device) for row in rounds]
    for name in made[0]:
        values = [row[name] for row in made]
        print(f"| {name} | {' · '.join(f'{value:.2f}' for value in values)} | {statistics.median(values):.2f} |")
    print("\n| start | seconds |\n|---|---|")
    for name, seconds in starts(arguments.binary, gpu).items():
        print(f"| {name} | {seconds:.3f} |")


if __name__ == "__main__":
    main()
