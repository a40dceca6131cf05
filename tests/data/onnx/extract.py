"""Extract from ONNX's backend test suite the cases that apply to shadernet's layers, loss and optimizers.

    pip download onnx==1.22.0 --no-deps          # Apache-2.0; the suite is part of the wheel
    pip install onnx-1.22.0-*.whl safetensors
    python extract.py                            # writes cases.safetensors, prints what does not apply and why

cases.safetensors holds ONNX's own numbers, unconverted, as `<case>.<name>` (F32, or I64 for integers and booleans). Its
metadata entry `cases` is a JSON object: case -> {op, opset, attributes, inputs, outputs}. tests/onnx.rs does the mapping.
"""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from safetensors.numpy import save_file

SUITE = Path(onnx.__file__).parent / "backend/test/data"
FOLDERS = ["node", "pytorch-converted", "pytorch-operator", "simple"]
LARGEST = 200_000  # bytes per case
ROUNDED = ["node/test_averagepool_2d_ceil_last_window_starts_on_pad"]  # an output written down by hand: 0.1511


def window(attributes, size, out, kernel):
    """Why a convolution or pooling with an input of `size`, an output of `out` and this kernel does not apply, or None.

    Resolves auto_pad: afterwards `pads` is set.
    """
    if len(size) != 2:
        return "not two-dimensional"
    strides = attributes.setdefault("strides", [1, 1])
    if kernel[0] != kernel[1]:
        return "kernel not square"
    if strides[0] != strides[1]:
        return "strides differ"
    if any(d != 1 for d in attributes.get("dilations", [])):
        return "dilation"
    pads = attributes.setdefault("pads", [0, 0, 0, 0])
    if attributes.get("auto_pad", "NOTSET").startswith("SAME"):
        total = [max((o - 1) * s + k - i, 0) for i, o, s, k in zip(size, out, strides, kernel)]
        if any(t % 2 for t in total):
            return "asymmetric padding"
        pads = attributes["pads"] = [t // 2 for t in total] * 2
    if len(set(pads)) != 1:
        return "asymmetric padding"
    if [(i + 2 * pads[0] - k) // s + 1 for i, k, s in zip(size, kernel, strides)] != list(out):
        return "output size not that of floor mode"
    return None


def refusal(op, opset, attributes, inputs, outputs):
    """Why this case does not apply, or None. Inputs and outputs are arrays in the node's order."""
    x, y = inputs[0], outputs[0]
    if op == "Conv":
        return window(attributes, x.shape[2:], y.shape[2:], inputs[1].shape[2:])
    if op == "ConvTranspose":  # as the gradient of the convolution whose input is y and whose output is x
        if "output_shape" in attributes:
            return "output_shape instead of padding"
        if "auto_pad" in attributes:
            return "asymmetric padding"
        return window(attributes, y.shape[2:], x.shape[2:], inputs[1].shape[2:]) or (
            "bias" if len(inputs) > 2 else None
        )
    if op in ("MaxPool", "AveragePool"):
        refused = window(attributes, x.shape[2:], y.shape[2:], attributes["kernel_shape"])
        if not refused and 2 * attributes["pads"][0] > attributes["kernel_shape"][0]:
            return "padding of more than half the kernel"
        if not refused and op == "AveragePool" and any(attributes["pads"]):
            return None if attributes.get("count_include_pad") else "mean without padding"
        return refused
    if op == "MaxUnpool":
        return "output size not that of floor mode" if len(inputs) > 2 else window(
            attributes, y.shape[2:], x.shape[2:], attributes["kernel_shape"]
        )
    if op == "Gemm" and len(inputs) > 2:
        return "a bias for each row" if inputs[2].size not in (1, y.shape[1]) else None
    if op == "MatMul":
        return None if x.ndim == inputs[1].ndim == 2 else "not two matrices"
    if op == "Flatten":
        return None if x.ndim == 4 and attributes.get("axis", 1) in (1, -3) else "not [N, C, H, W] to [N, C*H*W]"
    if op in ("Softmax", "LogSoftmax") and opset < 13:
        return None if x.ndim == 2 and attributes.get("axis", 1) in (1, -1) else "old softmax of more than two axes"
    if op == "SoftmaxCrossEntropyLoss":
        if len(inputs) > 2:
            return "class weights"
        return "an ignored target" if (inputs[1] == attributes.get("ignore_index", -1)).any() else None
    if op == "NegativeLogLikelihoodLoss":
        return "its inputs are no logarithms of probabilities, which our loss would normalise"
    if op == "Dropout" and len(inputs) > 2 and inputs[2] and inputs[1] != 0:
        return "the mask is numpy's"
    if op in ("Momentum", "Adam") and inputs[1] != 0:
        return "T above 0"
    return None


OPS = """Adam AveragePool BatchNormalization Conv ConvTranspose Dropout Flatten Gemm GlobalAveragePool LeakyRelu
LogSoftmax MatMul MaxPool MaxUnpool Momentum NegativeLogLikelihoodLoss Relu Softmax SoftmaxCrossEntropyLoss""".split()


def plain(value):
    return value.decode() if isinstance(value, bytes) else value


def array(tensor):
    value = numpy_helper.to_array(tensor)
    return value.astype(np.int64) if value.dtype.kind in "biu" else value


def protobufs(folder, kind, names):
    for index, name in enumerate(names):
        tensor = onnx.TensorProto()
        tensor.ParseFromString((folder / f"test_data_set_0/{kind}_{index}.pb").read_bytes())
        yield name, array(tensor)


def main():
    tensors, cases, refused = {}, {}, defaultdict(list)
    for folder in sorted(path for name in FOLDERS for path in (SUITE / name).iterdir()):
        case = f"{folder.parent.name}/{folder.name}"
        model = onnx.load(folder / "model.onnx")
        nodes = model.graph.node
        if "_expanded" in case or not any(node.op_type in OPS for node in nodes):
            continue  # `_expanded`: the same numbers, the operator written as a graph
        if len(nodes) > 1:
            refused["a graph of several nodes"].append(case)
            continue
        (node,) = nodes
        values = {tensor.name: array(tensor) for tensor in model.graph.initializer}
        names = [value.name for value in model.graph.input]
        if any(not name for name in node.input) or model.graph.sparse_initializer:
            refused["optional inputs left out"].append(case)
            continue
        values.update(protobufs(folder, "input", [name for name in names if name not in values]))
        values.update(protobufs(folder, "output", [value.name for value in model.graph.output]))
        attributes = {a.name: plain(helper.get_attribute_value(a)) for a in node.attribute}
        opset = model.opset_import[0].version
        inputs, outputs = ([values[name] for name in names] for names in (node.input, node.output))
        if any(value.dtype not in (np.float32, np.int64) for value in inputs + outputs):
            refused["not f32"].append(case)
            continue
        reason = refusal(node.op_type, opset, attributes, inputs, outputs)
        if not reason and case in ROUNDED:
            reason = "outputs with four decimals"
        if not reason and sum(value.nbytes for value in values.values()) > LARGEST:
            reason = "larger than 200 KB"
        if reason:
            refused[reason].append(case)
            continue
        entry = {"op": node.op_type, "opset": opset, "attributes": attributes}
        cases[case] = entry | {"inputs": list(node.input), "outputs": list(node.output)}
        tensors |= {f"{case}.{name}": np.ascontiguousarray(value) for name, value in values.items()}
    file = Path(__file__).with_name("cases.safetensors")
    save_file(tensors, file, {"cases": json.dumps(cases, sort_keys=True)})
    for title, groups in [("used", used_by_op(cases)), ("not used", refused)]:
        print(f"{title}:")
        for reason, group in sorted(groups.items()):
            print(f"| {reason} | {len(group)} | {', '.join(f'`{case}`' for case in group)} |")


def used_by_op(cases):
    groups = defaultdict(list)
    for case, entry in cases.items():
        groups[entry["op"]].append(case)
    return groups


if __name__ == "__main__":
    main()
