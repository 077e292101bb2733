#!/usr/bin/env python3
"""Compares lathe with onnxruntime on ONNX models: their times, turn by turn in one run, and their outputs.

A time alone means nothing on a shared machine: the two runtimes take turns, each turn is its own process
and gives a median, and what is printed is the ratio of the two medians of a turn: its median over the turns
and its spread. Above 1 lathe is faster.

    npm ci --ignore-scripts --prefix benchmarks/peers
    benchmarks/peers/compare.py [--turns 5] [--runs 50] [--threads 1] [--batch 1] MODEL.onnx...
"""
import argparse
import array
import ast
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))


class Failure(Exception):
    pass


def call(command):
    """The standard output of a command; Failure with its last words when it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        words = next((line for line in lines if "error" in line), lines[0])
        raise Failure(f"{os.path.basename(command[0])} ended with {done.returncode}: {words}")
    return done.stdout


def read_npy(path):
    """Shape and elements as floats, without NumPy."""
    codes = {"f4": "f", "f8": "d", "i1": "b", "u1": "B", "b1": "B", "i2": "h", "u2": "H",
             "i4": "i", "u4": "I", "i8": "q", "u8": "Q"}
    with open(path, "rb") as file:
        start = file.read(8)
        if start[:6] != b"\x93NUMPY":
            raise Failure(f"{path}: is not a .npy file")
        length = int.from_bytes(file.read(2 if start[6] == 1 else 4), "little")
        header = ast.literal_eval(file.read(length).decode("latin1"))
        code = codes.get(header["descr"][1:])
        if code is None:
            raise Failure(f"{path}: type {header['descr']} is not compared")
        values = array.array(code)
        values.frombytes(file.read())
    return header["shape"], values


def difference(ours, theirs):
    """Largest absolute difference over the largest absolute value expected."""
    (our_shape, a), (their_shape, b) = read_npy(ours), read_npy(theirs)
    if our_shape != their_shape:
        raise Failure(f"shapes differ: {our_shape} and {their_shape}")
    largest = max((abs(y) for y in b), default=0) or 1
    worst = max((abs(x - y) for x, y in zip(a, b)), default=0)
    return math.inf if any(x != x for x in a) else worst / largest


class Comparison:
    def __init__(self, arguments, model, folder):
        self.arguments = arguments
        self.model = model
        self.folder = folder

    def time_lathe(self):
        a = self.arguments
        command = [a.lathe, "bench", self.model, "--json", "--runs", str(a.runs), "--seconds", "0",
                   "--threads", str(a.threads), "--batch", str(a.batch)]
        for shape in a.shape:
            command += ["--shape", shape]
        result = json.loads(call(command))
        return {"median_ms": result["latency_ms"]["median"],
                "start_ms": result["start_ms"],
                "peak_rss_mib": result["peak_rss_bytes"] / 2**20}

    def time_peer(self, *more):
        a = self.arguments
        command = ["node", os.path.join(HERE, "ort_time.mjs"), self.model, "--runs", str(a.runs),
                   "--threads", str(a.threads), "--batch", str(a.batch), *more]
        for shape in a.shape:
            command += ["--size", shape]
        result = json.loads(call(command))
        result["start_ms"] = result["session_ms"] + result["first_run_ms"]
        return result

    def outputs(self):
        """Runs both on the same input; the largest relative difference of any output."""
        theirs, inputs = os.path.join(self.folder, "peer"), os.path.join(self.folder, "inputs")
        ours = os.path.join(self.folder, "lathe")
        os.makedirs(ours, exist_ok=True)
        peer = self.time_peer("--save-inputs", inputs, "--outputs", theirs)
        command = [self.arguments.lathe, "run", self.model, "--threads", str(self.arguments.threads),
                   "--output", ours]
        for name, file in peer["inputs"].items():
            command += ["--input", f"{name}={os.path.join(inputs, file)}"]
        call(command)
        return max(difference(os.path.join(ours, f), os.path.join(theirs, f)) for f in peer["outputs"])

    def report(self):
        ours, theirs, ratios = [], [], []
        for turn in range(self.arguments.turns):
            # Who goes first changes from turn to turn, so that neither always meets a warm machine.
            if turn % 2 == 0:
                ours.append(self.time_lathe())
                theirs.append(self.time_peer())
            else:
                theirs.append(self.time_peer())
                ours.append(self.time_lathe())
            ratios.append(theirs[-1]["median_ms"] / ours[-1]["median_ms"])
        middle = lambda results, key: statistics.median(r[key] for r in results)
        row = {"model": os.path.basename(self.model), "threads": self.arguments.threads,
               "batch": self.arguments.batch, "ratio": statistics.median(ratios),
               "ratio_min": min(ratios), "ratio_max": max(ratios)}
        for key in ("median_ms", "start_ms", "peak_rss_mib"):
            row["lathe_" + key] = middle(ours, key)
            row["peer_" + key] = middle(theirs, key)
        if self.arguments.outputs:
            try:
                row["difference"] = self.outputs()
            except (Failure, OSError) as error:  # the times still stand
                row["outputs_error"] = str(error)
        return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--lathe", default=os.path.join(ROOT, "build", "bin", "lathe"))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--shape", action="append", default=[], help="NAME=1x3x224x224, for open sizes")
    parser.add_argument("--no-outputs", dest="outputs", action="store_false",
                        help="times only; do not compare outputs")
    parser.add_argument("--json", action="store_true", help="a JSON object a line instead of a table")
    arguments = parser.parse_args()

    failed = False
    if not arguments.json:
        print(f"{'model':32} {'lathe ms':>9} {'ort ms':>9} {'ratio':>6} {'spread':>13} "
              f"{'start ms':>15} {'peak MiB':>13} {'difference':>10}")
    for model in arguments.models:
        try:
            with tempfile.TemporaryDirectory() as folder:
                row = Comparison(arguments, model, folder).report()
        except (Failure, OSError, KeyError, ValueError) as error:
            print(f"{os.path.basename(model)}: {error}", file=sys.stderr)
            failed = True
            continue
        if "outputs_error" in row:
            print(f"{row['model']}: outputs not compared: {row['outputs_error']}", file=sys.stderr)
            failed = True
        if arguments.json:
            print(json.dumps(row), flush=True)
            continue
        spread = f"{row['ratio_min']:.2f} … {row['ratio_max']:.2f}"
        start = f"{row['lathe_start_ms']:.0f} / {row['peer_start_ms']:.0f}"
        memory = f"{row['lathe_peak_rss_mib']:.0f} / {row['peer_peak_rss_mib']:.0f}"
        worst = f"{row['difference']:.1e}" if "difference" in row else "-"
        print(f"{row['model']:32} {row['lathe_median_ms']:9.3f} {row['peer_median_ms']:9.3f} "
              f"{row['ratio']:6.2f} {spread:>13} {start:>15} {memory:>13} {worst:>10}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
