#!/usr/bin/env bash
# Builds the fuzz targets with clang and runs them: fuzz/run.sh [executions, 2000 by default] [target ...]
# Inputs that crash stay in build-fuzz/crashes; run a target with such a file as argument to see it again.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${1:-2000}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(onnx graph packed npy image)
cmake --preset fuzz > /dev/null
cmake --build build-fuzz --target "${targets[@]/#/fuzz_}"
python3 fuzz/make_seeds.py build-fuzz/seeds
mkdir -p build-fuzz/crashes
for target in "${targets[@]}"; do
  mkdir -p "build-fuzz/corpus/$target" "build-fuzz/seeds/$target"
  # The description of even a small plan takes more than an input of the others.
  length=4096
  [ "$target" != packed ] || length=16384
  # Leaks at exit are not what is looked for here.
  build-fuzz/bin/fuzz_"$target" -runs="$runs" -max_len="$length" -seed=1 -timeout=30 -rss_limit_mb=2048 \
    -detect_leaks=0 -artifact_prefix=build-fuzz/crashes/ \
    "build-fuzz/corpus/$target" "build-fuzz/seeds/$target" 2>&1 | tail -n 40
done
