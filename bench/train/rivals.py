"""The same models in PyTorch: parameters and batches come from the file that refocus' side writes.

`rivals.py LAYERS WIDTH HEADS VOCAB T B ASK FILE THREADS` takes three steps and prints VmHWM in bytes.
"""

import re
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

LR, WARMUP, STEPS = 3e-4, 50, 10_000  # refocus' default, which is the paper's


def read(path):
    """Parameters by name, and batches of `ids`, `rows` and `targets`."""
    raw, at, params, batches = Path(path).read_bytes(), 0, {}, []
    while at < len(raw):
        end = raw.index(b"\n", at)
        name, n = raw[at:end].decode().split("\t")
        numbers = np.frombuffer(raw, np.uint32, int(n), end + 1)
        at = end + 1 + 4 * int(n)
        if name not in ("ids", "rows", "targets"):
            params[name] = torch.from_numpy(numbers.view(np.float32).copy())
        else:
            if name == "ids":
                batches.append({})
            batches[-1][name] = torch.from_numpy(numbers.astype(np.int64))
    return params, batches


def norm(x, p):
    return F.layer_norm(x, p.gain.shape, p.gain, p.bias, 1e-5)


class Norm(nn.Module):
    def __init__(self, gain, bias):
        super().__init__()
        self.gain, self.bias = nn.Parameter(gain), nn.Parameter(bias)


class Block(nn.Module):
    def __init__(self, params, layer, width, heads):
        super().__init__()
        get = lambda name: params[f"{name} of block {layer}"]  # noqa: E731
        matrix = lambda name: get(f"{name} Weight").view(-1, width)  # noqa: E731
        self.heads = heads
        # One product for queries, keys and values: the usual layout in PyTorch, and its fastest.
        self.qkv = nn.Parameter(torch.cat([matrix(name) for name in "QKV"]))
        self.o = nn.Parameter(matrix("O"))
        self.up, self.up_bias = nn.Parameter(matrix("Up")), nn.Parameter(get("Up Bias"))
        self.down = nn.Parameter(get("Down Weight").view(width, -1))
        self.down_bias = nn.Parameter(get("Down Bias"))
        self.ln1 = Norm(get("Ln1 Weight"), get("Ln1 Bias"))
        self.ln2 = Norm(get("Ln2 Weight"), get("Ln2 Bias"))

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def finish(self, x, z):
        x = x + F.linear(z.transpose(1, 2).flatten(2), self.o)
        h = F.gelu(F.linear(norm(x, self.ln2), self.up, self.up_bias))
        return x + F.linear(h, self.down, self.down_bias)

    def forward(self, x):
        q, k, v = map(self.split, F.linear(norm(x, self.ln1), self.qkv).chunk(3, -1))
        return self.finish(x, F.scaled_dot_product_attention(q, k, v, is_causal=True))

    def at(self, x, positions):
        """As `forward`, for the given positions `[B, R]` of each sequence only."""
        d = x.shape[-1]
        index = positions[..., None].expand(-1, -1, d)
        h = norm(x, self.ln1)
        q = self.split(F.linear(h.gather(1, index), self.qkv[:d]))
        k, v = map(self.split, F.linear(h, self.qkv[d:]).chunk(2, -1))
        seen = torch.arange(x.shape[1]) <= positions[..., None]
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None])
        return self.finish(x.gather(1, index), z)


class Transformer(nn.Module):
    def __init__(self, params, shape):
        super().__init__()
        layers, width, heads, *_ = shape
        self.embed = nn.Parameter(params["Embed Weight"].view(-1, width))
        self.positions = nn.Parameter(params["PosEmbed Weight"].view(-1, width))
        self.blocks = nn.ModuleList(Block(params, layer, width, heads) for layer in range(layers))
        self.ln = Norm(params["FinalNorm Weight"], params["FinalNorm Bias"])
        self.head = nn.Parameter(params["Unembed Weight"].view(-1, width))
        self.head_bias = nn.Parameter(params["Unembed Bias"])

    def forward(self, ids, positions=None):
        x = F.embedding(ids, self.embed) + self.positions[: ids.shape[1]]
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x)
        x = last(x) if positions is None else last.at(x, positions)
        return F.linear(norm(x, self.ln), self.head, self.head_bias)


class Lstm(nn.Module):
    def __init__(self, params, shape):
        super().__init__()
        _, width, _, vocab, *_ = shape
        self.embedding = nn.Embedding(vocab, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, vocab)
        state = self.state_dict()
        self.load_state_dict({name: params[name].view(x.shape) for name, x in state.items()})

    def forward(self, ids, positions=None):
        x = self.lstm(self.embedding(ids))[0]
        if positions is not None:
            x = x.gather(1, positions[..., None].expand(-1, -1, x.shape[-1]))
        return self.head(x)


class Rival:
    """A model, its optimizer and its batches. What is asked is padded to the longest list of all batches, so
    that one compiled program serves them all; padding weighs nothing."""

    def __init__(self, shape, ask, path, compiled):
        params, batches = read(path)
        *_, tokens, self.batch = shape
        self.model = (Lstm if shape[0] == 0 else Transformer)(params, shape)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1, fused=True
        )
        pad = lambda rows: nn.utils.rnn.pad_sequence(rows, batch_first=True)  # noqa: E731
        self.batches = []
        for b in batches:
            ids = b["ids"].view(self.batch, tokens)
            if ask == "all":
                self.batches.append((ids, None, b["targets"].view(ids.shape), torch.full(ids.shape, 1 / ids.numel())))
                continue
            each = torch.bincount(b["rows"] // tokens, minlength=self.batch).tolist()
            positions, targets = (b["rows"] % tokens).split(each), b["targets"].split(each)
            weights = [torch.full((n,), 1 / len(b["rows"])) for n in each]
            self.batches.append((ids, *map(pad, (positions, targets, weights))))
        if ask != "all":
            longest = max(b[1].shape[1] for b in self.batches)
            wide = lambda x: F.pad(x, (0, longest - x.shape[1]))  # noqa: E731
            self.batches = [(ids, *map(wide, rest)) for ids, *rest in self.batches]
        self.done = 0
        wrap = torch.compile if compiled else lambda f: f
        self.loss, self.first = wrap(self._loss), wrap(self._first)

    def _loss(self, ids, positions, targets, weights):
        nll = F.cross_entropy(self.model(ids, positions).flatten(0, 1), targets.flatten(), reduction="none")
        return (nll * weights.flatten()).sum()

    def _first(self, ids, positions, targets, weights):
        return ((self.model(ids, positions).argmax(-1) == targets) & (weights > 0)).sum()

    def step(self):
        step, batch = self.done + 1, self.batches[self.done % len(self.batches)]
        share = step / WARMUP if step <= WARMUP else (STEPS + 1 - step) / (STEPS + 1 - WARMUP)
        for group in self.optimizer.param_groups:
            group["lr"] = LR * share
        self.optimizer.zero_grad()
        loss = self.loss(*batch)
        loss.backward()
        self.optimizer.step()
        self.done = step
        return loss.item()

    def score(self, i=0):
        with torch.inference_mode():
            return self.first(*self.batches[i % len(self.batches)]).item()


def peak_memory():
    return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


if __name__ == "__main__":
    *shape, ask, path, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    rival = Rival([int(x) for x in shape], ask, path, compiled=False)
    for _ in range(3):
        rival.step()
    print(peak_memory())
