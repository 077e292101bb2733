#!/usr/bin/python3
"""Compare the answers of lathe with those of ONNX Runtime, for any folders of models.

    agree.py MODELS... [--images DIR] [--cifar DIR] [--library build/liblathe.so] [--precision bf16]
             [--batch N] [--threads N] [--limit N] [--shape INPUT=1x3x64x64] [--json FILE]

A model whose file name is in RECIPES gets real pictures, prepared as it was trained with (--images: labels.tsv and
pictures; --cifar: a folder a class), or the shapes and the state fed back that it is made for. Any other model
gets random inputs. Every output is compared at every step. Exits 1 when a model differs by more than is allowed:
`fp32` 1e-3 of an output's range, a `_qdq` network 2e-2, and the same best class on 99 % of the pictures; bf16 is
compared with ONNX Runtime's fp32 by its best class where it has classes, else only reported.

Needs Debian's python3-numpy and python3-pil, Node.js and this folder's npm packages.
"""
import argparse
import glob
import json
import os
import sys

import numpy
from PIL import Image, ImageDraw

from runtimes import Lathe, OnnxRuntime, RuntimeFailure

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": 0.5, "std": 0.5}
CIFAR_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

# What each known model is fed with. set: imagenet (labelled), scenes, cifar (labelled); resize: shorter side, crop:
# side; stretch: (width, height); text: a drawn page, in several sizes; offset: what class 0 of the labels is in the output; shapes: of random inputs, one
# a step; feedback: output -> input of the next step; fixed: inputs with their own values.
RECIPES = {
    "squeezenet1_1": {"set": "imagenet", "resize": 256, "crop": 224, **IMAGENET},
    "mobilenet_v1_025_224": {"set": "imagenet", "resize": 256, "crop": 224, **HALF},
    "mobilenet_v2_100_224": {"set": "imagenet", "resize": 256, "crop": 224, "offset": 1, **HALF},
    "mobilenet_v1_050_160_qdq": {"set": "imagenet", "resize": 183, "crop": 160, "offset": 1, **HALF},
    "resnet20_cifar10": {"set": "cifar", **IMAGENET},
    "resnet56_cifar10": {"set": "cifar", **IMAGENET},
    "mlperf_tiny_ic": {"set": "cifar", "scale": 1},
    "mlperf_tiny_ic_qdq": {"set": "cifar", "scale": 1},
    "mlperf_tiny_vww": {"set": "imagenet", "stretch": (96, 96), "labelled": False},
    "mlperf_tiny_vww_qdq": {"set": "imagenet", "stretch": (96, 96), "labelled": False},
    "mcunet_vww_80_qdq": {"set": "imagenet", "stretch": (80, 80), "labelled": False, **HALF},
    "deeplabv3_mnv2_050_513": {"set": "scenes", "stretch": (513, 513), **HALF},
    "face_rfb_320": {"set": "scenes", "stretch": (320, 240), "scale": 1, "mean": 127, "std": 128},
    "fastestdet_352": {"set": "scenes", "stretch": (352, 352), "bgr": True},
    "ch_PP-OCRv4_det_infer": {"set": "text", **IMAGENET},
    "ch_PP-OCRv4_rec_infer": {"shapes": [{"x": (1, 3, 48, 48)}, {"x": (1, 3, 48, 320)}, {"x": (3, 3, 48, 200)}]},
    "ch_ppocr_mobile_v2.0_cls_infer": {"shapes": [{"x": (1, 3, 48, 192)}, {"x": (4, 3, 48, 192)}]},
    "silero_vad_v5": {"shapes": [{"input": (1, 512), "state": (2, 1, 128)}] * 8, "feedback": {"stateN": "state"}, "fixed": {"sr": 16000}},
    "silero_vad_v6": {"shapes": [{"input": (1, 512), "state": (2, 1, 128)}] * 8, "feedback": {"stateN": "state"}, "fixed": {"sr": 16000}},
    "silero_vad_legacy": {"shapes": [{"input": (1, 1536), "h": (2, 1, 64), "c": (2, 1, 64)}] * 8,
                          "feedback": {"hn": "h", "cn": "c"}, "fixed": {"sr": 16000}},
    "silero_vad": {"shapes": [{"input": (1, 1536), "h": (2, 1, 64), "c": (2, 1, 64)}] * 8,
                   "feedback": {"hn": "h", "cn": "c"}, "fixed": {"sr": 16000}},
    "melspectrogram": {"shapes": [{"input": (1, 1280)}, {"input": (1, 16000)}], "amplitude": 3000},
    "embedding_model": {"shapes": [{"input_1": (1, 76, 32, 1)}, {"input_1": (5, 76, 32, 1)}]},
}


def prepare(image, recipe):
    """A picture as the model wants it: [1, 3, H, W] of float32."""
    image = (Image.open(image) if isinstance(image, str) else image).convert("RGB")
    if "resize" in recipe:
        factor = recipe["resize"] / min(image.size)
        image = image.resize([max(recipe["resize"], int(side * factor)) for side in image.size], Image.BILINEAR)
        left, top = ((side - recipe["crop"]) // 2 for side in image.size)
        image = image.crop((left, top, left + recipe["crop"], top + recipe["crop"]))
    elif "stretch" in recipe:
        image = image.resize(recipe["stretch"], Image.BILINEAR)
    values = numpy.asarray(image, numpy.float32) * numpy.float32(recipe.get("scale", 1 / 255))
    values = (values - numpy.float32(recipe.get("mean", 0))) / numpy.float32(recipe.get("std", 1))
    if recipe.get("bgr"):
        values = values[:, :, ::-1]
    return numpy.ascontiguousarray(values.transpose(2, 0, 1)[None], numpy.float32)


def pictures(options, recipe):
    """[(path, class or None)] of the recipe's set."""
    if recipe["set"] == "scenes":
        found = [(path, None) for path in sorted(glob.glob(os.path.join(options.images, "scenes", "*")))]
    elif recipe["set"] == "cifar":
        each = [sorted(glob.glob(os.path.join(options.cifar, "test", name, "*"))) for name in CIFAR_CLASSES]
        found = [(path, number) for row in zip(*each) for number, path in enumerate(row)]
    else:
        folder = os.path.join(options.images, "imagenet")
        if not os.path.exists(os.path.join(folder, "labels.tsv")):
            raise RuntimeFailure(f"no '{folder}/labels.tsv': give --images, or --random for random inputs")
        with open(os.path.join(folder, "labels.tsv"), encoding="utf-8") as file:
            rows = [line.split("\t") for line in file.read().splitlines()[1:]]
        labelled = recipe.get("labelled", True)
        found = [(os.path.join(folder, row[0]), int(row[1]) + recipe.get("offset", 0) if labelled else None) for row in rows]
    if not found:
        raise RuntimeFailure(f"no pictures of the set {recipe['set']}: see --images, --cifar")
    return found[:options.limit]


def text_pages():
    """A page of text in several sizes: what a text detector answers with more than zeros."""
    for width, height in ((96, 64), (320, 320), (640, 480), (736, 1280)):
        page = Image.new("RGB", (160, 16 * max(1, round(160 * height / width / 16))), "white")
        for line in range(page.height // 16):
            ImageDraw.Draw(page).text((4, 16 * line + 2), f"Line {line} of a page", fill="black")
        yield page.resize((width, height), Image.BILINEAR)


def random_array(generator, kind, shape, amplitude):
    if kind.startswith("float"):
        return (generator.standard_normal(shape) * amplitude).astype(kind)
    # Small numbers for integers, which are mostly indices and masks.
    return generator.integers(0, 2, shape).astype(kind)


def random_steps(options, recipe, declared):
    generator = numpy.random.default_rng(options.seed)
    given = {name: tuple(map(int, shape.split("x"))) for name, shape in (text.rsplit("=", 1) for text in options.shape)}
    steps = recipe.get("shapes") or [given] * options.steps
    for shapes in steps:
        feeds = {}
        for value in declared:
            name, kind = value["name"], value["type"]
            if name in recipe.get("fixed", {}):
                feeds[name] = numpy.array(recipe["fixed"][name], kind)
                continue
            shape = shapes.get(name) or [size if isinstance(size, int) and size >= 0 else options.batch if axis == 0 else 1
                                         for axis, size in enumerate(value["shape"])]
            feeds[name] = random_array(generator, kind, tuple(shape), recipe.get("amplitude", 1))
        yield feeds, None


def steps_of(options, recipe, declared):
    """The inputs of each run, with the class that is right where that is known."""
    if "set" not in recipe:
        yield from random_steps(options, recipe, declared)
        return
    if recipe["set"] == "text":
        for page in text_pages():
            yield {declared[0]["name"]: prepare(page, recipe)}, None
        return
    for path, label in pictures(options, recipe):
        yield {declared[0]["name"]: prepare(path, recipe)}, label


class Agreement:
    """What the runs of one model came to."""

    def __init__(self):
        self.relative, self.worst_output, self.steps = 0.0, "", 0
        self.same_top1 = self.rows = self.right = self.right_peer = self.labelled = 0
        self.same_integers = self.integers = 0

    def add(self, found, expected, label):
        self.steps += 1
        for name, right in expected.items():
            got = found[name]
            if got.shape != right.shape or got.dtype != right.dtype:
                raise RuntimeFailure(f"output {name}: expected {right.dtype}{list(right.shape)}, found {got.dtype}{list(got.shape)}")
            if right.size == 0:
                continue
            if right.dtype.kind in "iub":
                self.integers += right.size
                self.same_integers += int((got == right).sum())
                continue
            self._add_floats(name, got.astype(numpy.float64), right.astype(numpy.float64))
        first, right = next(iter(found.values())), next(iter(expected.values()))
        if right.ndim == 2 and right.shape[1] > 1 and right.dtype.kind == "f":
            best, best_peer = first.argmax(1), right.argmax(1)
            self.rows += len(best)
            self.same_top1 += int((best == best_peer).sum())
            if label is not None:
                self.labelled += 1
                self.right += int(best[0] == label)
                self.right_peer += int(best_peer[0] == label)

    def _add_floats(self, name, got, right):
        if not numpy.isfinite(right).all():
            raise RuntimeFailure(f"output {name} of ONNX Runtime is not finite: nothing can be compared")
        worst = numpy.abs(got - right).max()
        spread = right.max() - right.min()
        # An output of one element (a probability) has no range of its own: 1, as for a probability.
        relative = float(worst / (spread if spread > 0 else max(1.0, abs(right.max())))) if numpy.isfinite(worst) else numpy.inf
        if relative >= self.relative:
            self.relative, self.worst_output = relative, name

    def row(self):
        row = {"steps": self.steps}
        if self.worst_output:
            row.update(relative=self.relative, output=self.worst_output)
        if self.integers:
            row["same_integers"] = self.same_integers / self.integers
        if self.rows:
            row["same_top1"] = self.same_top1 / self.rows
        if self.labelled:
            row.update(top1=self.right / self.labelled, top1_peer=self.right_peer / self.labelled)
        return row


def passes(options, name, row):
    """Whether what was measured is what docs/ACCURACY.md promises."""
    good = row.get("same_top1", 1) >= 0.99 and row.get("same_integers", 1) >= 0.99
    if options.precision == "bf16":
        return row.get("same_top1", 1) >= 0.99 or "top1" not in row
    return good and row.get("relative", 0) <= (2e-2 if name.endswith("_qdq") else 1e-3)


def agreement(options, model, name):
    peer, lathe, result = OnnxRuntime(model, options.threads, not options.unoptimized), None, Agreement()
    try:
        lathe = Lathe(options.library, model, options.threads, options.precision == "bf16")
        recipe, state, state_peer = {} if options.random else RECIPES.get(name, {}), {}, {}
        for feeds, label in steps_of(options, recipe, peer.inputs):
            # Each runtime gets its own state back, so that differences may grow as they would in use.
            found, expected = lathe.run({**feeds, **state}), peer.run({**feeds, **state_peer})
            result.add(found, expected, label)
            state = {to: found[out] for out, to in recipe.get("feedback", {}).items()}
            state_peer = {to: expected[out] for out, to in recipe.get("feedback", {}).items()}
    finally:
        peer.close()
        if lathe:
            lathe.close()
    return result.row()


def percent(row, field):
    return f"{100 * row[field]:.1f}" if field in row else ""


def main():
    parser = argparse.ArgumentParser(description="Compare lathe's answers with ONNX Runtime's.")
    parser.add_argument("models", nargs="+", metavar="MODEL", help="ONNX files, or folders that are searched for them")
    parser.add_argument("--library", default="build/liblathe.so", help="lathe's shared library (default: %(default)s)")
    parser.add_argument("--images", default="images", help="folder with imagenet/ and scenes/")
    parser.add_argument("--cifar", default="cifar10", help="folder with test/CLASS/")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of lathe")
    parser.add_argument("--limit", type=int, default=500, help="pictures at most (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="of random inputs")
    parser.add_argument("--steps", type=int, default=3, help="random inputs (default: %(default)s)")
    parser.add_argument("--shape", action="append", default=[], metavar="INPUT=1x3x64x64", help="of a random input")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--random", action="store_true", help="random inputs for models of known names too")
    parser.add_argument("--unoptimized", action="store_true",
                        help="ONNX Runtime runs the graph node by node, without its integer kernels and fusions")
    parser.add_argument("--json", metavar="FILE", help="also write the measurements here")
    options = parser.parse_args()
    files = [path for given in options.models for path in
             ([given] if os.path.isfile(given) else sorted(glob.glob(os.path.join(given, "**", "*.onnx"), recursive=True)))]
    if not files:
        parser.error("no .onnx file there")
    if not os.path.exists(options.library):
        parser.error(f"no library '{options.library}': build it, or give --library")
    print(f"{options.precision}, threads {options.threads}; largest difference from ONNX Runtime over the output's range\n")
    print("| model | runs | difference | same best class % | top-1 % lathe / peer | same integers % | |\n|---|---|---|---|---|---|---|")
    rows, good = {}, True
    for path in files:
        name = os.path.splitext(os.path.basename(path))[0]
        try:
            row = agreement(options, path, name)
            fine = passes(options, name, row)
            both = f"{percent(row, 'top1')} / {percent(row, 'top1_peer')}" if "top1" in row else ""
            print(f"| {name} | {row['steps']} | {row.get('relative', 0):.1e} | {percent(row, 'same_top1')} | {both} | "
                  f"{percent(row, 'same_integers')} | {'' if fine else 'differs'} |", flush=True)
        except RuntimeFailure as error:
            row, fine = {"error": str(error)}, False
            print(f"| {name} | {error} | | | | | fails |", flush=True)
        rows[path] = {**row, "passed": fine}
        good = good and fine
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"precision": options.precision, "threads": options.threads, "batch": options.batch, "models": rows}, file, indent=1)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
