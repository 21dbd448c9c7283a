#!/usr/bin/env bash
# Runs the cache's tests as AArch64 code, under qemu's user-mode emulation.
#
# This checks the code that the compiler generates for AArch64: sizes, alignments, atomic
# instructions. It does not check memory ordering, because qemu executes the instructions on the
# host, and x86-64 reorders less than AArch64 may. For ordering there are the models in loom-tests/.
#
# Needs Debian's packages gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user.
set -euo pipefail
cd "$(dirname "$0")/.."
target=aarch64-unknown-linux-gnu
linker=aarch64-linux-gnu-gcc
emulator=qemu-aarch64
for program in "$linker" "$emulator"; do
    if ! command -v "$program" >/dev/null; then
        echo "aarch64: LEFT OUT, because there is no $program" >&2
        exit 0
    fi
done
if ! rustup target add "$target" 2>/dev/null; then
    echo "aarch64: LEFT OUT, because rustup cannot install the target $target" >&2
    exit 0
fi
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$linker
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$emulator -L /usr/aarch64-linux-gnu"
# The emulator is some thirty times slower than the host.
export PROPTEST_CASES=${PROPTEST_CASES:-8}

tests=()
for file in tests/*.rs; do
    name=$(basename "$file" .rs)
    case $name in
    # It counts bytes over two million changes, which takes a minute here.
    g6_memory) ;;
    # It searches for reorderings, which only the host's memory ordering could show here.
    linearizability) ;;
    # The emulator does not install seccomp filters, by which these tests refuse membarrier(2).
    reclamation_refused*) ;;
    *) tests+=(--test "$name") ;;
    esac
done
cargo test --locked -p trust-key-cache --target "$target" --lib "${tests[@]}" "$@"
