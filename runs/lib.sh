# What the runners share: environment, log, stages. Source it from the root of the checkout. Bash 3.2 (macOS) is enough.
#
# A stage is a command that is run once. When it has succeeded and its artefact is there, a stamp,
# $NANOCHAT_BASE_DIR/stages/NAME.json, records the command, how long it took and when it ended. The stage is skipped while the
# stamp names the same command, the artefact exists and no stage it takes its input from has run since. A stage that ended
# otherwise leaves NAME.failed, the same with its exit code, until it begins again.

VENV_PYTHON=.venv/bin/python
DRY_RUN=0
SIGNALS=0   # how many signals have arrived, and the last of them
LAST_SIGNAL=
CHILD_PID=  # the running stage
DOWNLOAD_COMMAND=
DOWNLOAD_PID=
STAGES=()         # names of the stages that are done, in their order
STAGES_SKIPPED=() # those of them that were done before

say() { printf '%s\n' "$*"; }

die() { # CODE MESSAGE
    printf 'error: %s\n' "$2" >&2
    exit "$1"
}

# The command in one line, quoted so that a shell reads it back.
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

# Takes over what .mc_env sets, except for variables that are set already.
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

# Sets BASE, the folder of all artefacts, and passes it on as an absolute path. $1: what a relative one is relative to.
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

# Everything printed from here on also goes to report/log.txt, and signals go to the running stage.
start_log() {
    local folder
    { mkdir -p "$BASE/stages" && [ -w "$BASE/stages" ]; } 2>/dev/null ||
        die 1 "cannot write to $BASE; set NANOCHAT_BASE_DIR to a writable folder"
    { mkdir -p report && : >>report/log.txt; } 2>/dev/null || die 1 "cannot write $PWD/report/log.txt; make it writable"
    take_lock
    folder=$(mktemp -d) || die 1 "cannot make a temporary folder; set TMPDIR to a writable one"
    mkfifo "$folder/pipe"
    # The log outlives the signals: what a stage says while it stops belongs in it.
    (trap '' INT TERM HUP; exec tee -a report/log.txt) <"$folder/pipe" &
    TEE_PID=$!
    exec 3>&1 4>&2 >"$folder/pipe" 2>&1
    rm -r "$folder"
    export PYTHONUNBUFFERED=1 # what a stage prints shows at once, though it prints into a pipe
    trap end_log EXIT
    trap 'pass_on INT' INT
    trap 'pass_on TERM' TERM
    trap 'pass_on HUP' HUP
}

# One run at a time in a base folder: two would write the same checkpoints. The lock names the runner and its running stage,
# which lives on when the runner alone is killed.
take_lock() {
    local lock=$BASE/stages/lock pid
    if ! (set -C; echo $$ >"$lock") 2>/dev/null; then
        while read -r pid; do
            ! kill -0 "$pid" 2>/dev/null ||
                die 1 "another run, process $pid, is at work in $BASE; wait for it, or set NANOCHAT_BASE_DIR to another folder"
        done <"$lock"
        echo $$ >"$lock" || die 1 "cannot write $lock; is the disk full?"
    fi
}

# On the way out: whatever still runs is asked to stop, and the log is complete before the runner is gone.
end_log() {
    local code=$? pid
    trap - EXIT
    trap '' INT TERM HUP
    for pid in $(jobs -p); do
        [ "$pid" = "$TEE_PID" ] || { kill -TERM "$pid" && wait "$pid"; } 2>/dev/null
    done
    exec >&3 2>&4 3>&- 4>&-
    wait "$TEE_PID"
    rm -f "$BASE/stages/lock"
    exit "$code"
}

# A shell makes what it runs in the background ignore SIGINT, so a stage is always asked to stop with SIGTERM.
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

# Waits until the process has ended, through any number of signals, and returns its exit code.
wait_for() { # PID
    local seen code
    while :; do
        seen=$SIGNALS
        wait "$1"
        code=$?
        # A trap ends `wait` early; the next one returns the code of the process even if that has ended meanwhile.
        [ "$SIGNALS" = "$seen" ] && return "$code"
    done
}

# --- stages ---

# stage NAME ARTEFACT [STAGE IT TAKES INPUT FROM…] -- COMMAND…
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
    # The trainer ends with 0 after it has saved on a signal; its last checkpoint tells that it is not through.
    if [ "$SIGNALS" != 0 ]; then unfinished=$(stop_code); elif [ "$code" = 0 ]; then unfinished=130; else unfinished=$code; fi
    write_stamp "$BASE/stages/$name.failed" "$name" "$command" $((SECONDS - began)) "$unfinished"
    rm -f "$stamp.began"
    [ "$SIGNALS" = 0 ] || stopped
    [ "$code" != 0 ] || die 130 "$name ended before it had written $artefact; run the same command again to continue"
    die "$code" "$name failed with exit code $code; what it said is in $PWD/report/log.txt"
}

skipped() { # STAGE
    say "== $1: done before, skipped"
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

# start_download ARTEFACT -- COMMAND…: the rest of the data comes while other stages run. wait_for_download collects it.
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
    say "== waiting for the download; how far it is: tail -f $(quote "$log")"
    wait_for "$DOWNLOAD_PID"
    code=$?
    DOWNLOAD_PID=
    if [ "$code" != 0 ]; then
        grep '^error: ' "$log" | head -n 3
        die "$code" "the download failed with exit code $code; what it said is in $log"
    fi
    write_stamp "$BASE/stages/download.json" download "$DOWNLOAD_COMMAND" $((SECONDS - DOWNLOAD_BEGAN))
    STAGES+=(download)
}
