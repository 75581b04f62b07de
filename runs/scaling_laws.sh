#!/usr/bin/env bash
# Scaling laws of the lab: several depths trained to equal FLOPs for several budgets, and fits.
set -u
. "$(dirname "${BASH_SOURCE[0]}")/lab.sh"

usage() {
    cat <<'TEXT'
usage: bash runs/scaling_laws.sh [--gpu auto|cpu|5090|h100] [--profile NAME] [--cycle NAME] [--dry-run] [flags of lab scaling]

  --gpu      machine; auto (default) = detect; without a GPU the profile cpu-micro
  --profile  cpu-micro, cpu, m1-d12, gpu-d12 or a YAML file; overrides --gpu
  --cycle    name of the lab's cycle (default: the profile's name)
  --dry-run  print the commands, one per line, and exit

--depths 4,6,8 and --flops 1e17,1e18 override the profile's. Run it again to continue it. Results are in $NANOCHAT_BASE_DIR/lab/<cycle>/
(default ~/.cache/nanochat).
TEXT
}

run_lab scaling "$@"
