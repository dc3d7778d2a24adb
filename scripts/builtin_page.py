"""Writes models/builtin/README.md from the runs that scripts/make-builtin keeps: nothing on the page is typed.

    python3 scripts/builtin_page.py DIR [SEED…]
"""

import hashlib
import json
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLAIMS = [
    ("overthinking", "gap under false demonstrations"),
    ("recall", "fall of known answers in the last layers"),
    ("flipflop", "flip-flop errors"),
    ("distractors", "drop from sentences that name another city"),
]


def number(m):
    if m is None:
        return "-"
    if "low" not in m:
        return f"{m['value']:.3f}"
    return f"{m['value']:.3f} [{m['low']:.3f}, {m['high']:.3f}]"


def findings(folder):
    return json.loads((folder / "findings.json").read_text())


def emerged(f):
    """In a word, as the diagnosis has it."""
    m = f["measures"].get(f["headline"]) or {}
    if f["state"] == "steady" and (m.get("low") or 0) > 0:
        return "in sign, too small to matter"
    return {"slips": "yes", "steady": "no", "unclear": "unclear"}.get(f["state"], "cannot be tested")


def minutes(run):
    sittings = [tuple(map(float, line.split())) for line in (run / "sittings.txt").read_text().splitlines()]
    return sum(b - a for a, b in sittings) / 60


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    print()


def main():
    folder, seeds = Path(sys.argv[1]), ["0", *sys.argv[2:]]
    run = folder / "seed-0"
    recipe = tomllib.loads((run / "config.toml").read_text())
    weights = (run / "model/model.safetensors").read_bytes()
    config = json.loads((run / "model/config.json").read_text())
    curve = (run / "curve.csv").read_text().splitlines()[1:]
    losses = [float(row.split(",")[1]) for row in curve]
    tail = losses[-50:]
    steps, batch = recipe["optimizer"]["steps"], recipe["task"]["batch"]
    print("# The built-in model\n")
    print("Written by `scripts/make-builtin`; do not edit it. What the world is, and what is new when the model is")
    print("asked, stands in [docs/builtin.md](../../docs/builtin.md).\n")
    table(
        ["", ""],
        [
            ["trained with", "`refocus train world --seed 0 --out RUN` (recipe.toml)"],
            ["documents", f"{steps} steps of {batch}"],
            ["time", f"{minutes(run):.0f} minutes, on a machine that did other work beside"],
            [
                "model",
                f"Llama layout, {config['num_hidden_layers']} blocks, width {config['hidden_size']}, "
                f"{config['num_attention_heads']} heads, {config['vocab_size']} tokens",
            ],
            ["weights", f"f16, {len(weights) / 1e6:.1f} MB, sha256 `{hashlib.sha256(weights).hexdigest()}`"],
            ["loss", f"{losses[0]:.2f} nats a token at first, {sum(tail) / len(tail):.3f} over the last {len(tail)} steps (curve.csv)"],
        ],
    )
    print("## What emerged\n")
    print("`refocus diagnose`, budget 2m, the committed model (training seed 0), questions of three seeds. The measures are")
    print("those that every model gets; brackets are 95 % intervals. A failure emerged where the diagnosis says *slips*.")
    print("The facts are the same whatever the seed of the questions: only the interval of the fall is drawn anew. The world is")
    print("one of several that were tried, chosen by the answers to questions 0 (docs/builtin.md).\n")
    draws = [{f["probe"]: f for f in findings(folder / f"diagnosis-0-{d}")["findings"]} for d in range(3)]
    rows = []
    for probe, claim in CLAIMS:
        fs = [d[probe] for d in draws]
        values = [number(f["measures"].get(f["headline"])) for f in fs]
        rows.append([claim, *values, ", ".join(emerged(f) for f in fs)])
    table(["failure", "questions 0", "questions 1", "questions 2", "emerged"], rows)
    names = sorted({m for d in draws for f in d.values() for m in f["measures"]})
    table(
        ["measure", "questions 0", "questions 1", "questions 2"],
        [[n, *(number(d[n.split(".")[0]]["measures"].get(n)) for d in draws)] for n in names],
    )
    if len(seeds) > 1:
        print("## Other training seeds\n")
        print("The same recipe, questions of seed 0. The committed model is that of training seed 0, whatever the others gave.\n")
        rows = []
        for seed in seeds:
            by = {f["probe"]: f for f in findings(folder / f"diagnosis-{seed}-0")["findings"]}
            rows.append([seed, *(f"{number(by[p]['measures'].get(by[p]['headline']))}, {emerged(by[p])}" for p, _ in CLAIMS)])
        table(["seed", *(claim for _, claim in CLAIMS)], rows)
    found = findings(folder / "diagnosis-0-0").get("mitigation")
    if found:
        print("## Repairs\n")
        print(f"`refocus diagnose --mitigate`: {found['verdict']}.\n")
        for c in found["chosen"]:
            print(f"- {c}")
        print()
        if found["changes"]:
            rows = [
                [c.get("probe", "text"), c["what"], number({"value": c["before"]["value"]}), number({"value": c["after"]["value"]}), number(c["change"]), f"{c['p']:.3f}"]
                for c in found["changes"]
            ]
            table(["probe", "what", "before", "after", "change", "p (Holm)"], rows)
    asked = folder / "transformers.json"
    if asked.exists():
        print("### The export under `transformers`\n")
        print("The patch baked into plain weights (`refocus patch export`), loaded with `AutoModelForCausalLM`, asked by")
        print("`scripts/builtin_transformers.py` with questions of its own: right answers of all. Where the patch rewrites,")
        print("`refocus rewrite` has taken sentences out of what the repaired model is asked about capitals.\n")
        counts = json.loads(asked.read_text())
        rows = [[kind, *(f"{round(c[kind][0], 1)} of {c[kind][1]}" for c in counts.values())] for kind in counts["as it is"]]
        table(["question", *counts], rows)
    elif found and found["helps"]:
        print("The export was not asked under `transformers` when this page was written.\n")
    others = [(seed, findings(folder / f"diagnosis-{seed}-0").get("mitigation")) for seed in seeds[1:]]
    others = [(seed, m) for seed, m in others if m]
    if others:
        print("### Repairs of the other training seeds\n")
        print("What is surely lower or higher on the half that did not choose (p below 0.05 after Holm's correction).\n")
        for seed, m in others:
            sure = [c for c in m["changes"] if c["p"] < 0.05 and abs(c["change"]["value"]) >= 0.0005]
            said = "; ".join(f"{c['what']} {c['before']['value']:.3f} to {c['after']['value']:.3f}" for c in sure)
            print(f"- seed {seed}: {', '.join(m['chosen']) or 'none'}: {said or 'nothing is sure'}.")
        print()


if __name__ == "__main__":
    main()
