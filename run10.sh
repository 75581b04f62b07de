#!/usr/bin/env bash
# The single-machine recipe: data, tokenizer, base model, conversations, evaluation, report. Run it again to continue or to see
# that all is done.
set -u
. "$(dirname "${BASH_SOURCE[0]}")/runs/pipeline.sh"

usage() {
    cat <<'TEXT'
usage: bash run10.sh [--gpu auto|cpu|5090|h100] [--profile baseline|mc] [--mc] [--dry-run] [flags of base_train]

  --gpu        which machine the run is for; auto (default) looks: no GPU is the CPU demo, a few minutes on 2 cores
  --profile    baseline (default), or mc: the same as --mc
  --mc         train with a MegaContext: the same rows, steps and rates, in folders whose names end in -mc. Run both in one
               base folder, and the report shows them side by side
  --mc-eval    with --mc, at the end: text and recall behind long histories, and what they cost (mc_eval)
  --rl         after fine-tuning: reinforcement learning (chat_rl), and a second evaluation
  --dataset    local, climbmix, fineweb-edu, or a path; for all stages
  --model-tag  name of the model's folders (default $MODEL_TAG, else d<depth>); for all stages, with --mc -mc is appended
  --dry-run    print the commands, one per line and ready to paste, and run nothing

Other flags go to base_train: .venv/bin/python -m scripts.base_train --help. Artefacts are in $NANOCHAT_BASE_DIR
(default ~/.cache/nanochat), the report in report/report.md, what was printed in report/log.txt.
TEXT
}

run_pipeline run10 auto "$@"
