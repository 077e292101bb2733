#!/usr/bin/env python3
"""Compare lathe with ONNX Runtime on the same machine, in the same run, model by model.

    compare.py NETS_DIR --lathe build/bin/lathe [--threads N] [--batch N] [--rounds 3] [--packed] [--check]

For each model the two runtimes take turns, each in a process of its own, --rounds times. Ratios are
ONNX Runtime over lathe: above 1, lathe is faster or smaller. --check compares their outputs instead
of their times. --packed also measures lathe's start-up and memory from .lathe files. Needs only Python's standard library, Node.js and this folder's npm packages.
"""
import argparse
import array
import glob
import json
import math
import os
import random
import statistics
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ORT_TIME = os.path.join(HERE, "ort_time.mjs")


class PeerError(Exception):
    """A runtime could not run a model; the text is its own message."""


def run_process(command):
    """Run a command and return its standard output; raise PeerError with the last line of its complaint."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired:
        raise PeerError("took longer than 600 s") from None
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise PeerError(next((line for line in lines if "rror" in line), lines[-1] if lines else
                             f"exit code {done.returncode}"))
    return done.stdout


def run_json(command):
    return json.loads(run_process(command))


def common(options):
    return ["--threads", str(options.threads), "--batch", str(options.batch)]


def peer_model(options, model):
    """The file that ONNX Runtime runs: the model itself, or the one of its name in --peer-nets."""
    return os.path.join(options.peer_nets, os.path.basename(model)) if options.peer_nets else model


def time_ort(options, model):
    found = run_json(["node", ORT_TIME, peer_model(options, model), "--seconds", str(options.seconds), "--runs", str(options.runs), *common(options)])
    return {"median": found["median_ms"], "min": found["min_ms"],
            "start": found["session_ms"] + found["first_ms"],
            "overhead": found["start_cpu_ms"] - found["run_cpu_ms"],
            "rss": found["peak_rss_bytes"],
            # Node's own memory, measured before the session was made, is not the runtime's.
            "net": found["peak_rss_bytes"] - found["node_rss_bytes"]}


def time_lathe(options, model):
    found = run_json([options.lathe, "bench", model, "--json", "--seconds", str(options.seconds),
                      "--runs", str(options.runs), *common(options), *options.lathe_option])
    return {"median": found["latency_ms"]["median"], "min": found["latency_ms"]["min"],
            "start": found["start_ms"], "overhead": found["start_cpu_ms"] - found["run_cpu_ms"],
            "rss": found["peak_rss_bytes"], "net": found["peak_rss_bytes"]}


def pack(options, model, folder):
    """Pack a model for this machine; return the path of the .lathe file."""
    path = os.path.join(folder, os.path.basename(model) + ".lathe")
    run_process([options.lathe, "pack", model, "-o", path, *common(options), *options.lathe_option])
    return path


def identity(path):
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size, status.st_ino


def measure(options, model):
    """Alternate the runtimes; return their measurements by name, one a round."""
    with tempfile.TemporaryDirectory() as folder:
        turns = [("ort", lambda: time_ort(options, model)), ("lathe", lambda: time_lathe(options, model))]
        if options.packed:
            packed = pack(options, model, folder)
            turns.append(("packed", lambda: time_lathe(options, packed)))
        results = {name: [] for name, _ in turns}
        for _ in range(options.rounds):
            for name, time in turns:
                results[name].append(time())
            # Whoever goes second meets a warmer machine: change places each round.
            turns.reverse()
            # A build that replaces the binary in between would mix two programs in one median.
            if identity(options.lathe) != options.lathe_identity:
                raise PeerError(f"{options.lathe} was rebuilt during the comparison: nothing after that counts")
    return results


def middle(results, field):
    return statistics.median(result[field] for result in results)


def least(results, field):
    """For what other work on the machine can only add to."""
    return min(result[field] for result in results)


def summarize(results):
    ort, lathe = results["ort"], results["lathe"]
    by_round = [a["median"] / b["median"] for a, b in zip(ort, lathe)]
    row = {
        "ort_ms": middle(ort, "median"), "lathe_ms": middle(lathe, "median"),
        "ratio": middle(ort, "median") / middle(lathe, "median"), "ratio_low": min(by_round), "ratio_high": max(by_round),
        "minima": least(ort, "min") / least(lathe, "min"),
        "ort_overhead_ms": least(ort, "overhead"), "ort_rss_mib": middle(ort, "rss") / 2**20, "ort_net_mib": middle(ort, "net") / 2**20,
        "rounds": results,
    }
    # Start-up and memory of lathe as a share of ONNX Runtime's, from ONNX and from a .lathe file.
    for name, suffix in (("lathe", ""), ("packed", "_packed")):
        if name not in results:
            continue
        row["overhead_ms" + suffix] = least(results[name], "overhead")
        row["rss_mib" + suffix] = middle(results[name], "rss") / 2**20
        row["start" + suffix] = max(row["overhead_ms" + suffix], 0.01) / max(row["ort_overhead_ms"], 0.01)
        row["rss" + suffix] = row["rss_mib" + suffix] / row["ort_rss_mib"]
        row["net" + suffix] = row["rss_mib" + suffix] / row["ort_net_mib"]
    return row


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def compare(options, models):
    load = os.getloadavg()[0]
    print(f"threads {options.threads}, batch {options.batch}, {options.rounds} rounds of {options.seconds:g} s, "
          f"{os.cpu_count()} processors, load {load:.1f} at the start")
    print("ratio, of minima: ONNX Runtime / lathe, above 1 lathe is faster; start-up, memory: lathe / ONNX Runtime, below 1 "
          "lathe needs less\n")
    shares = [("start", "start-up"), ("rss", "memory"), ("net", "net")]
    if options.packed:
        shares += [("start_packed", "packed start"), ("rss_packed", "memory"), ("net_packed", "net")]
    print(f"{'model':<22}{'ort ms':>9}{'lathe ms':>10}{'ratio':>8}{'low..high':>14}{'of minima':>11}"
          + "".join(f"{title:>{len(title) + 2}}" for _, title in shares) + f"{'load':>6}")
    rows, failures = {}, {}
    for model in models:
        name = os.path.splitext(os.path.basename(model))[0]
        try:
            row = summarize(measure(options, model))
        except PeerError as error:
            failures[name] = str(error)
            print(f"{name:<22}{error}", flush=True)
            continue
        row["load"] = os.getloadavg()[0]
        rows[name] = row
        spread = f"{row['ratio_low']:.2f}..{row['ratio_high']:.2f}"
        print(f"{name:<22}{row['ort_ms']:>9.2f}{row['lathe_ms']:>10.2f}{row['ratio']:>8.2f}{spread:>14}{row['minima']:>11.2f}"
              + "".join(f"{row[field]:>{len(title) + 2}.2f}" for field, title in shares) + f"{row['load']:>6.1f}", flush=True)
    if rows:
        means = {field: geometric_mean([row[field] for row in rows.values()])
                 for field in ("ratio", "minima", *(field for field, _ in shares))}
        print(f"{'geometric mean':<41}{means['ratio']:>8.2f}{'':>14}{means['minima']:>11.2f}"
              + "".join(f"{means[field]:>{len(title) + 2}.2f}" for field, title in shares))
        if options.json:
            with open(options.json, "w", encoding="utf-8") as file:
                json.dump({"threads": options.threads, "batch": options.batch, "models": rows,
                           "geometric_mean": means, "failures": failures}, file, indent=1)
    return not failures


# --- outputs ---------------------------------------------------------------------------------------


def write_npy(path, shape, values):
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s,), }" % ", ".join(map(str, shape))
    header = header.ljust((len(header) + 11 + 63) // 64 * 64 - 11) + "\n"
    with open(path, "wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + values.tobytes())


def read_npy(path):
    """Return the float32 values of an .npy file, flat."""
    with open(path, "rb") as file:
        data = file.read()
    wide = data[6] > 1
    start = 12 if wide else 10
    end = start + struct.unpack_from("<I" if wide else "<H", data, 8)[0]
    if b"'<f4'" not in data[start:end]:
        raise PeerError(f"{path}: expected float32, found {data[start:end].decode('latin1').strip()}")
    values = array.array("f")
    values.frombytes(data[end:])
    return values


def lathe_outputs(directory, name):
    """The file that lathe wrote for an output: the one of that name, or the only one."""
    files = sorted(glob.glob(os.path.join(directory, "*.npy")))
    named = [file for file in files if os.path.basename(file) == name.replace("/", "_") + ".npy"]
    if not named and len(files) != 1:
        raise PeerError(f"lathe run wrote no {name}.npy, but {len(files)} other files")
    return (named or files)[0]


def difference(options, model, folder):
    """The largest difference between the first outputs, over the range of ONNX Runtime's."""
    described = run_json(["node", ORT_TIME, model, "--describe"])
    generator = random.Random(options.seed)
    given = []
    for number, value in enumerate(described["inputs"]):
        if value["type"] != "float32":
            raise PeerError(f"input {value['name']} is {value['type']}: only float32 is checked")
        shape = [size if isinstance(size, int) and size >= 0 else options.batch if axis == 0 else None
                 for axis, size in enumerate(value["shape"])]
        if None in shape:
            raise PeerError(f"input {value['name']} has open sizes besides the batch")
        path = os.path.join(folder, f"input{number}.npy")
        write_npy(path, shape, array.array("f", (generator.gauss(0, 1) for _ in range(math.prod(shape)))))
        given += ["--input", f"{value['name']}={path}"]
    expected_path = os.path.join(folder, "expected.npy")
    run_process(["node", ORT_TIME, model, *given, "--runs", "1", "--seconds", "0", "--output", expected_path,
                 *common(options)])
    output = os.path.join(folder, "output")
    run_process([options.lathe, "run", model, *given, "--output", output, "--threads", str(options.threads)])
    expected = read_npy(expected_path)
    found = read_npy(lathe_outputs(output, described["outputs"][0]["name"]))
    if len(expected) != len(found):
        raise PeerError(f"expected {len(expected)} values, found {len(found)}")
    if not all(map(math.isfinite, expected)):
        raise PeerError("the outputs of ONNX Runtime are not finite: nothing can be compared")
    worst = max(abs(a - b) for a, b in zip(expected, found))
    spread = max(expected) - min(expected)
    return (worst if all(map(math.isfinite, found)) else math.inf), spread


def check(options, models):
    if subprocess.run([options.lathe, "run", "--help"], capture_output=True, text=True).stdout.find("--input") < 0:
        print(f"check skipped: {options.lathe} has no command 'run' that takes --input")
        return True
    print(f"batch {options.batch}: largest difference of the first output from ONNX Runtime's, over its range "
          f"(at most {options.tolerance:g})\n")
    print(f"{'model':<22}{'difference':>12}{'range':>12}{'relative':>12}")
    good = True
    for model in models:
        name = os.path.splitext(os.path.basename(model))[0]
        try:
            with tempfile.TemporaryDirectory() as folder:
                worst, spread = difference(options, model, folder)
        except PeerError as error:
            print(f"{name:<22}{error}", flush=True)
            good = False
            continue
        relative = worst / spread if spread > 0 else (0.0 if worst == 0 else math.inf)
        passed = relative <= options.tolerance
        good = good and passed
        print(f"{name:<22}{worst:>12.3g}{spread:>12.3g}{relative:>12.2g}{'' if passed else '  differs'}", flush=True)
    return good


def main():
    parser = argparse.ArgumentParser(description="Compare lathe with ONNX Runtime.")
    parser.add_argument("nets", metavar="NETS_DIR", help="a folder of .onnx files, or one such file")
    parser.add_argument("--lathe", default="build/bin/lathe", help="the lathe binary (default: %(default)s)")
    parser.add_argument("--peer-nets", metavar="DIR",
                        help="ONNX Runtime runs the models of these names from here, as the originals of quantized ones")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1, help="of each measurement (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=20, help="at least so many of each measurement (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these models")
    parser.add_argument("--lathe-option", action="append", default=[], metavar="OPTION",
                        help="passed on to lathe bench, as --lathe-option=--tune")
    parser.add_argument("--json", metavar="FILE", help="also write the measurements here")
    parser.add_argument("--packed", action="store_true", help="also measure start-up and memory from .lathe files")
    parser.add_argument("--check", action="store_true", help="compare outputs instead of times")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="of --check (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the inputs of --check")
    options = parser.parse_args()
    if min(options.threads, options.batch, options.rounds) < 1:
        parser.error("--threads, --batch and --rounds must be at least 1")
    if not os.path.exists(options.lathe):
        parser.error(f"no lathe at '{options.lathe}': build it, or give --lathe")
    if not os.path.isdir(os.path.join(HERE, "node_modules", "onnxruntime-node")):
        parser.error(f"ONNX Runtime is not installed: run npm ci --ignore-scripts in {HERE}")
    options.lathe = os.path.abspath(options.lathe)
    options.lathe_identity = identity(options.lathe)
    models = [options.nets] if os.path.isfile(options.nets) else sorted(glob.glob(os.path.join(options.nets, "*.onnx")))
    if options.only:
        models = [model for model in models if os.path.splitext(os.path.basename(model))[0] in options.only]
    if not models:
        parser.error(f"no such models in '{options.nets}'")
    return 0 if (check if options.check else compare)(options, models) else 1


if __name__ == "__main__":
    sys.exit(main())
