# The stages of a recipe, from a fresh checkout to the report.
# A recipe (run10.sh, speedrun.sh, run1000.sh) sources this file from any directory and calls run_pipeline with its arguments.

START_DIR=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
. runs/lib.sh
. runs/profiles.sh
. runs/options.sh
. runs/summary.sh

NEEDS= # device memory that base_train needs, as text

run_pipeline() { # RECIPE MACHINE ARGUMENTS…; MACHINE is the default of --gpu
    RECIPE=$1 GPU=$2
    shift 2
    load_env
    find_base_dir "$START_DIR"
    parse_options "$@"
    choose_profile
    if [ "$DRY_RUN" = 1 ]; then
        dry_run_header
    else
        check_gpus
        # Refuses an invalid flag or a model that does not fit as early as the environment allows.
        local ready=0
        if ./mc_setup --check; then ready=1 && preflight; fi
        start_log
        say "== $(date -u +%Y-%m-%dT%H:%M:%SZ): $RECIPE.sh --gpu $MACHINE, tag $TAG, artefacts in $BASE"
        [ "$ready" = 1 ] || set_up
        [ -z "$NEEDS" ] || say "== $NEEDS"
    fi
    run_stages
    [ "$DRY_RUN" = 1 ] || summary
}

# Environment of the stages as lines to paste, and facts about the run as comments.
dry_run_header() {
    say "# $RECIPE.sh --gpu $MACHINE, tag $TAG"
    if ./mc_setup --check; then
        preflight
        [ -z "$NEEDS" ] || say "# $NEEDS"
    else
        say "# the device memory that base_train needs is estimated once ./mc_setup has run"
    fi
    say "cd $(quote "$PWD")"
    ! grep -qsE '^(export )?[A-Z]' .mc_env || say ". ./.mc_env"
    say "export NANOCHAT_BASE_DIR=$(quote "$BASE")"
    say "./mc_setup --yes"
}

set_up() {
    rm -f "$BASE/stages/set_up.json" # always out of date here
    stage set_up .venv/mc_setup.stamp -- ./mc_setup --yes
    preflight
}

# --- profile ---

choose_profile() {
    local found
    MACHINE=$GPU
    if [ "$GPU" = auto ]; then
        found=$(detect_machine)
        case $found in
            cpu | 5090 | h100) MACHINE=$found ;;
            *) die 2 "the GPU has $found MiB of memory and the smallest profile needs 30000; try --gpu 5090 with a smaller --device-batch-size, or --gpu cpu" ;;
        esac
    fi
    use_profile "$RECIPE" "$MACHINE" ||
        die 2 "$RECIPE.sh has no profile for --gpu $MACHINE: its memory is too small for the model; choose h100, or cpu for the demo"
    DATASET=${DATASET_GIVEN:-$DATASET}
    choose_flags
    choose_launcher
}

# Sets DATA, the text source of all stages; FLAGS of base_train: the profile's without those of the command line, then these; and TRAINED,
# the artefact of finished training. Folders and stages of a run with a memory have names of their own, next to its baseline's.
choose_flags() {
    local i name value iterations='' depth
    DATA=(--dataset "$DATASET")
    FLAGS=("${DATA[@]}")
    if extra text-column; then DATA+=(--text-column "$EXTRA_VALUE"); fi
    MEMORY=
    if [ "$MC" = 1 ]; then
        MEMORY=_mc
        FLAGS+=(--mc)
        TRAIN_FLAGS+=("${MC_FLAGS[@]}")
    fi
    for ((i = 0; i < ${#TRAIN_FLAGS[@]}; i += 2)); do
        name=${TRAIN_FLAGS[i]}
        value=${TRAIN_FLAGS[i + 1]}
        if extra "$name"; then value=$EXTRA_VALUE; fi
        case $name in
            depth) depth=$value ;;
            device-type) DEVICE_TYPE=$value ;;
            # Another horizon replaces the number of iterations.
            num-iterations) if extra target-flops || extra target-param-data-ratio; then continue; else iterations=${value//_/}; fi ;;
        esac
        extra "$name" || FLAGS+=("--$name" "$value")
    done
    TAG=${TAG:-${MODEL_TAG:-d$depth}}
    case $MC$TAG in
        0*-mc) die 2 "the model tag is '$TAG', but names in -mc are for runs with --mc; choose another or add --mc" ;;
        1*) TAG=${TAG%-mc}-mc ;;
    esac
    local run=${WANDB_RUN:-dummy}
    if extra run; then run=$EXTRA_VALUE; else FLAGS=(--run "$run" "${FLAGS[@]}"); fi
    CHAT=(--run "$run" --model-tag "$TAG" --device-type "$DEVICE_TYPE")
    if extra compile; then CHAT+=(--compile "$EXTRA_VALUE"); fi
    FLAGS=(--model-tag "$TAG" "${FLAGS[@]}" ${EXTRA[@]+"${EXTRA[@]}"})
    case $iterations in
        "" | *[!0-9]*) TRAINED=$BASE/report/base_training$MEMORY.json ;;
        *) TRAINED=$BASE/base_checkpoints/$TAG/step_$(printf %07d "$((10#$iterations))") ;;
    esac
}

# One process, or as many as the profile sets; NPROC overrides the number.
choose_launcher() {
    LAUNCH=("$VENV_PYTHON")
    END_OF_LAUNCH=()
    PROCESSES=1
    if [ "$NPROC_WANTED" -gt 1 ]; then
        PROCESSES=${NPROC:-$NPROC_WANTED}
        case $PROCESSES in *[!0-9]* | 0*) die 2 "invalid NPROC '$NPROC'; expected a number of processes" ;; esac
        LAUNCH=(.venv/bin/torchrun --standalone "--nproc_per_node=$PROCESSES")
        END_OF_LAUNCH=(--)
    fi
    launched base_train "${FLAGS[@]}"
    TRAIN_COMMAND=("${COMMAND[@]}")
}

# Sets COMMAND to the command of a script, in as many processes as training uses.
launched() { # SCRIPT FLAGS…
    local script=$1
    shift
    COMMAND=("${LAUNCH[@]}" -m "scripts.$script" ${END_OF_LAUNCH[@]+"${END_OF_LAUNCH[@]}"} "$@")
}

# --- checks before the first stage ---

check_gpus() {
    local gpus
    [ "$DEVICE_TYPE" = cuda ] || return 0
    gpus=$(gpu_count)
    [ "$gpus" -gt 0 ] || die 1 "$RECIPE.sh --gpu $MACHINE needs an NVIDIA GPU and nvidia-smi finds none; --gpu cpu runs the demo, --dry-run prints the commands"
    [ "$gpus" -ge "$PROCESSES" ] ||
        die 1 "this recipe needs $PROCESSES GPUs and found $gpus; set NPROC to run it with fewer processes, or use run10.sh"
}

# Checks the flags of base_train and the device memory it needs, unless it is done. Sets NEEDS.
preflight() {
    local lines code memory=() mib=$DEVICE_MIB
    [ "$DRY_RUN" = 1 ] || ! is_done "$BASE/stages/base_train$MEMORY.json" "$(quote "${TRAIN_COMMAND[@]}")" "$TRAINED" tok_train || return 0
    if [ "$DEVICE_TYPE" = cuda ]; then
        [ -z "$(gpu_mib)" ] || mib=$(gpu_mib)
        [ -z "$mib" ] || memory=(--device-memory "$(printf '%d.%02d' $((mib / 1024)) $((mib % 1024 * 100 / 1024)))")
    fi
    lines=$("$VENV_PYTHON" -m scripts.memory_estimate --vocab-size "$VOCAB_SIZE" --processes "$PROCESSES" \
        ${memory[@]+"${memory[@]}"} "${FLAGS[@]}")
    code=$?
    [ -n "$lines" ] || exit "$code" # refused; the reason is printed
    NEEDS=${lines%%$'\n'*}
    NEEDS="base_train ${NEEDS#*: }"
    # A run with a memory looks for the micro-batch that fits; the baseline's that would fit is printed.
    [ "$code" = 0 ] || NEEDS="$NEEDS; ${lines##*$'\n'}"
}

# --- stages ---

run_stages() {
    case $DATASET in
        climbmix | fineweb-edu)
            stage data "$BASE/data/$DATASET" -- "$VENV_PYTHON" -m nanochat.dataset --dataset "$DATASET" -n "$FIRST_SHARDS"
            [ "$SHARDS" = "$FIRST_SHARDS" ] ||
                start_download "$BASE/data/$DATASET" -- "$VENV_PYTHON" -m nanochat.dataset --dataset "$DATASET" -n "$SHARDS"
            ;;
    esac
    stage tok_train "$BASE/tokenizer" -- "$VENV_PYTHON" -m scripts.tok_train --vocab-size "$VOCAB_SIZE" "${DATA[@]}"
    stage tok_eval "$BASE/report/tokenizer_evaluation.json" tok_train -- "$VENV_PYTHON" -m scripts.tok_eval "${DATA[@]}"
    wait_for_download
    stage "base_train$MEMORY" "$TRAINED" tok_train -- "${TRAIN_COMMAND[@]}"
    launched base_eval --model-tag "$TAG" "${DATA[@]}" --device-type "$DEVICE_TYPE"
    stage "base_eval$MEMORY" "$BASE/report/base_evaluation$MEMORY.json" "base_train$MEMORY" -- "${COMMAND[@]}"
    launched mid_train "${CHAT[@]}" "${MID_FLAGS[@]}"
    stage "mid_train$MEMORY" "$BASE/report/mid_training$MEMORY.json" "base_train$MEMORY" -- "${COMMAND[@]}"
    launched chat_sft "${CHAT[@]}" "${SFT_FLAGS[@]}"
    stage "chat_sft$MEMORY" "$BASE/report/chat_sft$MEMORY.json" "mid_train$MEMORY" -- "${COMMAND[@]}"
    evaluate_chat sft "chat_eval$MEMORY" "chat_evaluation$MEMORY"
    local chat=chat_sft evaluated=("base_eval$MEMORY" "chat_eval$MEMORY")
    if [ "$RL" = 1 ]; then
        chat=chat_rl
        launched chat_rl "${CHAT[@]}" "${RL_FLAGS[@]}"
        stage "chat_rl$MEMORY" "$BASE/report/chat_rl$MEMORY.json" "chat_sft$MEMORY" -- "${COMMAND[@]}"
        evaluate_chat rl "chat_eval_rl$MEMORY" "chat_evaluation_rl$MEMORY"
        evaluated+=("chat_eval_rl$MEMORY")
    fi
    if [ "$MC_EVAL" = 1 ]; then
        stage "mc_eval$MEMORY" "$BASE/report/long_context.json" "$chat$MEMORY" -- \
            "$VENV_PYTHON" -m scripts.mc_eval --model-tag "$TAG" --device-type "$DEVICE_TYPE" ${MC_EVAL_FLAGS[@]+"${MC_EVAL_FLAGS[@]}"}
        evaluated+=("mc_eval$MEMORY")
    fi
    stage "report$MEMORY" report/report.md set_up tok_train tok_eval "base_train$MEMORY" "${evaluated[@]}" -- \
        "$VENV_PYTHON" -m nanochat.report generate --out report/report.md
}

evaluate_chat() { # SOURCE STAGE SECTION
    launched chat_eval --source "$1" --model-tag "$TAG" --device-type "$DEVICE_TYPE" ${CHAT_EVAL_FLAGS[@]+"${CHAT_EVAL_FLAGS[@]}"}
    stage "$2" "$BASE/report/$3.json" "chat_$1$MEMORY" -- "${COMMAND[@]}"
}
