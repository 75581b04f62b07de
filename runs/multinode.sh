#!/usr/bin/env bash
# A stage on several machines under torchrun: start the same command on each of them. Machines may be lost, and come back.
set -u
START_DIR=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
. runs/lib.sh
. runs/profiles.sh

usage() {
    cat <<'TEXT'
usage: bash runs/multinode.sh --rendezvous HOST[:PORT] --nnodes MIN:MAX [options] -- STAGE [flags of the stage]
       bash runs/multinode.sh --rendezvous HOST[:PORT] --serve

Start the same command on every machine; each has this checkout and its environment, and all share one NANOCHAT_BASE_DIR. STAGE is
base_train, mid_train, chat_sft, chat_rl, base_eval or chat_eval. Lost processes are started again from the newest checkpoint. If a
machine is lost, the others go on as long as MIN are left; one that is started again joins them.

  --rendezvous        where the machines meet: one of them, or one with --serve; port 29400 by default
  --nnodes            number of machines, or MIN:MAX
  --nproc             processes on each machine; default: its number of GPUs, or 1
  --max-restarts      how often lost processes are started again (default 10)
  --shutdown-timeout  seconds that a save may take when the run is stopped (default 300)
  --interface         network interface for NCCL and gloo, such as eth0
  --address           address of this machine for the others; default: that of the interface, or the machine's full name
  --id                name of the run, if several have the same HOST:PORT (default run)
  --node              name of this machine's logs (default: its host name)
  --serve             be the meeting point only, so that any of the machines that train may be lost
  --dry-run           print the command and exit

Other options before -- are passed to torchrun. Logs are in $NANOCHAT_BASE_DIR/logs: one file for each machine, and a folder with the
output of each process. The note obsidian/Several processes.md has an example.
TEXT
}

STAGES_HERE="base_train mid_train chat_sft chat_rl base_eval chat_eval"
HOST='' PORT=29400 MIN='' MAX='' NPROC=${NPROC:-} RESTARTS=10 TIMEOUT=300
INTERFACE='' ADDRESS='' ID=run NODE='' SERVE=0
FOR_TORCHRUN=() STAGE='' FLAGS=()

main() {
    parse "$@"
    load_env
    find_base_dir "$START_DIR"
    if [ "$SERVE" = 1 ]; then
        VARIABLES=()
        COMMAND=("$VENV_PYTHON" -m nanochat.runtime.meeting_point --port "$PORT")
    else
        choose_processes
        choose_network
        choose_command
    fi
    if [ "$DRY_RUN" = 1 ]; then
        print_command
        return
    fi
    ./mc_setup --check || die 1 "the environment of this checkout is missing or out of date; run ./mc_setup on this machine first"
    [ "$SERVE" = 0 ] || exec "${COMMAND[@]}"
    export PYTHONUNBUFFERED=1 "${VARIABLES[@]}"
    check_batch
    run_here
}

# --- options ---

parse() {
    local name value
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        name=${1%%=*}
        case $name in
            -h | --help)
                usage
                exit 0
                ;;
            --serve | --dry-run | --dry_run) ;;
            -*)
                if [ "$name" = "$1" ]; then
                    [ $# -gt 1 ] && [ "$2" != -- ] || die 2 "$1 needs a value"
                    value=$2
                    shift
                else
                    value=${1#*=}
                fi
                ;;
            *) die 2 "unexpected '$1'; write -- before the stage and its flags" ;;
        esac
        option "${name//_/-}" "${value-}"
        shift
    done
    [ -n "$HOST" ] || die 2 "--rendezvous is missing; give the machine where all meet, as HOST or HOST:PORT"
    [ "$SERVE" = 0 ] || return 0
    [ -n "$MAX" ] || die 2 "--nnodes is missing; give the number of machines, or MIN:MAX"
    [ $# -gt 1 ] || die 2 "no stage; write it after --, such as -- base_train --depth 20"
    STAGE=${2#scripts.}
    case " $STAGES_HERE " in *" $STAGE "*) ;; *) die 2 "invalid stage '$2'; expected one of: $STAGES_HERE" ;; esac
    for value in "${@:3}"; do
        case $value in --dry-run | --dry_run) DRY_RUN=1 ;; *) FLAGS+=("$value") ;; esac
    done
}

option() { # NAME VALUE
    case $1 in
        --rendezvous)
            HOST=$2
            case $2 in *:*) HOST=${2%:*} PORT=${2##*:} ;; esac
            case $HOST in
                \[*\]) ;;
                *:*) die 2 "invalid --rendezvous '$2'; expected an IPv6 address in brackets, such as [fe80::1]:29400" ;;
            esac
            case $HOST in "" | *[!A-Za-z0-9._:\[\]-]*) die 2 "invalid --rendezvous '$2'; expected HOST or HOST:PORT" ;; esac
            is_count "$PORT" && [ "$PORT" -lt 65536 ] || die 2 "invalid --rendezvous '$2'; expected a port from 1 to 65535"
            ;;
        --nnodes)
            MIN=${2%%:*} MAX=${2##*:}
            is_count "$MIN" && is_count "$MAX" && [ "$MIN" -le "$MAX" ] && case $2 in *:*:*) false ;; esac ||
                die 2 "invalid --nnodes '$2'; expected a number of machines, or MIN:MAX"
            ;;
        --nproc | --nproc-per-node) NPROC=$2 ;;
        --max-restarts) [ "$2" = 0 ] || is_count "$2" || die 2 "invalid --max-restarts '$2'; expected a number"; RESTARTS=$2 ;;
        --shutdown-timeout) is_count "$2" || die 2 "invalid --shutdown-timeout '$2'; expected seconds"; TIMEOUT=$2 ;;
        --interface) INTERFACE=$2 ;;
        --address) ADDRESS=$2 ;;
        --id) ID=$2 ;;
        --node) NODE=$2 ;;
        --serve) SERVE=1 ;;
        --dry-run) DRY_RUN=1 ;;
        *) FOR_TORCHRUN+=("$1=$2") ;;
    esac
}

is_count() { case $1 in "" | *[!0-9]* | 0* | ??????????*) return 1 ;; esac }

# --- command ---

choose_processes() {
    NPROC=${NPROC:-$(gpu_count)}
    [ "$NPROC" != 0 ] || NPROC=1
    is_count "$NPROC" || die 2 "invalid --nproc '$NPROC'; expected a number of processes"
    [ "$MIN" = "$MAX" ] || [ "$RESTARTS" != 0 ] || die 2 "--nnodes $MIN:$MAX needs restarts, but --max-restarts is 0"
}

# Sets VARIABLES, the environment of torchrun, and ADDRESS.
choose_network() {
    # A store for each start: torchrun's own one keeps what earlier starts left, and the address of a machine that is lost.
    VARIABLES=(TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE=rank \${rank}: ")
    [ -n "$INTERFACE" ] || return 0
    VARIABLES+=("NCCL_SOCKET_IFNAME=$INTERFACE" "GLOO_SOCKET_IFNAME=$INTERFACE")
    [ -n "$ADDRESS" ] || ADDRESS=$(ip -o -4 address show dev "$INTERFACE" 2>/dev/null | sed -n 's/.* inet \([0-9.]*\).*/\1/p' | head -n 1)
    [ -n "$ADDRESS" ] || die 2 "cannot find an IPv4 address of the interface '$INTERFACE'; give another --interface, or its --address"
}

choose_command() {
    NODE=${NODE:-$(uname -n)}
    # All starts of the run have this name, by which they know their locks; so it must differ from that of any other run.
    ID=$(printf '%s' "$HOST-$PORT-$ID" | tr -c 'A-Za-z0-9._-' -)
    COMMAND=(.venv/bin/torchrun "--nnodes=$MIN:$MAX" "--nproc-per-node=$NPROC" "--max-restarts=$RESTARTS"
        --rdzv-backend=c10d "--rdzv-endpoint=$HOST:$PORT" "--rdzv-id=$ID" --rdzv-conf=join_timeout=3600 ${ADDRESS:+"--local-addr=$ADDRESS"}
        "--log-dir=$BASE/logs/$NODE" --tee=3)
    if has_shutdown_timeout; then COMMAND+=("--shutdown-timeout=$TIMEOUT"); fi
    COMMAND+=(${FOR_TORCHRUN[@]+"${FOR_TORCHRUN[@]}"} -m "scripts.$STAGE" -- ${FLAGS[@]+"${FLAGS[@]}"})
}

print_command() {
    [ "$SERVE" = 1 ] || say "# $STAGE on $MIN:$MAX machines × $NPROC processes, which meet at $HOST:$PORT"
    say "cd $(quote "$PWD")"
    ! grep -qsE '^(export )?[A-Z]' .mc_env || say ". ./.mc_env"
    say "export $(quote "NANOCHAT_BASE_DIR=$BASE" ${VARIABLES[@]+"${VARIABLES[@]}"})"
    say "$(quote "${COMMAND[@]}")"
}

# torchrun of torch 2.13 has it; that of 2.11 waits 30 s.
has_shutdown_timeout() {
    [ -x .venv/bin/torchrun ] || return 0 # a dry run before the set-up
    .venv/bin/torchrun --help 2>/dev/null | grep -q -- --shutdown-timeout
}

# --- run ---

# Refuses a base training whose batch does not divide over some number of machines: that would end it when one is lost.
check_batch() {
    local nodes memory
    [ "$STAGE" = base_train ] || return 0
    memory=$([ "$(gpu_count)" = 0 ] || say 1)
    for ((nodes = MAX; nodes >= MIN; nodes--)); do
        "$VENV_PYTHON" -m scripts.memory_estimate --check-memory "${memory:-0}" --processes $((nodes * NPROC)) \
            ${FLAGS[@]+"${FLAGS[@]}"} </dev/null >/dev/null ||
            die 1 "so the run cannot have $nodes machines × $NPROC processes; change its flags, or --nnodes"
    done
}

run_here() {
    local log=$BASE/logs/$NODE.txt code
    { mkdir -p "$BASE/logs/$NODE" && : >>"$log"; } 2>/dev/null ||
        die 1 "cannot write $log; set NANOCHAT_BASE_DIR to a writable folder"
    log_to "$log"
    say "== $(date -u +%Y-%m-%dT%H:%M:%SZ): $NODE: $(quote "${COMMAND[@]}")"
    set -m # a process group of its own: Ctrl-C reaches it once, through this shell
    "${COMMAND[@]}" </dev/null 3>&- 4>&- &
    CHILD_PID=$!
    set +m
    wait_for "$CHILD_PID"
    code=$?
    CHILD_PID=
    [ "$SIGNALS" = 0 ] || stopped
    [ "$code" != 0 ] || return 0
    if tail -n 50 "$log" | grep -q RendezvousClosedError; then
        die "$code" "the run $ID has ended at $HOST:$PORT; start it anew with another --id, on all machines"
    fi
    die "$code" "$STAGE failed on $NODE with exit code $code; see $log, and run the same command again to continue"
}

main "$@"
