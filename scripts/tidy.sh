#!/usr/bin/env bash
# Runs clang-tidy with the profile of .clang-tidy over src/ (or the files given), two at a time or as JOBS says, and
# exits 1 when it has anything to say. Needs scripts/install.sh --with-developer-tools. The folder it configures (BUILD,
# build-tidy by default) must not be built in: clang stops at another compiler's precompiled headers.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${BUILD:-build-tidy}
[ -f "$build/compile_commands.json" ] || cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release > /dev/null
files=("$@")
[ ${#files[@]} -gt 0 ] || mapfile -t files < <(find src -name '*.cpp' | sort)
# Precompiled objects are not needed, but what CMake generates at configure time is. One process a file: a file that
# takes long holds up no other.
printf '%s\0' "${files[@]}" | xargs -0 -n 1 -P "${JOBS:-2}" clang-tidy -p "$build" --quiet --warnings-as-errors='*' 2> /dev/null
