#!/usr/bin/env bash
# Runs the chaos test of the read lease for some time, with faults in random order, and prints its
# counts on standard error: three services on one PostgreSQL, delayed, cut and partitioned lines, a
# stopped process, restarts, crashes and failovers of the database, and changers that are killed.
#
#   scripts/chaos.sh                     for ten minutes
#   scripts/chaos.sh 3600                for an hour
#   TRUST_AUTH_TEST_CHAOS_SEED=7 scripts/chaos.sh    in the order of that seed
#
# Exit code: 0 if no request was granted that began after a revocation had returned.
set -euo pipefail
cd "$(dirname "$0")/.."
export TRUST_AUTH_REQUIRE_POSTGRES=1
export TRUST_AUTH_TEST_CHAOS_SECONDS=${1:-600}
exec cargo test --locked -p trust-auth-server --test serve -- chaos::g11
