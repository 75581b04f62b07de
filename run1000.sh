#!/usr/bin/env bash
# The $1000 tier: 8×H100, depth 32. Run it again to continue it.
set -u
. "$(dirname "${BASH_SOURCE[0]}")/runs/pipeline.sh"

usage() {
    cat <<'TEXT'
usage: bash run1000.sh [--gpu h100|cpu|auto] [--profile baseline|mc] [--mc] [--dry-run] [flags of base_train]

Trains depth 32 on 8 GPUs of 80 GB (--gpu h100, the default); with fewer GPUs, set NPROC to the number of processes. --gpu cpu runs
the same stages at the scale of run10.sh's demo, in two processes or NPROC; --gpu auto detects the GPU. --mc-eval, --rl, --dataset,
--model-tag, --dry-run and the other flags are those of run10.sh.
TEXT
}

run_pipeline run1000 h100 "$@"
