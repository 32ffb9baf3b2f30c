#!/usr/bin/env bash
# Everything that needs a GPU, in one command, on a machine that has one with TensorRT and pycuda:
#
#     benchmarks/run_gpu.sh [options of build_engines.py, such as --ranges ranges.json]
#
# Engines of all shipped models at 720p and 1080p, levels 1 to 3, are built and tested; then the tests marked gpu run.
# Figures go to benchmarks/results/. PYTHON chooses the interpreter (default: python3).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

if ! command -v nvidia-smi > /dev/null; then
    echo "run_gpu.sh: this machine has no NVIDIA driver (no nvidia-smi); run it on one with a GPU." >&2
    exit 2
fi
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader

"$python" benchmarks/build_engines.py "$@"
"$python" -m pytest -m gpu tests

# Throughput and latency of the runtime; RANGES adds INT8.
PYTHON="$python" benchmarks/run_gpu_runtime.sh
