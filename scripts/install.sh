#!/usr/bin/env bash
# Installs the Debian packages that lathe is built from, only those that are missing; says nothing when
# all are there. Takes sudo when not root.
#   --with-npm              npm too, for the demo's model
#   --with-developer-tools  clang, libFuzzer and clang-tidy too, for tests/fuzz/run.sh and scripts/tidy.sh
set -euo pipefail
packages=(g++ cmake ninja-build ccache pkg-config
  libdnnl-dev ocl-icd-opencl-dev libonnx-dev libprotobuf-dev protobuf-compiler libhwy-dev libsqlite3-dev libxxhash-dev libcli11-dev
  libfmt-dev nlohmann-json3-dev libjpeg-dev libpng-dev libwebp-dev zlib1g-dev libexpat1-dev libeigen3-dev libgtest-dev libgmock-dev
  coinor-libcbc-dev libtorch-dev libopenblas0-openmp dataset-fashion-mnist xz-utils python3 nodejs
  gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm make)
for option in "$@"; do
  case $option in
    --with-npm) command -v npm >/dev/null || packages+=(npm) ;;
    --with-developer-tools) packages+=(clang libclang-rt-dev libomp-dev clang-tidy) ;;
    *) echo "install.sh: unknown option $option" >&2; exit 2 ;;
  esac
done

missing=()
for package in "${packages[@]}"; do
  # A command from elsewhere than Debian is as good; its package might even conflict.
  case $package in
    nodejs) command -v node >/dev/null && continue ;;
    python3) command -v python3 >/dev/null && continue ;;
  esac
  status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

root=()
[ "$(id -u)" -eq 0 ] || root=(sudo)
echo "Installing ${missing[*]}"
"${root[@]}" apt-get update -q
"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
