#!/usr/bin/env bash
# Runs each fuzz target for a bounded number of runs, from the checked-in seeds. Needs a nightly toolchain; installs cargo-fuzz.
#
#   scripts/fuzz.sh              200,000 runs of each target, 20,000 of those that run an authenticator
#   scripts/fuzz.sh RUNS TARGET  so many runs of one target
set -euo pipefail
cd "$(dirname "$0")/.."
if ! cargo +nightly --version >/dev/null 2>&1; then
    echo "fuzz: left out, since there is no nightly toolchain (rustup toolchain install nightly)"
    exit 0
fi
command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked -q

run() { # RUNS TARGET
    mkdir -p "fuzz/corpus/$2"
    # The corpus that grows comes first: libFuzzer writes what it finds there, and only reads the seeds.
    cargo +nightly fuzz run "$2" "fuzz/corpus/$2" "fuzz/seeds/$2" -- -runs="$1" -max_len=4096 -verbosity=0 -print_final_stats=1
}

if [ $# -eq 2 ]; then
    run "$1" "$2"
else
    run 200000 key_hash
    run 200000 operations
    run 20000 authenticate
fi
