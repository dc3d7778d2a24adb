"""The lens and the causal map in PyTorch, on a Llama of `transformers`. Prompts are lines of a file of prompts."""

import torch
import torch.nn.functional as F
from transformers import DynamicCache
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb


def released_lens(model, line):
    """As the released code: one prompt at a time, every hidden state kept, logits of the whole vocabulary,
    a softmax and two top-k's for every layer and slot."""
    ids, slots, labels = torch.tensor([line["ids"]]), line["slots"], line["label_ids"]
    hidden = model(ids, output_hidden_states=True, use_cache=False).hidden_states
    out = []
    for i, h in enumerate(hidden):
        row = []
        for slot in slots:
            # The last hidden state is normed already.
            x = h[0, slot] if i + 1 == len(hidden) else model.model.norm(h[0, slot])
            logits = model.lm_head(x)
            p = logits.softmax(-1)
            p.topk(1)
            p.topk(len(labels))
            row.append(logits[labels])
        out.append(torch.stack(row))
    return torch.stack(out)


class BatchedLens:
    """The best that could be written: prompts side by side, padded at the right (causal attention needs no mask
    for that), slots picked in hooks, nothing but the labels' rows of the unembedding."""

    def __init__(self, model):
        self.model, self.rows, self.index = model, [], None
        for block in model.model.layers:
            block.register_forward_pre_hook(lambda _m, args: self.keep(args[0]))
        model.model.norm.register_forward_pre_hook(lambda _m, args: self.keep(args[0]))

    def keep(self, x):
        if self.index is not None:
            self.rows.append(x[self.index])

    def __call__(self, lines):
        longest = max(len(x["ids"]) for x in lines)
        ids = torch.tensor([x["ids"] + [0] * (longest - len(x["ids"])) for x in lines])
        slots = torch.tensor([x["slots"] for x in lines])
        self.rows, self.index = [], (torch.arange(len(lines))[:, None], slots)
        self.model.model(ids, use_cache=False)
        self.index = None
        rows = torch.stack(self.rows)  # [layers, prompts, slots, d]
        logits = F.linear(self.model.model.norm(rows), self.model.lm_head.weight[lines[0]["label_ids"]])
        return logits.transpose(0, 1)


def rerun_without(model, line, layer, head):
    """A whole run with a hook that removes a head at the last slot."""
    end, width = line["slots"][-1], model.model.layers[0].self_attn.head_dim

    def hook(_module, args):
        z = args[0].clone()
        z[0, end, head * width : (head + 1) * width] = 0
        return (z,)

    handle = model.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(hook)
    logits = model(torch.tensor([line["ids"][: end + 1]]), use_cache=False, logits_to_keep=1).logits[0, -1]
    handle.remove()
    return logits[line["label_ids"]]


class ReusedMap:
    """Every head by itself, over the keys and values of one plain pass: a variant is one row that begins at the
    block where it is changed."""

    def __init__(self, model):
        self.model, self.last = model, None
        for block in model.model.layers:
            block.register_forward_pre_hook(lambda _m, args: self.keep(args[0]))

    def keep(self, x):
        if self.last is not None:
            self.last.append(x[0, -1:].clone())

    def base(self, line):
        end = line["slots"][-1]
        self.last, cache = [], DynamicCache(config=self.model.config)
        self.model.model(torch.tensor([line["ids"][: end + 1]]), past_key_values=cache, use_cache=True)
        kept, self.last = self.last, None
        return kept, [(layer.keys[0, :, :end], layer.values[0, :, :end]) for layer in cache.layers]

    def block(self, i, x, cache, angles, zero):
        """Block `i` on rows at the last slot; the last `zero` rows lose a head each."""
        c, block, (keys, values) = self.model.config, self.model.model.layers[i], cache[i]
        heads, kv, width = c.num_attention_heads, c.num_key_value_heads, block.self_attn.head_dim
        n, a = len(x), block.self_attn
        h = block.input_layernorm(x)
        q, k, v = (p(h).view(1, n, -1, width).transpose(1, 2) for p in [a.q_proj, a.k_proj, a.v_proj])
        q, k = apply_rotary_pos_emb(q, k, *angles)
        # All rows of the query heads that share keys are one product with the prefix.
        q = q[0].view(kv, heads // kv, n, width)
        far = q.reshape(kv, -1, width) @ keys.transpose(1, 2) * a.scaling
        near = (q * k[0][:, None]).sum(-1).view(kv, -1, 1) * a.scaling
        p = torch.cat([far, near], -1).softmax(-1)
        z = (p[..., :-1] @ values).view(kv, heads // kv, n, width)
        z = z + p[..., -1].view(kv, heads // kv, n, 1) * v[0][:, None]
        z = z.reshape(heads, n, width).transpose(0, 1).clone()
        z[torch.arange(n - zero, n), torch.arange(zero)] = 0
        x = x + a.o_proj(z.reshape(n, -1))
        return x + block.mlp(block.post_attention_layernorm(x))

    def map(self, line, kept, cache, joined):
        """Heads of a block together from there on; or `joined`, where they also join those of earlier blocks, as
        refocus does."""
        layers, heads = len(cache), self.model.config.num_attention_heads
        angles = self.model.model.rotary_emb(kept[0][None], torch.tensor([[line["slots"][-1]]]))
        done, x = [], kept[0][:0]
        for first in range(layers):
            new = kept[first].expand(heads, -1)
            if joined:
                x = self.block(first, torch.cat([x, new]), cache, angles, heads)
                continue
            x = new
            for i in range(first, layers):
                x = self.block(i, x, cache, angles, heads if i == first else 0)
            done.append(x)
        x = x if joined else torch.cat(done)
        return F.linear(self.model.model.norm(x), self.model.lm_head.weight[line["label_ids"]])
