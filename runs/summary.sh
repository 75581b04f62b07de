# What a runner says when all is done: how long it took, and where to look next.

summary() {
    local name seconds total=0 note
    say "== stages"
    for name in "${STAGES[@]}"; do
        seconds=$(stamped_seconds "$name")
        note=
        case " ${STAGES_SKIPPED[*]-} " in *" $name "*) note="  done before" ;; esac
        if [ "$name" = download ]; then note="$note  beside the others"; else total=$((total + seconds)); fi
        printf '   %-15s %8s%s\n' "$name" "$(duration "$seconds")" "$note"
    done
    note=
    [ ${#STAGES_SKIPPED[@]} = 0 ] || note="  $(duration "$SECONDS") of it now"
    printf '   %-15s %8s%s\n' total "$(duration "$total")" "$note"
    say "== report and checkpoints"
    existing "$PWD"/report/report.{md,html} "$BASE"/{base,mid,sft,rl}_checkpoints/"$TAG"
    say "== to chat, here or on http://127.0.0.1:8000"
    say "   $(chat_command chat_cli)"
    say "   $(chat_command chat_web)"
}

stamped_seconds() { # STAGE
    local seconds
    seconds=$(sed -n 's/^ "seconds": \([0-9]*\),$/\1/p' "$BASE/stages/$1.json")
    printf '%s' "${seconds:-0}"
}

# Those of the paths that are there, a line for each.
existing() { # PATH…
    local path
    for path in "$@"; do [ ! -e "$path" ] || say "   $path"; done
}

# To be pasted into the user's shell, which may not know the base folder.
chat_command() { # SCRIPT
    local words=("$VENV_PYTHON" -m "scripts.$1" --model-tag "$TAG")
    [ "$MC" = 0 ] || words+=(--mc)
    [ "$BASE" = "$HOME/.cache/nanochat" ] || printf 'NANOCHAT_BASE_DIR=%s ' "$(quote "$BASE")"
    quote "${words[@]}"
}
