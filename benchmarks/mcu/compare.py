#!/usr/bin/env python3
"""Instructions of emitted firmware beside the same layers by CMSIS-NN, both in QEMU.

  benchmarks/mcu/compare.py LATHE CMSIS_NN FIRMWARE...

LATHE: the command. CMSIS_NN: a checkout of github.com/ARM-software/CMSIS-NN; nothing of it is kept here. FIRMWARE: folders of
lathe emit-c for a Cortex-M7. CMSIS-NN is compiled as its own build does it (-Ofast) and as the firmware is (-O2); the smaller
count stands, layer by layer. Codes are i8 there whatever the network has. Prints a row a layer and the ratio of each kind."""
import glob, json, math, os, re, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
TICK = 40  # instructions; lathe emulate measures it at every run


def shapes(firmware):
    rows = []
    for at, layer in enumerate(firmware["layers"]):
        function, y = layer["function"], layer["output"]
        if "window" in layer:
            w, x = layer["window"], layer["input"]
            if w["dilations"] != [1, 1] or w["group"] not in (1, x[3]):
                continue
            kind = "d" if function.startswith("depthwise") else "c"
            rows.append((at, kind, x[1], x[2], x[3], y[1], y[2], y[3], *w["kernel"], *w["strides"], w["pads"][0], w["pads"][1]))
        elif function.startswith("multiply_row"):
            rows.append((at, "f", 1, 1, math.prod(layer["input"]), 1, 1, math.prod(y), 1, 1, 1, 1, 0, 0))
    return rows


def cmsis(folder, path, rows, level, build):
    fields = "height width channels out_height out_width outputs kernel_h kernel_w stride_h stride_w pad_top pad_left".split()
    with open(build + "/layers.h", "w") as f:
        f.write("struct shape { int kind; int " + ", ".join(fields) + "; };\n#define LAYERS %d\nstatic const struct shape layers[LAYERS] = {\n" % len(rows))
        for row in rows:
            f.write("  {'%s', %s},\n" % (row[1], ", ".join(map(str, row[2:]))))
        f.write("};\n")
    with open(folder + "/board/memory.ld") as f:
        script = f.read()
    with open(build + "/memory.ld", "w") as f:
        f.write(re.sub(r"LENGTH = \d+", "LENGTH = 0x400000", script))
    sources = [s for kind in ("ConvolutionFunctions", "FullyConnectedFunctions", "NNSupportFunctions")
               for s in glob.glob(f"{path}/Source/{kind}/*.c") if not s.endswith(("_f16.c", "_f32.c"))]
    elf = build + "/cmsis.elf"
    subprocess.run(["arm-none-eabi-gcc", level, "-std=c11", "-w", "-mcpu=cortex-m7", "-mthumb", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard", "-ffunction-sections", "-fdata-sections", "-I", path + "/Include",
                    "-I", build, "-I", folder + "/board", "-o", elf, HERE + "/cmsis_nn.c", folder + "/board/startup.c", folder + "/board/semihosting.c", *sources, "-nostartfiles", "--specs=nano.specs",
                    "-Wl,--gc-sections,-T," + build + "/memory.ld,--no-warn-rwx-segments", "-lm"], check=True)
    done = subprocess.run(["qemu-system-arm", "-M", "mps2-an500", "-icount", "shift=0", "-display", "none", "-monitor", "none", "-serial", "none", "-semihosting-config", "enable=on,target=native", "-kernel", elf],
                          capture_output=True, text=True, timeout=600)
    counts = {}
    for line in (done.stdout + done.stderr).splitlines():
        words = line.split()
        if words and words[0] == "layer_ticks":
            counts[int(words[1])] = TICK * int(words[2])
        elif words and words[0] == "failed":
            print("CMSIS-NN refuses layer", rows[int(words[1])], file=sys.stderr)
    return counts


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    lathe, path, total = sys.argv[1], os.path.abspath(sys.argv[2]), {}
    for folder in sys.argv[3:]:
        folder = os.path.abspath(folder)
        ours = json.loads(subprocess.run([lathe, "emulate", folder, "--json"], check=True, capture_output=True, text=True).stdout)
        with open(folder + "/firmware.json") as f:
            firmware = json.load(f)
        rows = shapes(firmware)
        with tempfile.TemporaryDirectory() as build:
            theirs = [cmsis(folder, path, rows, level, build) for level in ("-Ofast", "-O2")]
        print(f"{firmware['name']}\n{'layer':>5} {'function':44} {'lathe':>10} {'CMSIS-NN':>10} {'ratio':>6}")
        for i, row in enumerate(rows):
            counts = [t[i] for t in theirs if i in t]
            if not counts:
                continue
            mine, other = ours["layers"][row[0]]["instructions"], min(counts)
            print(f"{row[0]:>5} {firmware['layers'][row[0]]['function']:44.44} {mine:>10.0f} {other:>10} {mine / other:>6.2f}")
            kind = {"c": "convolution", "d": "depthwise", "f": "fully connected"}[row[1]]
            sums = total.setdefault(kind, [0, 0, 0, 0.0])
            total[kind] = [sums[0] + mine, sums[1] + other, sums[2] + 1, max(sums[3], mine / other)]
    for kind, (mine, other, count, worst) in total.items():
        print(f"{kind}: {count} layers, instructions {mine / other:.3f} of CMSIS-NN's, at most {worst:.2f} of a layer's")


if __name__ == "__main__":
    main()
