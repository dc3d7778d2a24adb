"""llama.cpp in a process of its own, since two pools of threads in one process disturb each other.

    load PATH THREADS      → system information
    decode B T N REPS      → prefill, seconds        prompts of T tokens, then N greedy steps; medians
"""

import contextlib
import os
import sys
import time

import llama_cpp as L
import numpy as np

from statistics import median


class Model:
    def __init__(self, path, threads):
        params = L.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = L.llama_model_load_from_file(path.encode(), params)
        self.vocab = L.llama_n_vocab(L.llama_model_get_vocab(self.model))
        self.threads, self.shape, self.context = threads, None, None

    def prepare(self, b, t, n):
        if self.shape != (b, t, n):
            if self.context:
                L.llama_free(self.context)
                L.llama_batch_free(self.batch)
            params = L.llama_context_default_params()
            params.n_ctx, params.n_seq_max = b * (t + n + 1), b
            params.n_batch = max(params.n_batch, b * t)
            params.n_threads = params.n_threads_batch = self.threads
            self.context = L.llama_init_from_model(self.model, params)
            self.batch = L.llama_batch_init(b * t, 0, 1)
            self.shape = (b, t, n)
        L.llama_memory_clear(L.llama_get_memory(self.context), True)

    def run(self, rows):
        """`rows`: token, position, sequence, whether its logits are wanted. Gives the likeliest next ids."""
        for i, (token, pos, seq, want) in enumerate(rows):
            self.batch.token[i], self.batch.pos[i] = token, pos
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, seq
            self.batch.logits[i] = want
        self.batch.n_tokens = len(rows)
        if L.llama_decode(self.context, self.batch):
            raise RuntimeError("llama_decode failed")
        wanted = [i for i, row in enumerate(rows) if row[3]]
        logits = [L.llama_get_logits_ith(self.context, i) for i in wanted]
        return [int(np.ctypeslib.as_array(x, (self.vocab,)).argmax()) for x in logits]

    def decode(self, b, t, n):
        self.prepare(b, t, n)
        start = time.perf_counter()
        prompt = lambda s: [(7919 * (i + 1) + 104729 * s) % self.vocab for i in range(t)]  # noqa: E731
        ids = self.run([(x, i, s, i == t - 1) for s in range(b) for i, x in enumerate(prompt(s))])
        middle = time.perf_counter()
        for i in range(n):
            ids = self.run([(x, t + i, s, True) for s, x in enumerate(ids)])
        return middle - start, time.perf_counter() - middle


def main():
    model = None
    for line in sys.stdin:
        command, *args = line.split()
        if command == "load":
            model = Model(args[0], int(args[1]))
            print("ok", L.llama_print_system_info().decode().strip(), flush=True)
        else:
            b, t, n, reps = map(int, args)
            prefill, steps = zip(*(model.decode(b, t, n) for _ in range(reps)))
            print("ok", median(prefill), median(steps), flush=True)


@contextlib.contextmanager
def quiet():
    """The library writes about itself to standard error."""
    saved = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    yield
    os.dup2(saved, 2)


if __name__ == "__main__":
    with quiet():
        main()
