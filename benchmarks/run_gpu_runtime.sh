#!/usr/bin/env bash
# The TensorRT runtime on a GPU: throughput, latency and the worth of each mechanism. Called by run_gpu.sh.
#
#     benchmarks/run_gpu_runtime.sh [options of bench_tensorrt.py]
#
# GRAPHS_ONLY=1 writes the deployment folders and stops: where torch and onnx are but no GPU. The GPU machine then needs
# TensorRT, pycuda and cuda-bindings alone. DEPLOY names the folder (default: deploy/runtime), RANGES the ranges of
# vtsr-calibrate, which add INT8, PYTHON the interpreter, SIZES the picture sizes.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
deploy=${DEPLOY:-deploy/runtime}
precisions=(fp16)
[ -z "${RANGES:-}" ] || precisions+=(int8)
read -ra sizes <<< "${SIZES:-1280x720 1920x1080 3840x2160}"

for precision in "${precisions[@]}"; do
    for levels in 1 2 3; do
        folder=$deploy/default-$precision-l$levels
        [ ! -e "$folder/recipe.json" ] || continue
        options=(--onnx-only --levels "$levels" --pixels rgb24)
        for size in "${sizes[@]}"; do options+=(--size "$size"); done
        [ "$precision" != int8 ] || options+=(--calibration "$RANGES")
        "$python" -m vtsr.export.cli "--$precision" "${options[@]}" -o "$folder"
    done
done
[ -z "${GRAPHS_ONLY:-}" ] || exit 0

"$python" benchmarks/bench_tensorrt.py --deploy "$deploy" --precision "${precisions[@]}" --size "${sizes[@]}" "$@"
