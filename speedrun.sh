#!/usr/bin/env bash
# The $100 tier: 8×H100, depth 20. Run it again to continue.
set -u
. "$(dirname "${BASH_SOURCE[0]}")/runs/pipeline.sh"
PROFILE=speedrun
NPROC_WANTED=8

usage() {
    cat <<'TEXT'
usage: bash speedrun.sh [--profile baseline|mc] [--mc] [--dry-run] [flags of base_train]

Depth 20 on 8 GPUs of 80 GB; with fewer, set NPROC to the number of processes. --dataset, --model-tag, --dry-run and the other
flags are those of run10.sh.
TEXT
}

run_pipeline "$@"
