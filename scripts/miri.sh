#!/usr/bin/env bash
# Runs the tests of reclamation, of progress and of the read lease under Miri, which reports
# undefined behaviour: reads of freed memory, data races, memory that is freed with another layout.
# Needs a nightly toolchain.
#
#   scripts/miri.sh                       the three tests
#   scripts/miri.sh -- --nocapture NAME   only the tests whose name contains NAME
#
# Under Miri the asymmetric barrier is a fence on both sides (src/reclaim/barrier.rs), and large
# tests have a small size.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! rustup component add --toolchain nightly miri rust-src 2>/dev/null ||
    ! cargo +nightly miri --version >/dev/null 2>&1; then
    echo "miri: LEFT OUT, because there is no nightly toolchain with Miri" >&2
    echo "      (rustup toolchain install nightly --component miri,rust-src)" >&2
    exit 0
fi
# This takes some minutes, most of them for the dependencies of the tests.
cargo +nightly miri test --locked -p trust-key-cache --target-dir target/miri \
    --test g7_reclamation --test g5_progress --test read_lease "$@"
