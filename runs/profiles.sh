# The runner profiles: data only. A profile sets what the stages of runs/pipeline.sh are made of.
#   VOCAB_SIZE        tokens, specials included
#   DATASET           name for --dataset; the named shards are downloaded, `local` needs nothing
#   FIRST_SHARDS      shards that the tokenizer is trained on, downloaded before anything else
#   SHARDS            shards of the whole run: 250 M characters or ≈ 53 M tokens each, and a tenth to spare
#   TRAIN_FLAGS       base_train's flags, as name value pairs; the same flag on the command line replaces one
#   MC_FLAGS          more of them, with --mc
#   MID_FLAGS, SFT_FLAGS, CHAT_EVAL_FLAGS  flags of mid_train, chat_sft and chat_eval, as they are given

use_profile() { # NAME
    MC_FLAGS=() MID_FLAGS=(--log-every 20) SFT_FLAGS=(--log-every 20) CHAT_EVAL_FLAGS=()
    case $1 in
        cpu) # ≈ 2.7 M tokens: minutes on two cores
            VOCAB_SIZE=8192 DATASET=local FIRST_SHARDS=1 SHARDS=1
            TRAIN_FLAGS=(device-type cpu depth 4 head-dim 64 max-seq-len 512
                device-batch-size 8 total-batch-size 8192 num-iterations 330
                log-every 10 eval-every 100 eval-tokens 102400 sample-every 165 save-every 100)
            # Narrow from the start: one width to compile. Positions within the Working Context: sessions are longer than rows.
            MC_FLAGS=(mc-preset fast mc-anneal 0 positional-type local mc-eval-tokens 51200)
            # The same conversations twice, gently at first: 0.3 M and 1 M tokens.
            MID_FLAGS=(--mixture demo --num-iterations 30 --lr-mult 0.5 --log-every 10 --eval-every -1)
            SFT_FLAGS=(--mixture demo --num-iterations 110 --lr-mult 1.0 --log-every 10 --eval-every 55 --eval-tokens 51200)
            CHAT_EVAL_FLAGS=(--tasks demo --max-problems 200)
            ;;
        5090) # 37,760 × 114,688 = 4.33 B tokens
            VOCAB_SIZE=32768 DATASET=climbmix FIRST_SHARDS=8 SHARDS=90
            TRAIN_FLAGS=(device-type cuda depth 12 max-seq-len 2048
                device-batch-size 14 total-batch-size 114688 num-iterations 37760 save-every 1000)
            ;;
        h100) # twice the 5090's batch, half its steps
            VOCAB_SIZE=32768 DATASET=climbmix FIRST_SHARDS=8 SHARDS=90
            TRAIN_FLAGS=(device-type cuda depth 12 max-seq-len 2048
                device-batch-size 28 total-batch-size 229376 num-iterations 18880 save-every 1000)
            ;;
        speedrun) # 21,400 × 524,288 = 11.2 B tokens
            VOCAB_SIZE=32768 DATASET=climbmix FIRST_SHARDS=8 SHARDS=230
            TRAIN_FLAGS=(device-type cuda depth 20 max-seq-len 2048
                device-batch-size 32 total-batch-size 524288 num-iterations 21400 save-every 1000)
            ;;
        run1000) # 71,680 × 524,288 = 37.6 B tokens
            VOCAB_SIZE=32768 DATASET=climbmix FIRST_SHARDS=8 SHARDS=780
            TRAIN_FLAGS=(device-type cuda depth 32 max-seq-len 2048
                device-batch-size 8 total-batch-size 524288 num-iterations 71680 save-every 1000)
            ;;
    esac
}

# The profile for the hardware found: `cpu`, or by the memory of the first GPU.
detect_profile() {
    local mib
    mib=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits 2>/dev/null | head -n 1)
    case $mib in
        "" | *[!0-9]*) say cpu ;;
        *) if [ "$mib" -ge 70000 ]; then say h100; elif [ "$mib" -ge 30000 ]; then say 5090; else say "$mib"; fi ;;
    esac
}
