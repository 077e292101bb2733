"""Writes ONNX models field by field in protobuf's wire format, with the standard library alone.

    model(graph([node("Relu", ["x"], ["y"])], [value("x", 1, [1, 3])], [value("y", 1, [])]))   # -> bytes of a ModelProto

Numbers of fields and of element types are those of onnx.proto.
"""
import struct


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


def a_floats(name, values):
    return b(1, name) + b"".join(varint(7 << 3 | 5) + struct.pack("<f", v) for v in values) + i(20, 6)


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
