"""The rivals, and the checkpoints that all sides load."""

import os
import time
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache, GPT2Config, GPT2LMHeadModel, StoppingCriteria

transformers.utils.logging.disable_progress_bar()
CACHE = Path(os.environ["REFOCUS_BENCH_CACHE"])
SMOLLM2 = Path(os.environ.get("REFOCUS_MODELS") or Path.home() / ".cache/refocus-models") / "smollm2-135m-instruct.gguf"


def ids(count, vocab, seed=0):
    """As refocus' side makes them."""
    return [(7919 * (i + 1) + 104729 * seed) % vocab for i in range(count)]


def batch(b, t, vocab):
    return torch.tensor([ids(t, vocab, s) for s in range(b)])


def gpt2_shape(dtype):
    """A random checkpoint in the shape of GPT-2 small, made once."""
    path = CACHE / f"gpt2-shape-{dtype}"
    if not (path / "model.safetensors").exists():
        torch.manual_seed(0)
        GPT2LMHeadModel(GPT2Config()).to(getattr(torch, dtype)).save_pretrained(path)
    return path


def stored_bytes(path):
    return sum(f.stat().st_size for f in path.glob("*.safetensors")) if path.is_dir() else path.stat().st_size


def load(path):
    path = Path(path)
    where = {"pretrained_model_name_or_path": path}
    if path.suffix == ".gguf":
        where = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    return AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, attn_implementation="sdpa").eval()


def lens_model(gpt2):
    """The same weights in TransformerLens, unprocessed."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions.gpt2 import convert_gpt2_weights

    c = gpt2.config
    config = HookedTransformerConfig(
        n_layers=c.n_layer, d_model=c.n_embd, n_ctx=c.n_positions, n_heads=c.n_head, d_head=c.n_embd // c.n_head,
        d_mlp=4 * c.n_embd, d_vocab=c.vocab_size, act_fn="gelu_new", eps=c.layer_norm_epsilon,
        normalization_type="LN", device="cpu",
    )  # fmt: skip
    model = HookedTransformer(config).eval()
    model.load_state_dict(convert_gpt2_weights(gpt2, config), strict=False)
    return model


def last_logits(model, t):
    out = model(torch.tensor([ids(t, model.config.vocab_size)]), use_cache=False, logits_to_keep=1)
    return out.logits[0, -1]


def gflop(config, b, t, unembed=0):
    """GFLOP of a causal pass over `b` sequences of `t` tokens with logits at `unembed` positions."""
    d, layers = config.hidden_size, config.num_hidden_layers
    if config.model_type == "gpt2":
        weights = 12 * d * d
    else:
        kv = config.num_key_value_heads * d // config.num_attention_heads
        weights = d * (2 * d + 2 * kv + 3 * config.intermediate_size)
    return (2 * b * t * layers * (weights + d * t) + 2 * unembed * d * config.vocab_size) / 1e9


class Stopwatch(StoppingCriteria):
    """Never stops; notes when each token came."""

    def __init__(self):
        self.times = []

    def __call__(self, tokens, scores, **_):
        self.times.append(time.perf_counter())
        return torch.zeros(len(tokens), dtype=torch.bool)


def generate(model, prompt, n):
    """Seconds of `n` steps after the first token of greedy `generate`, and the tokens."""
    watch = Stopwatch()
    out = model.generate(
        prompt, max_new_tokens=n + 1, min_new_tokens=n + 1, do_sample=False, pad_token_id=0,
        attention_mask=torch.ones_like(prompt), stopping_criteria=[watch],
    )  # fmt: skip
    return watch.times[-1] - watch.times[0], out[0, prompt.shape[1] :].tolist()


def greedy_loop(model, prompt, n):
    """The same without what `generate` does around the model."""
    cache = DynamicCache(config=model.config)
    logits = model(prompt, past_key_values=cache, logits_to_keep=1).logits
    start = time.perf_counter()
    for _ in range(n):
        next_ids = logits[:, -1].argmax(-1, keepdim=True)
        logits = model(next_ids, past_key_values=cache, logits_to_keep=1).logits
    return time.perf_counter() - start


def versions():
    import transformer_lens  # noqa: F401
    from importlib.metadata import version

    return [
        f"PyTorch {torch.__version__}, transformers {transformers.__version__} (sdpa),"
        f" TransformerLens {version('transformer-lens')}, Python {'.'.join(map(str, os.sys.version_info[:3]))}"
    ]
