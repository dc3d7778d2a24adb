"""See README.md beside the folder. Both sides run the same ids and must agree before anything is timed."""

import json
import os
import sys
import tempfile
from pathlib import Path

BENCH = Path(__file__).parent.parent
sys.path += [str(BENCH), str(BENCH / "forward"), str(BENCH.parent / "fixtures")]

import torch
import transformers
from gated import Bench, commit, options, refocus, timed
from models import SMOLLM2, load
from overthinking_heads import scores
from rivals import BatchedLens, ReusedMap, released_lens, rerun_without

THREADS = 2
AGREE = 1e-4
CONTEXT = 2048  # what the released code gives a prompt
SAMPLE = [(0, 0), (7, 4), (14, 8), (22, 2), (29, 5)]  # heads that are rerun in full
DATA = Path(os.environ.get("REFOCUS_DATA") or BENCH.parent.parent / "shared/data")


def draw(bench, folder, task, pairs, demos):
    """Prompts from refocus, read by both sides; `None` where so many demonstrations do not fit."""
    file = folder / f"{task}-{demos}.jsonl"
    bench.refocus.ask("draw", task, pairs, demos, CONTEXT, file)
    lines = [json.loads(x) for x in file.read_text().splitlines()]
    lines.sort(key=lambda x: (x["pair"], x["kind"] == "false"))
    assert int(bench.refocus.ask("prompts", file)[0]) == len(lines)
    return lines


def worst(a, b):
    return ((a - b).abs() / b.abs().clamp(min=1)).max().item()


def agree(bench, model, lines, folder, n):
    """Lens, causal map and head scores of both sides on the first prompts."""
    file = folder / "values.json"
    bench.refocus.ask("values", file, n)
    got = json.loads(file.read_text())
    lens, causal = torch.tensor(got["lens"]), torch.tensor(got["causal"])
    batched, reused = BatchedLens(model), ReusedMap(model)
    checks = {"released lens": 0.0, "batched lens": 0.0, "reruns with hooks": 0.0, "map with reuse": 0.0}
    heads = model.config.num_attention_heads
    for i, line in enumerate(lines[:n]):
        checks["released lens"] = max(checks["released lens"], worst(lens[i], released_lens(model, line)))
        kept, cache = reused.base(line)
        for joined in [False, True]:
            gap = worst(causal[i], reused.map(line, kept, cache, joined))
            checks["map with reuse"] = max(checks["map with reuse"], gap)
        for layer, head in SAMPLE:
            want = rerun_without(model, line, layer, head)
            gap = worst(causal[i, layer * heads + head], want)
            checks["reruns with hooks"] = max(checks["reruns with hooks"], gap)
    checks["batched lens"] = worst(lens[:n], batched(lines[:n]))
    eager = load_eager()
    false = [x for x in lines if x["kind"] == "false"][:n]
    want = scores(eager, false, [x["shown"][-1] for x in false])
    for name, of in [("label", "label"), ("before_label", "before_label")]:
        for what in ["score", "same", "all", "by_distance"]:
            mine = torch.tensor([s[of][what] for s in got["scores"]]).view(torch.tensor(want[name][what]).shape)
            checks[f"{name} {what}"] = (mine - torch.tensor(want[name][what])).abs().max().item()
    for what in ["frozen", "renormed"]:
        mine = torch.tensor([s["promoting"][what] for s in got["scores"]]).view(-1, heads)
        checks[f"promoting {what}"] = worst(mine, torch.tensor(want[what]))
    for name, gap in checks.items():
        print(f"{name}: differs by {gap:.1e} (≤ {AGREE:.0e})")
    if not max(checks.values()) <= AGREE:
        raise SystemExit("the sides do not compute the same")
    return batched, reused


def load_eager():
    model = load(SMOLLM2)
    model.set_attn_implementation("eager")
    return model


def lens_rows(bench, model, batched, lines, task):
    n = len(lines)
    tokens = sum(len(x["ids"]) for x in lines)
    by_length = sorted(lines, key=lambda x: len(x["ids"]))

    def in_batches(size):
        for i in range(0, n, size):
            batched(by_length[i : i + size])

    sizes = [s for s in [1, 2, 4, 8] if s <= n]
    best = min(sizes, key=lambda s: timed(1, lambda: in_batches(s)))
    sides = {
        "refocus": lambda reps: min(bench.refocus.number("lens", n) for _ in range(reps)),
        "transformers as released": lambda reps: timed(reps, lambda: [released_lens(model, x) for x in lines]),
        f"PyTorch, batches of {best}": lambda reps: timed(reps, lambda: in_batches(best)),
    }
    names = list(sides)
    name = f"lens, {task}, {n} prompts, K = {len(lines[0]['slots'])}, {tokens // n:,} tokens each"
    bench.compare(name, THREADS, sides, targets={names[1]: ("≥", 3, ""), names[2]: ("≥", 1.5, "")})


def map_rows(bench, model, reused, lines, task):
    n, heads = len(lines), model.config.num_attention_heads * model.config.num_hidden_layers
    kept = [reused.base(x) for x in lines]

    def rerun(reps):
        one = timed(reps, lambda: [rerun_without(model, x, *head) for x in lines for head in SAMPLE])
        return one * heads / len(SAMPLE)

    whole = lambda joined: [reused.map(x, *reused.base(x), joined) for x in lines]  # noqa: E731
    over = lambda joined: [reused.map(x, *k, joined) for x, k in zip(lines, kept)]  # noqa: E731
    reuse = {"PyTorch with reuse": False, "PyTorch with reuse, blocks joined": True}
    what = f"{task}, {n} prompts, K = {len(lines[0]['slots'])}, {sum(len(x['ids']) for x in lines) // n:,} tokens each"
    sides = {
        "refocus": lambda reps: min(sum(map(float, bench.refocus.ask("causal", n))) for _ in range(reps)),
        f"full reruns ({len(SAMPLE)} heads of {heads}, extrapolated)": rerun,
        **{name: lambda reps, j=joined: timed(reps, lambda: whole(j)) for name, joined in reuse.items()},
    }
    full = list(sides)[1]
    bench.compare(f"causal map with its plain pass, {what}", THREADS, sides, targets={full: ("≥", 500, "")})
    sides = {
        "refocus": lambda reps: min(float(bench.refocus.ask("causal", n)[1]) for _ in range(reps)),
        full: rerun,
        **{name: lambda reps, j=joined: timed(reps, lambda: over(j)) for name, joined in reuse.items()},
    }
    bench.compare(f"the map alone, {what}", THREADS, sides, targets={full: ("≥", 500, ""), "PyTorch with reuse": ("≥", 5, "")})


@torch.inference_mode()
def main():
    os.environ.setdefault("REFOCUS_DATA", str(DATA))
    bench = Bench(refocus(), options())
    isa = bench.refocus.ask("threads", THREADS)[0]
    if not SMOLLM2.exists():
        raise SystemExit(f"SmolLM2 is not at {SMOLLM2} (REFOCUS_MODELS names the folder)")
    torch.set_num_threads(THREADS)
    load_average = os.getloadavg()[0]
    notes = [f"refocus {commit()}, {isa}, exact f32 arithmetic", f"load average at the start: {load_average:.1f}", f"torch {torch.__version__}, transformers {transformers.__version__}"]
    for note in notes:
        print(note)
    model = load(SMOLLM2)
    bench.refocus.ask("load", SMOLLM2)
    quick = bench.options.quick
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        # The released code's K, and the largest (in tens) whose prompts fit the context.
        task, demos, most = ("sst2", 40, 140) if DATA.exists() and not quick else ("unnatural", *((4, 4) if quick else (60, 60)))
        lines = draw(bench, folder, task, 1 if quick else 2, demos)
        batched, reused = agree(bench, model, lines, folder, 2)
        lens_rows(bench, model, batched, lines, task)
        if most != demos:
            lines = draw(bench, folder, task, 1, most)
            agree(bench, model, lines, folder, 2)
        map_rows(bench, model, reused, lines[:1] if not quick else lines, task)
    peak = int(bench.refocus.ask("memory")[0])
    bench.fact("refocus' peak memory over all of this", f"{peak / 1e6:.0f} MB", "≤ 2,000 MB", peak <= 2e9)
    bench.finish("The study of false demonstrations side by side", notes, Path(__file__).with_name("ledger.md"))


main()
