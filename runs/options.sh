# Options of all recipes. Unknown ones are passed to base_train.

GPU=     # requested machine: auto, cpu, 5090 or h100
MC=0
RL=0
MC_EVAL=0
TAG=
DATASET_GIVEN=
EXTRA=() # flags for base_train, names with hyphens

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
            --rl) RL=1 ;;
            --mc-eval) MC_EVAL=1 ;;
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
    [ "$MC$MC_EVAL" != 01 ] || die 2 "--mc-eval evaluates a memory; add --mc, or remove --mc-eval"
}

# --device_batch_size=8 → --device-batch-size=8: replaces underscores in the name, not in the value.
hyphens() {
    local name=${1%%=*}
    printf '%s' "${name//_/-}${1#"$name"}"
}

option() { # NAME VALUE
    case $1 in
        --gpu) case $2 in auto | cpu | 5090 | h100) GPU=$2 ;; *) die 2 "invalid --gpu '$2'; expected auto, cpu, 5090 or h100" ;; esac ;;
        --profile)
            case $2 in baseline) MC=0 ;; mc) MC=1 ;; *) die 2 "invalid --profile '$2'; expected baseline or mc" ;; esac
            ;;
        --model-tag) TAG=$2 ;;
        --dataset)
            # Paths are relative to the user's working directory, not to the checkout.
            case $2 in auto | local | climbmix | fineweb-edu | /* | "~"*) DATASET_GIVEN=$2 ;; *) DATASET_GIVEN=$START_DIR/$2 ;; esac
            ;;
    esac
}

# Sets EXTRA_VALUE to the command line's value of a base_train flag; fails if the flag is not given.
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
