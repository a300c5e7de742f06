#!/usr/bin/env bash
# Installs what moec needs from Debian 12's archive, if it is missing. Called by demo.sh and test.sh.
#   install.sh build   compiler, libraries, the demo's text
#   install.sh test    the above and what the tests use
set -euo pipefail
packages=(gcc g++ libc6-dev cmake ninja-build pkg-config liblua5.4-dev libdnnl-dev libsentencepiece-dev libcjson-dev bible-kjv)
if [ "${1:-build}" = test ]; then
  packages+=(python3 llvm-14-tools clang-format-14 xz-utils)
fi
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
echo "installing: ${missing[*]}"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "install.sh: these Debian packages are missing and need root to install: ${missing[*]}" >&2; exit 3; }
  as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
