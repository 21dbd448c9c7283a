#!/usr/bin/env python3
"""Runs the benchmarks, compares them with the targets, and renders BENCHMARKS.md with its plots in docs/benchmarks/.

Each run is one process per benchmark, with criterion's output in target/criterion/runs/N. A ratio is formed within one run, and the
median over the runs is what counts. The tables and plots show the medians over the runs of criterion's medians.

    scripts/benchmarks.py                     five runs of everything, which takes about an hour
    scripts/benchmarks.py --runs 9
    scripts/benchmarks.py --seconds 0.3       measures each figure for so long in a run, rather than for criterion's second
    scripts/benchmarks.py --quick             one run with short measurements, to see that everything works
    scripts/benchmarks.py --only lookup       measures this benchmark again, and keeps what there is of the others; may be repeated
    scripts/benchmarks.py --no-run            renders what the last runs (or a plain `cargo bench`) left

The table of targets goes to standard output, progress to standard error. Exit code: 0, also when a target is missed; 1 if something
could not be run or read; 2 for wrong arguments.
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
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import charts

ROOT = Path(__file__).resolve().parent.parent
CRITERION = ROOT / "target" / "criterion"
RUNS = CRITERION / "runs"
REPORT = ROOT / "BENCHMARKS.md"
PLOTS = ROOT / "docs" / "benchmarks"

# The request's benchmarks are the authenticator's; what these two count is the same in each run.
BENCHES = ["lookup", "contention", "remember", "invalidate", "sweep", "footprint", "instructions", "request"]
COUNTED = {"footprint", "instructions"}
# What a benchmark leaves in criterion's folder, where that is not named for it.
WRITES = {"contention": ["contention*", "latency.json"], "request": ["sqlite*", "memory*"]}
QUICK = ["--warm-up-time", "0.1", "--measurement-time", "0.2", "--sample-size", "10"]

# As benches/peers names them.
OURS = "trust-key-cache"
LIMIT = "limit: hashbrown, unsynchronised"
LOOP = "the loop alone"
CLOCK = "the clock alone"
HANDLES = "ArcSwap<hashbrown>, Cache per thread"
MOKA = "moka"
REFERENCE = "Mutex<HashMap>"
# What is shown, but is no peer: see BENCHMARKS.md for the handles.
NO_PEERS = {OURS, LIMIT, LOOP, CLOCK, HANDLES}
SIZES = ["20", "1000", "100000", "1000000"]
# The authenticator's, in trusts.
REQUEST_SIZES = ["20", "1000", "100000"]


class Failure(Exception):
    pass


# ---- Measuring ----------------------------------------------------------------------------------------------------------------------


def measure(benches: list[str], runs: int, quick: bool, seconds: float | None):
    for bench in benches:
        forget(bench)
    packages = ["-p", "trust-key-cache", *(["-p", "trust-auth"] if "request" in benches else [])]
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
            package = ["-p", "trust-auth", "--bench", "lookup_vs_sweep"] if bench == "request" else ["-p", "trust-key-cache", "--bench", bench]
            shorter = QUICK if quick else ["--warm-up-time", str(seconds / 3), "--measurement-time", str(seconds)] if seconds else []
            options = [] if bench in COUNTED else ["--noplot", *shorter]
            cargo(["bench", "--locked", "-q", *package, "--", *options], {"CRITERION_HOME": str(home)})
            note_circumstances(home, bench, quick)
            tell(f"run {run} of {runs}: {bench}: {time.monotonic() - start:.0f} s")


def forget(bench: str):
    """Removes what any earlier run left of it, so that no median mixes the two."""
    for home in RUNS.glob("*"):
        for pattern in WRITES.get(bench, [f"{bench}*"]):
            for written in home.glob(pattern):
                shutil.rmtree(written) if written.is_dir() else written.unlink()
        file = home / "circumstances.json"
        if file.exists():
            kept = {of: entry for of, entry in json.loads(file.read_text()).items() if of != bench}
            file.write_text(json.dumps(kept, indent=2))


def cargo(arguments: list[str], environment: dict[str, str]):
    """Runs cargo; what it prints is shown only if it fails."""
    try:
        done = subprocess.run(
            ["cargo", *arguments], cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    except FileNotFoundError:
        raise Failure("cargo is not installed") from None
    if done.returncode:
        raise Failure(f"`cargo {' '.join(arguments)}` failed with exit code {done.returncode}:\n{done.stdout[-4000:]}")


def note_circumstances(home: Path, bench: str, quick: bool):
    file = home / "circumstances.json"
    noted = json.loads(file.read_text()) if file.exists() else {}
    # What this script writes is no change of what was measured.
    changed = output("git", "status", "--porcelain", "--", ".", ":!BENCHMARKS.md", ":!docs/benchmarks")
    noted[bench] = {
        "machine": machine(),
        "commit": output("git", "rev-parse", "--short=12", "HEAD") + (" with changes" if changed else ""),
        "date": datetime.date.today().isoformat(),
        "load": os.getloadavg()[0],
        "quick": quick,
    }
    file.write_text(json.dumps(noted, indent=2))


def machine() -> dict[str, str]:
    model = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
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
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def tell(message: str):
    print(f"benchmarks: {message}", file=sys.stderr, flush=True)


# ---- Reading ------------------------------------------------------------------------------------------------------------------------


class Run:
    """What one run measured. Looking up what it did not measure raises KeyError."""

    def __init__(self, home: Path):
        self.times: dict[tuple[str, str, str], float] = {}
        for file in home.rglob("new/benchmark.json"):
            if home == CRITERION and file.is_relative_to(RUNS):
                continue
            name = json.loads(file.read_text())
            median = json.loads((file.parent / "estimates.json").read_text())["median"]["point_estimate"]
            self.times[name["group_id"], name["function_id"] or "", name["value_str"] or ""] = median
        self.latency, self.footprint, self.instructions, self.circumstances = (
            self._json(home / f"{name}.json") for name in ("latency", "footprint", "instructions", "circumstances")
        )

    @staticmethod
    def _json(file: Path) -> dict:
        return json.loads(file.read_text()) if file.exists() else {}

    def ns(self, group: str, function: str, value: str | int = "") -> float:
        return self.times[group, function, str(value)]

    def quantile(self, name: str, share: float) -> float:
        if self.latency[name]["lookups"] * (1 - share) < 10:
            raise KeyError(f"too few lookups for the quantile {share}")
        return dict(map(tuple, self.latency[name]["quantiles_ns"]))[share]


def load() -> list[Run]:
    homes = sorted((home for home in RUNS.glob("*") if home.is_dir()), key=lambda home: int(home.name))
    try:
        runs = [Run(home) for home in homes or [CRITERION]]
    except (OSError, ValueError, KeyError) as error:
        raise Failure(f"criterion's output cannot be read: {error!r}") from None
    runs = [run for run in runs if run.times or run.footprint or run.instructions]
    if not runs:
        raise Failure(f"nothing was measured yet: there is no output of criterion in {CRITERION.relative_to(ROOT)}")
    return runs


@dataclass
class Middle:
    """The median over the runs, and how far they lie apart."""

    value: float
    low: float
    high: float


def middle(runs: list[Run], figure: Callable[[Run], float]) -> Middle | None:
    """The median over those runs that have the figure; nothing if none has."""
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


# ---- Targets ------------------------------------------------------------------------------------------------------------------------


@dataclass
class Target:
    what: str
    figure: Callable[[Run], float]
    least: float | None = None
    most: float | None = None
    unit: str = ""
    # Why it is known to be missed; said where it is.
    why: str = ""

    def wanted(self) -> str:
        if self.least is not None and self.most is not None:
            return f"{self.least:g} to {self.most:g}"
        return f"at least {self.least:,.4g}" if self.most is None else f"at most {self.most:,.4g}{self.unit}"

    def met(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


def peers(run: Run, group: str) -> dict[str, float]:
    return {function: ns for (of, function, _), ns in run.times.items() if of == group and function not in NO_PEERS}


def over_fastest(group: str) -> Callable[[Run], float]:
    # The same number of readers on both sides, so times compare as throughputs do.
    return lambda run: min(peers(run, group).values()) / run.ns(group, OURS)


def ratio(top: tuple, bottom: tuple) -> Callable[[Run], float]:
    return lambda run: run.ns(*top) / run.ns(*bottom)


def tail_over_best(run: Run) -> float:
    # Where there were too few lookups for one, there is no best.
    return run.quantile(OURS, 0.9999) / min(run.quantile(name, 0.9999) for name in run.latency if name not in NO_PEERS)


# Where a hit's instructions go was counted in its disassembly; the sums are those under "Instructions". The variants were measured side by
# side, medians of eight alternating runs or more.
WHY_NOT_THE_LIMIT = """of the 188 instructions of a hit, 85 are the loop's and the clock's, as for the limit. The others, in the disassembly, about: to find the slot 17, pin 18, slot and
  generation 6, tags 14, address of the candidate 10, its digest in constant time 15, expiry and copy 11, unpin 8. The limit has 46 for all
  of its work, most of it one compare of 16 control bytes and one of the digest. Synchronisation (pin, slot and generation, unpin) is 32 of ours, without a
  fence or a locked instruction. It is not their number: nine fewer (nested guards counted apart, no check of the slot's bounds, the guard never on the
  stack) took 3 % longer. At 1,000 keys the buckets no longer fit the first-level cache, so that a hit seems to wait for its header and then for its entry, where
  the limit waits for the entry alone. Nor were entries aligned to cache lines faster, or the entries' lines prefetched with the header"""
WHY_NOT_AT_A_MILLION = """each hit waits for memory three times, one after the other (slot, header, entry), where the limit waits twice (control
  bytes, entry). The entries' lines prefetched with the header made it 8 to 15 % faster, and a hit at 20 keys 2 % slower; left out"""
WHY_NOT_THE_FASTEST = """here a locked instruction that nobody contends for costs so little that the fastest peer, a lock around hashbrown, is within 1.6 of the unsynchronised limit
  with one reader (with two, papaya within 1.7): 1.6 times as fast as it would be the limit itself. Both are in the table of throughputs"""
WHY_NOT_TWO_READERS = """no lookup writes to a line that another reads ([guarantees.md](docs/guarantees.md), G5), so nothing of ours is shared; but the two
  virtual processors seem to share a core, since the unsynchronised limit scales no better (see the table of throughputs)"""
WHY_NOT_THE_RATIO = """both are divided by a lookup, of which the clock and the loop are a good part, and the limit is itself below this target on this machine: see
  the tables below"""
WHY_NOT_THE_TAIL = """one in 10,000 is what the machine interrupts, here as beside every peer, and that differs by the minute: five runs that alternated with those of peers gave 1.8 µs at the
  median, where quick_cache had 3.6 and the mutex 3.0. It is not the epochs: with batches a hundred times as large it was 1.5 µs in the same minutes (0.7 to 1.8, and 0.9
  to 2.7 as they are). At the p99 and the p99.9 no peer is faster. (With a barrier for each batch of 256, as it was, the figure was 4.8)"""
WHY_NOT_THE_HOT_PATH = """a hash, a lookup and a compare are 0.3 µs (the hot path on the store in memory) of some 70; what is beyond is the machine, as the spread of the runs
  shows"""
WHY_NOT_THE_SWEEP_PATH = """a sweep fetches the row that it found, live, once more (G9), and with so few trusts that is nearly as much as reading the
  candidates: the two reads alone, `candidates_and_fetch` below, are beyond the target too. The rest is the walk's own task, and the machine"""


def targets() -> list[Target]:
    hit, alone, both, beside = "lookup/hit", "contention/one_reader", "contention/two_readers", "contention/beside_writer"
    return [
        *(
            Target(f"lookup over the unsynchronised limit, {int(keys):,} keys", ratio((hit, OURS, keys), (hit, LIMIT, keys)), most=most, why=why)
            for keys, most, why in zip(
                SIZES, (1.25, 1.25, 1.6, 1.5), (WHY_NOT_THE_LIMIT, WHY_NOT_THE_LIMIT, WHY_NOT_AT_A_MILLION, WHY_NOT_AT_A_MILLION)
            )
        ),
        Target("lookups per second over the fastest peer's, one reader", over_fastest(alone), least=1.6, why=WHY_NOT_THE_FASTEST),
        Target("lookups per second over the fastest peer's, two readers", over_fastest(both), least=1.6, why=WHY_NOT_THE_FASTEST),
        Target("lookups per second over the fastest peer's, beside a writer", over_fastest(beside), least=1.6, why=WHY_NOT_THE_FASTEST),
        Target("two readers over one", lambda run: 2 * run.ns(alone, OURS) / run.ns(both, OURS), least=1.9, why=WHY_NOT_TWO_READERS),
        Target("lookups per second over moka's with time-to-live", ratio((alone, MOKA), (alone, OURS)), least=12, why=WHY_NOT_THE_RATIO),
        Target("p99.99 beside a writer, over the best peer's", tail_over_best, most=1, why=WHY_NOT_THE_TAIL),
        Target("remember at a million keys over at a thousand", ratio(("remember", OURS, 1_000_000), ("remember", OURS, 1_000)), most=8),
        # A bucket of 16 entries of 56 bytes, and its header.
        *(
            Target(
                f"largest allocation of a remember, {int(keys):,} keys",
                lambda run, keys=keys: run.footprint[OURS]["largest_allocation"][keys],
                most=1_024,
                unit=" B",
            )
            for keys in ("1000", "1000000")
        ),
        Target(
            "invalidate at a million keys over at none",
            ratio(("invalidate/all", OURS, 1_000_000), ("invalidate/all", OURS, 0)),
            least=0.9,
            most=1.1,
        ),
        Target("bytewise sweep over ours, 1,000 rows", ratio(("sweep", "bytewise", 1_000), ("sweep", OURS, 1_000)), least=30),
        Target("bytewise sweep over ours, 100,000 rows", ratio(("sweep", "bytewise", 100_000), ("sweep", OURS, 100_000)), least=18),
        Target("bytewise sweep of 1,000 rows over a cached lookup", ratio(("sweep", "bytewise", 1_000), ("sweep", "lookup", 1_000)), least=3_000, why=WHY_NOT_THE_RATIO),
        *(
            Target(
                f"{path} path on SQLite over a bare {name}, {int(trusts):,} trusts",
                ratio(("sqlite", path, trusts), ("sqlite", bare, trusts)),
                most=most,
                why=why,
            )
            for path, bare, name, most, why in (
                ("hot", "fetch", "fetch(id)", 1.1, WHY_NOT_THE_HOT_PATH),
                ("sweep", "candidates", "candidates()", 1.15, WHY_NOT_THE_SWEEP_PATH),
            )
            for trusts in REQUEST_SIZES
        ),
        *(
            Target(
                f"memory an entry at a capacity of {int(keys):,}",
                lambda run, keys=keys: run.footprint[OURS]["bytes_per_entry"][keys],
                most=256,
                unit=" B",
            )
            for keys in ("1000", "1000000")
        ),
    ]


def verdicts(runs: list[Run]) -> list[list[str]]:
    rows = []
    for target in targets():
        found = middle(runs, target.figure)
        if found is None:
            rows.append([target.what, target.wanted(), "", "", "not measured"])
            continue
        show = lambda value: f"{value:,.0f}{target.unit}" if value >= 100 or target.unit else f"{value:.2f}"
        spread = f"{show(found.low)} to {show(found.high)}" if found.low != found.high else ""
        rows.append([target.what, target.wanted(), show(found.value), spread, "met" if target.met(found.value) else "**missed**"])
    return rows


def misses(runs: list[Run]) -> str:
    """Why each missed target is missed, reasons that several share once."""
    reasons: dict[str, list[str]] = {}
    for target in targets():
        found = middle(runs, target.figure)
        if found is not None and not target.met(found.value):
            reasons.setdefault(target.why or "No reason is known.", []).append(target.what)
    return "\n".join(f"* {'; '.join(whats)}: {why}" for why, whats in reasons.items()) + ("\n" if reasons else "")


# ---- The report ---------------------------------------------------------------------------------------------------------------------


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
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows)


def functions(runs: list[Run], group: str) -> list[str]:
    """Who was measured: ours first, then by name, then what is no peer."""
    return in_order({function for run in runs for of, function, _ in run.times if of == group})


def in_order(names: set[str]) -> list[str]:
    order = {OURS: 0, HANDLES: 2, LIMIT: 3, CLOCK: 4, LOOP: 5}
    return sorted(names, key=lambda name: (order.get(name, 1), name.lower()))


def values(runs: list[Run], group: str) -> list[str]:
    return sorted({value for run in runs for of, _, value in run.times if of == group}, key=int)


def times_table(runs: list[Run], group: str, unit: str = "keys", names: dict[str, str] | None = None) -> str:
    columns = values(runs, group)
    rows = []
    for function in functions(runs, group):
        figures = [duration(median(runs, lambda run: run.ns(group, function, value))) for value in columns]
        name = (names or {}).get(function, function)
        rows.append([f"**{cell(name)}**" if function == OURS else cell(name), *figures])
    return table(["", *(f"{int(value):,} {unit}" for value in columns)], rows)


def losses(runs: list[Run]) -> list[str]:
    """Every figure at which a peer is faster, by the medians over the runs."""
    found = []
    places = sorted({(group, value) for run in runs for group, _, value in run.times}, key=lambda place: (place[0], int(place[1] or 0)))
    for group, value in places:
        if group == "contention/latency":
            continue
        ours = median(runs, lambda run: run.ns(group, OURS, value))
        if ours is None:
            continue
        ahead = []
        for name in functions(runs, group):
            theirs = median(runs, lambda run: run.ns(group, name, value))
            if theirs is not None and theirs < ours and name not in (OURS, CLOCK, LOOP, LIMIT) and group != "sweep":
                ahead.append((theirs, name))
        if ahead:
            where = group.replace("/", ", ").replace("_", " ") + (f", {int(value):,} keys" if value else "")
            listed = ", ".join(f"{cell(name)} {duration(theirs)}" for theirs, name in sorted(ahead))
            found.append(f"* {where}: {duration(ours)}, and {listed}")
    return found


def report(runs: list[Run]) -> str:
    parts = [HEAD]
    add = parts.append
    add(circumstances(runs))

    add("## Targets\n")
    add(f"Ratios are formed within one run; the figure is the median of {count(len(runs), 'run')}.\n")
    add(table(["", "target", "measured", "all runs", "verdict"], verdicts(runs)))

    missed = misses(runs)
    if missed:
        add("### What was missed, and why\n\n" + missed)

    add("## Where it loses, and what the limit is\n")
    lost = losses(runs)
    add("Faster than this cache, by the medians below:\n\n" + "\n".join(lost) + "\n" if lost else "No peer is faster anywhere.\n")
    add(HANDLES_NOTE)
    limit = limits(runs)
    if limit:
        add(limit)

    sections = [
        ("Lookup", "lookup/hit", "A hit, keys in random order, one thread.\n\n![Lookup against the number of keys](docs/benchmarks/lookup.svg)\n"),
        ("A miss", "lookup/miss", "A key that no trust has.\n"),
        ("An expired value", "lookup/expired", "For those that hold the entry and compare its expiry.\n"),
        (
            "After an invalidation of all",
            "lookup/invalidated",
            "The cache and moka raise a mark; the reference's design clears its map, so that a lookup finds it empty.\n",
        ),
    ]
    for title, group, text in sections:
        if functions(runs, group):
            add(f"## {title}\n\n{text}")
            add(times_table(runs, group))
    if functions(runs, "contention/one_reader"):
        add("## Readers and a writer\n\n" + CONTENTION_NOTE)
        add(throughput_table(runs))
    if any(run.latency for run in runs):
        add("## Latency beside a writer\n\n" + LATENCY_NOTE)
        add(latency_table(runs))
    if functions(runs, "remember"):
        add("## Remember\n\nReplacing the value of a key that is there, keys in random order. Ours takes a lease first.\n")
        add(times_table(runs, "remember"))
    if functions(runs, "invalidate/all"):
        add("## Invalidate\n\nAll keys, in a cache with room for a million that holds so many:\n")
        add(times_table(runs, "invalidate/all"))
        add("One key that is there:\n")
        add(times_table(runs, "invalidate/one"))
    if functions(runs, "sweep"):
        add("## The sweep\n\n![Lookup against the sweep](docs/benchmarks/sweep.svg)\n")
        names = {OURS: "sweep", "bytewise": "sweep byte by byte, as the reference's", "lookup": "cached lookup"}
        add(times_table(runs, "sweep", "rows", names))
    if functions(runs, "sqlite"):
        add("## The request, on SQLite\n\n" + REQUEST_NOTE)
        add(times_table(runs, "sqlite", "trusts"))
    if any(run.footprint for run in runs):
        add("## Memory\n\nWhat is alive when the last key is in, garbage included, and the largest allocation that a remember makes.\n")
        add(footprint_table(runs))
    if any(run.instructions for run in runs):
        add("## Instructions\n\n" + INSTRUCTIONS_NOTE)
        add(instructions_table(runs))
    return "\n".join(parts)


HEAD = """\
# Benchmarks

Rendered by `scripts/benchmarks.py`, which runs `benches/` and `crates/trust-auth/benches`, and reads criterion's output; do not edit. Every peer does
the same work: a 32-byte digest as key, one read of the coarse monotonic clock and a compare with the expiry, a 16-byte id copied out;
moka counts its own time-to-live. [`benches/peers`](benches/peers/mod.rs) tells how each is used.
"""
HANDLES_NOTE = f"""\
`{HANDLES}` wants a handle in every thread, which keeps the last map alive that the thread saw, and copies the
whole map for each write. It is shown, and is not among the peers of the targets.
"""
CONTENTION_NOTE = """\
1,000 keys, hits. The writer replaces one key every 10 µs, or as fast as it can.

![Throughput against readers](docs/benchmarks/throughput.svg)
"""
LATENCY_NOTE = """\
Each lookup is timed on its own while a writer replaces one key every 10 µs. Two reads of the precise clock are part of each figure, and
so is whatever else the machine does: the loop alone shows both. A quantile with fewer than ten lookups above it is left out.

![Latency beside a writer](docs/benchmarks/latency.svg)
"""
REQUEST_NOTE = """\
What a grant costs beside the bare reads that it rests on. A sweep reads the candidates and then the row that was found, live, once more:
`candidates_and_fetch` is these two reads alone, and what a sweep can come down to.
"""
INSTRUCTIONS_NOTE = """\
Per lookup at 1,000 keys, counted one by one under ptrace, the benchmark's loop and the clock included (both are below, alone). These
figures repeat; random seeds and keys move them by an instruction or two. Not callgrind: it hides the vDSO and refuses `membarrier`, and
so would count system calls for the clock, and the reclamation that stands in.
"""


def circumstances(runs: list[Run]) -> str:
    noted = [entry for run in runs for entry in run.circumstances.values()]
    if not noted:
        return "Of a plain `cargo bench`: machine and commit were not noted.\n"
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
        lines.append(["commits", "; ".join(f"{commit} ({', '.join(sorted(of))})" for commit, of in commits.items())])
    dates = sorted({entry["date"] for entry in noted})
    lines.append(["measured", dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"])
    loads = [entry["load"] for entry in noted]
    lines.append(["load average after a benchmark", f"{min(loads):.1f} to {max(loads):.1f}"])
    if any(entry["quick"] for entry in noted):
        lines.append(["**caution**", "short measurements (`--quick`): good for seeing that everything runs, and for nothing else"])
    return table(["", ""], [[what, cell(text)] for what, text in lines])


def limits(runs: list[Run]) -> str:
    hit = "lookup/hit"
    clock, loop = (median(runs, lambda run: run.ns(hit, name, 1_000)) for name in (CLOCK, LOOP))
    lines = []
    for keys in SIZES:
        ours, limit = (median(runs, lambda run: run.ns(hit, name, keys)) for name in (OURS, LIMIT))
        if ours is not None and limit is not None:
            lines.append([f"{int(keys):,} keys", duration(limit), duration(ours), f"{ours - limit:+.1f} ns", f"{ours / limit:.2f}"])
    if not lines:
        return ""
    text = "The limit of a hit is a map that nobody synchronises, with the same clock"
    if clock is not None and loop is not None:
        text += f"; reading that clock takes {duration(clock)} of it, {duration(loop)} of which is the loop around it"
    return f"{text}.\n\n" + table(["", "limit", "this cache", "difference", "ratio"], lines)


def throughput_table(runs: list[Run]) -> str:
    rows = []
    for name in functions(runs, "contention/one_reader"):
        figures = []
        for group, readers in (("one_reader", 1), ("two_readers", 2), ("beside_writer", 1)):
            ns = median(runs, lambda run: run.ns(f"contention/{group}", name))
            figures.append("" if ns is None else f"{readers * 1_000 / ns:.1f}")
        rows.append([f"**{cell(name)}**" if name == OURS else cell(name), *figures])
    return table(["lookups, million per second", "one reader", "two readers", "one reader beside a writer"], rows)


def latency_names(runs: list[Run]) -> list[str]:
    return in_order({name for run in runs for name in run.latency})


def latency_table(runs: list[Run]) -> str:
    rows = []
    for name in latency_names(runs):
        lookups = sum(run.latency.get(name, {}).get("lookups", 0) for run in runs)
        figures = [duration(median(runs, lambda run: run.quantile(name, share))) for share in (0.5, 0.99, 0.999, 0.9999)]
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
    head = ["", "bytes an entry, 1,000 keys", "a million", "largest allocation in bytes, 1,000 keys", "a million"]
    return table(head, rows)


def instructions_table(runs: list[Run]) -> str:
    missing = next((run.instructions["missing"] for run in runs if "missing" in run.instructions), None)
    if missing:
        return f"Not counted: {missing}.\n"
    names = in_order({name for run in runs for name in run.instructions})
    rows = []
    for name in names:
        figures = [median(runs, lambda run: run.instructions[name][what]) for what in ("hit", "miss")]
        rows.append([f"**{cell(name)}**" if name == OURS else cell(name), *("" if value is None else f"{value:.0f}" for value in figures)])
    return table(["", "hit", "miss"], rows)


def count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


# ---- The plots ----------------------------------------------------------------------------------------------------------------------


def emphasis(name: str) -> str:
    return "ours" if name == OURS else "limit" if name == LIMIT else ""


def time_axis(label: str, series: list[charts.Series]) -> charts.Axis:
    found = [value for one in series for _, value in one.points]
    return charts.Axis(label, *charts.decades(min(found), max(found), duration))


def keys_axis(label: str, sizes: list[str]) -> charts.Axis:
    counts = [int(size) for size in sizes]
    return charts.Axis(label, [(value, f"{value:,}") for value in counts], min(counts) * 0.8, max(counts) * 1.25)


def by_size(runs: list[Run], group: str, names: dict[str, str]) -> list[charts.Series]:
    series = []
    for function in functions(runs, group):
        if function in (CLOCK, LOOP):
            continue
        points = [(int(size), median(runs, lambda run: run.ns(group, function, size))) for size in values(runs, group)]
        points = [(size, ns) for size, ns in points if ns is not None]
        series.append(charts.Series(names.get(function, function), points, emphasis(function)))
    return series


def plots(runs: list[Run]) -> dict[str, str]:
    drawn = {}
    lookup = by_size(runs, "lookup/hit", {})
    if lookup:
        axis = keys_axis("keys", values(runs, "lookup/hit"))
        drawn["lookup"] = charts.lines("A hit, keys in random order", axis, time_axis("time of a lookup", lookup), lookup)

    rows = []
    for name in functions(runs, "contention/one_reader"):
        points = []
        for row, (group, readers) in enumerate((("one_reader", 1), ("two_readers", 2), ("beside_writer", 1))):
            ns = median(runs, lambda run: run.ns(f"contention/{group}", name))
            if ns is not None:
                points.append((row, readers * 1_000 / ns))
        rows.append(charts.Series(name, points, emphasis(name)))
    if rows:
        rows.sort(key=lambda one: -max(value for _, value in one.points))
        groups = ["one reader", "two readers", "one reader beside a writer"]
        drawn["throughput"] = charts.bars("Throughput at 1,000 keys", "million lookups per second", groups, rows)

    series = []
    for name in latency_names(runs):
        shares = [share for share in (0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999, 0.99995, 0.99999)]
        points = [(1 / (1 - share), median(runs, lambda run: run.quantile(name, share))) for share in shares]
        series.append(charts.Series(name, [(x, ns) for x, ns in points if ns], "limit" if name == LOOP else emphasis(name)))
    series = [one for one in series if len(one.points) > 1]
    if series:
        ticks = [(2, "p50"), (10, "p90"), (100, "p99"), (1_000, "p99.9"), (10_000, "p99.99"), (100_000, "p99.999")]
        axis = charts.Axis("share of the lookups", ticks, 2, 110_000)
        drawn["latency"] = charts.lines("Latency beside a writer, at 1,000 keys", axis, time_axis("time of a lookup", series), series)

    sweep = by_size(runs, "sweep", {OURS: "sweep", "bytewise": "sweep, byte by byte", "lookup": "cached lookup"})
    if sweep:
        for one in sweep:
            one.emphasis = "ours" if one.name == "cached lookup" else ""
        axis = keys_axis("rows", values(runs, "sweep"))
        drawn["sweep"] = charts.lines("A cached lookup against the sweep", axis, time_axis("time", sweep), sweep)
    return drawn


# ---- The command --------------------------------------------------------------------------------------------------------------------


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least one run is needed")
    return number


def seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < 3_600:
        raise argparse.ArgumentTypeError("some seconds are needed, less than an hour")
    return number


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=positive, metavar="N", help="how many times to measure (default: 5, with --quick 1)")
    parser.add_argument("--seconds", type=seconds, metavar="S", help="how long a run measures each figure")
    parser.add_argument("--quick", action="store_true", help="short measurements")
    parser.add_argument("--only", choices=BENCHES, action="append", metavar="BENCH", help=f"one of {', '.join(BENCHES)}")
    parser.add_argument("--no-run", action="store_true", help="measure nothing, render what is there")
    options = parser.parse_args()
    try:
        if not options.no_run:
            measure(options.only or BENCHES, options.runs or (1 if options.quick else 5), options.quick, options.seconds)
        runs = load()
        drawn = plots(runs)
        text = report(runs)
    except Failure as failure:
        tell(str(failure))
        return 1
    PLOTS.mkdir(parents=True, exist_ok=True)
    for name, svg in drawn.items():
        (PLOTS / f"{name}.svg").write_text(svg)
    REPORT.write_text(text)
    print(plain_table(["", "target", "measured", "all runs", "verdict"], verdicts(runs)))
    tell(f"wrote {REPORT.relative_to(ROOT)} and {count(len(drawn), 'plot')} in {PLOTS.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
