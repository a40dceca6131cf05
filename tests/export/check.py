"""Check an exported network with other tools: onnx's checker, onnxruntime and PyTorch, on the whole test set.

    python check.py FOLDER IMAGES-idx3-ubyte.gz

FOLDER holds model.safetensors, what `shadernet export` made of it (net.onnx, folded.onnx, perhaps int8.onnx, net.py) and the logits of
`shadernet eval --int8 --logits` (logits.safetensors). Exits with 1 unless every answer is the same and no logit is off by more than
1e-5 of the largest; in whole numbers, unless 999 of 1,000 answers are and no logit is off by more than 5 % of the largest.
"""

import gzip
import importlib.util
import pathlib
import sys

import numpy
import onnx
import onnxruntime
import torch
from safetensors.numpy import load_file

TOLERANCE = 1e-5


def main(folder, images):
    with gzip.open(images) as file:
        pixels = numpy.frombuffer(file.read()[16:], dtype=numpy.uint8).reshape(-1, 1, 28, 28)
    pixels = pixels.astype(numpy.float32) / 255
    tensors = load_file(f"{folder}/logits.safetensors")
    wanted = tensors["logits"]
    failed = False

    def compare(name, logits):
        nonlocal failed
        same = int((logits.argmax(1) == wanted.argmax(1)).sum())
        difference = float(numpy.abs(logits - wanted).max())
        print(f"{name}: {same} of {len(wanted)} answers agree, largest difference between logits {difference:.1e}")
        failed |= same != len(wanted) or not difference <= TOLERANCE * float(numpy.abs(wanted).max())

    def compare_int8(name, logits):
        nonlocal failed
        whole = tensors["int8_logits"]
        same = int((logits.argmax(1) == whole.argmax(1)).sum())
        off = numpy.abs(numpy.rint(logits / tensors["int8_logit_scale"]) - whole).max(1)
        exact, most = int((off == 0).sum()), float(off.max() / numpy.abs(whole).max())
        print(f"{name}: {same} of {len(whole)} answers agree, all logits on {exact}, largest difference {most:.1%} of the largest logit")
        failed |= same < 0.999 * len(whole) or not most < 0.05

    for name in ["net.onnx", "folded.onnx", "int8.onnx"]:
        path = f"{folder}/{name}"
        if name == "int8.onnx" and not pathlib.Path(path).exists():
            continue
        onnx.checker.check_model(onnx.load(path), full_check=True)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        # The last batch is smaller.
        parts = numpy.array_split(pixels, [3000, 6000, 9000, 9999])
        parts = [session.run(["logits", "probabilities"], {"pixels": part}) for part in parts]
        logits, probabilities = (numpy.concatenate(values) for values in zip(*parts))
        (compare_int8 if name == "int8.onnx" else compare)(name, logits)
        powers = numpy.exp(logits - logits.max(1, keepdims=True))
        failed |= not numpy.allclose(probabilities, powers / powers.sum(1, keepdims=True), atol=1e-6)

    spec = importlib.util.spec_from_file_location("net", f"{folder}/net.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net = module.load(f"{folder}/model.safetensors")
    # Not torch.from_numpy: an old PyTorch does not support a new numpy.
    pixels = torch.frombuffer(bytearray(pixels.tobytes()), dtype=torch.float32).reshape(pixels.shape)
    with torch.no_grad():
        logits = torch.cat([net(part) for part in pixels.split(1000)])
    compare("net.py", numpy.array(logits.tolist(), dtype=numpy.float32))
    failed |= len(module.CLASSES) != wanted.shape[1]
    sys.exit(failed)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
