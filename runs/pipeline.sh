# The stages of a recipe, from a fresh checkout to the report, and the options that all runners take.
# A runner (run10.sh, speedrun.sh, run1000.sh) sources this file from anywhere and calls run_pipeline with its arguments.

START_DIR=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
. runs/lib.sh
. runs/profiles.sh

PROFILE=    # set by a runner that has only one
NPROC_WANTED=1
GPU=auto
MC=0
TAG=
DATASET_GIVEN=
EXTRA=() # flags for base_train, names with hyphens

run_pipeline() {
    load_env
    find_base_dir "$START_DIR"
    parse_options "$@"
    choose_profile
    # A wrong flag is refused as early as the environment allows, and not after the tokenizer has been trained.
    local ready=0
    if ./mc_setup --check; then
        ready=1
        check_flags
    fi
    if [ "$DRY_RUN" = 1 ]; then
        say "./mc_setup --yes"
    else
        start_log
        say "== $(date -u +%Y-%m-%dT%H:%M:%SZ): profile $PROFILE, tag $TAG, artefacts in $BASE"
        [ "$ready" = 1 ] || set_up
    fi
    run_stages
    [ "$DRY_RUN" = 1 ] || say "== finished in $(duration "$SECONDS"): $PWD/report/report.md"
}

# --- options ---

parse_options() {
    local argument name
    while [ $# -gt 0 ]; do
        argument=$1
        case $argument in --*) name=$(hyphens "$argument") ;; *) name=$argument ;; esac
        case $name in
            --gpu | --profile | --dataset | --model-tag)
                [ $# -gt 1 ] || die 2 "$name needs a value"
                shift
                option "$name" "$1"
                ;;
            --gpu=* | --profile=* | --dataset=* | --model-tag=*) option "${name%%=*}" "${name#*=}" ;;
            --mc | --mc-enabled)
                MC=1
                case ${2-} in 0 | 1) MC=$2 && shift ;; esac
                ;;
            --mc=1 | --mc-enabled=1) MC=1 ;;
            --mc=0 | --mc-enabled=0) MC=0 ;;
            --dry-run) DRY_RUN=1 ;;
            -h | --help)
                usage
                exit 0
                ;;
            --) ;;
            *) EXTRA+=("$name") ;;
        esac
        shift
    done
}

# --device_batch_size=8 → --device-batch-size=8: underscores of the name, not of the value.
hyphens() {
    local name=${1%%=*}
    printf '%s' "${name//_/-}${1#"$name"}"
}

option() { # NAME VALUE
    case $1 in
        --gpu)
            [ -z "$PROFILE" ] || die 2 "--gpu is an option of run10.sh; this recipe is for one kind of machine"
            case $2 in auto | cpu | 5090 | h100) GPU=$2 ;; *) die 2 "--gpu is auto, cpu, 5090 or h100, not '$2'" ;; esac
            ;;
        --profile)
            case $2 in baseline) MC=0 ;; mc) MC=1 ;; *) die 2 "--profile is baseline or mc, not '$2'" ;; esac
            ;;
        --model-tag) TAG=$2 ;;
        --dataset)
            # A path is relative to where the user is, not to the checkout.
            case $2 in auto | local | climbmix | fineweb-edu | /* | "~"*) DATASET_GIVEN=$2 ;; *) DATASET_GIVEN=$START_DIR/$2 ;; esac
            ;;
    esac
}

# The value that the command line gives a flag of base_train; fails where it gives none.
extra() { # NAME
    local i found=1
    for ((i = 0; i < ${#EXTRA[@]}; i++)); do
        case ${EXTRA[i]} in
            "--$1="*) EXTRA_VALUE=${EXTRA[i]#*=} found=0 ;;
            "--$1") EXTRA_VALUE=${EXTRA[i + 1]-} found=0 ;;
        esac
    done
    return "$found"
}

# --- profile ---

choose_profile() {
    local found
    if [ -z "$PROFILE" ]; then
        PROFILE=$GPU
        if [ "$GPU" = auto ]; then
            found=$(detect_profile)
            case $found in
                cpu | 5090 | h100) PROFILE=$found ;;
                *) die 2 "the GPU has $found MiB and the smallest profile wants 30000; try --gpu 5090 with a smaller --device-batch-size, or --gpu cpu" ;;
            esac
        fi
    fi
    use_profile "$PROFILE"
    DATASET=${DATASET_GIVEN:-$DATASET}
    choose_flags
    choose_launcher
}

# One process, or one for each GPU. NPROC overrides how many.
choose_launcher() {
    local gpus
    LAUNCH=("$VENV_PYTHON")
    END_OF_LAUNCH=()
    [ "$NPROC_WANTED" -gt 1 ] || return 0
    if [ "$DRY_RUN" = 0 ] && [ -z "${NPROC-}" ]; then
        gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU')
        [ "$gpus" -ge "$NPROC_WANTED" ] ||
            die 1 "this recipe wants $NPROC_WANTED GPUs and $gpus are here; set NPROC to run it with fewer processes, or use run10.sh"
    fi
    case ${NPROC:-$NPROC_WANTED} in *[!0-9]* | 0*) die 2 "NPROC is a number of processes, not '$NPROC'" ;; esac
    LAUNCH=(.venv/bin/torchrun --standalone "--nproc_per_node=${NPROC:-$NPROC_WANTED}")
    END_OF_LAUNCH=(--)
}

# FLAGS, those of base_train: the profile's, less what the command line replaces, then the command line's. And TRAINED, the
# folder that is there when training is through. Folders and stages of a run with a memory have names of their own, so that
# it and its baseline lie side by side.
choose_flags() {
    local i name value iterations='' depth
    FLAGS=(--dataset "$DATASET")
    MEMORY=
    if [ "$MC" = 1 ]; then
        MEMORY=_mc
        FLAGS+=(--mc)
        TRAIN_FLAGS+=(${MC_FLAGS[@]+"${MC_FLAGS[@]}"})
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

set_up() {
    rm -f "$BASE/stages/set_up.json" # out of date, whatever it says
    stage set_up .venv/mc_setup.stamp -- ./mc_setup --yes
    check_flags
}

# The command line's flags, with all that base_train itself would say about them. The profile's own are known to be right.
check_flags() {
    [ ${#EXTRA[@]} -gt 0 ] || return 0
    "$VENV_PYTHON" -c 'import sys
from nanochat.flags import parse
from scripts.base_train import BaseTrain
parse(BaseTrain, sys.argv[1:])' "${FLAGS[@]}" || exit
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
    stage tok_train "$BASE/tokenizer" -- "$VENV_PYTHON" -m scripts.tok_train --vocab-size "$VOCAB_SIZE" --dataset "$DATASET"
    stage tok_eval "$BASE/report/tokenizer_evaluation.json" tok_train -- "$VENV_PYTHON" -m scripts.tok_eval --dataset "$DATASET"
    wait_for_download
    stage "base_train$MEMORY" "$TRAINED" tok_train -- \
        "${LAUNCH[@]}" -m scripts.base_train ${END_OF_LAUNCH[@]+"${END_OF_LAUNCH[@]}"} "${FLAGS[@]}"
    stage "base_eval$MEMORY" "$BASE/report/base_evaluation$MEMORY.json" "base_train$MEMORY" -- \
        "${LAUNCH[@]}" -m scripts.base_eval ${END_OF_LAUNCH[@]+"${END_OF_LAUNCH[@]}"} --model-tag "$TAG" --dataset "$DATASET" --device-type "$DEVICE_TYPE"
    stage "mid_train$MEMORY" "$BASE/report/mid_training$MEMORY.json" "base_train$MEMORY" -- \
        "${LAUNCH[@]}" -m scripts.mid_train ${END_OF_LAUNCH[@]+"${END_OF_LAUNCH[@]}"} "${CHAT[@]}" ${MID_FLAGS[@]+"${MID_FLAGS[@]}"}
    stage "chat_sft$MEMORY" "$BASE/report/chat_sft$MEMORY.json" "mid_train$MEMORY" -- \
        "${LAUNCH[@]}" -m scripts.chat_sft ${END_OF_LAUNCH[@]+"${END_OF_LAUNCH[@]}"} "${CHAT[@]}" ${SFT_FLAGS[@]+"${SFT_FLAGS[@]}"}
    stage "chat_eval$MEMORY" "$BASE/report/chat_evaluation$MEMORY.json" "chat_sft$MEMORY" -- \
        "${LAUNCH[@]}" -m scripts.chat_eval ${END_OF_LAUNCH[@]+"${END_OF_LAUNCH[@]}"} --source sft --model-tag "$TAG" --device-type "$DEVICE_TYPE" \
        ${CHAT_EVAL_FLAGS[@]+"${CHAT_EVAL_FLAGS[@]}"}
    stage "report$MEMORY" report/report.md set_up tok_train tok_eval "base_train$MEMORY" "base_eval$MEMORY" "chat_eval$MEMORY" -- \
        "$VENV_PYTHON" -m nanochat.report generate --out report/report.md
}
