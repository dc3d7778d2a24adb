"""See README.md beside the folder. Every side loads the same file and must agree before it is timed."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))

import torch
from gated import Bench, Peer, commit, median, options, refocus, timed
from models import (
    SMOLLM2, batch, generate, gflop, gpt2_shape, greedy_loop, ids, last_logits, lens_model, load, stored_bytes, versions,
)  # fmt: skip

THREADS = 2
AGREE = 1e-4


def agree(bench, name, model, path, t=64):
    """Loads `path` on refocus' side and compares the logits of the last position."""
    seconds = bench.refocus.number("load", path)
    with tempfile.NamedTemporaryFile() as f:
        bench.refocus.ask("logits", f.name, t)
        got = torch.frombuffer(bytearray(f.read()), dtype=torch.float32)
    want = last_logits(model, t)
    worst = ((got - want).abs() / want.abs().clamp(min=1)).max().item()
    print(f"{name}: loaded in {seconds:.2f} s, logits differ by {worst:.1e} from transformers' (≤ {AGREE:.0e})")
    if not (worst <= AGREE and got.argmax() == want.argmax()):
        raise SystemExit(f"{name}: the sides do not compute the same")


def gpt2_rows(bench):
    path = gpt2_shape("float32")
    model = load(path)
    agree(bench, "GPT-2 shape, f32", model, path)
    lens = lens_model(model)
    probe = batch(1, 16, model.config.vocab_size)
    worst = (lens(probe) - model(probe).logits).abs().max().item()
    assert worst <= AGREE, f"TransformerLens computes something else: {worst}"

    required = {(256, 2): (1.4, ", aim 1.6"), (256, 1): (1.3, ""), (32, 2): (1.2, ", aim 1.5")}
    for b, t in [(8, 256), (1, 32)]:
        if bench.options.quick:
            b = 1
        x = batch(b, t, model.config.vocab_size)
        for what in ["hidden", "logits"]:
            returns = {"hidden": None, "logits": "logits"}[what]
            part = {"hidden": model.transformer, "logits": model}[what]
            for threads in [2, 1]:
                sides = {
                    "refocus": lambda reps: bench.refocus.number("forward", what, b, t, reps),
                    "transformers": lambda reps: timed(reps, lambda: part(x, use_cache=False)),
                    "TransformerLens": lambda reps: timed(reps, lambda: lens(x, return_type=returns)),
                    "TransformerLens run_with_cache": lambda reps: timed(
                        reps, lambda: lens.run_with_cache(x, return_type=returns)
                    ),
                }
                targets = {}
                if what == "hidden" and (t, threads) in required:
                    targets["transformers"] = ("≥", *required[t, threads])
                    if (t, threads) == (256, 2):
                        targets["TransformerLens run_with_cache"] = ("≥", 1.9, ", aim 2.2")
                torch.set_num_threads(threads)
                work = gflop(model.config, b, t, b * t if what == "logits" else 0)
                name = f"GPT-2 shape, {b}×{t}, {what}"
                bench.compare(name, threads, sides, work=dict.fromkeys(sides, work), targets=targets)
    torch.set_num_threads(THREADS)


def decode_rows(bench, model, llama):
    t, n = 32, 8 if bench.options.quick else 64
    vocab = model.config.vocab_size
    rows = {}
    for b, required in [(1, (3.5, 0.9)), (16, None)]:
        prompt = batch(b, t, vocab)
        sides = {
            "refocus": lambda reps: float(bench.refocus.ask("decode", b, t, n, reps)[1]),
            "transformers generate": lambda reps: median([generate(model, prompt, n)[0] for _ in range(reps)]),
            "transformers, bare loop": lambda reps: median([greedy_loop(model, prompt, n) for _ in range(reps)]),
        }
        if llama:
            sides["llama.cpp"] = lambda reps: float(llama.ask("decode", b, t, n, reps)[1])
        targets = {"transformers generate": ("≥", required[0], ""), "llama.cpp": ("≥", required[1], "")} if required else {}
        rows[b] = bench.compare(f"SmolLM2, decode, batch {b}", THREADS, sides, tokens=b * n, targets=targets)
    return {b: bench.median(row, "refocus") / n for b, row in rows.items() if row}


def smollm2_rows(bench):
    if not SMOLLM2.exists():
        print(f"SmolLM2 is not at {SMOLLM2}: its rows are left out (REFOCUS_MODELS names the folder)")
        return []
    model = load(SMOLLM2)
    bench.refocus.ask("threads", THREADS)
    agree(bench, "SmolLM2, Q4_1", model, SMOLLM2)
    prompt = batch(1, 32, model.config.vocab_size)
    said = bench.refocus.ask("decode", 1, 32, 16, 1)[2:]
    same = sum(int(a) == b for a, b in zip(said, generate(model, prompt, 16)[1]))
    print(f"SmolLM2, Q4_1: {same} of {len(said)} greedy tokens are those of transformers")

    llama, notes = None, []
    if flags := os.environ.get("REFOCUS_BENCH_LLAMA"):
        llama = Peer(sys.executable, str(Path(__file__).with_name("llama.py")))
        info = " ".join(llama.ask("load", SMOLLM2, THREADS))
        notes = [f"{flags}; {info}; int8 activations"]
        print(notes[0])
    torch.set_num_threads(THREADS)
    step = decode_rows(bench, model, llama)

    t = 100 if bench.options.quick else 1000
    x = batch(1, t, model.config.vocab_size)
    sides = {
        "refocus": lambda reps: float(bench.refocus.ask("decode", 1, t, 0, reps)[0]),
        "transformers": lambda reps: timed(reps, lambda: model(x, use_cache=True, logits_to_keep=1)),
    }
    work = dict.fromkeys(sides, gflop(model.config, 1, t, 1))
    if llama:
        sides["llama.cpp"] = lambda reps: float(llama.ask("decode", 1, t, 0, reps)[0])
    bench.compare(f"SmolLM2, prefill of {t:,}", THREADS, sides, work=work)

    pass_of = lambda what: lambda reps: bench.refocus.number("forward", what, 1, t, reps)  # noqa: E731
    sides = {
        "plain pass": pass_of("hidden"),
        "+ 20 labels, every layer and position": pass_of("labels"),
        "+ log-sum-exp at 20 slots": pass_of("slots"),
        "plain pass with all logits": pass_of("logits"),
    }
    names = list(sides)
    targets = {names[1]: ("≤", 1.05, ""), names[2]: ("≤", 1.35, "")}
    work = {names[0]: gflop(model.config, 1, t), names[3]: gflop(model.config, 1, t, t)}
    bench.compare(f"SmolLM2, lens, {t:,} tokens", THREADS, sides, base=names[0], work=work, targets=targets)

    bandwidth = bench.refocus.number("bandwidth")
    bench.fact(f"memory reads, {THREADS} threads", f"{bandwidth:.1f} GB/s")
    for b, seconds in step.items():
        # Every weight once (the tied unembedding is the embedding), keys and values of the middle step.
        c = model.config
        cache = b * (32 + 32) * c.num_hidden_layers * 2 * c.num_key_value_heads * c.head_dim * 4
        bytes_read = stored_bytes(SMOLLM2) + cache
        bench.fact(
            f"SmolLM2, decode, batch {b}: bytes a step",
            f"{bytes_read / 1e6:.0f} MB at {bytes_read / seconds / 1e9:.1f} GB/s,"
            f" {100 * bytes_read / seconds / bandwidth / 1e9:.0f} % of what reads reach",
        )
    if llama:
        llama.process.stdin.close()
    return notes


def first_token_facts(bench):
    """Cold processes, warm files: time to the first token, and the most memory ever held."""
    files = {"GPT-2 shape, f32": gpt2_shape("float32"), "GPT-2 shape, bf16": gpt2_shape("bfloat16")}
    if SMOLLM2.exists():
        files["SmolLM2, Q4_1"] = SMOLLM2
    for name, path in files.items():
        runs = []
        for _ in range(1 if bench.options.quick else 7):
            start = time.perf_counter()
            command = [os.environ["REFOCUS_BENCH_BINARY"], "first", path, "The capital of France is"]
            _, peak, *said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            runs.append((time.perf_counter() - start, int(peak)))
        seconds, peak = min(s for s, _ in runs), max(p for _, p in runs)
        stored = stored_bytes(path)
        limit = 1.25 * stored + 300e6
        bench.fact(
            f"{name}: peak memory of a short prompt",
            f"{peak / 1e6:.0f} MB for {stored / 1e6:.0f} MB stored",
            f"≤ 1.25 × + 300 MB = {limit / 1e6:.0f} MB",
            peak <= limit,
        )
        met = ("< 1 s", seconds < 1) if path == SMOLLM2 else ()
        bench.fact(f"{name}: process start to first token ({' '.join(said)}), best of {len(runs)}", f"{seconds:.2f} s", *met)


@torch.inference_mode()
def main():
    bench = Bench(refocus(), options())
    isa = bench.refocus.ask("threads", THREADS)[0]
    notes = [f"refocus {commit()}, {isa}, exact f32 arithmetic", *versions()]
    for note in notes:
        print(note)
    gpt2_rows(bench)
    notes += smollm2_rows(bench)
    first_token_facts(bench)
    bench.finish("Forward pass side by side", notes, Path(__file__).with_name("ledger.md"))


main()
