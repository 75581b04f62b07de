#!/usr/bin/env bash
# Single-machine recipe: data, tokenizer, base model, chat training, evaluation, report. Run it again to continue it.
set -u
. "$(dirname "${BASH_SOURCE[0]}")/runs/pipeline.sh"

usage() {
    cat <<'TEXT'
usage: bash run10.sh [--gpu auto|cpu|5090|h100] [--profile baseline|mc] [--mc] [--dry-run] [flags of base_train]

  --gpu        machine profile; auto (default) = detect; without a GPU the CPU demo, a few minutes on 2 cores
  --profile    baseline (default), or mc = --mc
  --mc         train with a MegaContext: same rows, steps and learning rates, in folders ending in -mc. Run both in one base
               folder, and the report compares them
  --mc-eval    with --mc: long-context evaluation at the end: text, recall and cost (mc_eval)
  --rl         reinforcement learning after fine-tuning (chat_rl), and a second evaluation
  --dataset    dataset of all stages: local, climbmix, fineweb-edu, or a path
  --model-tag  name of the model's folders (default $MODEL_TAG, else d<depth>); with --mc, -mc is appended
  --dry-run    print the commands, one per line, ready to paste, and exit

Other flags are passed to base_train: .venv/bin/python -m scripts.base_train --help. Artefacts are in $NANOCHAT_BASE_DIR
(default ~/.cache/nanochat), the report in report/report.md, the log in report/log.txt.
TEXT
}

run_pipeline run10 auto "$@"
