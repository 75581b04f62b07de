#!/usr/bin/env bash
# Depth sweep of the lab: the baseline at several depths, and a candidate whose gain must hold at each.
set -u
. "$(dirname "${BASH_SOURCE[0]}")/lab.sh"

usage() {
    cat <<'TEXT'
usage: bash runs/miniseries.sh [--gpu auto|cpu|5090|h100] [--profile NAME] [--cycle NAME] [--dry-run] [CANDIDATE] [flags of lab miniseries]

  --gpu      machine; auto (default) = detect; without a GPU the profile cpu-micro
  --profile  cpu-micro, cpu, m1-d12, gpu-d12 or a YAML file; overrides --gpu
  --cycle    name of the lab's cycle (default: the profile's name)
  --dry-run  print the commands, one per line, and exit
  CANDIDATE  candidate of a finished sweep, such as B/NAME; without it only the baseline is trained

Run it again to continue it. Results are in $NANOCHAT_BASE_DIR/lab/<cycle>/ (default ~/.cache/nanochat).
TEXT
}

run_lab miniseries "$@"
