#!/usr/bin/env bash
# The test command: sets up what is missing, then ruff, the Rust tests and pytest. Arguments go to pytest; -m slow runs the long proofs.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
failed=()

check() { # NAME COMMAND…
    local name=$1
    shift
    printf '== %s\n' "$name"
    "$@" </dev/null || failed+=("$name")
}

./mc_setup --yes --dev </dev/null || exit
cores=$(.venv/bin/python -c 'import os; print(os.cpu_count())')
workers=$((cores < 8 ? cores : 8))
# The workers share the cores; torch would start as many threads in each of them.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores / workers))}

check "ruff check" .venv/bin/ruff check .
check "ruff format" .venv/bin/ruff format --check .
check "cargo test" cargo test --quiet --offline --manifest-path rustbpe/Cargo.toml
check "pytest" .venv/bin/python -m pytest -q -n "$workers" --dist worksteal "$@"

if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[*]}"
    exit 1
fi
echo "all passed in $((SECONDS / 60))m$((SECONDS % 60))s"
