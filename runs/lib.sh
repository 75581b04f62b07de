# Shared code of the recipes: environment, log, stages. Source it from the root of the checkout. Bash 3.2 (macOS) suffices.
#
# A stage is a command that is run once. If it succeeds and its artefact exists, a stamp,
# $NANOCHAT_BASE_DIR/stages/NAME.json, records the command, its duration and its end. The stage is skipped if the stamp names
# the same command, the artefact exists and no input stage has run since. A failed stage leaves NAME.failed, the same with its
# exit code, until it starts again.

VENV_PYTHON=.venv/bin/python
DRY_RUN=0
SIGNALS=0   # number of signals received, and the last one
LAST_SIGNAL=
LOCK=       # file to remove at the end
CHILD_PID=  # the running stage
DOWNLOAD_COMMAND=
DOWNLOAD_PID=
STAGES=()         # names of finished stages, in order
STAGES_SKIPPED=() # the skipped ones among them

say() { printf '%s\n' "$*"; }

die() { # CODE MESSAGE
    printf 'error: %s\n' "$2" >&2
    exit "$1"
}

# The command on one line, quoted for a shell.
quote() {
    local line
    printf -v line '%q ' "$@"
    printf '%s' "${line% }"
}

json_string() {
    local text=${1//\\/\\\\}
    printf '"%s"' "${text//\"/\\\"}"
}

duration() { # SECONDS
    if [ "$1" -lt 60 ]; then
        printf '%ds' "$1"
    elif [ "$1" -lt 3600 ]; then
        printf '%dm%02ds' $(($1 / 60)) $(($1 % 60))
    else
        printf '%dh%02dm' $(($1 / 3600)) $(($1 % 3600 / 60))
    fi
}

# --- environment ---

# Loads .mc_env, except for variables that are already set.
load_env() {
    local line name
    [ -f .mc_env ] || return 0
    while IFS= read -r line || [ -n "$line" ]; do
        line=${line#export }
        name=${line%%=*}
        case $name in "" | "$line" | [0-9]* | *[!A-Za-z0-9_]*) continue ;; esac
        [ -n "${!name+set}" ] || eval "export $line"
    done <.mc_env
}

# Sets and exports BASE, the absolute path of the artefact folder. $1: folder that a relative path refers to.
find_base_dir() {
    BASE=${NANOCHAT_BASE_DIR:-$HOME/.cache/nanochat}
    case $BASE in
        "~/"*) BASE=$HOME/${BASE#"~/"} ;;
        /*) ;;
        *) BASE=$1/$BASE ;;
    esac
    export NANOCHAT_BASE_DIR="$BASE"
}

# --- log and signals ---

# From here on, output also goes to report/log.txt, and the base folder is this run's.
start_log() {
    { mkdir -p "$BASE/stages" && [ -w "$BASE/stages" ]; } 2>/dev/null ||
        die 1 "cannot write to $BASE; set NANOCHAT_BASE_DIR to a writable folder"
    { mkdir -p report && : >>report/log.txt; } 2>/dev/null || die 1 "cannot write $PWD/report/log.txt; make it writable"
    take_lock
    log_to report/log.txt
}

# From here on, output also goes to a file, and signals go to the running stage.
log_to() { # FILE
    local folder
    folder=$(mktemp -d) || die 1 "cannot make a temporary folder; set TMPDIR to a writable one"
    mkfifo "$folder/pipe"
    # The log process ignores signals, so that it records the output of a stage that is stopping.
    (trap '' INT TERM HUP; exec tee -a "$1") <"$folder/pipe" &
    TEE_PID=$!
    exec 3>&1 4>&2 >"$folder/pipe" 2>&1
    rm -r "$folder"
    export PYTHONUNBUFFERED=1 # unbuffered output of the stages, although it is a pipe
    trap end_log EXIT
    trap 'pass_on INT' INT
    trap 'pass_on TERM' TERM
    trap 'pass_on HUP' HUP
}

# One run at a time per base folder: two would write the same checkpoints. The lock names the recipe's process and its running
# stage, which survives if only the recipe is killed.
take_lock() {
    local lock=$BASE/stages/lock pid
    if ! (set -C; echo $$ >"$lock") 2>/dev/null; then
        while read -r pid; do
            ! kill -0 "$pid" 2>/dev/null ||
                die 1 "another run, process $pid, is using $BASE; wait for it, or set NANOCHAT_BASE_DIR to another folder"
        done <"$lock"
        echo $$ >"$lock" || die 1 "cannot write $lock; is the disk full?"
    fi
    LOCK=$lock
}

# At exit: terminates running processes and completes the log.
end_log() {
    local code=$? pid
    trap - EXIT
    trap '' INT TERM HUP
    for pid in $(jobs -p); do
        [ "$pid" = "$TEE_PID" ] || { kill -TERM "$pid" && wait "$pid"; } 2>/dev/null
    done
    exec >&3 2>&4 3>&- 4>&-
    wait "$TEE_PID"
    [ -z "$LOCK" ] || rm -f "$LOCK"
    exit "$code"
}

# Background processes of a shell ignore SIGINT, so a stage is always stopped with SIGTERM.
pass_on() { # SIGNAL
    SIGNALS=$((SIGNALS + 1))
    LAST_SIGNAL=$1
    if [ -n "$CHILD_PID" ]; then kill -TERM "$CHILD_PID" 2>/dev/null; else stopped; fi
}

stopped() {
    say "stopped; run the same command again to continue"
    exit "$(stop_code)"
}

stop_code() { case $LAST_SIGNAL in TERM) say 143 ;; HUP) say 129 ;; *) say 130 ;; esac }

# Waits until the process has ended, despite signals, and returns its exit code.
wait_for() { # PID
    local seen code
    while :; do
        seen=$SIGNALS
        wait "$1"
        code=$?
        # A trap interrupts `wait`; the next `wait` returns the exit code even if the process has ended meanwhile.
        [ "$SIGNALS" = "$seen" ] && return "$code"
    done
}

# --- stages ---

# stage NAME ARTEFACT [INPUT STAGE…] -- COMMAND…
# The artefact is a path: a folder must exist after the command, a file must have been written by it.
stage() {
    local name=$1 artefact=$2 inputs=() stamp command code began unfinished
    shift 2
    while [ "$1" != -- ]; do inputs+=("$1") && shift; done
    shift
    command=$(quote "$@")
    stamp=$BASE/stages/$name.json
    if [ "$DRY_RUN" = 1 ]; then
        say "$command"
        return
    fi
    if is_done "$stamp" "$command" "$artefact" ${inputs[@]+"${inputs[@]}"}; then
        skipped "$name"
        return
    fi
    say "== $name: $command"
    rm -f "$BASE/stages/$name.failed"
    : >"$stamp.began" || die 1 "cannot write to $BASE/stages; is the disk full?"
    began=$SECONDS
    "$@" </dev/null 3>&- 4>&- &
    CHILD_PID=$!
    printf '%d\n' $$ "$CHILD_PID" >"$BASE/stages/lock"
    wait_for "$CHILD_PID"
    code=$?
    CHILD_PID=
    if [ "$code" = 0 ] && was_written "$artefact" "$stamp.began"; then
        write_stamp "$stamp" "$name" "$command" $((SECONDS - began))
        rm -f "$stamp.began"
        say "== $name: $(duration $((SECONDS - began)))"
        STAGES+=("$name")
        [ "$SIGNALS" = 0 ] || stopped
        return
    fi
    # The trainer exits with 0 after saving on a signal; the missing artefact shows that it is unfinished.
    if [ "$SIGNALS" != 0 ]; then unfinished=$(stop_code); elif [ "$code" = 0 ]; then unfinished=130; else unfinished=$code; fi
    write_stamp "$BASE/stages/$name.failed" "$name" "$command" $((SECONDS - began)) "$unfinished"
    rm -f "$stamp.began"
    [ "$SIGNALS" = 0 ] || stopped
    [ "$code" != 0 ] || die 130 "$name ended before writing $artefact; run the same command again to continue"
    die "$code" "$name failed with exit code $code; see $PWD/report/log.txt"
}

skipped() { # STAGE
    say "== $1: already done, skipped"
    STAGES+=("$1") STAGES_SKIPPED+=("$1")
}

is_done() { # STAMP COMMAND ARTEFACT INPUT…
    local stamp=$1 command=$2 artefact=$3 input
    shift 3
    [ -e "$artefact" ] && grep -qsxF " \"command\": $(json_string "$command")," "$stamp" || return 1
    for input in "$@"; do
        [ ! "$BASE/stages/$input.json" -nt "$stamp" ] || return 1
    done
}

was_written() { # ARTEFACT MARKER
    [ -d "$1" ] || { [ -e "$1" ] && [ ! "$2" -nt "$1" ]; }
}

write_stamp() { # FILE NAME COMMAND SECONDS [EXIT CODE]
    {
        printf '{\n "stage": "%s",\n "command": %s,\n "seconds": %d,\n' "$2" "$(json_string "$3")" "$4" &&
            { [ -z "${5-}" ] || printf ' "code": %d,\n' "$5"; } &&
            printf ' "finished": "%s"\n}\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
    } >"$1.new" && mv "$1.new" "$1" || die 1 "cannot write $1; is the disk full?"
}

# --- downloads in the background ---

# start_download ARTEFACT -- COMMAND…: downloads the rest of the data while other stages run. wait_for_download waits for it.
start_download() {
    local log=$BASE/dataset_download.log
    DOWNLOAD_ARTEFACT=$1
    shift 2
    DOWNLOAD_COMMAND=$(quote "$@")
    if [ "$DRY_RUN" = 1 ]; then
        say "$DOWNLOAD_COMMAND >$(quote "$log") 2>&1 &"
    elif is_done "$BASE/stages/download.json" "$DOWNLOAD_COMMAND" "$DOWNLOAD_ARTEFACT"; then
        skipped download
    else
        say "== download, in the background (log: $log): $DOWNLOAD_COMMAND"
        DOWNLOAD_BEGAN=$SECONDS
        "$@" </dev/null >"$log" 2>&1 3>&- 4>&- &
        DOWNLOAD_PID=$!
    fi
}

wait_for_download() {
    local code log=$BASE/dataset_download.log
    if [ "$DRY_RUN" = 1 ]; then
        [ -z "$DOWNLOAD_COMMAND" ] || say wait
        return
    fi
    [ -n "$DOWNLOAD_PID" ] || return 0
    say "== waiting for the download; progress: tail -f $(quote "$log")"
    wait_for "$DOWNLOAD_PID"
    code=$?
    DOWNLOAD_PID=
    if [ "$code" != 0 ]; then
        grep '^error: ' "$log" | head -n 3
        die "$code" "the download failed with exit code $code; see $log"
    fi
    write_stamp "$BASE/stages/download.json" download "$DOWNLOAD_COMMAND" $((SECONDS - DOWNLOAD_BEGAN))
    STAGES+=(download)
}
