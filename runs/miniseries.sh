#!/usr/bin/env bash
# The depth sweep: the baseline at several depths, and beside it a candidate of the lab whose gain must hold at each.
set -u
. "$(dirname "${BASH_SOURCE[0]}")/lab.sh"

usage() {
    cat <<'TEXT'
usage: bash runs/miniseries.sh [--gpu auto|cpu|5090|h100] [--profile NAME] [--cycle NAME] [--dry-run] [CANDIDATE] [flags of lab miniseries]

  --gpu      which machine it is for; auto (default) looks: no GPU is the profile cpu-micro
  --profile  cpu-micro, cpu, m1-d12, gpu-d12 or a YAML file, instead of --gpu's
  --cycle    name of the lab's cycle (default: the profile's name)
  --dry-run  print the commands, one per line, and run nothing
  CANDIDATE  an experiment that has been swept, such as B/NAME; without one only the baseline is trained

Run it again to continue. Results are in $NANOCHAT_BASE_DIR/lab/<cycle>/ (default ~/.cache/nanochat).
TEXT
}

run_lab miniseries "$@"
