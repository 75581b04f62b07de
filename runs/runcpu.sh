#!/usr/bin/env bash
# A walk through the pipeline on a CPU: every stage is one plain command, to read, to change and to run by hand.
# The model is larger than run10.sh's demo and trains for hours. Nothing is skipped here except what is done:
# the environment, and the training steps that a checkpoint has.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tag=runcpu

# The environment: .venv with the project in it.
./mc_setup --yes

# A tokenizer with 8,192 entries, from the Python files and texts that this machine has anyway.
.venv/bin/python -m scripts.tok_train --vocab-size 8192 --dataset local
.venv/bin/python -m scripts.tok_eval --dataset local

# Six layers. A step sees 16,384 tokens in two micro-batches; validation and a checkpoint every 500 steps.
.venv/bin/python -m scripts.base_train --model-tag "$tag" --run "${WANDB_RUN:-dummy}" --dataset local --device-type cpu \
    --depth 6 --head-dim 64 --max-seq-len 512 --device-batch-size 16 --total-batch-size 16384 --num-iterations 5000 \
    --eval-every 500 --eval-tokens 524288 --sample-every 500 --save-every 500

# Bits per byte, samples, and a first prompt of your own.
.venv/bin/python -m scripts.base_eval --model-tag "$tag" --dataset local
.venv/bin/python -m scripts.chat_cli --model-tag "$tag" -p "def fibonacci(n):"

# Conversations: first the form, then the replies that are wanted, then what it has learned.
.venv/bin/python -m scripts.mid_train --model-tag "$tag" --run "${WANDB_RUN:-dummy}" --device-type cpu --mixture demo --num-iterations 50
.venv/bin/python -m scripts.chat_sft --model-tag "$tag" --run "${WANDB_RUN:-dummy}" --device-type cpu --mixture demo --lr-mult 1.0
.venv/bin/python -m scripts.chat_eval --source sft --model-tag "$tag" --device-type cpu --tasks demo
.venv/bin/python -m scripts.chat_cli --model-tag "$tag" -p "Who are you?"

# Everything in one page.
.venv/bin/python -m nanochat.report generate --out report/report.md
