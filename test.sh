#!/usr/bin/env bash
# Installs what is missing, builds everything and runs all tests.
set -euo pipefail
cd "$(dirname "$0")"
scripts/install.sh
cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release >/dev/null
ninja -C build
if [ -x ../shared/assets/unpack.sh ]; then
  ../shared/assets/unpack.sh build/assets
else
  echo "no shared assets: the tests that need real models and pictures are skipped"
fi
ctest --test-dir build --output-on-failure -j 2
