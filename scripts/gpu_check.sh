#!/usr/bin/env bash
# On a machine with a GPU: builds, runs every test of the CUDA backend, the golden runs, the
# compute-sanitizer and the benchmarks, and writes one dated JSON of what was seen. Needs a CUDA
# toolkit with nvcc, a C++ compiler, CMake, and python3; --help says the rest.
set -euo pipefail

if ! command -v python3 > /dev/null; then
    echo "gpu_check: python3 is missing (it keeps the times and writes the JSON)" >&2
    exit 1
fi
exec python3 -u "$(dirname "$0")/gpu_check/main.py" "$@"
