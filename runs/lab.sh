# Shared code of miniseries.sh and scaling_laws.sh: options, set-up, tokenizer, baseline, the lab's command, its report.

START_DIR=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
. runs/lib.sh
. runs/profiles.sh

run_lab() { # COMMAND ARGUMENT…
    local command=$1 gpu=auto profile='' cycle='' vocab dataset shards found words=() flags=() line
    shift
    while [ $# -gt 0 ]; do
        case $1 in
            --gpu | --profile | --cycle)
                [ $# -gt 1 ] || die 2 "$1 needs a value"
                set -- "$1=$2" "${@:3}"
                continue
                ;;
            --gpu=*) gpu=${1#*=} ;;
            --profile=*) profile=${1#*=} ;;
            --cycle=*) cycle=${1#*=} ;;
            --dry-run | --dry_run) DRY_RUN=1 ;;
            -h | --help)
                usage
                exit 0
                ;;
            --*) flags+=("$1") ;;
            *) if [ ${#flags[@]} -gt 0 ] && [[ ${flags[${#flags[@]} - 1]} != *=* ]]; then flags+=("$1"); else words+=("$1"); fi ;;
        esac
        shift
    done
    case $gpu in auto | cpu | 5090 | h100) ;; *) die 2 "invalid --gpu '$gpu'; expected auto, cpu, 5090 or h100" ;; esac
    if [ -z "$profile" ]; then
        found=$gpu
        [ "$gpu" != auto ] || found=$(detect_machine)
        case $found in cpu) profile=cpu-micro ;; *) profile="gpu-d12" ;; esac
    fi
    # Paths are relative to the user's working directory, not to the checkout.
    case $profile in /* | "~"*) ;; *.yaml | *.yml) profile=$START_DIR/$profile ;; esac
    case $profile in cpu* | *.yaml | *.yml) vocab=8192 dataset=local ;; *) vocab=32768 dataset=climbmix shards=8 ;; esac
    load_env
    find_base_dir "$START_DIR"
    if [ "$DRY_RUN" = 1 ]; then
        say "./mc_setup --yes"
    else
        trap 'pass_on INT' INT
        trap 'pass_on TERM' TERM
        ./mc_setup --check || step ./mc_setup --yes
    fi
    [ "$dataset" = local ] || step "$VENV_PYTHON" -m nanochat.dataset --dataset "$dataset" -n "$shards"
    [ -e "$BASE/tokenizer/bpe.json" ] || [ -e "$BASE/tokenizer/tokenizer.json" ] || step "$VENV_PYTHON" -m scripts.tok_train --vocab-size "$vocab" --dataset "$dataset"
    line=(--profile "$profile" ${cycle:+--cycle "$cycle"})
    step "$VENV_PYTHON" -m scripts.lab baseline "${line[@]}"
    [ "$command" != miniseries ] || words=(baseline ${words[@]+"${words[@]}"})
    step "$VENV_PYTHON" -m scripts.lab "$command" ${words[@]+"${words[@]}"} "${line[@]}" ${flags[@]+"${flags[@]}"}
    step "$VENV_PYTHON" -m scripts.lab report "${line[@]}"
}

# Runs a command that resumes by itself. If its exit code is not 0, exits with that code.
step() {
    local code
    if [ "$DRY_RUN" = 1 ]; then
        quote "$@"
        say ''
        return
    fi
    say "== $(quote "$@")"
    "$@" </dev/null &
    CHILD_PID=$!
    wait_for "$CHILD_PID"
    code=$?
    CHILD_PID=
    [ "$SIGNALS" = 0 ] || stopped
    [ "$code" = 0 ] || exit "$code"
}
