#!/usr/bin/env bash
# Packages the published crates in one call. Then checks and documents each unpacked package,
# outside of the repository.
#
#   scripts/package.sh                  a clean checkout
#   scripts/package.sh --allow-dirty    the working copy as it is
#
# Fails on every warning except "ignoring ...", which names a test or benchmark that stays out.
set -euo pipefail
cd "$(dirname "$0")/.."
crates=(trust-key-cache trust-auth trust-auth-server)
target=$PWD/target
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# Without cargo's own verification: it keeps the unpacked sources of one run for the next, and then
# builds an older package of the same version.
cargo package --locked --no-verify --target-dir "$target" "${crates[@]/#/--package=}" "$@" 2>&1 |
    tee "$folder/log"
if grep '^warning' "$folder/log" | grep -v '^warning: ignoring '; then
    echo "package: remove the causes of the warnings above" >&2
    exit 1
fi

# The packages depend on each other, and the registry does not have these versions yet.
patches=()
for crate in "${crates[@]}"; do
    version=$(cargo pkgid --locked -p "$crate" | sed 's/.*[#@]//')
    tar -xzf "$target/package/$crate-$version.crate" -C "$folder"
    mv "$folder/$crate-$version" "$folder/$crate"
    patches+=(--config "patch.crates-io.$crate.path = '$folder/$crate'")
done
for crate in "${crates[@]}"; do
    echo "package: cargo check and cargo doc of $crate"
    (
        cd "$folder/$crate"
        cargo check -q --all-features --target-dir "$target" "${patches[@]}"
        RUSTDOCFLAGS="-D warnings" cargo doc -q --no-deps --all-features \
            --target-dir "$target" "${patches[@]}"
    )
done
