#!/usr/bin/env bash
# The pipeline on a CPU as plain commands, one per stage, to read, edit and run by hand. The model is larger than that of
# run10.sh's demo and trains for hours. A second run repeats all stages except the environment; base training resumes from its
# checkpoint.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tag=runcpu

# Environment: .venv with the project installed.
./mc_setup --yes

# Tokenizer with 8,192 entries, trained on the Python files and texts of this machine.
.venv/bin/python -m scripts.tok_train --vocab-size 8192 --dataset local
.venv/bin/python -m scripts.tok_eval --dataset local

# Base model with six layers: 16,384 tokens per step in two micro-batches; validation and a checkpoint every 500 steps.
.venv/bin/python -m scripts.base_train --model-tag "$tag" --run "${WANDB_RUN:-dummy}" --dataset local --device-type cpu \
    --depth 6 --head-dim 64 --max-seq-len 512 --device-batch-size 16 --total-batch-size 16384 --num-iterations 5000 \
    --eval-every 500 --eval-tokens 524288 --sample-every 500 --save-every 500

# Base evaluation: bits per byte, samples, and a prompt of your own.
.venv/bin/python -m scripts.base_eval --model-tag "$tag" --dataset local
.venv/bin/python -m scripts.chat_cli --model-tag "$tag" -p "def fibonacci(n):"

# Chat training: midtraining, supervised fine-tuning, evaluation.
.venv/bin/python -m scripts.mid_train --model-tag "$tag" --run "${WANDB_RUN:-dummy}" --device-type cpu --mixture demo --num-iterations 50
.venv/bin/python -m scripts.chat_sft --model-tag "$tag" --run "${WANDB_RUN:-dummy}" --device-type cpu --mixture demo --lr-mult 1.0
.venv/bin/python -m scripts.chat_eval --source sft --model-tag "$tag" --device-type cpu --tasks demo
.venv/bin/python -m scripts.chat_cli --model-tag "$tag" -p "Who are you?"

# Report.
.venv/bin/python -m nanochat.report generate --out report/report.md
