"""Comparisons that know when the machine was not theirs.

A round runs every side once, one after another, with a measurement of the FMA peak before and after each.
A side's time is clean when both peaks around it reach CLEAN of the ceiling (the best seen in this run), when
its threads hardly waited for a core, and when others used hardly any processor time. Rounds repeat until
enough of them are clean throughout. Ratios are taken within a round; what is reported are medians.
"""

import argparse
import datetime
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

CLEAN = 0.92  # of the ceiling
WAITED = 0.02  # of a side's time
OTHERS = 0.04  # of all cores
ENOUGH = 0.25  # seconds that a short side repeats itself for

PIDS = [os.getpid()]  # this process and its peers
CORES = len(os.sched_getaffinity(0))
TICK = os.sysconf("SC_CLK_TCK")


def median(xs):
    return statistics.median(xs) if xs else float("nan")


class Peer:
    """A process that answers one line of numbers to one line of command."""

    def __init__(self, *command, **env):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | env
        )
        PIDS.append(self.process.pid)

    def ask(self, *words):
        print(*words, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line.startswith("ok"):
            raise RuntimeError(f"{' '.join(map(str, words))}: {line.strip() or 'the process ended'}")
        return line.split()[1:]

    def number(self, *words):
        return float(self.ask(*words)[0])


def refocus():
    return Peer(os.environ["REFOCUS_BENCH_BINARY"])


def read(path):
    try:
        return Path(path).read_text()
    except OSError:
        return ""


@dataclass
class Clock:
    """Wall time, what our threads waited for a core, what they used, what everyone used."""

    wall: float
    waited: float
    own: float
    all: float

    @staticmethod
    def now():
        waited = own = 0.0
        for pid in PIDS:
            for task in Path(f"/proc/{pid}/task").glob("*"):
                waited += int((read(task / "schedstat").split() or [0, 0])[1]) / 1e9
            ticks = read(f"/proc/{pid}/stat").rpartition(")")[2].split()[11:13]
            own += sum(map(int, ticks)) / TICK
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, read("/proc/stat").split()[1:9])
        return Clock(time.perf_counter(), waited, own, (user + nice + system + irq + softirq + steal) / TICK)

    def quiet_since(self, then, shared=False):
        """Whether nobody else was there; `shared` says that the sides' own processes wait for each other."""
        wall = self.wall - then.wall
        others = (self.all - then.all) - (self.own - then.own)
        return (shared or self.waited - then.waited <= WAITED * wall) and others <= OTHERS * wall * CORES + 4 / TICK


@dataclass
class Reading:
    seconds: float
    peaks: tuple
    quiet: bool


@dataclass
class Row:
    name: str
    threads: int
    base: str
    work: dict  # GFLOP a side, where it makes sense
    tokens: int  # 0: say milliseconds
    targets: dict  # side: ("≥" or "≤", ratio to the base, aim)
    rounds: list = field(default_factory=list)


class Bench:
    def __init__(self, refocus, options, shared=False):
        self.refocus, self.options, self.shared = refocus, options, shared
        self.ceiling, self.rows, self.facts = {}, [], []

    def peak(self, threads):
        peak = self.refocus.number("peak")
        self.ceiling[threads] = max(peak, self.ceiling.get(threads, 0))
        return peak

    def clean(self, row, reading):
        return reading.quiet and min(reading.peaks) >= CLEAN * self.ceiling[row.threads]

    def clean_rounds(self, row):
        return [r for r in row.rounds if all(self.clean(row, x) for x in r.values())]

    def wanted(self, name, threads=None):
        """Whether `--only` lets a row or a figure through."""
        return re.search(self.options.only, name + (f", {threads} thread{'s' * (threads > 1)}" if threads else ""))

    def compare(self, name, threads, sides, base="refocus", work=None, tokens=0, targets=None):
        """`sides`: name → function of a number of repetitions that gives median seconds. Gives the row."""
        if not self.wanted(name, threads):
            return None
        row = Row(name, threads, base, work or {}, tokens, targets or {})
        self.rows.append(row)
        self.refocus.ask("threads", threads)
        reps = {}
        for side, run in sides.items():
            run(1)
            reps[side] = max(1, min(200, round(ENOUGH / run(1))))
        while len(row.rounds) < self.options.tries and len(self.clean_rounds(row)) < self.options.rounds:
            order = list(sides)
            if len(row.rounds) % 2:
                order.reverse()
            readings, before = {}, self.peak(threads)
            for side in order:
                start = Clock.now()
                seconds = sides[side](reps[side])
                quiet = Clock.now().quiet_since(start, self.shared)
                after = self.peak(threads)
                readings[side] = Reading(seconds, (before, after), quiet)
                before = after
            row.rounds.append(readings)
        print("\n".join(aligned(self.lines(row))), flush=True)
        return row

    def median(self, row, side):
        return median([r[side].seconds for r in self.clean_rounds(row) or row.rounds])

    def lines(self, row):
        """One line a side: texts for the table."""
        clean = self.clean_rounds(row)
        rounds = clean or row.rounds
        for i, side in enumerate(rounds[0]):
            seconds = self.median(row, side)
            ratio = median([r[side].seconds / r[row.base].seconds for r in rounds])
            of_peak = median([row.work.get(side, 0) / r[side].seconds / (sum(r[side].peaks) / 2) for r in rounds])
            sign, limit, aim = row.targets.get(side, ("", 0, ""))
            met = "met" if (ratio >= limit if sign == "≥" else ratio <= limit) else "missed"
            yield [
                row.name if i == 0 else "",
                str(row.threads) if i == 0 else "",
                side,
                f"{row.tokens / seconds:.1f} tok/s" if row.tokens else f"{1e3 * seconds:.2f} ms",
                f"{row.work[side] / seconds:.0f}" if side in row.work else "",
                f"{100 * of_peak:.0f} %" if side in row.work else "",
                f"{ratio:.2f}×" if side != row.base else "",
                f"{sign} {limit}{aim}: {met if clean else 'not shown'}" if sign else "",
                (f"{len(clean)}/{len(row.rounds)}" + ("" if clean else " (none clean)")) if i == 0 else "",
            ]

    def fact(self, name, value, limit="", met=None):
        """A figure that is no comparison."""
        verdict = "" if met is None else "met" if met else "missed"
        self.facts.append([name, value, limit, verdict])
        print(f"{name}: {value} {limit} {verdict}".rstrip(), flush=True)

    def finish(self, title, versions, ledger):
        head = ["row", "threads", "side", "time", "GFLOP/s", "of peak", "× base", "target", "clean rounds"]
        table = [head] + [line for row in self.rows for line in self.lines(row)]
        print("\n" + "\n".join(aligned(table)))
        if self.options.quick or self.options.only:
            print("\nthe ledger is written by whole runs only")
            return
        ceiling = ", ".join(f"{p:.0f} GFLOP/s on {t}" for t, p in sorted(self.ceiling.items()))
        text = [
            f"# {title}",
            "",
            "Written by the benchmark. Medians over the clean rounds; ratios within a round, to the first side of each"
            " row. A row without clean rounds shows all of them and proves nothing.",
            "",
            f"- date: {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
            f"- processor: {processor()}, {CORES} cores; measured FMA peak by threads: {ceiling}",
            f"- command: `{' '.join([f'bench/{Path(sys.argv[0]).parent.name}/run', *sys.argv[1:]])}`",
            *(f"- {v}" for v in versions),
            "",
            *markdown(table),
        ]
        if self.facts:
            text += ["", *markdown([["figure", "value", "limit", ""], *self.facts])]
        ledger.write_text("\n".join(text) + "\n")
        print(f"\nwritten: {ledger}")


def aligned(rows):
    rows = list(rows)
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    return ["  ".join(c.ljust(w) for c, w in zip(r, widths)).rstrip() for r in rows]


def markdown(rows):
    line = lambda r: "| " + " | ".join(r) + " |"  # noqa: E731
    return [line(rows[0]), "|---" * len(rows[0]) + "|", *map(line, rows[1:])]


def processor():
    names = re.findall(r"model name\s*: (.*)", read("/proc/cpuinfo"))
    return names[0] if names else platform.processor()


def commit():
    git = lambda *words: subprocess.run(  # noqa: E731
        ["git", "-C", Path(__file__).parent, *words], capture_output=True, text=True
    ).stdout.strip()
    return git("rev-parse", "--short", "HEAD") + (" with changes" if git("status", "--porcelain", "-uno") else "")


def options():
    p = argparse.ArgumentParser()
    p.add_argument("--only", default="", metavar="REGEX", help="rows whose name matches")
    p.add_argument("--rounds", type=int, default=5, help="clean rounds wanted a row")
    p.add_argument("--tries", type=int, default=20, help="rounds at most")
    p.add_argument("--quick", action="store_true", help="tiny shapes and one round, to see that it runs")
    o = p.parse_args()
    if o.quick:
        o.rounds = o.tries = 1
    return o


def timed(reps, call):
    times = []
    for _ in range(reps):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return median(times)
