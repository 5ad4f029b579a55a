#!/usr/bin/env bash
# Makes a virtual environment with the locked dependencies and this project in it, by uv.
set -euo pipefail
venv=$1
python=${PYTHON:-python3}

fail() { echo "install: $1" >&2; exit 1; }

command -v "$python" >/dev/null || fail "no $python. Install Python 3.11, 3.12 or 3.13, or name one: make PYTHON=python3.12"
"$python" - <<'EOF' || exit 1
import platform, sys
version = sys.version_info[:2]
if not (3, 11) <= version <= (3, 13):
    sys.exit(f"install: Python 3.11 to 3.13 is needed, found {version[0]}.{version[1]}. Name another: make PYTHON=python3.12")
system, machine = platform.system(), platform.machine()
libc = platform.libc_ver()
if system == "Linux" and libc[0] == "glibc" and tuple(map(int, libc[1].split("."))) >= (2, 28):
    sys.exit(0)
if system == "Darwin" and machine == "arm64":
    sys.exit(0)
sys.exit(f"install: runs on Linux with glibc 2.28 or newer and on macOS with Apple silicon; this is {system} {machine} {' '.join(libc)}.")
EOF

echo "install: making $venv with locked dependencies (several hundred MB at the first time)" >&2
if command -v uv >/dev/null; then
    uv=uv
    [ -x "$venv/bin/python" ] || uv venv --quiet --python "$python" "$venv"
else
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "uv>=0.5"
    uv="$venv/bin/uv"
fi
"$uv" pip install --quiet --python "$venv/bin/python" --require-hashes -r requirements-dev.lock
"$uv" pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation -e .
