#!/usr/bin/python3
"""Accuracy of what `lathe train` wrote, in lathe and in ONNX Runtime, on the test part of pictures in IDX files.

    trained.py RUNS... [--data /usr/share/datasets/fashion-mnist] [--library build/liblathe.so] [--batch 250] [--json FILE]

RUNS are folders that `lathe train -o` made: model.onnx, and result.json with the accuracy that the training told, its mean and its
deviation. Exits 1 where the two runtimes, or what the training told, are further apart than 0.1 points.

Needs Debian's python3-numpy, Node.js and this folder's npm packages.
"""
import argparse
import gzip
import json
import os
import sys

import numpy

from runtimes import Lathe, OnnxRuntime, RuntimeFailure

ALLOWED = 0.1  # points


def idx(path):
    with gzip.open(path) as file:
        data = file.read()
    axes = data[3]
    shape = numpy.frombuffer(data, ">i4", axes, 4)
    return numpy.frombuffer(data, numpy.uint8, offset=4 + 4 * axes).reshape(shape)


def scores(runtime, name, pictures, batch):
    return numpy.concatenate([next(iter(runtime.run({name: pictures[i:i + batch]}).values())) for i in range(0, len(pictures), batch)])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--data", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--library", default="build/liblathe.so")
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--json")
    o = parser.parse_args()
    pictures = idx(os.path.join(o.data, "t10k-images-idx3-ubyte.gz"))
    labels = idx(os.path.join(o.data, "t10k-labels-idx1-ubyte.gz"))

    rows, failed = [], False
    print(f"{'run':24} {'told':>8} {'lathe':>8} {'ORT':>8} {'apart':>6}  same class")
    for run in o.runs:
        name = os.path.basename(os.path.normpath(run))
        try:
            with open(os.path.join(run, "result.json")) as file:
                result = json.load(file)
            mean, std = (numpy.array(result["settings"][key], numpy.float32).reshape(-1, 1, 1) for key in ("mean", "std"))
            x = (pictures[:, None].astype(numpy.float32) / 255 - mean) / std
            model = os.path.join(run, "model.onnx")
            own, peer = Lathe(o.library, model, batch=o.batch), OnnxRuntime(model)
            classes = [scores(runtime, peer.inputs[0]["name"], x, o.batch).argmax(1) for runtime in (own, peer)]
            peer.close()
        except (OSError, KeyError, ValueError, RuntimeFailure) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = True
            continue
        row = {"run": name, "told": 100 * result["test_accuracy"]}
        row["lathe"], row["onnxruntime"] = (100 * float((c == labels).mean()) for c in classes)
        row["same"] = int((classes[0] == classes[1]).sum())
        apart = max(row["told"], row["lathe"], row["onnxruntime"]) - min(row["told"], row["lathe"], row["onnxruntime"])
        failed |= apart > ALLOWED
        rows.append(row)
        print(f"{name:24} {row['told']:6.2f} % {row['lathe']:6.2f} % {row['onnxruntime']:6.2f} % {apart:6.2f}  {row['same']} of {len(labels)}{'  too far' if apart > ALLOWED else ''}")
    if o.json:
        with open(o.json, "w") as file:
            json.dump(rows, file, indent=2)
    sys.exit(failed)


if __name__ == "__main__":
    main()
