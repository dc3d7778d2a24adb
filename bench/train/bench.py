"""See README.md beside the folder. Both sides start from the same parameters, go through the same batches and
must show the same losses before anything is timed."""

import itertools
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))

import torch
from gated import Bench, commit, median, options, refocus, timed
from rivals import Rival

THREADS = (2, 1)
AGREE, CURVE = 1e-3, 50


def gflop(shape, asked, looked_up=False):
    """GFLOP of a forward pass with everything after the last layer's keys and values for `asked` positions only;
    causal, look-ups not counted. `looked_up`: so are an LSTM's gate inputs, which refocus computes once an id."""
    layers, d, _, vocab, t, b = shape
    rows = b * t
    if layers == 0:
        return 2 * (rows * (4 if looked_up else 8) * d * d + asked * d * vocab) / 1e9
    keys = (t + 1) / 2
    whole = rows * (12 * d * d + 2 * d * keys)
    last = rows * 2 * d * d + asked * (10 * d * d + 2 * d * keys)
    return 2 * ((layers - 1) * whole + last + asked * d * vocab) / 1e9


class Case:
    """One model on all sides. `ask`: at which positions the loss is."""

    def __init__(self, bench, name, shape, ask):
        self.bench, self.name, self.shape, self.ask = bench, name, shape, ask
        self.file = tempfile.NamedTemporaryFile()
        self.begin(1)
        self.rivals = {
            "PyTorch eager": Rival(shape, ask, self.file.name, compiled=False),
            "torch.compile": Rival(shape, ask, self.file.name, compiled=True),
        }
        batches = self.rivals["PyTorch eager"].batches
        self.asked = median([int((b[3] > 0).sum()) for b in batches])

    def begin(self, threads):
        """A fresh learner on refocus' side."""
        self.bench.refocus.ask("threads", threads)
        self.bench.refocus.ask("learner", *self.shape, self.ask, self.file.name)

    def agree(self):
        torch.set_num_threads(max(THREADS))
        self.begin(max(THREADS))
        ours = [float(x) for x in self.bench.refocus.ask("losses", CURVE)]
        for side, rival in self.rivals.items():
            worst = max(abs(x - rival.step()) for x in ours)
            print(
                f"{self.name}: {side}'s losses of {CURVE} steps differ by {worst:.1e} (≤ {AGREE:.0e});"
                f" refocus from {ours[0]:.4f} to {ours[-1]:.4f}",
                flush=True,
            )
            if not worst <= AGREE:
                raise SystemExit(f"{self.name}: the sides do not learn the same")

    def work(self, sides, times=1):
        """GFLOP a side."""
        return {side: times * gflop(self.shape, self.asked, side == "refocus") for side in sides}

    def steps(self, targets, threads=THREADS):
        for n in threads:
            self.begin(n)
            torch.set_num_threads(n)
            sides = {"refocus": lambda reps: self.bench.refocus.number("step", reps)}
            for side, rival in self.rivals.items():
                sides[side] = lambda reps, rival=rival: timed(reps, rival.step)
            self.bench.compare(f"{self.name}, step", n, sides, work=self.work(sides, 3), targets=targets)

    def scores(self, targets, threads=THREADS):
        for n in threads:
            self.begin(n)
            torch.set_num_threads(n)
            count = itertools.count()
            sides = {"refocus": lambda reps: self.bench.refocus.number("score", reps)}
            for side, rival in self.rivals.items():
                sides[side] = lambda reps, rival=rival: timed(reps, lambda: rival.score(next(count)))
            self.bench.compare(f"{self.name}, evaluation", n, sides, work=self.work(sides), targets=targets)

    def memory(self):
        """Fresh processes, three steps each."""
        threads = max(THREADS)
        fresh = refocus()
        fresh.ask("threads", threads)
        fresh.ask("learner", *self.shape, self.ask, self.file.name)
        fresh.ask("losses", 3)
        ours = fresh.number("memory")
        fresh.process.stdin.close()
        command = [sys.executable, Path(__file__).with_name("rivals.py"), *self.shape, self.ask, self.file.name, threads]
        out = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout
        theirs = int(out)
        self.bench.fact(
            f"{self.name}: peak memory of a training process",
            f"{ours / 1e6:.0f} MB, PyTorch eager {theirs / 1e6:.0f} MB",
            "below PyTorch's",
            ours < theirs,
        )


def generator_facts(bench, batch, step):
    t, count = 512, 2_000 if bench.options.quick else 100_000
    seconds = median([bench.refocus.number("generate", t, count) for _ in range(5)])
    rate = t * count / seconds
    bench.fact("generator, one thread", f"{rate / 1e6:.0f} million ids/s", "≥ 200 million", rate >= 2e8)
    if step:
        share = batch * t / rate / step
        name = "generator, share of a training step of the LSTM on 2 threads"
        bench.fact(name, f"{100 * share:.3f} %", "< 0.1 %", share < 1e-3)


def main():
    bench = Bench(refocus(), options())
    isa = bench.refocus.ask("threads", max(THREADS))[0]
    notes = [
        f"refocus {commit()}, {isa}, f32",
        f"PyTorch {torch.__version__}, Python {'.'.join(map(str, sys.version_info[:3]))}; fused AdamW,"
        " scaled_dot_product_attention; `torch.compile` with its defaults around the loss",
        "the loss curves of 50 steps agree within 1e-3 (checked before timing)",
    ]
    for note in notes:
        print(note)
    quick = bench.options.quick
    size = (2, 64, 4) if quick else (6, 256, 8)
    t, b = (128, 4) if quick else (512, 16)
    hidden = 32 if quick else 128
    label = "{}×{}, {}×{}".format(*size[:2], b, t)
    step = {"PyTorch eager": ("≥", 1.5, ""), "torch.compile": ("≥", 1.2, "")}
    lstm = {"PyTorch eager": ("≥", 2.5, "")}
    score = {"PyTorch eager": ("≥", 2.0, "")}
    cases = [
        (f"transformer {label}, vocabulary 5", (*size, 5, t, b), "all", step, None),
        (f"transformer {label}, vocabulary 1024", (*size, 1024, t, b), "all", step, None),
        (f"transformer {label}, read-only last layer", (*size, 5, t, b), "reads", step, score),
        (f"LSTM {hidden}, {b}×{t}", (0, hidden, 1, 5, t, b), "all", lstm, None),
        (f"LSTM {hidden}, {b}×{t}, reads", (0, hidden, 1, 5, t, b), "reads", {}, score),
    ]
    for name, shape, ask, steps, scores in cases:
        parts = [(f"{name}, {part}", n) for part in ("step", "evaluation") for n in THREADS]
        if not any(bench.wanted(*part) for part in [*parts, (f"{name}, memory", None)]):
            continue
        case = Case(bench, name, shape, ask)
        case.agree()
        if steps:
            case.steps(steps)
        if scores:
            case.scores(scores)
        if steps and bench.wanted(f"{name}, memory"):
            case.memory()
    if bench.wanted("generator"):
        rows = [r for r in bench.rows if r.name.startswith("LSTM") and r.name.endswith("step")]
        generator_facts(bench, b, bench.median(rows[0], "refocus") if rows else None)
    bench.finish("Training side by side", notes, Path(__file__).with_name("ledger.md"))


main()
