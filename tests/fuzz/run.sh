#!/usr/bin/env bash
# Builds the fuzz targets with clang and libFuzzer and runs them:
#   tests/fuzz/run.sh [executions, 2000 by default] [target ...]
# What they find new is kept in build-fuzz/corpus/TARGET. Inputs that crash stay in build-fuzz/crashes; run a target with
# such a file as argument to see it again. FUZZ_FLAGS goes to libFuzzer as it is.
set -euo pipefail
cd "$(dirname "$0")/../.."
runs=${1:-2000}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(onnx plan graph packed npy image idx annotations safetensors json budget)
cmake --preset fuzz > /dev/null
cmake --build build-fuzz --target "${targets[@]/#/fuzz_}"
mkdir -p build-fuzz/crashes
for target in "${targets[@]}"; do
  mkdir -p "build-fuzz/corpus/$target"
  # The description of even a small plan takes more than an input of the others.
  length=8192
  [ "$target" != packed ] || length=16384
  seeds=tests/fuzz/corpus/$target
  [ "$target" != plan ] || seeds=tests/fuzz/corpus/onnx
  # Leaks at exit are not what is looked for here. The new inputs go into the first folder only.
  # shellcheck disable=SC2086
  build-fuzz/bin/fuzz_"$target" -runs="$runs" -max_len="$length" -seed=1 -timeout=30 -rss_limit_mb=2048 \
    -detect_leaks=0 -artifact_prefix=build-fuzz/crashes/ ${FUZZ_FLAGS:-} \
    "build-fuzz/corpus/$target" "$seeds" 2>&1 | tail -n 40
done
