# Profiles of the recipes, as data. A profile is a recipe on a machine; it sets the variables of the stages in runs/pipeline.sh.
#   NPROC_WANTED      training processes, one per GPU
#   DEVICE_MIB        device memory of such a GPU, as nvidia-smi reports it
#   VOCAB_SIZE        vocabulary size, special tokens included
#   DATASET           value of --dataset; shards of a named dataset are downloaded, `local` needs none
#   FIRST_SHARDS      shards that the tokenizer is trained on, downloaded first
#   SHARDS            shards of the whole run: 250 M characters or ≈ 53 M tokens each, with a margin of a tenth
#   TRAIN_FLAGS       flags of base_train, as name value pairs; flags on the command line override them
#   MC_FLAGS          additional flags of base_train with --mc; rows, steps and learning rates stay those of the baseline
#   MID_FLAGS, SFT_FLAGS, CHAT_EVAL_FLAGS, RL_FLAGS, MC_EVAL_FLAGS  flags of the other stages, as they are passed
# Micro-batches on GPUs are the largest divisors of a process's rows that fit according to `nanochat.profiling.device_memory`.
# The speedrun's is half of that on 80 GB: 32 rows would take 91 % by an estimate that no GPU has confirmed, and 16 cost 1 % of its time
# according to `bench.scaling_model`.

use_profile() { # RECIPE MACHINE
    local rows
    NPROC_WANTED=1
    case $1 in speedrun | run1000) if [ "$2" = cpu ]; then NPROC_WANTED=2; else NPROC_WANTED=8; fi ;; esac
    case $2 in
        cpu) use_demo && return ;;
        5090) DEVICE_MIB=32607 ;;
        h100) DEVICE_MIB=81559 ;;
    esac
    VOCAB_SIZE=32768 DATASET=climbmix FIRST_SHARDS=8
    # Positions within the Working Context: sessions are longer than rows.
    MC_FLAGS=(mc-preset full)
    MID_FLAGS=(--log-every 20) SFT_FLAGS=(--log-every 20) CHAT_EVAL_FLAGS=() MC_EVAL_FLAGS=()
    RL_FLAGS=(--task gsm8k --log-every 10)
    case $1/$2 in
        run10/5090) # 37,760 × 114,688 = 4.33 B tokens; 56 rows of 2048
            SHARDS=90
            TRAIN_FLAGS=(device-type cuda depth 12 max-seq-len 2048
                device-batch-size 28 total-batch-size 114688 num-iterations 37760 save-every 1000)
            ;;
        run10/h100) # twice the 5090's batch, half its steps
            SHARDS=90
            TRAIN_FLAGS=(device-type cuda depth 12 max-seq-len 2048
                device-batch-size 56 total-batch-size 229376 num-iterations 18880 save-every 1000)
            ;;
        speedrun/*) # 21,400 × 524,288 = 11.2 B tokens; 256 rows, 32 of each process
            SHARDS=235
            case $2 in 5090) rows=8 ;; *) rows=16 ;; esac
            TRAIN_FLAGS=(device-type cuda depth 20 max-seq-len 2048
                device-batch-size "$rows" total-batch-size 524288 num-iterations 21400 save-every 1000)
            ;;
        run1000/h100) # 71,680 × 524,288 = 37.6 B tokens
            SHARDS=780
            TRAIN_FLAGS=(device-type cuda depth 32 max-seq-len 2048
                device-batch-size 8 total-batch-size 524288 num-iterations 71680 save-every 1000)
            ;;
        *) return 1 ;;
    esac
}

# All recipes on a CPU: ≈ 2.1 M tokens, minutes on two cores. Recipes for 8 GPUs run in two processes.
use_demo() {
    DEVICE_MIB=
    VOCAB_SIZE=8192 DATASET=local FIRST_SHARDS=1 SHARDS=1
    TRAIN_FLAGS=(device-type cpu depth 4 head-dim 64 max-seq-len 512
        device-batch-size 8 total-batch-size 8192 num-iterations 260
        log-every 10 eval-every 130 eval-tokens 102400 sample-every 130 save-every 130)
    # Final width from the start: one shape to compile. Positions within the Working Context: sessions are longer than rows.
    MC_FLAGS=(mc-preset fast mc-anneal 0 mc-eval-tokens 51200)
    # The same conversations twice, at a lower learning rate first: 0.1 M and 1 M tokens. Half of the base model's batch, twice its steps.
    local tuned=(--mixture demo --total-batch-size 4096 --device-batch-size $((8 / NPROC_WANTED)) --log-every 10)
    MID_FLAGS=("${tuned[@]}" --num-iterations 24 --lr-mult 1.5 --eval-every -1)
    SFT_FLAGS=("${tuned[@]}" --num-iterations 250 --lr-mult 6.0 --eval-every 125 --eval-tokens 51200)
    CHAT_EVAL_FLAGS=(--tasks demo --max-problems 200)
    RL_FLAGS=(--task arithmetic:digits=2 --num-iterations 20 --prompts-per-step 4 --samples 8 --max-tokens 32
        --log-every 5 --eval-every -1)
    MC_EVAL_FLAGS=(--quick)
}

# Detects the machine: `cpu`, or a profile by the memory of the first GPU.
detect_machine() {
    local mib
    mib=$(gpu_mib)
    case $mib in
        "") say cpu ;;
        *) if [ "$mib" -ge 70000 ]; then say h100; elif [ "$mib" -ge 30000 ]; then say 5090; else say "$mib"; fi ;;
    esac
}

# Memory of the first GPU in MiB; empty without a GPU.
gpu_mib() {
    local mib
    mib=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits 2>/dev/null | head -n 1)
    case $mib in *[!0-9]*) ;; *) printf '%s' "$mib" ;; esac
}

gpu_count() { nvidia-smi -L 2>/dev/null | grep -c '^GPU'; }
