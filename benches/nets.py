#!/usr/bin/env python3
"""Any networks in PyTorch and on the CPU engine, alternating in one session: milliseconds per training step, and their ratio.

    pip install torch
    cargo build --release
    python benches/nets.py data/models/{resnet8,mobilenet-0.25,ds-cnn}.toml [--batch-size 32] [--rounds 3]

PyTorch runs eager, channels_last and compiled, on images in memory; the best counts. Forward, backward and SGD with
momentum; a ratio is the median of the rounds' ratios.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import time
import tomllib

import torch
from torch import nn
from torch.nn import functional

ROOT = pathlib.Path(__file__).resolve().parent.parent
POINTWISE = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "hard_sigmoid": nn.Hardsigmoid,
    "hard_swish": nn.Hardswish,
}


class Same(nn.Module):
    """A convolution that pads as TensorFlow does: if the number of zeros is odd, one more below and to the right."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        sides = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.conv.kernel_size[::-1], self.conv.stride):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            sides += [total // 2, total - total // 2]
        if sides[0] == sides[1] and sides[2] == sides[3]:
            return functional.conv2d(
                x, self.conv.weight, self.conv.bias, self.conv.stride, (sides[2], sides[0]), 1, self.conv.groups
            )
        return self.conv(functional.pad(x, sides))


def module(layer, channels):
    """The layer's PyTorch equivalent; None for those that combine inputs."""
    kind, rest = layer["type"], {key: value for key, value in layer.items() if key not in ("type", "name", "from")}
    if kind == "conv2d":
        padding = rest.pop("padding", 0)
        sizes = [rest.pop("out_channels"), rest.pop("kernel")]
        conv = nn.Conv2d(channels, *sizes, padding=0 if padding == "same" else padding, **rest)
        return Same(conv) if padding == "same" else conv
    if kind == "batch_norm2d":
        return nn.BatchNorm2d(channels, **rest)
    if kind == "dropout":
        return nn.Dropout(rest["rate"])
    if kind in ("max_pool2d", "avg_pool2d"):
        kernel = rest.pop("kernel")
        return {"max_pool2d": nn.MaxPool2d, "avg_pool2d": nn.AvgPool2d}[kind](kernel, **rest)
    if kind == "global_avg_pool2d":
        return nn.AdaptiveAvgPool2d(1)
    if kind == "flatten":
        return nn.Flatten()
    if kind == "linear":
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(rest["out_features"], bias=rest.get("bias", True)))
    if kind == "leaky_relu":
        return nn.LeakyReLU(rest.get("negative_slope", 0.01))
    if kind in POINTWISE:
        return POINTWISE[kind]()
    if kind in ("add", "multiply", "concat"):
        return nn.Identity()
    raise SystemExit(f"no PyTorch module for {kind}")


class Net(nn.Module):
    """A model file's network."""

    def __init__(self, model):
        super().__init__()
        self.layers = nn.ModuleList()
        self.plan = []
        names = {"input": 0}
        values = [torch.zeros(2, *model["input"])]
        for index, layer in enumerate(model["layers"]):
            sources = layer.get("from", [])
            sources = [sources] if isinstance(sources, str) else sources
            sources = [names[source] for source in sources] or [index]
            self.plan.append((layer["type"], sources))
            self.layers.append(module(layer, values[sources[0]].shape[1]))
            values.append(self.compute(index, values))
            if "name" in layer:
                names[layer["name"]] = index + 1

    def compute(self, index, values):
        kind, sources = self.plan[index]
        read = [values[source] for source in sources]
        if kind == "add":
            return sum(read[1:], read[0])
        if kind == "multiply":
            return read[0] * read[1]
        if kind == "concat":
            return torch.cat(read, 1)
        return self.layers[index](read[0])

    def forward(self, x):
        values = [x]
        for index in range(len(self.plan)):
            values.append(self.compute(index, values))
        return values[-1].flatten(1)


def pytorch(model, batch_size):
    """Milliseconds per step of each way of running it."""
    made = {}
    for mode in ["eager", "channels_last", "compile"]:
        torch.manual_seed(0)
        torch.compiler.reset()
        net = Net(model)
        x = torch.randn(4 * batch_size, *model["input"])
        y = torch.randint(0, 2, (4 * batch_size,))
        if mode == "channels_last":
            net, x = net.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, nesterov=True)
        run = torch.compile(net) if mode == "compile" else net

        def step(i):
            batch = slice(i % 4 * batch_size, (i % 4 + 1) * batch_size)
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(run(x[batch]), y[batch]).backward()
            optimizer.step()

        for i in range(4):
            step(i)
        times = []
        for _ in range(5):
            start, steps = time.perf_counter(), 0
            while steps < 2 or time.perf_counter() - start < 0.5:
                step(steps)
                steps += 1
            times.append((time.perf_counter() - start) / steps * 1e3)
        made[mode] = statistics.median(times)
    return made


def ours(binary, path, batch_size):
    command = [str(binary), "bench", str(path), "--device", "cpu", "--batch-size", str(batch_size), "--json"]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        raise SystemExit(f"{' '.join(command)}:\n{run.stderr}")
    return json.loads(run.stdout)["step"]["milliseconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    target = os.environ.get("CARGO_TARGET_DIR", str(ROOT / "target"))
    parser.add_argument("--binary", type=pathlib.Path, default=pathlib.Path(target) / "release/shadernet")
    arguments = parser.parse_args()
    print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, batch {arguments.batch_size}, ms a step\n")
    print("| network | CPU engine | eager | channels_last | compile | ratio to the best, each round | median |")
    print("|---|---|---|---|---|---|---|")
    for path in arguments.models:
        model = tomllib.loads(path.read_text())
        rounds = [
            (ours(arguments.binary, path, arguments.batch_size), pytorch(model, arguments.batch_size))
            for _ in range(arguments.rounds)
        ]
        ratios = [step / min(theirs.values()) for step, theirs in rounds]
        median = lambda values: statistics.median(values)
        cells = [f"{median([step for step, _ in rounds]):.2f}"]
        cells += [f"{median([theirs[mode] for _, theirs in rounds]):.2f}" for mode in rounds[0][1]]
        each = " · ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"| {path.stem} | {' | '.join(cells)} | {each} | {median(ratios):.2f} |", flush=True)


if __name__ == "__main__":
    main()
