"""See README.md beside the folder. Both sides run the same ids and must agree before anything is timed."""

import json
import os
import sys
import tempfile
from pathlib import Path

BENCH = Path(__file__).parent.parent
sys.path += [str(BENCH), str(BENCH / "forward")]

import torch
import transformers
from gated import Bench, commit, options, refocus, timed
from models import SMOLLM2, load
from rivals import Hooked

THREADS = 2
AGREE = 1e-4
# Senders that PyTorch's sides are timed on: a head, or an MLP where there is none.
SAMPLE = [(0, 0), (6, 4), (12, 8), (18, 2), (23, 4), (29, 5), (9, None), (27, None)]


def name(sender):
    layer, head = sender
    return f"mlp {layer}" if head is None else f"{layer}.{head}"


def agree(bench, hooked, folder):
    """Both logits of all prompts, for the senders that are timed."""
    file = folder / "values.json"
    bench.refocus.ask("path_values", file)
    got = json.loads(file.read_text())
    clean, base = hooked.run(note=True)
    worst, moved = {"four passes": 0.0, "one pass": 0.0}, 0.0
    for sender in SAMPLE:
        mine = torch.tensor(got["changed"][got["senders"].index(name(sender))])
        for side, want in [("four passes", hooked.released(sender)), ("one pass", hooked.once(clean, sender))]:
            worst[side] = max(worst[side], ((mine - want).abs() / want.abs().clamp(min=1)).max().item())
        moved = max(moved, (mine - base).abs().max().item())
    for side, gap in worst.items():
        print(f"{side}: differs by {gap:.1e} (≤ {AGREE:.0e}), where senders change logits by up to {moved:.2f}")
    if not max(worst.values()) <= AGREE or moved < 100 * AGREE:
        raise SystemExit("the sides do not compute the same")
    return clean, len(got["senders"])


@torch.inference_mode()
def main():
    bench = Bench(refocus(), options())
    isa = bench.refocus.ask("threads", THREADS)[0]
    if not SMOLLM2.exists():
        raise SystemExit(f"SmolLM2 is not at {SMOLLM2} (REFOCUS_MODELS names the folder)")
    torch.set_num_threads(THREADS)
    notes = [
        f"refocus {commit()}, {isa}, exact f32 arithmetic",
        f"load average at the start: {os.getloadavg()[0]:.1f}",
        f"torch {torch.__version__}, transformers {transformers.__version__}",
        f"PyTorch's sides are timed on {len(SAMPLE)} senders ({', '.join(map(name, SAMPLE))}) and extrapolated to all",
    ]
    for note in notes:
        print(note)
    model = load(SMOLLM2)
    bench.refocus.ask("load", SMOLLM2)
    facts, wordings = (5, 2) if bench.options.quick else (25, 4)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        file = folder / "prompts.json"
        n = int(bench.refocus.ask("facts", facts, wordings, file)[0])
        prompts = json.loads(file.read_text())
        hooked = Hooked(model, prompts)
        clean, senders = agree(bench, hooked, folder)
        scale = senders / len(SAMPLE)
        tokens = sum(len(p["ids"]) for p in prompts) / n
        part = f"{len(SAMPLE)} senders of {senders}, extrapolated"

        def once(reps):
            first = timed(reps, lambda: hooked.run(note=True))
            return first + scale * timed(reps, lambda: [hooked.once(clean, s) for s in SAMPLE])

        sides = {
            "refocus": lambda reps: min(bench.refocus.number("paths") for _ in range(reps)),
            f"as the paper's code, four passes a sender ({part})": lambda reps: scale
            * timed(reps, lambda: [hooked.released(s) for s in SAMPLE]),
            f"one pass a sender ({part})": once,
        }
        target = {list(sides)[1]: ("≥", 100, "")}
        what = f"path patching of {senders} heads and MLPs, {n} prompts of {tokens:.1f} tokens"
        bench.compare(what, THREADS, sides, targets=target)
    peak = int(bench.refocus.ask("memory")[0])
    bench.fact("refocus' peak memory over all of this", f"{peak / 1e6:.0f} MB")
    bench.finish("Path patching side by side", notes, Path(__file__).with_name("ledger.md"))


main()
