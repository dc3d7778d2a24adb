"""A section of Markdown: how far two runs of `refocus overthinking`, of two seeds, are from each other.

    python3 scripts/overthinking_noise.py DIR OTHER

What two independent runs of n pairs may differ by (95 %): of a task 1.96 √(2 · 0.25/n), of a mean over m tasks that
by √m (6.2 points for 500 pairs, 1.7 over 14 such tasks).
"""

import json
import sys
from pathlib import Path

first, second = (json.loads((Path(d) / "summary.json").read_text()) for d in sys.argv[1:3])
tasks = [t for t in first["tasks"] if t in second["tasks"]]
# The toy task is in no mean.
mean = [t for t in tasks if t != "unnatural"]
setting = "permuted"


def last(run, task, kind):
    return 100 * run["tasks"][task][setting][kind][-1][-1]


def row(name, a, b, band):
    gaps = [y - x for x, y in zip(a, b)]
    within = "yes" if all(abs(g) <= band for g in gaps) else "**no**"
    cells = [f"{x:.1f} → {y:.1f} ({g:+.1f})" for x, y, g in zip(a, b, gaps)]
    return f"| {name} | {' | '.join(cells)} | ± {band:.1f} | {within} |"


pairs = {first["tasks"][t][setting]["pairs"] for t in tasks} | {second["tasks"][t][setting]["pairs"] for t in tasks}
assert len(pairs) == 1, "runs of as many pairs"
band = 100 * 1.96 * (2 * 0.25 / pairs.pop()) ** 0.5
print(f"""
## Two seeds

`scripts/show-overthinking noise`: the same with seed {second['seed']}, the lens alone. Calibrated accuracy after the last layer at the
last slot, in points, seed {first['seed']} → seed {second['seed']}; the band is what two independent runs of as many pairs may differ by.

| task | TP | FP | band | within |
|---|---|---|---|---|""")
both = lambda task: [[last(run, task, kind) for kind in ("tp", "fp")] for run in (first, second)]  # noqa: E731
for task in tasks:
    print(row(task, *both(task), band))
over = lambda values: [sum(v) / len(mean) for v in zip(*values)]  # noqa: E731
a, b = zip(*(both(t) for t in mean))
print(row(f"mean of {len(mean)}", over(a), over(b), band / len(mean) ** 0.5))
gap = lambda run: {g["group"]: g for m in run["means"] if m["setting"] == setting for g in m["groups"]}["all tasks"]  # noqa: E731
layers = [next(c for c in gap(run)["critical"] if c["share"] == 0.5) for run in (first, second)]
told = [f"{c['layer']} [{c['low']}, {c['high']}]" for c in layers]
print(f"\nCritical layer of the mean: {told[0]} with seed {first['seed']}, {told[1]} with seed {second['seed']}.")
