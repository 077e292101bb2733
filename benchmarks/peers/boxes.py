#!/usr/bin/python3
"""Compare the boxes that `lathe run` finds with those of ONNX Runtime's outputs, in pixels of the picture.

    boxes.py DETECTOR.onnx ... --images DIR [--lathe build/bin/lathe] [--precision bf16]

ONNX Runtime gets each picture prepared by Pillow. What it answers is put into a model that answers with just that,
whatever it is shown, and `lathe run` decodes it: so both sets of boxes come from the same decoding. Every box must have one
of its own class in the other set whose four sides are at most one pixel away. Boxes whose score is within 1e-3 of the
least (--min-score) may be missing on the other side. Exits 1 when a box has no such partner.

Needs what agree.py needs. Text detectors (PP-OCR's) are also shown drawn pages of text.
"""
import argparse
import glob
import json
import os
import subprocess
import sys
import tempfile

from PIL import Image

from agree import RECIPES, prepare, text_pages
from runtimes import OnnxRuntime, RuntimeFailure

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "fuzz"))
from onnx_wire import graph, model, tensor, value  # noqa: E402

ELEMENT_TYPES = {"float32": 1, "int64": 7, "int32": 6}
TEXT_SIDES = 32  # a text detector halves its input five times


def three(number):
    return list(number) if isinstance(number, tuple) else [number] * 3


def steps_of(recipe, size):
    """The recipe as a preprocessing file of lathe."""
    scale, mean, std = recipe.get("scale", 1 / 255), recipe.get("mean", 0), recipe.get("std", 1)
    return {"resize": list(size), "scale": scale, "mean": three(mean), "std": three(std),
            "colors": "BGR" if recipe.get("bgr") else "RGB", "layout": "NCHW", "interpolation": "bilinear"}


def constant_model(inputs, outputs):
    """A model with these inputs whose outputs are these arrays, always."""
    constants = [tensor(name, ELEMENT_TYPES[str(array.dtype)], array.shape, array.tobytes()) for name, array in outputs.items()]
    return model(graph([], [value(name, 1, shape) for name, shape in inputs.items()],
                       [value(name, ELEMENT_TYPES[str(array.dtype)], array.shape) for name, array in outputs.items()], constants))


def boxes_of(options, path, picture, steps, precision):
    command = [options.lathe, "run", path, picture, "--json", "--preprocess", steps, "--min-score", str(options.min_score)]
    done = subprocess.run(command + (["--precision", precision] if precision else []), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeFailure(done.stderr.strip())
    report = json.loads(done.stdout)
    if "detections" not in report:
        raise RuntimeFailure(f"{path}: no boxes in the answer: not a detector of a known form")
    return report["detections"]


def unmatched(boxes, others, options):
    """(boxes without a partner, largest distance in pixels of those with one)"""
    alone, farthest = [], 0.0
    for box in boxes:
        distances = [max(abs(a - b) for a, b in zip(box["box"], other["box"])) for other in others if other["class"] == box["class"]]
        nearest = min(distances, default=float("inf"))
        if nearest <= 1:
            farthest = max(farthest, nearest)
        elif box["score"] > options.min_score + 1e-3:
            alone.append(box)
    return alone, farthest


def pictures_for(options, recipe, folder):
    """(path, size that the network sees)"""
    for path in sorted(glob.glob(os.path.join(options.images, "scenes", "*"))):
        with Image.open(path) as image:
            yield path, recipe.get("stretch") or tuple(max(TEXT_SIDES, side // TEXT_SIDES * TEXT_SIDES) for side in image.size)
    if recipe.get("set") != "text":
        return
    for number, page in enumerate(text_pages()):
        path = os.path.join(folder, f"page{number}.png")
        page.save(path)
        yield path, tuple(max(TEXT_SIDES, side // TEXT_SIDES * TEXT_SIDES) for side in page.size)


def compare(options, path, folder):
    name = os.path.splitext(os.path.basename(path))[0]
    recipe = RECIPES.get(name)
    if recipe is None:
        raise RuntimeFailure("how its pictures are prepared is not known: see RECIPES in agree.py")
    peer = OnnxRuntime(path, 1)
    pictures = found = 0
    lost, farthest = [], 0.0
    try:
        for picture, size in pictures_for(options, recipe, folder):
            feeds = {peer.inputs[0]["name"]: prepare(picture, {**recipe, "stretch": size})}
            answer, steps = os.path.join(folder, "answer.onnx"), os.path.join(folder, "steps.json")
            with open(answer, "wb") as file:
                file.write(constant_model({key: array.shape for key, array in feeds.items()}, peer.run(feeds)))
            with open(steps, "w", encoding="utf-8") as file:
                json.dump(steps_of(recipe, size), file)
            ours = boxes_of(options, path, picture, steps, options.precision)
            theirs = boxes_of(options, answer, picture, steps, None)
            for boxes, others in ((ours, theirs), (theirs, ours)):
                alone, distance = unmatched(boxes, others, options)
                lost += [(os.path.basename(picture), box) for box in alone]
                farthest = max(farthest, distance)
            pictures += 1
            found += len(theirs)
    finally:
        peer.close()
    print(f"| {name} | {pictures} | {found} | {farthest:.3f} | {len(lost)} |", flush=True)
    for picture, box in lost:
        print(f"    {picture}: no partner for {box}")
    return not lost


def main():
    parser = argparse.ArgumentParser(description="Compare lathe's boxes with those of ONNX Runtime's outputs.")
    parser.add_argument("models", nargs="+", metavar="DETECTOR")
    parser.add_argument("--images", default="images", help="folder with scenes/")
    parser.add_argument("--lathe", default="build/bin/lathe")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of lathe")
    parser.add_argument("--min-score", type=float, default=0.4)
    options = parser.parse_args()
    print("| detector | pictures | boxes | farthest side, pixels | without partner |\n|---|---|---|---|---|")
    good = True
    with tempfile.TemporaryDirectory() as folder:
        for path in options.models:
            try:
                good = compare(options, path, folder) and good
            except RuntimeFailure as error:
                print(f"| {os.path.basename(path)} | {error} | | | |")
                good = False
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
