#!/usr/bin/env bash
# Everything that needs a GPU, in one command, on a machine that has one with TensorRT, pycuda and cuda-bindings:
#
#     benchmarks/run_gpu.sh [options]
#
# engines   all engines of the shipped models at 720p and 1080p, levels 1 to 3, built, tested and timed
# tests     pytest -m gpu
# runtime   throughput, latency, lanes and the worth of each mechanism, at 720p, 1080p and 4K
#
#     --only STEP       one of these; may be repeated
#     --graphs DIR      deployment folders, which are written there unless they are there (default: deploy)
#     --graphs-only     write them and stop: for a machine with torch and onnx, but no GPU; carried to one with a GPU they
#                       are taken as they are, and torch and onnx are not needed there
#     --ranges FILE     of vtsr-calibrate; adds INT8
#     --size WxH        of the runtime's pictures instead; may be repeated
#     --frames N        per throughput (default: 400)
#     --seconds S       of each latency (default: 10)
#     --out DIR         where figures go (default: benchmarks/results)
#     -h, --help        this
#
# A step that fails does not keep the next from running; the exit code is 1 then, and 2 where there is no GPU. PYTHON in
# the environment chooses the interpreter (default: python3).
set -uo pipefail

usage() { sed -n '2,/^set /p' "$0" | sed '$d; s/^# \{0,1\}//'; }
fail() { echo "run_gpu.sh: $1" >&2; exit 2; }

steps=() sizes=() ranges=() more=() precisions=(fp16)
graphs=deploy out=benchmarks/results graphs_only=
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --graphs-only) graphs_only=1; shift; continue ;;
        --only | --graphs | --ranges | --size | --frames | --seconds | --out) ;;
        *) fail "there is no option $1; --help names them." ;;
    esac
    [ $# -ge 2 ] || fail "$1 needs a value; see --help."
    case $1 in
        --only)
            case $2 in engines | tests | runtime) steps+=("$2") ;; *) fail "there is no step $2; --help names them." ;; esac ;;
        --graphs) graphs=$(realpath -m "$2") ;;
        --ranges) ranges=(--ranges "$(realpath -m "$2")"); precisions=(fp16 int8) ;;
        --size) sizes+=("$2") ;;
        --frames | --seconds) more+=("$1" "$2") ;;
        --out) out=$(realpath -m "$2") ;;
    esac
    shift 2
done
[ ${#steps[@]} -gt 0 ] || steps=(engines tests runtime)
[ ${#sizes[@]} -gt 0 ] || sizes=(1280x720 1920x1080 3840x2160)
cd "$(dirname "$0")/.." || exit 1

python=${PYTHON:-python3}
engines=("$python" benchmarks/build_engines.py --graphs "$graphs" --out "$out" ${ranges[@]+"${ranges[@]}"})
runtime=("$python" benchmarks/bench_tensorrt.py --deploy "$graphs" --out "$out" --size "${sizes[@]}"
         --precision "${precisions[@]}" ${ranges[@]+"${ranges[@]}"} ${more[@]+"${more[@]}"})

if [ -n "$graphs_only" ]; then
    for step in "${steps[@]}"; do
        case $step in
            engines) "${engines[@]}" --graphs-only || exit ;;
            runtime) "${runtime[@]}" --graphs-only || exit ;;
        esac
    done
    exit 0
fi

command -v nvidia-smi > /dev/null || fail "this machine has no NVIDIA driver (no nvidia-smi); run it on one with a GPU."
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || fail "nvidia-smi finds no GPU."
missing=$("$python" -c 'from vtsr.runtime.engines.platform import what_is_missing; print(what_is_missing() or "")') \
    || fail "$python cannot import vtsr; install it there with pip install -e ."
[ -z "$missing" ] || fail "$missing"

# Lanes have more streams than the eight queues that CUDA has unless told otherwise, and would wait for each other there.
export CUDA_DEVICE_MAX_CONNECTIONS=${CUDA_DEVICE_MAX_CONNECTIONS:-32}
failed=()
for step in "${steps[@]}"; do
    echo "== $step"
    case $step in
        engines) "${engines[@]}" || failed+=("$step") ;;
        tests) "$python" -m pytest -m gpu tests || failed+=("$step") ;;
        runtime) "${runtime[@]}" || failed+=("$step") ;;
    esac
done
[ ${#failed[@]} -eq 0 ] || { echo "run_gpu.sh: failed: ${failed[*]}" >&2; exit 1; }
