#!/usr/bin/env bash
# The $100 tier: 8×H100, depth 20. Run it again to continue it.
set -u
. "$(dirname "${BASH_SOURCE[0]}")/runs/pipeline.sh"

usage() {
    cat <<'TEXT'
usage: bash speedrun.sh [--gpu h100|5090|cpu|auto] [--profile baseline|mc] [--mc] [--dry-run] [flags of base_train]

Trains depth 20 on 8 GPUs of 80 GB (--gpu h100, the default) or of 32 GB (5090); with fewer GPUs, set NPROC to the number of
processes. --gpu cpu runs the same stages at the scale of run10.sh's demo, in two processes or NPROC; --gpu auto detects the GPU.
--mc-eval, --rl, --dataset, --model-tag, --dry-run and the other flags are those of run10.sh.
TEXT
}

run_pipeline speedrun h100 "$@"
