"""The packed product beside torch.mm (weights [K, N]) and F.linear (weights [N, K]), both in f32."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))

import torch
from gated import Bench, commit, options, refocus, timed

THREADS = 2
# (K, N): GPT-2 small's and SmolLM2's maps, and an unembedding.
SHAPES = [(768, 768), (768, 3072), (3072, 768), (576, 576), (576, 1536), (1536, 576), (768, 50257)]
ROWS = [1, 32, 2048]
TYPES = ["f32", "bf16", "q4_1"]


@torch.inference_mode()
def main():
    bench = Bench(refocus(), options())
    torch.set_num_threads(THREADS)
    isa = bench.refocus.ask("threads", THREADS)[0]
    for rows in [1, 4, 32] if bench.options.quick else ROWS:
        for k, n in SHAPES:
            x, w = torch.rand(rows, k), torch.rand(k, n)
            wt = w.T.contiguous()
            packed = lambda dtype: lambda reps: bench.refocus.number("linear", dtype, rows, k, n, reps)  # noqa: E731
            sides = {
                **{f"refocus {dtype}": packed(dtype) for dtype in TYPES},
                "torch.mm": lambda reps: timed(reps, lambda: x @ w),
                "F.linear": lambda reps: timed(reps, lambda: torch.nn.functional.linear(x, wt)),
            }
            work = dict.fromkeys(sides, 2 * rows * k * n / 1e9)
            bench.compare(f"{rows} × {k} → {n}", THREADS, sides, base="refocus f32", work=work)
    bandwidth = bench.refocus.number("bandwidth")
    bench.fact(f"memory reads, {THREADS} threads", f"{bandwidth:.1f} GB/s")
    notes = [f"refocus {commit()}, {isa}, exact f32 arithmetic", f"PyTorch {torch.__version__}"]
    bench.finish("Packed products side by side", notes, Path(__file__).with_name("ledger.md"))


main()
