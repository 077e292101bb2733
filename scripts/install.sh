#!/usr/bin/env bash
# Installs what lathe needs to build, test and demo, on Debian 12. Quiet and quick when nothing is missing.
set -euo pipefail
packages=(
  g++ cmake ninja-build ccache pkg-config git ca-certificates
  libdnnl-dev libonnx-dev libprotobuf-dev protobuf-compiler libhwy-dev
  libsqlite3-dev libcli11-dev libfmt-dev nlohmann-json3-dev
  libjpeg-dev libpng-dev libwebp-dev zlib1g-dev
  libgtest-dev libgmock-dev
  xz-utils python3
)
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "installing: ${missing[*]}"
  as_root=""
  [ "$(id -u)" -eq 0 ] || as_root=sudo
  $as_root apt-get update -qq
  DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
