"""lathe and ONNX Runtime as objects of one form: run({name: array}) -> {name: array}.

    lathe = Lathe("build/liblathe.so", "net.onnx", bf16=True)
    peer = OnnxRuntime("net.onnx")
    peer.inputs                      # [{"name", "type", "shape"}, ...]
    lathe.run(feeds), peer.run(feeds)

lathe runs in this process through its C interface, ONNX Runtime in a Node.js process (ort_serve.mjs). Needs numpy.
"""
import ctypes
import json
import os
import subprocess

import numpy

HERE = os.path.dirname(os.path.abspath(__file__))
# The numbers of lathe_dtype in lathe/lathe.h.
DTYPES = {1: numpy.float32, 2: numpy.uint8, 3: numpy.int8, 6: numpy.int32, 7: numpy.int64, 9: numpy.bool_, 11: numpy.float64}
NUMBERS = {numpy.dtype(kind): number for number, kind in DTYPES.items()}


class RuntimeFailure(Exception):
    """A runtime could not run a model; the text is its own message."""


class OnnxRuntime:
    def __init__(self, model, threads=1, optimized=True):
        self.process = subprocess.Popen(["node", os.path.join(HERE, "ort_serve.mjs"), model, str(threads),
                                         "all" if optimized else "disabled"],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        description = self._answer()
        self.inputs, self.outputs = description["inputs"], description["outputs"]

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeFailure("ONNX Runtime ended: its own message is above")
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeFailure("ONNX Runtime: " + answer["error"])
        return answer

    def run(self, feeds):
        head = [{"name": name, "type": str(array.dtype), "dims": array.shape} for name, array in feeds.items()]
        self.process.stdin.write(json.dumps(head).encode() + b"\n" + b"".join(array.tobytes() for array in feeds.values()))
        self.process.stdin.flush()
        result = {}
        for entry in self._answer():
            kind = numpy.dtype(entry["type"])
            count = int(numpy.prod(entry["dims"], dtype=numpy.int64))
            data = self.process.stdout.read(count * kind.itemsize)
            result[entry["name"]] = numpy.frombuffer(data, kind).reshape(entry["dims"])
        return result

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class _Tensor(ctypes.Structure):  # lathe_tensor
    _fields_ = [("dtype", ctypes.c_int), ("rank", ctypes.c_size_t), ("shape", ctypes.POINTER(ctypes.c_int64)), ("data", ctypes.c_void_p)]


class _Info(ctypes.Structure):  # lathe_tensor_info
    _fields_ = [("name", ctypes.c_char_p), ("dtype", ctypes.c_int), ("rank", ctypes.c_int64), ("shape", ctypes.POINTER(ctypes.c_int64))]


class _Options(ctypes.Structure):  # lathe_options
    _fields_ = [("size", ctypes.c_size_t), ("threads", ctypes.c_int), ("precision", ctypes.c_int), ("batch", ctypes.c_int64),
                ("cached_plans", ctypes.c_size_t), ("tune", ctypes.c_int), ("device_file", ctypes.c_char_p),
                ("input_shapes", ctypes.c_void_p), ("input_shape_count", ctypes.c_size_t)]


class Lathe:
    def __init__(self, library, model, threads=1, bf16=False, batch=0):
        self.library = ctypes.CDLL(os.path.abspath(library))
        self.library.lathe_last_error.restype = ctypes.c_char_p
        self.library.lathe_network_output_count.restype = ctypes.c_size_t
        for name in ("lathe_network_free", "lathe_runner_free"):
            getattr(self.library, name).restype = None
        self.network, self.runner = ctypes.c_void_p(), ctypes.c_void_p()
        self._check(self.library.lathe_network_open(os.fsencode(model), ctypes.byref(self.network)))
        options = _Options()
        self.library.lathe_options_init(ctypes.byref(options))
        options.threads, options.precision, options.batch = threads, int(bf16), batch
        self._check(self.library.lathe_network_compile(self.network, ctypes.byref(options), ctypes.byref(self.runner)))
        info = _Info()
        self.outputs = []
        for index in range(self.library.lathe_network_output_count(self.network)):
            self._check(self.library.lathe_network_output(self.network, ctypes.c_size_t(index), ctypes.byref(info)))
            self.outputs.append(info.name)

    def _check(self, status):
        if status != 0:
            raise RuntimeFailure("lathe: " + self.library.lathe_last_error().decode(errors="replace"))

    def run(self, feeds):
        kept = []  # inputs are read where they lie: they must live until the run is over
        for name, array in feeds.items():
            array = numpy.require(array, requirements="C")
            shape = (ctypes.c_int64 * array.ndim)(*array.shape)
            tensor = _Tensor(NUMBERS[array.dtype], array.ndim, shape, array.ctypes.data)
            kept.append((array, shape))
            self._check(self.library.lathe_runner_set_input(self.runner, name.encode(), ctypes.byref(tensor)))
        self._check(self.library.lathe_runner_run(self.runner))
        result = {}
        for name in self.outputs:
            tensor = _Tensor()
            self._check(self.library.lathe_runner_output(self.runner, name, ctypes.byref(tensor)))
            shape = [tensor.shape[axis] for axis in range(tensor.rank)]
            kind = numpy.dtype(DTYPES[tensor.dtype])
            data = ctypes.string_at(tensor.data, int(numpy.prod(shape, dtype=numpy.int64)) * kind.itemsize)
            result[name.decode()] = numpy.frombuffer(data, kind).reshape(shape)
        return result

    def close(self):
        self.library.lathe_runner_free(self.runner)
        self.library.lathe_network_free(self.network)
