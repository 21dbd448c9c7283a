#!/usr/bin/env python3
"""Fuzzes the admin API of a running service, by the OpenAPI document that the program prints.

    scripts/openapi_fuzz.py                     what .ci/run runs: one seed, under a minute
    scripts/openapi_fuzz.py --seed 7 --examples 200

Builds the program, starts it on a new SQLite file, and lets schemathesis send requests that the
document allows and requests that it forbids, alone and in sequences. Each answer must have a
status, a type, headers and a body of the document, and no answer may be a 5xx. A second run starts
the service with a read lease, under which revocations wait, and their answers have more members.

Fails if an answer is not as documented, if the log has an error, or if the service does not end in
order. If schemathesis is neither installed nor available from PyPI, prints LEFT OUT and passes.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / "target" / "tools"
SCHEMATHESIS = "schemathesis==4.32.5"
ADMIN_KEY = "the-admin-key-of-the-fuzzer"

# No JSON schema has the rules for characters in names and labels, so one of the schema may get 422.
CONFIGURATION = """\
[[operations]]
include-operation-id = "register_trust"
checks.positive_data_acceptance.expected-statuses = ["2xx", "409", "422"]

[[operations]]
include-operation-id = ["add_key", "rotate_key", "set_attributes"]
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "422"]
"""

# The service's own arguments, and those of schemathesis.
RUNS = [
    ([], ["--phases", "examples,coverage,fuzzing,stateful"]),
    # SQLite waits for the length of the lease at each revocation.
    (["--read-lease", "300ms"], ["--phases", "examples,stateful", "--max-examples", "5"]),
]


def schemathesis() -> str | None:
    """Returns the program, which this installs if it is missing and PyPI can be reached."""
    path = os.pathsep.join([os.environ["PATH"], str(TOOLS / "bin")])
    if found := shutil.which("schemathesis", path=path):
        return found
    for command in (
        [sys.executable, "-m", "venv", TOOLS],
        [TOOLS / "bin" / "pip", "install", "-q", "--retries", "1", SCHEMATHESIS],
    ):
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
        except (OSError, subprocess.SubprocessError) as error:
            print(getattr(error, "stderr", None) or error, file=sys.stderr)
            return None
    return str(TOOLS / "bin" / "schemathesis")


def build() -> Path:
    """Builds the program, and returns its path."""
    command = ["cargo", "build", "--locked", "-q", "-p", "trust-auth-server"]
    subprocess.run(command, check=True, cwd=ROOT)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "debug" / "trust-auth"


def fuzz(program: Path, fuzzer: str, serve: list[str], arguments: list[str]) -> list[str]:
    """Starts a service, fuzzes it and stops it. Returns what was wrong."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "schemathesis.toml").write_text(CONFIGURATION)
        document = subprocess.run([program, "openapi"], check=True, capture_output=True).stdout
        (Path(folder) / "openapi.json").write_bytes(document)
        own = {name: value for name, value in os.environ.items()
               if not name.startswith("TRUST_AUTH_")}
        own["TRUST_AUTH_ADMIN_KEY_SHA256"] = hashlib.sha256(ADMIN_KEY.encode()).hexdigest()
        log = Path(folder) / "log"
        service = subprocess.Popen(
            [program, "--json", "serve", "--listen", "127.0.0.1:0", "--admin-listen",
             "127.0.0.1:0", "--log-format", "json", "--drain-delay", "100ms", *serve],
            cwd=folder, env=own, stdout=subprocess.PIPE, stderr=log.open("w"), text=True)
        try:
            started = json.loads(service.stdout.readline())
            url = f"http://{started['serving']['admin_listen']}"
            # The header replaces the key that the fuzzer would invent.
            fuzzed = subprocess.run(
                [fuzzer, "--config-file", "schemathesis.toml", "run", "openapi.json", "--url", url,
                 "--header", f"Authorization: Bearer {ADMIN_KEY}", "--checks", "all",
                 "--continue-on-failure", "--generation-database", "none", "--no-color",
                 "--suppress-health-check", "all",
                 *arguments],
                cwd=folder, timeout=600)
            service.terminate()
            ended = service.wait(timeout=60)
        finally:
            service.kill()
        wrong = []
        if fuzzed.returncode != 0:
            wrong.append(f"schemathesis exits with {fuzzed.returncode}")
        if ended != 0:
            wrong.append(f"the service exits with {ended}")
        errors = [line for line in log.read_text().splitlines()
                  if not line.startswith("{") or json.loads(line)["level"] == "ERROR"]
        return wrong + errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--examples", type=int, default=30, help="for each operation")
    options = parser.parse_args()
    if (fuzzer := schemathesis()) is None:
        print("openapi_fuzz: LEFT OUT: schemathesis cannot be installed", file=sys.stderr)
        return
    program = build()
    wrong = []
    for serve, arguments in RUNS:
        arguments = ["--seed", str(options.seed), "--max-examples", str(options.examples),
                     *arguments]
        wrong += [f"{' '.join(serve) or 'no arguments'}: {what}"
                  for what in fuzz(program, fuzzer, serve, arguments)]
    sys.exit("\n".join(wrong) if wrong else 0)


if __name__ == "__main__":
    main()
