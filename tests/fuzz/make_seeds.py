#!/usr/bin/env python3
"""Writes the seed inputs of the fuzz targets: make_seeds.py [FOLDER, corpus/ beside this file]. Standard library only.

Files of the corpus whose names are digests were found by libFuzzer from these seeds (docs/SAFETY.md).
"""

import base64
import gzip
import io
import json
import pathlib
import random
import struct
import sys
import zipfile
import zlib


from onnx_wire import (a_floats, a_graph, a_int, a_ints, a_str, b, floats, graph, i, ints, model, node, tensor, value, varint)


def models():
    x = value("x", 1, [1, 3, 8, 8])
    y = value("y", 1, [])
    yield "conv", model(graph(
        [node("Conv", ["x", "w", "b"], ["c"], a_ints("kernel_shape", [3, 3]), a_ints("pads", [1, 1, 1, 1])),
         node("Relu", ["c"], ["r"]), node("MaxPool", ["r"], ["p"], a_ints("kernel_shape", [2, 2])),
         node("GlobalAveragePool", ["p"], ["q"]), node("Flatten", ["q"], ["y"])],
        [x], [y], [floats("w", [2, 3, 3, 3], [0.1] * 54), floats("b", [2], [0, 1])]))
    yield "shape", model(graph(
        [node("Shape", ["x"], ["s"]), node("Gather", ["s", "i"], ["n"], a_int("axis", 0)),
         node("Concat", ["n", "m"], ["t"], a_int("axis", 0)), node("Reshape", ["x", "t"], ["r"]),
         node("Slice", ["r", "i", "m2", "i"], ["l"]), node("Transpose", ["l"], ["y"], a_ints("perm", [1, 0]))],
        [value("x", 1, ["n", 3, 4])], [y], [ints("i", [0]), ints("m", [-1]), ints("m2", [2])]))
    yield "attention", model(graph(
        [node("MatMul", ["x", "w"], ["q"]), node("Transpose", ["q"], ["k"], a_ints("perm", [0, 2, 1])),
         node("MatMul", ["q", "k"], ["s"]), node("Softmax", ["s"], ["p"], a_int("axis", -1)),
         node("MatMul", ["p", "q"], ["o"]), node("Add", ["o", "x"], ["y"])],
        [value("x", 1, [1, 4, 4])], [y], [floats("w", [4, 4], [0.5] * 16)]))
    branch = lambda op: graph([node(op, ["x"], ["z"])], [], [value("z", 1, [])])
    yield "if", model(graph(
        [node("If", ["c"], ["y"], a_graph("then_branch", branch("Relu")), a_graph("else_branch", branch("Neg")))],
        [value("c", 9, []), x], [y]))
    body = graph([node("Add", ["a", "x"], ["n"]), node("Identity", ["go"], ["on"])],
                 [value("it", 7, []), value("go", 9, []), value("a", 1, [2])],
                 [value("on", 9, []), value("n", 1, [2])])
    yield "loop", model(graph(
        [node("Loop", ["t", "", "x"], ["y"], a_graph("body", body))],
        [value("x", 1, [2])], [y], [tensor("t", 7, [], struct.pack("<q", 3))]))
    function = (b(1, "F") + b(4, "a") + b(5, "o") + b(7, node("Relu", ["a"], ["o"])) + b(9, b(1, "") + i(2, 17))
                + b(10, "d"))
    yield "function", model(graph([node("F", ["x"], ["y"]) + b(7, "d")], [x], [y]), [function])
    yield "quantize", model(graph(
        [node("QuantizeLinear", ["x", "s"], ["q"]), node("DequantizeLinear", ["q", "s"], ["d"]),
         node("LSTM", ["d", "w", "r"], ["y"], a_int("hidden_size", 1))],
        [value("x", 1, [2, 1, 2])], [y],
        [floats("s", [], [0.5]), floats("w", [1, 4, 2], [1] * 8), floats("r", [1, 4, 1], [1] * 4)]))
    yield "resize", model(graph(
        [node("Resize", ["x", "", "s"], ["u"], a_str("mode", "linear")), node("Pad", ["u", "p"], ["v"]),
         node("Split", ["v"], ["l", "m"], a_int("axis", 2)), node("Expand", ["l", "e"], ["y"])],
        [x], [y], [floats("s", [4], [1, 1, 2, 2]), ints("p", [0, 0, 1, 1, 0, 0, 1, 1]), ints("e", [2, 3, 9, 18])]))
    yield "create", model(graph(
        [node("ConstantOfShape", ["e"], ["z"]), node("Range", ["a", "l", "a2"], ["r"]),
         node("Cast", ["r"], ["f"], a_int("to", 1)), node("Add", ["z", "f"], ["y"])],
        [], [y], [ints("e", [2, 4]), tensor("a", 7, [], bytes(8)), tensor("l", 7, [], struct.pack("<q", 4)),
                  tensor("a2", 7, [], struct.pack("<q", 1))]))


    # Elements so large that they stay in the file, elements in another file, and few of many.
    large = floats("w", [1, 1056], [0.25] * 1056)
    outside = i(1, 4) + i(2, 1) + b(8, "v") + b(13, b(1, "location") + b(2, "weights.bin")) + b(13, b(1, "offset") + b(2, "64")) + i(14, 1)
    yield "external", model(graph([node("Gemm", ["x", "w"], ["g"], a_int("transA", 1)), node("ReduceMean", ["g"], ["m"]),
                                   node("Add", ["m", "v"], ["y"])], [value("x", 1, [1, 2])], [y], [large, outside]))
    sparse = b(1, floats("s", [2], [1, 2])) + b(2, ints("", [3, 5])) + i(3, 2) + i(3, 4)
    yield "sparse", model(graph([node("MatMul", ["x", "s"], ["y"])], [value("x", 1, [1, 2])], [y]) + b(15, sparse))
    body = graph([node("Add", ["c", "e"], ["n"]), node("Identity", ["n"], ["o"])],
                 [value("c", 1, [2]), value("e", 1, [2])], [value("n", 1, [2]), value("o", 1, [2])])
    yield "scan", model(graph([node("Scan", ["s", "x"], ["f", "y"], a_int("num_scan_inputs", 1), a_graph("body", body))],
                              [value("s", 1, [2]), value("x", 1, [3, 2])], [value("f", 1, []), y]))
    four_bits = tensor("q", 22, [3], b"\x21\x03")
    yield "narrow", model(graph([node("DequantizeLinear", ["q", "s", "z"], ["d"]), node("Cast", ["d"], ["h"], a_int("to", 10)),
                                 node("Where", ["c", "h", "h"], ["y"])],
                                [value("c", 9, [3])], [y], [four_bits, floats("s", [], [0.5]), tensor("z", 22, [], b"\x01")]))
    yield "old", i(1, 3) + b(7, graph(
        [node("BatchNormalization", ["x", "s", "s", "s", "s"], ["n"], a_int("is_test", 1)), node("Softmax", ["n"], ["p"], a_int("axis", 1)),
         node("Slice", ["p"], ["l"], a_ints("starts", [0]), a_ints("ends", [2])), node("Upsample", ["l"], ["u"], a_floats("scales", [1, 1, 2, 2])),
         node("Clip", ["u"], ["y"], b(1, "min") + varint(2 << 3 | 5) + struct.pack("<f", 0) + i(20, 1))],
        [x], [y], [floats("s", [3], [1, 1, 1])])) + b(8, b(1, "") + i(2, 7))
    yield "detect", model(graph(
        [node("NonMaxSuppression", ["b", "s", "k", "t"], ["i"]), node("Gather", ["b", "i"], ["g"], a_int("axis", 1)),
         node("TopK", ["s", "k"], ["v", "j"]), node("NonZero", ["v"], ["y"])],
        [value("b", 1, [1, 4, 4]), value("s", 1, [1, 1, 4])], [y, value("g", 1, [])], [ints("k", [2]), floats("t", [1], [0.5])]))
    yield "einsum", model(graph(
        [node("Einsum", ["x", "x"], ["e"], a_str("equation", "nchw,ndhw->ncd")), node("LayerNormalization", ["e", "s"], ["l"]),
         node("GridSample", ["x", "g"], ["r"]), node("ConvTranspose", ["r", "w"], ["t"], a_ints("strides", [2, 2])),
         node("ReduceSum", ["t"], ["y"])], [x], [y, value("l", 1, [])],
        [floats("s", [3], [1, 2, 3]), floats("g", [1, 2, 2, 2], [0.1] * 8), floats("w", [3, 2, 2, 2], [0.5] * 24)]))


def arrays():
    def npy(header, data):
        header = header.encode() + b" " * ((-len(header) - 11) % 64) + b"\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data
    plain = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", bytes(24))
    yield "f4.npy", plain
    yield "big.npy", npy("{'descr': '>i8', 'fortran_order': True, 'shape': (2,), }", bytes(16))
    for name, method in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as archive:
            archive.writestr(zipfile.ZipInfo("a.npy"), plain, method)  # without the time of day
        yield name + ".npz", out.getvalue()


def pictures():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    for colour, channels in ((0, 1), (2, 3), (6, 4)):
        rows = b"".join(b"\x00" + bytes(range(4 * channels)) for _ in range(4))
        yield f"colour{colour}.png", (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, colour, 0, 0, 0))
                                      + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    # One grey pixel each, lossless WebP and baseline JPEG.
    yield "grey.webp", base64.b64decode("UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==")
    tables = b"\xff\xdb\x00\x43\x00" + b"\x01" * 64
    frame = b"\xff\xc0\x00\x0b\x08\x00\x01\x00\x01\x01\x01\x11\x00"
    dc = b"\xff\xc4\x00\x14\x00\x01" + bytes(15) + b"\x00"
    ac = b"\xff\xc4\x00\x14\x10\x01" + bytes(15) + b"\x00"
    yield "grey.jpg", b"\xff\xd8" + tables + frame + dc + ac + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00\x3f\xff\xd9"


def choices():
    """For fuzz_graph, whose inputs are choices: any bytes make a model."""
    for seed in range(24):
        yield f"choices{seed}", random.Random(seed).randbytes(64 + 8 * seed)


def side_files():
    yield "steps", json.dumps({"resize": 16, "crop": [8, 8], "mean": [0.5, 0.4, 0.3], "std": 0.25, "scale": 0.004, "layout": "NHWC",
                               "colors": "BGR", "interpolation": "nearest"}).encode()
    yield "stretch", json.dumps({"resize": [7, 9], "mean": 0, "layout": "NCHW", "colors": "RGB", "interpolation": "bilinear"}).encode()
    yield "device", json.dumps({
        "name": "d", "source": "data sheet", "limits": {"memory_bytes": 327680, "flash_bytes": 1048576},
        "compute": [{"name": "core", "cores": 1, "threads": 2, "clock_mhz": 216, "instruction_sets": ["v7"],
                     "gops_per_core": {"f32": 0.2, "int8": 0.4}, "gops_all_cores": {"bf16": 1}}],
        "memory": [{"name": "SRAM", "bytes": 327680, "shared_by": 1, "gb_per_s_per_core": {"read": 0.8, "copy": 1},
                    "gb_per_s_all_cores": {}, "picojoule_per_byte": 5}],
        "picojoule_per_operation": {"f32": 20}}).encode()
    yield "escapes", b'{"na\\u006de": "\\ud83d\\ude00", "compute": [[], {}, 1e-5, -0, true, null], "memory": 18446744073709551615}'


def idx_files():
    def idx(kind, sizes, data):
        return struct.pack(">HBB", 0, kind, len(sizes)) + struct.pack(f">{len(sizes)}I", *sizes) + data
    pictures = idx(8, [2, 3, 4], bytes(range(24)))
    yield "pictures", pictures
    yield "pictures.gz", gzip.compress(pictures, mtime=0)
    yield "doubles", idx(14, [3], struct.pack(">3d", 1, 2, 3))
    yield "shorts", idx(11, [2, 0], b"")
    yield "cifar10", b"\x03" + bytes(3072) + b"\x09" + bytes(range(256)) * 12
    yield "cifar100", b"\x03\x63" + bytes(range(256)) * 12


def annotations():
    box = b"<bndbox><xmin>1</xmin><ymin>2.5</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
    yield "voc.xml", (b"<annotation><filename>a.jpg</filename><size><width>50</width><height>60</height></size><object><name>dog</name>"
                      b"<difficult>1</difficult>" + box + b"<part><name>head</name>" + box + b"</part></object></annotation>")
    yield "entity.xml", b'<!DOCTYPE a [<!ENTITY x "y">]><annotation><filename>&x;</filename></annotation>'
    yield "utf16.xml", '<?xml version="1.0" encoding="UTF-16"?><annotation><filename>\u00fc</filename></annotation>'.encode("utf-16")
    yield "coco.json", json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
                                   "categories": [{"id": 3, "name": "cat"}, {"id": 90}],
                                   "annotations": [{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3.5, 4]},
                                                   {"image_id": 2, "category_id": 90, "bbox": [0, 0, 9, 9], "iscrowd": 1}]}).encode()


def tensors_by_name():
    def file(header, data):
        text = json.dumps(header, separators=(",", ":")).encode()
        return struct.pack("<Q", len(text)) + text + data
    yield "weights", file({"__metadata__": {"epoch": "1"}, "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
                           "b": {"dtype": "BF16", "shape": [3], "data_offsets": [24, 30]}, "c": {"dtype": "BOOL", "shape": [], "data_offsets": [30, 31]}},
                          bytes(range(24)) + bytes(6) + b"\x01")
    yield "odd", file({"i": {"dtype": "I64", "shape": [1], "data_offsets": [1, 9]}, "u": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
                       "e": {"dtype": "F8_E4M3", "shape": [0, 7], "data_offsets": [9, 9]}}, bytes(9))
    yield "empty", file({}, b"")


def budgets():
    for n, text in enumerate(("latency<=5ms", "latency < 0.25 s, drop<=1%", "size<=10MB,memory<=64MiB", "agreement>=99.5%, error<1%",
                              "drop <= 0.5 points", "latency<=300\u00b5s,\tsize<1KiB")):
        yield f"budget{n}", text.encode()


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "corpus"
    for kind, seeds in (("onnx", models()), ("graph", choices()), ("npy", arrays()), ("image", pictures()), ("json", side_files()),
                        ("budget", budgets()), ("idx", idx_files()), ("annotations", annotations()),
                        ("safetensors", tensors_by_name())):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name, data in seeds:
            (folder / kind / name).write_bytes(data)


if __name__ == "__main__":
    main()
