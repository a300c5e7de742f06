#!/usr/bin/env bash
# Installs what moec needs from Debian 12's archive, if it is missing. Called by demo.sh and test.sh.
#   install.sh build   compiler, libraries, the demo's text
#   install.sh test    the above and what the tests use
set -euo pipefail
packages=(gcc g++ libc6-dev cmake ninja-build pkg-config liblua5.4-dev libdnnl-dev libsentencepiece-dev libcjson-dev bible-kjv gnuplot-nox)
if [ "${1:-build}" = test ]; then
  packages+=(python3 llvm-14-tools clang-format-14 xz-utils)
fi
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
optional=() # without it the test of moec report leaves its browser out, and says so
if [ "${1:-build}" = test ] && ! command -v chromium >/dev/null; then
  optional=(chromium)
fi
[ ${#missing[@]} -eq 0 ] && [ ${#optional[@]} -eq 0 ] && exit 0
echo "installing: ${missing[*]} ${optional[*]}"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if [ ${#missing[@]} -eq 0 ] && ! command -v sudo >/dev/null; then
    echo "install.sh: ${optional[*]} cannot be installed without root" >&2
    exit 0
  fi
  command -v sudo >/dev/null || { echo "install.sh: these Debian packages are missing and need root to install: ${missing[*]}" >&2; exit 3; }
  as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
if [ ${#missing[@]} -gt 0 ]; then
  "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
for package in "${optional[@]}"; do
  "${as_root[@]}" apt-get install -y -qq --no-install-recommends "$package" >/dev/null || echo "install.sh: $package cannot be installed" >&2
done
