"""Path patching in PyTorch with hooks, on a Llama of `transformers`: all prompts in one batch, padded at the right
(attention is causal, so that needs no mask). A sender is (layer, head), or (layer, None) for an MLP."""

import torch


class Hooked:
    """Notes or replaces, at each prompt's last token, what heads and MLPs give, and everywhere queries, keys, values."""

    def __init__(self, model, prompts):
        self.model, self.heads = model, model.config.num_attention_heads
        self.width = model.model.layers[0].self_attn.head_dim
        longest = max(len(p["ids"]) for p in prompts)
        self.ids = torch.tensor([p["ids"] + [0] * (longest - len(p["ids"])) for p in prompts])
        self.rows = torch.arange(len(prompts))
        self.ends = torch.tensor([len(p["ids"]) - 1 for p in prompts])
        self.answers = torch.tensor([p["answer"] for p in prompts])
        self.partners = torch.tensor([p["partner"] for p in prompts])
        self.seen = self.frozen = self.change = self.last = None
        for i, block in enumerate(model.model.layers):
            a = block.self_attn
            for j, p in enumerate([a.q_proj, a.k_proj, a.v_proj]):
                p.register_forward_hook(lambda _m, _x, y, key=(i, j): self.projected(key, y))
            a.o_proj.register_forward_pre_hook(lambda _m, x, i=i: (self.gives("head", i, x[0]),))
            block.mlp.register_forward_hook(lambda _m, _x, y, i=i: self.gives("mlp", i, y))
        model.model.layers[-1].register_forward_hook(lambda _m, _x, y: self.ending(y))

    def projected(self, key, y):
        if self.seen is not None:
            self.seen[key] = y
        return y if self.frozen is None else self.frozen[key]

    def gives(self, kind, layer, y):
        if self.seen is not None:
            self.seen[kind, layer] = y[self.rows, self.ends]
        if self.change is not None:
            (at, head), value = self.change
            if layer == at and kind == ("mlp" if head is None else "head"):
                y = y.clone()
                own = slice(None) if head is None else slice(head * self.width, (head + 1) * self.width)
                y[self.rows, self.ends, own] = value
        return y

    def ending(self, y):
        x = y[0] if isinstance(y, tuple) else y
        if self.last is None:
            self.arrived = x[self.rows, self.ends]
            return y
        x = x.clone()
        x[self.rows, self.ends] = self.last
        return (x, *y[1:]) if isinstance(y, tuple) else x

    def run(self, note=False, frozen=None, change=None, last=None):
        """What was noted, and at each prompt's last token the logit of the answer and the mean logit."""
        self.seen, self.frozen, self.change, self.last = ({} if note else None), frozen, change, last
        hidden = self.model.model(self.ids, use_cache=False).last_hidden_state[self.rows, self.ends]
        logits = self.model.lm_head(hidden)
        scores = torch.stack([logits[self.rows, self.answers], logits.mean(-1)], -1)
        seen, self.seen, self.frozen, self.change, self.last = self.seen, None, None, None, None
        return seen, scores

    def mean(self, seen, sender):
        """Over the corrupted prompts."""
        layer, head = sender
        given = seen["mlp" if head is None else "head", layer]
        if head is not None:
            given = given[:, head * self.width : (head + 1) * self.width]
        return given[self.partners].mean(0)

    def released(self, sender):
        """Four passes, as the paper's code makes them."""
        corrupted, _ = self.run(note=True)  # the corrupted prompts are the same prompts in another order
        clean, _ = self.run(note=True)
        self.run(frozen=clean, change=(sender, self.mean(corrupted, sender)))
        return self.run(last=self.arrived)[1]

    def once(self, clean, sender):
        """One pass over what one plain pass left."""
        return self.run(frozen=clean, change=(sender, self.mean(clean, sender)))[1]
