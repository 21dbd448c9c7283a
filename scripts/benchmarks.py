#!/usr/bin/env python3
"""Runs the benchmarks, and renders BENCHMARKS.md, its plots, and the page of targets.

Each run starts one process per benchmark. Criterion's output of run N is in
target/criterion/runs/N. A ratio is formed within one run, and the median of the runs is compared
with the target. The tables and plots show the medians, over the runs, of criterion's medians.
scripts/benchmarks.toml has the targets.

    scripts/benchmarks.py                  makes five runs of everything, in about an hour
    scripts/benchmarks.py --runs 9
    scripts/benchmarks.py --seconds 0.3    measures each figure for 0.3 s a run, not for 1 s
    scripts/benchmarks.py --quick          makes one short run, to check that everything works
    scripts/benchmarks.py --only lookup    measures this benchmark again, and keeps the others'
                                           figures; may be repeated
    scripts/benchmarks.py --no-run         renders the figures of the last runs, or of a plain
                                           `cargo bench`

The script prints the table of targets on standard output, and progress on standard error. Exit
code: 0, also when a target is missed; 1 if something could not be run or read; 2 for wrong
arguments.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import textwrap
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import charts

ROOT = Path(__file__).resolve().parent.parent
CRITERION = ROOT / "target" / "criterion"
RUNS = CRITERION / "runs"
REPORT = ROOT / "BENCHMARKS.md"
PLOTS = ROOT / "docs" / "benchmarks"
TARGETS = ROOT / "docs" / "generated" / "benchmark-targets.md"
TARGETS_DATA = ROOT / "scripts" / "benchmarks.toml"

# `request` is a benchmark of the authenticator. Those in COUNTED count the same in each run.
BENCHES = [
    "lookup",
    "contention",
    "remember",
    "invalidate",
    "sweep",
    "footprint",
    "instructions",
    "lines",
    "loads",
    "ratios",
    "request",
]
COUNTED = {"footprint", "instructions", "lines"}
# Their rounds take turns within one process, and criterion has no part in them.
ALTERNATING = {"loads", "ratios"}
# The package of `request`, with the database that it needs.
REQUEST = ["-p", "trust-auth", "--features", "trust-auth/sqlite"]
# The files of a benchmark in criterion's folder, where the benchmark's name does not match them.
WRITES = {"contention": ["contention*", "latency.json"], "request": ["sqlite*", "memory*"]}
QUICK = ["--warm-up-time", "0.1", "--measurement-time", "0.2", "--sample-size", "10"]

# The names of the rows, as in benches/peers.
OURS = "trust-key-cache"
LIMIT = "limit: hashbrown, unsynchronised"
LIMIT_CONSTANT_TIME = "limit: constant-time compare"
LIMIT_AS_WRITTEN = "limit: HashMap<KeyHash>"
LIMITS = [LIMIT_CONSTANT_TIME, LIMIT_AS_WRITTEN, LIMIT]
LOOP = "the loop alone"
CLOCK = "the clock alone"
HANDLES = "ArcSwap<hashbrown>, Cache per thread"
MOKA = "moka"
REFERENCE = "Mutex<HashMap>"
# This cache over another reclamation: the rows that show what the epochs save.
OVER_CROSSBEAM = "this cache over crossbeam-epoch"
OVER_SEIZE = "this cache over seize"
RECLAMATIONS = [OURS, OVER_CROSSBEAM, OVER_SEIZE]
# Rows that are shown but are no peers. BENCHMARKS.md gives the reason for the handles.
NO_PEERS = {*RECLAMATIONS, *LIMITS, LOOP, CLOCK, HANDLES}
# The divisor in scripts/benchmarks.toml that stands for one of the peers.
BEST = "the best peer"
SIZES = ["20", "1000", "100000", "1000000"]


class Failure(Exception):
    pass


# ---- Measuring -----------------------------------------------------------------------------------


def measure(benches: list[str], runs: int, quick: bool, seconds: float | None):
    for bench in benches:
        forget(bench)
    packages = ["-p", "trust-key-cache", *(REQUEST if "request" in benches else [])]
    tell("building")
    cargo(["bench", "--locked", "--no-run", "-q", *packages], {})
    for run in range(1, runs + 1):
        home = RUNS / str(run)
        home.mkdir(parents=True, exist_ok=True)
        for bench in benches:
            if bench in COUNTED and run > 1:
                continue
            start = time.monotonic()
            tell(f"run {run} of {runs}: {bench}")
            package = (
                [*REQUEST, "--bench", "lookup_vs_sweep"]
                if bench == "request"
                else ["-p", "trust-key-cache", "--bench", bench]
            )
            shorter = (
                QUICK
                if quick
                else ["--warm-up-time", str(seconds / 3), "--measurement-time", str(seconds)]
                if seconds
                else []
            )
            options = (
                []
                if bench in COUNTED
                else ["--quick"] * quick
                if bench in ALTERNATING
                else ["--noplot", *shorter]
            )
            cargo(
                ["bench", "--locked", "-q", *package, "--", *options], {"CRITERION_HOME": str(home)}
            )
            note_circumstances(home, bench, quick)
            tell(f"run {run} of {runs}: {bench}: {time.monotonic() - start:.0f} s")


def forget(bench: str):
    """Removes the benchmark's figures of earlier runs, so that no median mixes the two."""
    for home in RUNS.glob("*"):
        for pattern in WRITES.get(bench, [f"{bench}*"]):
            for written in home.glob(pattern):
                shutil.rmtree(written) if written.is_dir() else written.unlink()
        file = home / "circumstances.json"
        if file.exists():
            kept = {of: entry for of, entry in json.loads(file.read_text()).items() if of != bench}
            file.write_text(json.dumps(kept, indent=2))


def cargo(arguments: list[str], environment: dict[str, str]):
    """Runs cargo, and shows its output only if it fails."""
    try:
        done = subprocess.run(
            ["cargo", *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except FileNotFoundError:
        raise Failure("cargo is not installed") from None
    if done.returncode:
        raise Failure(
            f"`cargo {' '.join(arguments)}` failed with exit code {done.returncode}:\n"
            f"{done.stdout[-4000:]}"
        )


def note_circumstances(home: Path, bench: str, quick: bool):
    file = home / "circumstances.json"
    noted = json.loads(file.read_text()) if file.exists() else {}
    # The files that this script writes are no change of the sources.
    changed = output(
        "git",
        "status",
        "--porcelain",
        "--",
        ".",
        ":!BENCHMARKS.md",
        ":!docs/benchmarks",
        ":!docs/generated",
    )
    noted[bench] = {
        "machine": machine(),
        "commit": output("git", "rev-parse", "--short=12", "HEAD")
        + (" with changes" if changed else ""),
        "date": datetime.date.today().isoformat(),
        "load": os.getloadavg()[0],
        "quick": quick,
    }
    file.write_text(json.dumps(noted, indent=2))


def machine() -> dict[str, str]:
    model = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
            model,
        )
        virtual = any(line.startswith("flags") and " hypervisor" in line for line in lines)
    except OSError:
        virtual = False
    return {
        "processor": model + (", virtualised" if virtual else ""),
        "cores": str(os.cpu_count()),
        "kernel": f"{platform.system()} {platform.release()}",
        "compiler": output("rustc", "--version"),
    }


def output(*command: str) -> str:
    try:
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def tell(message: str):
    print(f"benchmarks: {message}", file=sys.stderr, flush=True)


# ---- Reading -------------------------------------------------------------------------------------


class Run:
    """The figures of one run. A figure that was not measured raises KeyError."""

    def __init__(self, home: Path):
        self.times: dict[tuple[str, str, str], float] = {}
        for file in home.rglob("new/benchmark.json"):
            if home == CRITERION and file.is_relative_to(RUNS):
                continue
            name = json.loads(file.read_text())
            median = json.loads((file.parent / "estimates.json").read_text())["median"][
                "point_estimate"
            ]
            self.times[name["group_id"], name["function_id"] or "", name["value_str"] or ""] = (
                median
            )
        self.latency = self._json(home / "latency.json")
        self.footprint = self._json(home / "footprint.json")
        self.instructions = self._json(home / "instructions.json")
        self.lines = self._json(home / "lines.json")
        self.rounds = self._json(home / "ratios.json") | self._json(home / "loads.json")
        self.circumstances = self._json(home / "circumstances.json")

    @staticmethod
    def _json(file: Path) -> dict:
        return json.loads(file.read_text()) if file.exists() else {}

    def ns(self, group: str, function: str, value: str | int = "") -> float:
        return self.times[group, function, str(value)]

    def quantile(self, name: str, share: float) -> float:
        if self.latency[name]["lookups"] * (1 - share) < 10:
            raise KeyError(f"too few lookups for the quantile {share}")
        return dict(map(tuple, self.latency[name]["quantiles_ns"]))[share]

    def within_rounds(self, row: str, keys: str, divisor: str | None = None) -> float:
        if divisor is None:
            return self.rounds[row][keys][OURS]
        return self.quartiles(row, keys, divisor)[1]

    def quartiles(self, row: str, keys: str, divisor: str) -> list[float]:
        """Returns the quartiles of the ratios within the rounds."""
        found = self.rounds[row][keys]
        if divisor == BEST:
            divisor = self.best_peer(row, keys)
        return found["ratios"][divisor]

    def best_peer(self, row: str, keys: str) -> str:
        found = self.rounds[row][keys]
        peers = [name for name in found["ratios"] if name not in NO_PEERS]
        return min(peers, key=lambda name: found["ns"][name][1])


def load() -> list[Run]:
    homes = sorted(
        (home for home in RUNS.glob("*") if home.is_dir()), key=lambda home: int(home.name)
    )
    try:
        runs = [Run(home) for home in homes or [CRITERION]]
    except (OSError, ValueError, KeyError) as error:
        raise Failure(f"criterion's output cannot be read: {error!r}") from None
    runs = [
        run
        for run in runs
        if run.times or run.footprint or run.instructions or run.lines or run.rounds
    ]
    if not runs:
        raise Failure(
            "nothing was measured yet: there is no output of criterion in"
            f" {CRITERION.relative_to(ROOT)}"
        )
    return runs


@dataclass
class Middle:
    """The median over the runs, and their range."""

    value: float
    low: float
    high: float


def middle(runs: list[Run], figure: Callable[[Run], float]) -> Middle | None:
    """Returns the median over the runs that have the figure, or None if no run has it."""
    values = []
    for run in runs:
        try:
            values.append(figure(run))
        except (KeyError, ValueError):
            pass
    return Middle(statistics.median(values), min(values), max(values)) if values else None


def median(runs: list[Run], figure: Callable[[Run], float]) -> float | None:
    found = middle(runs, figure)
    return found.value if found else None


# ---- Targets -------------------------------------------------------------------------------------


@dataclass
class Target:
    what: str
    figure: Callable[[Run], float]
    least: float | None = None
    most: float | None = None
    unit: str = ""
    # The reason for a known miss. The page shows it if the target is missed.
    why: str = ""

    def wanted(self) -> str:
        if self.least is not None and self.most is not None:
            return f"{self.least:g} to {self.most:g}"
        return (
            f"at least {self.least:,.4g}"
            if self.most is None
            else f"at most {self.most:,.4g}{self.unit}"
        )

    def met(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (
            self.most is None or value <= self.most
        )


def peers(run: Run, group: str) -> dict[str, float]:
    return {
        function: ns
        for (of, function, _), ns in run.times.items()
        if of == group and function not in NO_PEERS
    }


def over_fastest(group: str) -> Callable[[Run], float]:
    # Both sides have the same number of readers, so times compare as throughputs do.
    return lambda run: min(peers(run, group).values()) / run.ns(group, OURS)


def ratio(top: tuple, bottom: tuple) -> Callable[[Run], float]:
    return lambda run: run.ns(*top) / run.ns(*bottom)


def tail_over_best(run: Run, share: float) -> float:
    # A peer with too few lookups for the quantile raises KeyError: then there is no best figure.
    best = min(run.quantile(name, share) for name in run.latency if name not in NO_PEERS)
    return run.quantile(OURS, share) / best


def figure(entry: dict) -> Callable[[Run], float]:
    """Returns how to read a target's figure from a run; see scripts/benchmarks.toml."""
    if "ratio" in entry:
        top, bottom = entry["ratio"]
        return ratio(tuple(top), tuple(bottom))
    if "over_fastest" in entry:
        return over_fastest(entry["over_fastest"])
    if "readers" in entry:
        alone, both = entry["readers"]
        return lambda run: 2 * run.ns(alone, OURS) / run.ns(both, OURS)
    if "tail" in entry:
        return lambda run: tail_over_best(run, entry["tail"])
    if "footprint" in entry:
        what, keys = entry["footprint"]
        return lambda run: run.footprint[OURS][what][keys]
    if "lines" in entry:
        return lambda run: run.lines[OURS]["lines"][entry["lines"]]
    if "rounds" in entry:
        return lambda run: run.within_rounds(*entry["rounds"])
    if "rate" in entry:
        return lambda run: 1 / run.within_rounds(*entry["rate"])
    raise Failure(f"{TARGETS_DATA.relative_to(ROOT)}: '{entry['what']}' has no known figure")


def targets() -> list[Target]:
    try:
        data = tomllib.loads(TARGETS_DATA.read_text())
        return [
            Target(
                entry["what"],
                figure(entry),
                entry.get("least"),
                entry.get("most"),
                entry.get("unit", ""),
                data["reasons"][entry["why"]].strip() if "why" in entry else "",
            )
            for entry in data["target"]
        ]
    except (OSError, ValueError, KeyError) as error:
        raise Failure(f"{TARGETS_DATA.relative_to(ROOT)} cannot be read: {error!r}") from None


def verdicts(runs: list[Run]) -> list[list[str]]:
    rows = []
    for target in targets():
        found = middle(runs, target.figure)
        if found is None:
            rows.append([target.what, target.wanted(), "", "", "not measured"])
            continue
        show = lambda value: (
            f"{value:,.0f}{target.unit}" if value >= 100 or target.unit else f"{value:.2f}"
        )
        spread = f"{show(found.low)} to {show(found.high)}" if found.low != found.high else ""
        rows.append(
            [
                target.what,
                target.wanted(),
                show(found.value),
                spread,
                "met" if target.met(found.value) else "**missed**",
            ]
        )
    return rows


def misses(runs: list[Run]) -> str:
    """Returns the reason for each missed target. Targets with one reason share an item."""
    reasons: dict[str, list[str]] = {}
    for target in targets():
        found = middle(runs, target.figure)
        if found is not None and not target.met(found.value):
            reasons.setdefault(target.why or "No reason is known.", []).append(target.what)
    return "\n".join(
        f"* {'; '.join(whats)}:\n{textwrap.indent(why, '  ')}" for why, whats in reasons.items()
    ) + ("\n" if reasons else "")


# ---- The report ----------------------------------------------------------------------------------


def duration(ns: float | None) -> str:
    if ns is None:
        return ""
    for unit, size in (("ms", 1e6), ("µs", 1e3)):
        if ns >= size:
            return f"{ns / size:,.3g} {unit}" if ns < 1_000 * size else f"{ns / size:,.0f} {unit}"
    return f"{ns:.3g} ns" if ns < 1_000 else f"{ns:.0f} ns"


def cell(text: str) -> str:
    return text.replace("<", "\\<").replace("|", "\\|")


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def plain_table(head: list[str], rows: list[list[str]]) -> str:
    rows = [head, *([text.replace("*", "") for text in row] for row in rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows
    )


def functions(runs: list[Run], group: str) -> list[str]:
    """Returns the rows of a group: this cache, the peers by name, then the other rows."""
    return in_order({function for run in runs for of, function, _ in run.times if of == group})


def in_order(names: set[str]) -> list[str]:
    order = {OURS: 0, OVER_CROSSBEAM: 2, OVER_SEIZE: 2, HANDLES: 3, LIMIT: 4, CLOCK: 5, LOOP: 6}
    return sorted(names, key=lambda name: (order.get(name, 1), name.lower()))


def values(runs: list[Run], group: str) -> list[str]:
    return sorted({value for run in runs for of, _, value in run.times if of == group}, key=int)


def times_table(
    runs: list[Run], group: str, unit: str = "keys", names: dict[str, str] | None = None
) -> str:
    columns = values(runs, group)
    rows = []
    for function in functions(runs, group):
        figures = [
            duration(median(runs, lambda run: run.ns(group, function, value))) for value in columns
        ]
        name = (names or {}).get(function, function)
        rows.append([f"**{cell(name)}**" if function == OURS else cell(name), *figures])
    return table(["", *(f"{int(value):,} {unit}" for value in columns)], rows)


def losses(runs: list[Run]) -> list[str]:
    """Returns every figure at which a peer is faster, by the medians over the runs."""
    found = []
    places = sorted(
        {(group, value) for run in runs for group, _, value in run.times},
        key=lambda place: (place[0], int(place[1] or 0)),
    )
    for group, value in places:
        if group == "contention/latency":
            continue
        ours = median(runs, lambda run: run.ns(group, OURS, value))
        if ours is None:
            continue
        ahead = []
        for name in functions(runs, group):
            theirs = median(runs, lambda run: run.ns(group, name, value))
            if (
                theirs is not None
                and theirs < ours
                and name not in (OURS, CLOCK, LOOP, LIMIT)
                and group != "sweep"
            ):
                ahead.append((theirs, name))
        if ahead:
            where = group.replace("/", ", ").replace("_", " ") + (
                f", {int(value):,} keys" if value else ""
            )
            listed = ", ".join(f"{cell(name)} {duration(theirs)}" for theirs, name in sorted(ahead))
            line = f"* {where}: {duration(ours)}, and {listed}"
            found.append(textwrap.fill(line, 100, subsequent_indent="  ", break_on_hyphens=False))
    return found


def report(runs: list[Run]) -> str:
    parts = [HEAD]
    add = parts.append
    add(summary(runs))
    add(PICTURES)
    add("## Machine\n")
    add(circumstances(runs))

    add("## Where it loses, and what the limit is\n")
    lost = "\n".join(losses(runs))
    if lost:
        add(f"By the medians, these rows are faster than this cache:\n\n{lost}\n")
    else:
        add("No peer is faster in any row.\n")
    add(HANDLES_NOTE)
    add(limits(runs))

    for title, group, text in SECTIONS:
        if functions(runs, group):
            add(f"## {title}\n\n{text}")
            add(times_table(runs, group))
    if any(run.rounds for run in runs):
        add("## Ratios within rounds\n\n" + ROUNDS_NOTE)
        add(rounds_table(runs))
        add(best_peers_table(runs))
    add(reclamations(runs))
    if functions(runs, "contention/one_reader"):
        add("## Readers and a writer\n\n" + CONTENTION_NOTE)
        add(throughput_table(runs))
    if any(run.latency for run in runs):
        add("## Latency next to a writer\n\n" + LATENCY_NOTE)
        add(latency_table(runs))
    if functions(runs, "remember"):
        add("## Remember\n\n" + REMEMBER_NOTE)
        add(times_table(runs, "remember"))
    if functions(runs, "invalidate/all"):
        add("## Invalidate\n\nAll keys, in a cache that has room for a million keys:\n")
        add(times_table(runs, "invalidate/all"))
        add("One key that the cache holds:\n")
        add(times_table(runs, "invalidate/one"))
    if functions(runs, "sweep"):
        add("## The sweep\n")
        add(times_table(runs, "sweep", "rows", SWEEP_NAMES))
    if functions(runs, "sqlite"):
        add("## The request, on SQLite\n\n" + REQUEST_NOTE)
        add(times_table(runs, "sqlite", "trusts"))
    if any(run.footprint for run in runs):
        add("## Memory\n\n" + MEMORY_NOTE)
        add(footprint_table(runs))
    if any(run.instructions for run in runs):
        add("## Instructions\n\n" + INSTRUCTIONS_NOTE)
        add(instructions_table(runs))
    if any(run.lines for run in runs):
        add("## Cache lines that a hit writes\n\n" + LINES_NOTE)
        add(lines_table(runs))
    return "\n".join(part for part in parts if part)


def targets_page(runs: list[Run], rows: list[list[str]]) -> str:
    runs_text = count(len(runs), "run")
    parts = [
        TARGETS_HEAD,
        f"Ratios are formed within one run. A figure is the median of {runs_text}.\n",
        table(["", "target", "measured", "all runs", "verdict"], rows),
    ]
    if missed := misses(runs):
        parts.append("## Missed targets, and the reasons\n\n" + missed)
    return "\n".join(parts)


def summary(runs: list[Run]) -> str:
    """Returns four lines: this cache and its fastest peer, where it wins and where it loses."""

    def line(what: str, places: list[tuple[str, str, str]], show: Callable[[float], str]) -> str:
        ours, theirs = [], []
        for group, value, at in places:
            own = median(runs, lambda run: run.ns(group, OURS, value))
            rivals = {
                name: median(runs, lambda run: run.ns(group, name, value))
                for name in functions(runs, group)
                if name not in NO_PEERS
            }
            known = {name: ns for name, ns in rivals.items() if ns is not None}
            if own is None or not known:
                return ""
            best = min(known, key=known.__getitem__)
            ours.append((own, f"{show(own)} {at}"))
            theirs.append((known[best], f"{show(known[best])} ({cell(best)})"))
        wins = [own <= rival for (own, _), (rival, _) in zip(ours, theirs)]
        if all(wins):
            verdict = "Faster than every peer"
        elif any(wins):
            verdict = "Faster and slower"
        else:
            verdict = "Slower than the fastest peer"
        own_text, rival_text = (" and ".join(text for _, text in side) for side in (ours, theirs))
        return f"* **{verdict}:** {what} {own_text}. The fastest peer: {rival_text}."

    lines = [
        line(
            "a hit takes",
            [("lookup/hit", "20", "at 20 keys"), ("lookup/hit", "1000", "at 1,000")],
            duration,
        ),
        line(
            "a hit takes",
            [
                ("lookup/hit", "100000", "at 100,000 keys"),
                ("lookup/hit", "1000000", "at a million"),
            ],
            duration,
        ),
        line(
            "at 1,000 keys, two readers make",
            [("contention/two_readers", "", "lookups a second")],
            lambda ns: f"{2_000 / ns:.1f} million",
        ),
        line(
            "writing a key takes",
            [
                ("remember", "1000", "at 1,000 keys (remember)"),
                ("invalidate/one", "1000", "(invalidate)"),
            ],
            duration,
        ),
    ]
    return (
        "\n".join(
            textwrap.fill(one, 100, subsequent_indent="  ", break_on_hyphens=False)
            for one in lines
            if one
        )
        + "\n"
    )


def reclamations(runs: list[Run]) -> str:
    """Compares this cache with the same cache over other reclamations."""
    head = [
        "",
        *(f"hit, {int(keys):,} keys" for keys in SIZES),
        "remember, 1,000 keys",
        "instructions of a hit",
    ]
    places = [*(("lookup/hit", keys) for keys in SIZES), ("remember", "1000")]
    rows = []
    for name in RECLAMATIONS:
        times = [median(runs, lambda run: run.ns(group, name, keys)) for group, keys in places]
        steps = median(runs, lambda run: run.instructions[name]["hit"])
        rows.append(
            [
                f"**{cell(name)}**" if name == OURS else cell(name),
                *map(duration, times),
                "" if steps is None else f"{steps:.0f}",
            ]
        )
    if not any(row[1:] != [""] * len(row[1:]) for row in rows[1:]):
        return ""
    ratios = []
    for name in RECLAMATIONS[1:]:
        found = [
            median(runs, ratio((group, name, keys), (group, OURS, keys))) for group, keys in places
        ]
        ratios.append(
            [
                f"{cell(name)}, over this cache",
                *("" if value is None else f"{value:.2f}" for value in found),
                "",
            ]
        )
    return f"## Why these epochs\n\n{RECLAMATIONS_NOTE}\n{table(head, rows + ratios)}"


HEAD = """\
# Benchmarks

The workload: a request brings a 32-byte digest, and the cache returns a 16-byte id or nothing. Each
row does the same work. It searches the digest, reads the coarse monotonic clock once, compares the
time with the entry's expiry, and copies the id. moka counts its own time-to-live. Keys come in
random order. [`benches/peers`](benches/peers/mod.rs) describes how each peer is used.
[The targets](docs/generated/benchmark-targets.md) have a page of their own.

`scripts/benchmarks.py` renders this page from the output of `benches/` and
`crates/trust-auth/benches`; do not edit it by hand.
"""
PICTURES = """\
![Lookup against the number of keys](docs/benchmarks/lookup.svg)
![Throughput against readers](docs/benchmarks/throughput.svg)
![Latency next to a writer](docs/benchmarks/latency.svg)
![Lookup against the sweep](docs/benchmarks/sweep.svg)
"""
TARGETS_HEAD = """\
# The targets of the benchmarks

`scripts/benchmarks.py` writes this page from scripts/benchmarks.toml and the measured figures; do
not edit it by hand. [BENCHMARKS.md](../../BENCHMARKS.md) has all figures.
"""
HANDLES_NOTE = f"""\
`{HANDLES}` needs a handle in every thread. The handle keeps alive the
last map that the thread loaded. Each write copies the whole map. The targets leave this row out.
"""
RECLAMATIONS_NOTE = """\
The rows "this cache over crossbeam-epoch" and "over seize" are the same sources of the cache,
compiled over another reclamation (`benches/reclamations`). crossbeam-epoch fences each pin with a
locked instruction. Neither seize nor the cache's own epochs need a fence to pin. The unpin of seize
exchanges a pointer with a locked instruction. The cache's own epochs pin and unpin with plain
stores, which makes the difference in the time of a hit. The cost of these epochs is their code,
with a proof and models ([verification.md](docs/verification.md)). The cache keeps them because a
hit is its purpose. crossbeam-epoch remains for platforms without `membarrier(2)`.
"""
SECTIONS = [
    ("Lookup", "lookup/hit", "A hit, keys in random order, one thread.\n"),
    ("A miss", "lookup/miss", "A key that no trust has.\n"),
    (
        "An expired value",
        "lookup/expired",
        "The rows that hold the entry and compare its expiry.\n",
    ),
    (
        "After an invalidation of all",
        "lookup/invalidated",
        "The cache and moka raise a mark. The reference's design clears its map, so a lookup finds"
        " an\nempty map.\n",
    ),
]
SWEEP_NAMES = {
    OURS: "sweep",
    "bytewise": "sweep byte by byte, as the reference's",
    "lookup": "cached lookup",
}
CONTENTION_NOTE = """\
1,000 keys, hits. The writer replaces one key every 10 µs, or as fast as it can.
"""
LATENCY_NOTE = """\
Each lookup is timed on its own while a writer replaces one key every 10 µs. Each figure contains
two reads of the precise clock, and the interruptions by the machine. The row of the loop alone
shows both. A quantile with fewer than ten lookups above it is left out.
"""
REMEMBER_NOTE = """\
Replaces the value of a key that the cache holds, keys in random order. This cache takes a lease
first.
"""
REQUEST_NOTE = """\
The time of a grant, next to the bare reads that the grant needs. A sweep reads the candidates, and
then reads the row that was found again. `candidates_and_fetch` is these two reads alone, and the
lower limit of a sweep.
"""
MEMORY_NOTE = """\
The bytes that are allocated when the last key is in, garbage included, and the largest allocation
of a remember.
"""
ROUNDS_NOTE = """\
One process measures this cache and another row in alternating slices of 25 ms, for 31 rounds
([`benches/ratios.rs`](benches/ratios.rs)). A figure is the median of the ratios within the rounds,
with the quartiles of the rounds. `hit` is inlined into the measuring loop. `hit (called)` is a call
of one function from ten places. The limits are unsynchronised maps that read the same clock
([`benches/peers/limit.rs`](benches/peers/limit.rs)):

* *constant-time compare*: a hash of one word, and the compare of this cache. The work of a lookup.
* *HashMap\\<KeyHash>*: a hash of the whole digest, and the compare of this cache.
* *hashbrown, unsynchronised*: a hash of one word, and a compare that may stop early. The map inside
  of most peers.
"""
BEST_PEER_ROWS = [
    "hit (peers)",
    "one reader",
    "two readers",
    "eight readers",
    "one reader next to a writer",
    "p99.99 next to a writer",
    "stampede",
]
LINES_NOTE = """\
Two threads look the same 50 keys up. Each instruction is stepped through under ptrace, and its
stores are counted per lookup. A shared line is written by one thread's lookups and touched by the
other's, so it moves between processors. Lookups without a shared line do not slow each other down,
on any number of processors. Lines of a thread's stack and thread-local storage are its own, and
so is its record in a reclamation.
"""
INSTRUCTIONS_NOTE = """\
Per lookup at 1,000 keys, counted one by one under ptrace. The benchmark's loop and the clock are
included, and two rows show them alone. These figures repeat: random seeds and keys change them by
an instruction or two. callgrind is not used, because it hides the vDSO and refuses `membarrier`. It
would count system calls for the clock, and the reclamation of other platforms.
"""


def circumstances(runs: list[Run]) -> str:
    noted = [entry for run in runs for entry in run.circumstances.values()]
    if not noted:
        return "From a plain `cargo bench`: machine and commit were not noted.\n"
    lines = []
    for what in ("processor", "cores", "kernel", "compiler"):
        lines.append([what, ", ".join(sorted({entry["machine"][what] for entry in noted}))])
    commits: dict[str, set[str]] = {}
    for run in runs:
        for bench, entry in run.circumstances.items():
            commits.setdefault(entry["commit"], set()).add(bench)
    if len(commits) == 1:
        lines.append(["commit", next(iter(commits))])
    else:
        lines.append(
            [
                "commits",
                "; ".join(f"{commit} ({', '.join(sorted(of))})" for commit, of in commits.items()),
            ]
        )
    dates = sorted({entry["date"] for entry in noted})
    lines.append(["measured", dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"])
    loads = [entry["load"] for entry in noted]
    lines.append(["load average after a benchmark", f"{min(loads):.1f} to {max(loads):.1f}"])
    if any(entry["quick"] for entry in noted):
        lines.append(
            [
                "**caution**",
                "short measurements (`--quick`) show that everything runs, and nothing else",
            ]
        )
    return table(["", ""], [[what, cell(text)] for what, text in lines])


def limits(runs: list[Run]) -> str:
    hit = "lookup/hit"
    clock, loop = (median(runs, lambda run: run.ns(hit, name, 1_000)) for name in (CLOCK, LOOP))
    lines = []
    for keys in SIZES:
        ours, limit = (median(runs, lambda run: run.ns(hit, name, keys)) for name in (OURS, LIMIT))
        if ours is not None and limit is not None:
            lines.append(
                [
                    f"{int(keys):,} keys",
                    duration(limit),
                    duration(ours),
                    f"{ours - limit:+.1f} ns",
                    f"{ours / limit:.2f}",
                ]
            )
    if not lines:
        return ""
    text = "The limit of a hit is an unsynchronised map with the same clock"
    if clock is not None and loop is not None:
        text += (
            f". Reading the clock takes {duration(clock)} of that time, including"
            f" {duration(loop)} for the loop"
        )
    return (
        textwrap.fill(f"{text}.", 100)
        + "\n\n"
        + table(["", "limit", "this cache", "difference", "ratio"], lines)
    )


def throughput_table(runs: list[Run]) -> str:
    rows = []
    for name in functions(runs, "contention/one_reader"):
        figures = []
        for group, readers in (("one_reader", 1), ("two_readers", 2), ("next_to_writer", 1)):
            ns = median(runs, lambda run: run.ns(f"contention/{group}", name))
            figures.append("" if ns is None else f"{readers * 1_000 / ns:.1f}")
        rows.append([f"**{cell(name)}**" if name == OURS else cell(name), *figures])
    return table(
        ["lookups, million per second", "one reader", "two readers", "one reader next to a writer"],
        rows,
    )


def latency_names(runs: list[Run]) -> list[str]:
    return in_order({name for run in runs for name in run.latency})


def latency_table(runs: list[Run]) -> str:
    rows = []
    for name in latency_names(runs):
        lookups = sum(run.latency.get(name, {}).get("lookups", 0) for run in runs)
        figures = [
            duration(median(runs, lambda run: run.quantile(name, share)))
            for share in (0.5, 0.99, 0.999, 0.9999)
        ]
        figures.append(f"{lookups:,}")
        rows.append([f"**{cell(name)}**" if name == OURS else cell(name), *figures])
    return table(["", "p50", "p99", "p99.9", "p99.99", "lookups"], rows)


def footprint_table(runs: list[Run]) -> str:
    names = in_order({name for run in runs for name in run.footprint})
    rows = []
    for name in names:
        figures = []
        for what in ("bytes_per_entry", "largest_allocation"):
            for keys in ("1000", "1000000"):
                value = median(runs, lambda run: run.footprint[name][what][keys])
                figures.append("" if value is None else f"{value:,.0f}")
        rows.append([f"**{cell(name)}**" if name == OURS else cell(name), *figures])
    head = [
        "",
        "bytes an entry, 1,000 keys",
        "a million",
        "largest allocation in bytes, 1,000 keys",
        "a million",
    ]
    return table(head, rows)


def quartiles(runs: list[Run], row: str, keys: str, divisor: str) -> str:
    low, ratio, high = (
        median(runs, lambda run: run.quartiles(row, keys, divisor)[place]) for place in range(3)
    )
    return "" if ratio is None else f"{ratio:.2f} ({low:.2f} to {high:.2f})"


def rounds_table(runs: list[Run]) -> str:
    """Returns the ratios over each unsynchronised limit."""
    sizes = sorted({keys for run in runs for keys in run.rounds.get("hit", {})}, key=int)
    rows = [
        [row, cell(limit), *(quartiles(runs, row, keys, limit) for keys in sizes)]
        for row in ("hit", "hit (called)", "miss", "expired")
        for limit in LIMITS
    ]
    return table(["", "over", *(f"{int(keys):,} keys" for keys in sizes)], rows)


def best_peers_table(runs: list[Run]) -> str:
    """Returns the ratios over the best peer of each row."""
    rows = []
    for row in BEST_PEER_ROWS:
        names = {run.best_peer(row, "1000") for run in runs if row in run.rounds}
        if names:
            figures = quartiles(runs, row, "1000", BEST)
            rows.append([row, figures, ", ".join(cell(name) for name in sorted(names))])
    return table(["1,000 keys", "time over the best peer's", "best peer"], rows)


def lines_table(runs: list[Run]) -> str:
    missing = next((run.lines["missing"] for run in runs if "missing" in run.lines), None)
    if missing:
        return f"Not counted: {missing}.\n"
    rows = []
    for name in in_order({name for run in runs for name in run.lines}):
        figures = [
            median(runs, lambda run: figure(run.lines[name]))
            for figure in (
                lambda found: found["stores"]["stack"],
                lambda found: found["stores"]["own"],
                lambda found: found["stores"]["shared"],
                lambda found: found["lines"]["shared"],
                lambda found: found["locked"],
            )
        ]
        rows.append(
            [
                f"**{cell(name)}**" if name == OURS else cell(name),
                *("" if value is None else f"{value:.0f}" for value in figures),
            ]
        )
    head = ["", "stores, stack", "own line", "shared line", "shared lines", "locked instructions"]
    return table(head, rows)


def instructions_table(runs: list[Run]) -> str:
    missing = next(
        (run.instructions["missing"] for run in runs if "missing" in run.instructions), None
    )
    if missing:
        return f"Not counted: {missing}.\n"
    names = in_order({name for run in runs for name in run.instructions})
    rows = []
    for name in names:
        figures = [
            median(runs, lambda run: run.instructions[name][what]) for what in ("hit", "miss")
        ]
        rows.append(
            [
                f"**{cell(name)}**" if name == OURS else cell(name),
                *("" if value is None else f"{value:.0f}" for value in figures),
            ]
        )
    return table(["", "hit", "miss"], rows)


def count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


# ---- The plots -----------------------------------------------------------------------------------


def emphasis(name: str) -> str:
    return "ours" if name == OURS else "limit" if name == LIMIT else ""


def time_axis(label: str, series: list[charts.Series]) -> charts.Axis:
    found = [value for one in series for _, value in one.points]
    return charts.Axis(label, *charts.decades(min(found), max(found), duration))


def keys_axis(label: str, sizes: list[str]) -> charts.Axis:
    counts = [int(size) for size in sizes]
    return charts.Axis(
        label, [(value, f"{value:,}") for value in counts], min(counts) * 0.8, max(counts) * 1.25
    )


def by_size(runs: list[Run], group: str, names: dict[str, str]) -> list[charts.Series]:
    series = []
    for function in functions(runs, group):
        if function in (CLOCK, LOOP):
            continue
        points = [
            (int(size), median(runs, lambda run: run.ns(group, function, size)))
            for size in values(runs, group)
        ]
        points = [(size, ns) for size, ns in points if ns is not None]
        series.append(charts.Series(names.get(function, function), points, emphasis(function)))
    return series


def plots(runs: list[Run]) -> dict[str, str]:
    drawn = {}
    lookup = by_size(runs, "lookup/hit", {})
    if lookup:
        axis = keys_axis("keys", values(runs, "lookup/hit"))
        drawn["lookup"] = charts.lines(
            "A hit, keys in random order", axis, time_axis("time of a lookup", lookup), lookup
        )

    rows = []
    for name in functions(runs, "contention/one_reader"):
        points = []
        for row, (group, readers) in enumerate(
            (("one_reader", 1), ("two_readers", 2), ("next_to_writer", 1))
        ):
            ns = median(runs, lambda run: run.ns(f"contention/{group}", name))
            if ns is not None:
                points.append((row, readers * 1_000 / ns))
        rows.append(charts.Series(name, points, emphasis(name)))
    if rows:
        rows.sort(key=lambda one: -max(value for _, value in one.points))
        groups = ["one reader", "two readers", "one reader next to a writer"]
        drawn["throughput"] = charts.bars(
            "Throughput at 1,000 keys", "million lookups per second", groups, rows
        )

    series = []
    for name in latency_names(runs):
        shares = [
            share
            for share in (
                0.5,
                0.75,
                0.9,
                0.95,
                0.99,
                0.995,
                0.999,
                0.9995,
                0.9999,
                0.99995,
                0.99999,
            )
        ]
        points = [
            (1 / (1 - share), median(runs, lambda run: run.quantile(name, share)))
            for share in shares
        ]
        series.append(
            charts.Series(
                name,
                [(x, ns) for x, ns in points if ns],
                "limit" if name == LOOP else emphasis(name),
            )
        )
    series = [one for one in series if len(one.points) > 1]
    if series:
        ticks = [
            (2, "p50"),
            (10, "p90"),
            (100, "p99"),
            (1_000, "p99.9"),
            (10_000, "p99.99"),
            (100_000, "p99.999"),
        ]
        axis = charts.Axis("share of the lookups", ticks, 2, 110_000)
        drawn["latency"] = charts.lines(
            "Latency next to a writer, at 1,000 keys",
            axis,
            time_axis("time of a lookup", series),
            series,
        )

    sweep = by_size(
        runs, "sweep", {OURS: "sweep", "bytewise": "sweep, byte by byte", "lookup": "cached lookup"}
    )
    if sweep:
        for one in sweep:
            one.emphasis = "ours" if one.name == "cached lookup" else ""
        axis = keys_axis("rows", values(runs, "sweep"))
        drawn["sweep"] = charts.lines(
            "A cached lookup against the sweep", axis, time_axis("time", sweep), sweep
        )
    return drawn


# ---- The command ---------------------------------------------------------------------------------


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < 3_600:
        raise argparse.ArgumentTypeError("must be between 0 and 3600 seconds")
    return number


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--runs",
        type=positive,
        metavar="N",
        help="the number of runs (default: 5; with --quick: 1)",
    )
    parser.add_argument(
        "--seconds", type=seconds, metavar="S", help="the time to measure each figure in a run"
    )
    parser.add_argument("--quick", action="store_true", help="make short measurements")
    parser.add_argument(
        "--only",
        choices=BENCHES,
        action="append",
        metavar="BENCH",
        help=f"one of {', '.join(BENCHES)}",
    )
    parser.add_argument(
        "--no-run", action="store_true", help="measure nothing, render the present figures"
    )
    options = parser.parse_args()
    try:
        if not options.no_run:
            measure(
                options.only or BENCHES,
                options.runs or (1 if options.quick else 5),
                options.quick,
                options.seconds,
            )
        runs = load()
        drawn = plots(runs)
        text = report(runs)
        rows = verdicts(runs)
        page = targets_page(runs, rows)
    except Failure as failure:
        tell(str(failure))
        return 1
    PLOTS.mkdir(parents=True, exist_ok=True)
    for name, svg in drawn.items():
        (PLOTS / f"{name}.svg").write_text(svg)
    REPORT.write_text(text)
    TARGETS.parent.mkdir(parents=True, exist_ok=True)
    TARGETS.write_text(page)
    print(plain_table(["", "target", "measured", "all runs", "verdict"], rows))
    tell(
        f"wrote {REPORT.relative_to(ROOT)}, {TARGETS.relative_to(ROOT)},"
        f" and {count(len(drawn), 'plot')} in {PLOTS.relative_to(ROOT)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
