# Summary at the end of a recipe: duration of the stages, artefacts, chat commands.

summary() {
    local name seconds total=0 note
    say "== stages"
    for name in "${STAGES[@]}"; do
        seconds=$(stamped_seconds "$name")
        note=
        case " ${STAGES_SKIPPED[*]-} " in *" $name "*) note="  skipped" ;; esac
        if [ "$name" = download ]; then note="$note  in the background"; else total=$((total + seconds)); fi
        printf '   %-15s %8s%s\n' "$name" "$(duration "$seconds")" "$note"
    done
    note=
    [ ${#STAGES_SKIPPED[@]} = 0 ] || note="  $(duration "$SECONDS") in this run"
    printf '   %-15s %8s%s\n' total "$(duration "$total")" "$note"
    say "== report and checkpoints"
    existing "$PWD"/report/report.{md,html} "$BASE"/{base,mid,sft,rl}_checkpoints/"$TAG"
    say "== chat, on the terminal or on http://127.0.0.1:8000"
    say "   $(chat_command chat_cli)"
    say "   $(chat_command chat_web)"
}

stamped_seconds() { # STAGE
    local seconds
    seconds=$(sed -n 's/^ "seconds": \([0-9]*\),$/\1/p' "$BASE/stages/$1.json")
    printf '%s' "${seconds:-0}"
}

# Prints the paths that exist, one per line.
existing() { # PATH…
    local path
    for path in "$@"; do [ ! -e "$path" ] || say "   $path"; done
}

# A command to paste into the user's shell, where NANOCHAT_BASE_DIR may not be set.
chat_command() { # SCRIPT
    local words=("$VENV_PYTHON" -m "scripts.$1" --model-tag "$TAG")
    [ "$MC" = 0 ] || words+=(--mc)
    [ "$BASE" = "$HOME/.cache/nanochat" ] || printf 'NANOCHAT_BASE_DIR=%s ' "$(quote "$BASE")"
    quote "${words[@]}"
}
