#!/usr/bin/env python3
"""Measures the mutation score: breaks the code in one place at a time, and runs models and tests.

There are two kinds of mutants. The first kind weakens one memory ordering in src/ to Relaxed, or
removes one fence; the script finds them by reading the sources. The second kind is listed in
scripts/mutants.toml. A mutant of another package (crates/) names its own check: `check` holds the
arguments of `cargo test`.

The script builds and checks each mutant in a copy under target/mutants. It runs one test at a time,
so that a crash has a name. It first runs the tests that docs/generated/mutants.md names for the
mutant, then all tests, until one fails. It prints the table (Markdown) on standard output, and
progress on standard error.

    scripts/mutants.py                    checks all mutants
    scripts/mutants.py --list             lists their names, and builds nothing
    scripts/mutants.py lease expired      checks the mutants whose name has one of these words
    scripts/mutants.py --write            also writes the table to docs/generated/mutants.md

After an interruption, the next run continues where the last one stopped, as long as the sources
are the same (target/mutants/verdicts.json).

Exit code: 0 if a named test killed every mutant; 1 if a mutant survived; 2 if a mutant could not be
applied or built, or if the unmutated sources fail. `--list` applies each mutant in memory, and
exits with 2 if a quoted text does not occur exactly once in its file.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPY = ROOT / "target" / "mutants" / "tree"
TARGET = ROOT / "target" / "mutants" / "build"
PAGE = ROOT / "docs" / "generated" / "mutants.md"
PAGE_HEAD = """\
# The table of mutants

`scripts/mutants.py --write` writes this page; do not edit it by hand. Each row is one change to the
sources, and the first test or model that failed because of the change. The script reads the table
to run that test first. [assurance.md](../assurance.md#the-mutation-score) explains the method.
"""
STRONGER = re.compile(r"Ordering::(Acquire|Release|AcqRel|SeqCst)")
# Models detect weak orderings, tests detect the rest.
MODEL = ["--features", "loom", "--test", "loom"]
CHECKS = {
    "model": MODEL,
    "test": ["--lib", "--tests"],
}
# Parts of the names of the tests to run first, where the table has no row.
LIKELY = {
    "src/reclaim/asymmetric.rs": ("model", ["g7_epochs"]),
    "src/sync/loom.rs": ("model", ["g7_epochs"]),
}
# Only the models over crossbeam-epoch run these files.
CHECKS_OF = {
    "src/reclaim/crossbeam.rs": {
        "model over crossbeam-epoch": [
            *MODEL, "--config", "build.rustflags = ['--cfg', 'crossbeam_loom']"
        ]
    },
}
# Compiled only for Miri, so no check of this script runs it.
NOT_RUN = {"src/reclaim/barrier_miri.rs"}
# A check that takes longer is stopped. A stopped test counts as a failed test.
SECONDS = 900


class Misfit(Exception):
    """A mutant that cannot be applied to the sources."""


@dataclass
class Mutant:
    name: str
    file: str
    edits: list[tuple[str, str]]
    at: int | None = None  # for an ordering: the offset of its name in the file
    check: tuple[str, ...] | None = None  # arguments of `cargo test` that replace CHECKS

    def apply(self, text: str) -> str:
        if self.at is not None:
            (old, new), = self.edits
            assert text.startswith(old, self.at)
            return text[: self.at] + new + text[self.at + len(old) :]
        original = text
        for old, new in self.edits:
            if (count := text.count(old)) != 1:
                quoted = old.strip().splitlines()[0]
                raise Misfit(
                    f"'{self.name}': the text occurs {count} times in {self.file}, not once:"
                    f" {quoted}"
                )
            text = text.replace(old, new)
        if text == original:
            raise Misfit(f"'{self.name}' changes nothing in {self.file}")
        return text


def orderings() -> list[Mutant]:
    found = []
    for path in sorted((ROOT / "src").rglob("*.rs")):
        text, file = path.read_text(), str(path.relative_to(ROOT))
        if file in NOT_RUN:
            continue
        for match in STRONGER.finditer(text):
            start = text.rfind("\n", 0, match.start()) + 1
            line = text[start : text.find("\n", match.start())]
            # No model and no processor shows the lack of a compiler fence.
            if line.lstrip().startswith("//") or "compiler_fence(" in line:
                continue
            where = f"{file}:{text.count(chr(10), 0, match.start()) + 1}"
            if fence := re.search(r"fence\(Ordering::\w+\);", line):
                edit = (fence[0], ";")
                found.append(Mutant(f"{where}: no fence", file, [edit], start + fence.start()))
            else:
                weaker = ["Relaxed"] if match[1] != "AcqRel" else ["Relaxed", "Acquire", "Release"]
                for order in weaker:
                    edit = (match[0], f"Ordering::{order}")
                    name = f"{where}: {match[1]} → {order}"
                    found.append(Mutant(name, file, [edit], match.start()))
    return found


def semantic() -> list[Mutant]:
    mutants = []
    for entry in tomllib.loads((ROOT / "scripts" / "mutants.toml").read_text())["mutant"]:
        edits = entry.get("edits") or [[entry["old"], entry["new"]]]
        edits = [tuple(edit) for edit in edits + entry.get("also", [])]
        check = tuple(entry["check"]) if "check" in entry else None
        if entry["file"].startswith("crates/") and not check:
            raise Misfit(f"'{entry['name']}': a mutant in crates/ needs a `check`")
        mutants.append(Mutant(entry["name"], entry["file"], edits, check=check))
    return mutants


def misfits(mutants: list[Mutant]) -> list[str]:
    """Applies each mutant in memory. Returns what is wrong with those that cannot be applied."""
    found = []
    names = [mutant.name for mutant in mutants]
    for mutant in mutants:
        try:
            mutant.apply((ROOT / mutant.file).read_text())
        except (Misfit, OSError) as misfit:
            found.append(str(misfit))
    # An ordering's name is its place, where one line may have two.
    semantic_names = [mutant.name for mutant in mutants if mutant.at is None]
    twice = {name for name in semantic_names if names.count(name) > 1}
    return found + [f"'{name}' is the name of several mutants" for name in sorted(twice)]


class Verdicts:
    """The verdicts on the present sources, so that an interrupted run can be continued."""

    def __init__(self, file: str, sources: str):
        self.file = ROOT / "target" / "mutants" / file
        stored = json.loads(self.file.read_text()) if self.file.is_file() else {}
        self.known = stored if stored.get("sources") == sources else {"sources": sources}

    def get(self, name: str) -> list[str] | None:
        return self.known.get(name)

    def put(self, name: str, *verdict: str) -> None:
        self.known[name] = verdict
        # By a rename, so that an interruption leaves no half-written file.
        (new := self.file.with_suffix(".new")).write_text(json.dumps(self.known))
        new.replace(self.file)


def copy_sources() -> tuple[str, str]:
    """Copies the sources. Returns two digests: of the cache's sources, and of all packages'."""
    cache, all_packages = hashlib.sha256(), hashlib.sha256()
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    files = listed.stdout.split("\0")
    shutil.rmtree(COPY, ignore_errors=True)
    for file in filter(None, files):
        if (ROOT / file).is_file():
            (COPY / file).parent.mkdir(parents=True, exist_ok=True)
            # With the present time: otherwise cargo would take a mutant that an interrupted run
            # has built for newer than the sources.
            shutil.copy(ROOT / file, COPY / file)
            if not file.startswith(("docs/", "benches/")) and not file.endswith(".md"):
                content = f"{file}\0".encode() + (ROOT / file).read_bytes()
                all_packages.update(content)
                if not file.startswith("crates/"):
                    cache.update(content)
    return cache.hexdigest(), all_packages.hexdigest()


def likely() -> dict[str, list[tuple[str, list[str]]]]:
    """Returns the tests that the table names for each mutant.

    Line numbers are left out, so an ordering gets the tests of all orderings of its file.
    """
    table = PAGE.read_text() if PAGE.is_file() else ""
    killers: dict[str, list[tuple[str, list[str]]]] = {}
    for row in re.finditer(r"^\| (.+?) \| (model|test) `(\w+)`", table, re.MULTILINE):
        tests = dict(killers.setdefault(without_line(row[1]), []))
        tests[row[2]] = sorted({*tests.get(row[2], []), row[3]})
        killers[without_line(row[1])] = list(tests.items())
    return killers


def without_line(name: str) -> str:
    return re.sub(r":\d+: .*", "", name)


def cargo(arguments: list[str], names: list[str] = []) -> tuple[str, str]:
    """Runs all tests, or the tests with these names.

    Returns the outcome ('ok', 'failed', 'build' or 'hung'), and what was printed.
    """
    target = TARGET.with_name("build-configured") if "--config" in arguments else TARGET
    package = [] if "-p" in arguments else ["-p", "trust-key-cache"]
    command = ["cargo", "test", "--locked", *package, "--target-dir", str(target), *arguments]
    if subprocess.run([*command, "--no-run", "-q"], cwd=COPY, capture_output=True).returncode:
        return "build", ""
    run = subprocess.Popen(
        [*command, "--", "--test-threads=1", *names], cwd=COPY, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )
    try:
        output, _ = run.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        # Cargo's child, too: a test that hangs would occupy a core until the machine stops.
        os.killpg(run.pid, signal.SIGKILL)
        return "hung", run.communicate()[0]
    return "failed" if run.returncode else "ok", output


def killer(output: str) -> str | None:
    """Returns the first test that failed, or that was running when the process died."""
    for line in output.splitlines():
        test = re.match(r"test (\S+) (?:- should panic )?\.\.\. ?(.*)", line)
        if test and not test[2].startswith(("ok", "ignored")):
            return test[1].split("::")[-1]
    return None


def checks(
    mutant: Mutant, known: dict[str, list[tuple[str, list[str]]]]
) -> list[tuple[str, list[str], list[str]]]:
    """Returns what to run, in order: the kind, cargo's arguments, and the tests (none: all)."""
    if mutant.check:
        return [("test", list(mutant.check), [])]
    if mutant.file in CHECKS_OF:
        return [(kind, arguments, []) for kind, arguments in CHECKS_OF[mutant.file].items()]
    first = list(known.get(without_line(mutant.name), []))
    if mutant.file in LIKELY:
        first.append(LIKELY[mutant.file])
    kinds = CHECKS if mutant.at is not None else reversed(CHECKS)
    return [
        *((kind, CHECKS[kind], names) for kind, names in first),
        *((kind, CHECKS[kind], []) for kind in kinds),
    ]


def judge(mutant: Mutant, known: dict[str, list[tuple[str, list[str]]]]) -> tuple[str, str]:
    path = COPY / mutant.file
    original = path.read_text()
    try:
        path.write_text(mutant.apply(original))
        for kind, arguments, names in checks(mutant, known):
            outcome, output = cargo(arguments, names)
            if outcome == "build":
                return "not built", ""
            if outcome in ("failed", "hung") and (test := killer(output)):
                return "killed", f"{kind} `{test}`{' (never ended)' if outcome == 'hung' else ''}"
            if outcome != "ok":
                return "not built", f"{kind}: {outcome} without a name"
        return "survived", ""
    finally:
        path.write_text(original)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", help="parts of the names of the mutants to check")
    parser.add_argument("--list", action="store_true", help="list the names, and build nothing")
    parser.add_argument("--write", action="store_true", help="also write the table to its page")
    arguments = parser.parse_args()
    if arguments.write and arguments.words:
        parser.error("--write needs all mutants: leave the words out")
    words = [word.lower() for word in arguments.words]
    try:
        every = orderings() + semantic()
    except Misfit as misfit:
        print(f"mutants: {misfit}", file=sys.stderr)
        return 2
    mutants = [m for m in every if not words or any(word in m.name.lower() for word in words)]
    if arguments.list:
        print("\n".join(mutant.name for mutant in mutants))
    if wrong := misfits(mutants):
        print("\n".join(f"mutants: {misfit}" for misfit in wrong), file=sys.stderr)
        return 2
    if arguments.list:
        return 0
    known = likely()
    cache, all_packages = copy_sources()
    of_cache = Verdicts("verdicts.json", cache)
    of_others = Verdicts("verdicts-auth.json", all_packages)
    own_checks = dict.fromkeys(mutant.check for mutant in mutants if mutant.check)
    unmutated = []
    if any(not mutant.check for mutant in mutants):
        unmutated += [(of_cache, f"{kind}s", check) for kind, check in CHECKS.items()]
    unmutated += [(of_others, f"cargo test {' '.join(check)}", list(check)) for check in own_checks]
    for verdicts, name, check in unmutated:
        if verdicts.get(name):
            continue
        print(f"unmutated sources, {name} ...", file=sys.stderr, flush=True)
        if (outcome := cargo(check)[0]) != "ok":
            print(f"mutants: the unmutated sources do not pass: {outcome}", file=sys.stderr)
            return 2
        verdicts.put(name, "ok")
    rows, bad = [], {"survived": 0, "not built": 0}
    for number, mutant in enumerate(mutants, 1):
        start = time.monotonic()
        verdicts = of_others if mutant.check else of_cache
        verdict, by = verdicts.get(mutant.name) or judge(mutant, known)
        verdicts.put(mutant.name, verdict, by)
        if verdict in bad:
            bad[verdict] += 1
        seconds = time.monotonic() - start
        line = f"{number}/{len(mutants)} {mutant.name}: {verdict} {by} ({seconds:.0f} s)"
        print(line, file=sys.stderr, flush=True)
        rows.append(f"| {mutant.name} | {by or '**' + verdict + '**'} |")
    score = f"{len(mutants) - sum(bad.values())} of {len(mutants)} mutants were killed."
    table = "\n".join([score, "", "| mutant | killed by |", "|---|---|", *rows])
    print(table)
    if arguments.write:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(f"{PAGE_HEAD}\n{table}\n")
    return 2 if bad["not built"] else 1 if bad["survived"] else 0


if __name__ == "__main__":
    sys.exit(main())
