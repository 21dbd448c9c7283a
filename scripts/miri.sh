#!/usr/bin/env bash
# Runs tests of reclamation under Miri, which reports undefined behaviour: reads of freed memory, data races, a
# freeing with another layout. Needs a nightly toolchain that has Miri.
#
# Where Miri runs, the asymmetric barrier is a fence on either side (src/reclaim/barrier.rs), and large tests are small.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! cargo +nightly miri --version >/dev/null 2>&1; then
    echo "miri: LEFT OUT, since there is no nightly toolchain with Miri" >&2
    echo "      (rustup toolchain install nightly --component miri,rust-src)" >&2
    exit 0
fi
# Some minutes, most of which go to building what the tests depend on.
cargo +nightly miri test --locked -p trust-key-cache --target-dir target/miri \
    --test g7_reclamation --test g5_progress "$@"
