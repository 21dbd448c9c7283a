#!/usr/bin/env bash
# Builds the Debian package with the static program, in target/debian, and checks its content.
#
# Needs musl-gcc (Debian's musl-tools), Rust's target for musl, and cargo-deb, which is built into
# target/tools at the first run. With Debian's lintian, checks the package by Debian's rules, too.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(uname -m)-unknown-linux-musl
export PATH="$PATH:$PWD/target/tools/bin"
for program in musl-gcc dpkg-deb; do
    if ! command -v "$program" >/dev/null; then
        echo "deb: LEFT OUT, because there is no $program" >&2
        exit 0
    fi
done
if ! rustup target add "$target" 2>/dev/null; then
    echo "deb: LEFT OUT, because rustup cannot install the target $target" >&2
    exit 0
fi
if ! command -v cargo-deb >/dev/null &&
    ! cargo install --locked -q --root target/tools cargo-deb@3.8.0; then
    echo "deb: LEFT OUT, because cargo-deb cannot be installed" >&2
    exit 0
fi

cargo build --locked --profile dist -p trust-auth-server --target "$target"
rm -rf target/debian
package=$(cargo deb --locked --no-build --profile dist -p trust-auth-server --target "$target" \
    --output target/debian/)
echo "deb: $package"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
fail() {
    echo "deb: $1" >&2
    exit 1
}
# Each file with its mode and owner.
dpkg-deb -c "$package" | awk '$1 !~ /^d/ { print $1, $2, $6 }' | sort -k 3 >"$folder/content"
cat "$folder/content"
server=crates/trust-auth-server
{
    echo "-rwxr-xr-x 0/0 ./usr/bin/trust-auth"
    echo "-rw------- 0/0 ./etc/trust-auth/environment"
    echo "-rw-r--r-- 0/0 ./usr/lib/systemd/system/trust-auth.service"
    echo "-rw-r--r-- 0/0 ./usr/share/doc/trust-auth/copyright"
    for file in "$server"/{README.md,applications/*,docs/*,monitoring/*,proxies/*}; do
        echo "-rw-r--r-- 0/0 ./usr/share/doc/trust-auth/${file#"$server"/}"
    done
} | sort -k 3 >"$folder/expected"
diff "$folder/expected" "$folder/content" || fail "the package has other files than expected"

dpkg-deb -x "$package" "$folder/root"
cmp "$server/systemd/trust-auth.service" "$folder/root/usr/lib/systemd/system/trust-auth.service"
dpkg-deb -e "$package" "$folder/control"
grep -qx /etc/trust-auth/environment "$folder/control/conffiles" ||
    fail "the settings would be lost in an upgrade"
# The operator enables and starts the unit. An upgrade keeps what the operator chose.
if ! grep -q 'debian-installed trust-auth.service' "$folder/control/postinst" ||
    grep -E 'deb-systemd-invoke (start|\$_dh_action)' "$folder/control/postinst"; then
    fail "the package enables or starts the unit"
fi
env -i "$folder/root/usr/bin/trust-auth" --version
if command -v lintian >/dev/null; then
    # The first four rules are for Debian's own archive. Only root reads the settings. A static
    # program that is position-independent is taken for a library.
    lintian --allow-root --fail-on error,warning --suppress-tags \
        copyright-not-using-common-license-for-apache2,malformed-contact,no-changelog \
        --suppress-tags no-manual-page,non-standard-file-perm,shared-library-lacks-prerequisites \
        "$package"
fi
echo "deb: ok"
