#!/usr/bin/env bash
# Runs the tests of races and reclamation under AddressSanitizer, with leak detection. Needs a
# nightly toolchain.
#
# ThreadSanitizer is left out. Without a standard library that was rebuilt for it, it reports data
# races that do not exist.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! cargo +nightly --version >/dev/null 2>&1; then
    echo "asan: LEFT OUT, because there is no nightly toolchain" >&2
    echo "      (rustup toolchain install nightly)" >&2
    exit 0
fi
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="-Zsanitizer=address" cargo +nightly test --locked -p trust-key-cache \
    --target "$host" --target-dir target/asan \
    --test g1_g2_revocation --test g5_progress --test g7_reclamation --test linearizability \
    --test read_lease "$@"
