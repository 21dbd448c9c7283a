#!/usr/bin/env python3
"""The mutation score of the cache: break it in one place at a time, and see which model or test notices.

Mutants are (a) each memory ordering in src/ weakened to Relaxed (a fence: removed), found by reading the sources, and (b) the semantic
ones of scripts/mutants.toml. A mutant of another package (crates/) names its own check there: `check` holds the
arguments of `cargo test`. Each is built and checked in a copy under target/mutants, with one test at a time so that a crash has a
name: first by what killed it when the table in docs/assurance.md was written, then by everything, until something fails. Writes a table
(Markdown) to standard output, progress to standard error.

    scripts/mutants.py                    all of them
    scripts/mutants.py --list             their names
    scripts/mutants.py lease expired      those whose name has one of these words
    scripts/mutants.py --write            replaces the table in docs/assurance.md

A run that is interrupted goes on where it was, as long as the sources stay the same (target/mutants/verdicts.json).

Exit code: 0 if every mutant was killed by a named test, 1 if one survived, 2 if one could not be applied or built, or the unmutated
sources fail.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPY = ROOT / "target" / "mutants" / "tree"
TARGET = ROOT / "target" / "mutants" / "build"
TABLE = ("<!-- mutants -->", "<!-- /mutants -->")
STRONGER = re.compile(r"Ordering::(Acquire|Release|AcqRel|SeqCst)")
# The models know orderings, the tests the rest. A mutant that hangs is stopped, and is not killed by that.
MODEL = ["--features", "loom", "--test", "loom"]
CHECKS = {
    "model": MODEL,
    "test": ["--lib", "--tests"],
}
# What to try first where the table knows no better: parts of tests' names.
LIKELY = {
    "src/reclaim/asymmetric.rs": ("model", ["g7_epochs"]),
    "src/sync/loom.rs": ("model", ["g7_epochs"]),
}
# What runs in no other model than those over crossbeam-epoch.
CHECKS_OF = {
    "src/reclaim/crossbeam.rs": {"model over crossbeam-epoch": [*MODEL, "--config", "build.rustflags = ['--cfg', 'crossbeam_loom']"]},
}
# Compiled for Miri alone, so no check here runs it.
NOT_RUN = {"src/reclaim/barrier_miri.rs"}
SECONDS = 900


@dataclass
class Mutant:
    name: str
    file: str
    edits: list[tuple[str, str]]
    at: int | None = None  # for an ordering: the offset of its name in the file
    check: tuple[str, ...] | None = None  # the arguments of `cargo test` that check it, if not those of CHECKS

    def apply(self, text: str) -> str:
        if self.at is not None:
            (old, new), = self.edits
            assert text.startswith(old, self.at)
            return text[: self.at] + new + text[self.at + len(old) :]
        for old, new in self.edits:
            if text.count(old) != 1:
                raise SystemExit(f"mutants: '{self.name}': its text occurs {text.count(old)} times in {self.file}, not once")
            text = text.replace(old, new)
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
            # A compiler fence orders nothing that a model or a processor could show.
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
                    found.append(Mutant(f"{where}: {match[1]} → {order}", file, [edit], match.start()))
    return found


def semantic() -> list[Mutant]:
    mutants = []
    for entry in tomllib.loads((ROOT / "scripts" / "mutants.toml").read_text())["mutant"]:
        edits = entry.get("edits") or [[entry["old"], entry["new"]]]
        edits = [tuple(edit) for edit in edits + entry.get("also", [])]
        check = tuple(entry["check"]) if "check" in entry else None
        if entry["file"].startswith("crates/") and not check:
            raise SystemExit(f"mutants: '{entry['name']}': a mutant in crates/ needs a `check`")
        mutants.append(Mutant(entry["name"], entry["file"], edits, check=check))
    return mutants


class Verdicts:
    """Those on these very sources, so that a run which was interrupted goes on where it was."""

    def __init__(self, file: str, sources: str):
        self.file = ROOT / "target" / "mutants" / file
        stored = json.loads(self.file.read_text()) if self.file.is_file() else {}
        self.known = stored if stored.get("sources") == sources else {"sources": sources}

    def get(self, name: str) -> list[str] | None:
        return self.known.get(name)

    def put(self, name: str, *verdict: str) -> None:
        self.known[name] = verdict
        # Not half a file, whenever it is interrupted.
        (new := self.file.with_suffix(".new")).write_text(json.dumps(self.known))
        new.replace(self.file)


def copy_sources() -> tuple[str, str]:
    """Returns the digests of the sources that a verdict depends on: of the cache alone, and of all packages."""
    cache, all_packages = hashlib.sha256(), hashlib.sha256()
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    shutil.rmtree(COPY, ignore_errors=True)
    for file in filter(None, files):
        if (ROOT / file).is_file():
            (COPY / file).parent.mkdir(parents=True, exist_ok=True)
            # As of now: cargo would take what an interrupted run has built of a mutant for newer than the sources.
            shutil.copy(ROOT / file, COPY / file)
            if not file.startswith(("docs/", "benches/")) and not file.endswith(".md"):
                content = f"{file}\0".encode() + (ROOT / file).read_bytes()
                all_packages.update(content)
                if not file.startswith("crates/"):
                    cache.update(content)
    return cache.hexdigest(), all_packages.hexdigest()


def likely() -> dict[str, list[tuple[str, list[str]]]]:
    """What killed each mutant when the table was written. Line numbers are left out, so an ordering has those of all in its file."""
    table = (ROOT / "docs" / "assurance.md").read_text().split(TABLE[0])[1].split(TABLE[1])[0]
    killers: dict[str, list[tuple[str, list[str]]]] = {}
    for row in re.finditer(r"^\| (.+?) \| (model|test) `(\w+)`", table, re.MULTILINE):
        tests = dict(killers.setdefault(without_line(row[1]), []))
        tests[row[2]] = sorted({*tests.get(row[2], []), row[3]})
        killers[without_line(row[1])] = list(tests.items())
    return killers


def without_line(name: str) -> str:
    return re.sub(r":\d+: .*", "", name)


def cargo(arguments: list[str], names: list[str] = []) -> tuple[str, str]:
    """Runs tests, all or those with such names; how it went ('ok', 'failed', 'build', 'hung') and what was printed."""
    target = TARGET.with_name("build-configured") if "--config" in arguments else TARGET
    package = [] if "-p" in arguments else ["-p", "trust-key-cache"]
    command = ["cargo", "test", "--locked", *package, "--target-dir", str(target), *arguments]
    if subprocess.run([*command, "--no-run", "-q"], cwd=COPY, capture_output=True).returncode:
        return "build", ""
    try:
        run = subprocess.run(
            [*command, "--", "--test-threads=1", *names], cwd=COPY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired as hung:
        return "hung", (hung.stdout or b"").decode(errors="replace")
    return "failed" if run.returncode else "ok", run.stdout


def killer(output: str) -> str | None:
    """The first test that failed, or that was running when the process died."""
    for line in output.splitlines():
        if (test := re.match(r"test (\S+) (?:- should panic )?\.\.\. ?(.*)", line)) and not test[2].startswith(("ok", "ignored")):
            return test[1].split("::")[-1]
    return None


def checks(mutant: Mutant, known: dict[str, list[tuple[str, list[str]]]]) -> list[tuple[str, list[str], list[str]]]:
    """What to run, in this order: kind, arguments, and which tests, or all."""
    if mutant.check:
        return [("test", list(mutant.check), [])]
    if mutant.file in CHECKS_OF:
        return [(kind, arguments, []) for kind, arguments in CHECKS_OF[mutant.file].items()]
    first = known.get(without_line(mutant.name), []) + ([LIKELY[mutant.file]] if mutant.file in LIKELY else [])
    kinds = CHECKS if mutant.at is not None else reversed(CHECKS)
    return [*((kind, CHECKS[kind], names) for kind, names in first), *((kind, CHECKS[kind], []) for kind in kinds)]


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
                return "killed", f"{kind} `{test}`" + (" (never ended)" if outcome == "hung" else "")
            if outcome != "ok":
                return "not built", f"{kind}: {outcome} without a name"
        return "survived", ""
    finally:
        path.write_text(original)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    mutants = [
        mutant for mutant in orderings() + semantic()
        if not arguments.words or any(word.lower() in mutant.name.lower() for word in arguments.words)
    ]
    if arguments.list:
        print("\n".join(mutant.name for mutant in mutants))
        return 0
    known = likely()
    cache, all_packages = copy_sources()
    of_cache, of_others = Verdicts("verdicts.json", cache), Verdicts("verdicts-auth.json", all_packages)
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
        print(f"{number}/{len(mutants)} {mutant.name}: {verdict} {by} ({seconds:.0f} s)", file=sys.stderr, flush=True)
        rows.append(f"| {mutant.name} | {by or '**' + verdict + '**'} |")
    score = f"{len(mutants) - sum(bad.values())} of {len(mutants)} mutants were killed."
    table = "\n".join([score, "", "| mutant | killed by |", "|---|---|", *rows])
    print(table)
    if arguments.write:
        page = ROOT / "docs" / "assurance.md"
        before, rest = page.read_text().split(TABLE[0])
        page.write_text(f"{before}{TABLE[0]}\n{table}\n{TABLE[1]}{rest.split(TABLE[1])[1]}")
    return 2 if bad["not built"] else 1 if bad["survived"] else 0


if __name__ == "__main__":
    sys.exit(main())
