#!/usr/bin/env python3
"""Writes the seed inputs of the fuzz targets: make_seeds.py FOLDER. Standard library only.

The ONNX messages are written field by field (protobuf wire format), so that no package is needed.
"""

import base64
import io
import pathlib
import struct
import sys
import zipfile
import zlib


# Protobuf: a varint, an integer field, a bytes field.
def varint(n):
    n &= (1 << 64) - 1
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def i(field, n):
    return varint(field << 3) + varint(n)


def b(field, data):
    data = data.encode() if isinstance(data, str) else data
    return varint(field << 3 | 2) + varint(len(data)) + data


def tensor(name, kind, dims, raw):
    return b"".join(i(1, d) for d in dims) + i(2, kind) + b(8, name) + b(9, raw)


def floats(name, dims, values):
    return tensor(name, 1, dims, struct.pack(f"<{len(values)}f", *values))


def ints(name, values):
    return tensor(name, 7, [len(values)], struct.pack(f"<{len(values)}q", *values))


def a_int(name, n):
    return b(1, name) + i(3, n) + i(20, 2)


def a_ints(name, values):
    return b(1, name) + b"".join(i(8, n) for n in values) + i(20, 7)


def a_graph(name, g):
    return b(1, name) + b(6, g) + i(20, 5)


def a_str(name, s):
    return b(1, name) + b(4, s) + i(20, 3)


def node(op, inputs, outputs, *attributes):
    return (b"".join(b(1, n) for n in inputs) + b"".join(b(2, n) for n in outputs) + b(4, op)
            + b"".join(b(5, a) for a in attributes))


def value(name, kind, dims):
    shape = b"".join(b(1, i(1, d) if isinstance(d, int) else b(2, d)) for d in dims)
    return b(1, name) + b(2, b(1, i(1, kind) + b(2, shape)))


def graph(nodes, inputs, outputs, constants=()):
    return (b"".join(b(1, n) for n in nodes) + b(2, "g") + b"".join(b(5, t) for t in constants)
            + b"".join(b(11, v) for v in inputs) + b"".join(b(12, v) for v in outputs))


def model(g, functions=()):
    return i(1, 8) + b(7, g) + b(8, b(1, "") + i(2, 17)) + b"".join(b(25, f) for f in functions)


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
            archive.writestr("a.npy", plain)
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


def main():
    folder = pathlib.Path(sys.argv[1])
    for kind, seeds in (("onnx", models()), ("npy", arrays()), ("image", pictures())):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name, data in seeds:
            (folder / kind / name).write_bytes(data)


if __name__ == "__main__":
    main()
