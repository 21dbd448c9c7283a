#!/usr/bin/env bash
# Runs each fuzz target for a bounded number of runs, from the seeds in fuzz/seeds. Needs a nightly
# toolchain; installs cargo-fuzz.
#
#   scripts/fuzz.sh              200,000 runs of a target; 20,000 where a run has an authenticator
#   scripts/fuzz.sh RUNS TARGET  RUNS runs of one target
set -euo pipefail
cd "$(dirname "$0")/.."
if ! cargo +nightly --version >/dev/null 2>&1; then
    echo "fuzz: LEFT OUT, because there is no nightly toolchain" >&2
    echo "      (rustup toolchain install nightly)" >&2
    exit 0
fi
command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked -q

run() { # RUNS TARGET
    mkdir -p "fuzz/corpus/$2"
    # libFuzzer writes new inputs to the first folder, and only reads the second one.
    cargo +nightly fuzz run "$2" "fuzz/corpus/$2" "fuzz/seeds/$2" -- \
        -runs="$1" -max_len=4096 -verbosity=0 -print_final_stats=1
}

if [ $# -eq 2 ]; then
    run "$1" "$2"
else
    run 200000 key_hash
    run 200000 operations
    run 20000 authenticate
fi
