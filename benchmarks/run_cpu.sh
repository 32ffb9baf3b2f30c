#!/usr/bin/env bash
# The CPU figures of docs/performance.md, in one command, on a machine that nothing else is using:
#
#     benchmarks/run_cpu.sh [options of vtsr-bench, such as --quick]
#
# Measures everything (about ten minutes on two cores), writes benchmarks/results/cpu.json, and from all results
# docs/performance.md with its plots. PYTHON chooses the interpreter (default: python3).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

mkdir -p benchmarks/results
# Every contestant is told how many threads it may use; this would limit some of them and not others.
unset OMP_NUM_THREADS
"$python" -m vtsr.benchmarks.cli --cpu --json benchmarks/results/cpu.json "$@"
"$python" -m vtsr.benchmarks.report --root .
