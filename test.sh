#!/usr/bin/env bash
# Builds everything and runs all tests. Ends with the summary of ctest.
set -euo pipefail
cd "$(dirname "$0")"
scripts/install.sh
cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release
cmake --build build
# Real models and pictures; the tests that need them say so when they skip.
if [ -f ../shared/assets/unpack.sh ]; then
  bash ../shared/assets/unpack.sh build/assets
fi
ctest --test-dir build --output-on-failure -j2
