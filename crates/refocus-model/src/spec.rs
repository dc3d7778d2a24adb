//! What a model is, as data. A family differs from another only by the values here and by its
//! tensor names; the forward pass reads this and nothing else.

use refocus_compute::{Activation, NormKind};

/// Where a checkpoint's tensors come from by name. Never consulted by the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// `gpt2`.
    Gpt2,
    /// `opt`.
    Opt,
    /// `gptj`.
    GptJ,
    /// `gpt_neox`.
    NeoX,
    /// `llama` (SmolLM2 too).
    Llama,
    /// `mistral`.
    Mistral,
    /// `qwen2`.
    Qwen2,
    /// `qwen3`.
    Qwen3,
    /// `refocus`: trained here, and no other family can express it.
    Refocus,
}

impl Family {
    /// The `model_type` of its `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Family::Gpt2 => "gpt2",
            Family::Opt => "opt",
            Family::GptJ => "gptj",
            Family::NeoX => "gpt_neox",
            Family::Llama => "llama",
            Family::Mistral => "mistral",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
            Family::Refocus => "refocus",
        }
    }
}

/// How attention and MLP are wired into the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// `mid = x + attn(ln1(x)); y = mid + mlp(ln2(mid))`.
    PreNorm,
    /// `mid = ln1(x + attn(x)); y = ln2(mid + mlp(mid))` (OPT-350m).
    PostNorm,
    /// `y = x + attn(ln1(x)) + mlp(ln(x))`; `shared_norm`: the MLP reads `ln1` (GPT-J), else its own `ln2` (NeoX).
    Parallel {
        /// One norm for both.
        shared_norm: bool,
    },
}

/// How a rotary embedding's frequencies are changed for long contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Positions divided by the factor.
    Linear {
        /// > 1 stretches.
        factor: f64,
    },
    /// The base grows once a sequence passes `original` positions (per sequence, from its length).
    Dynamic {
        /// The factor of the configuration.
        factor: f64,
        /// `max_position_embeddings`.
        original: usize,
    },
    /// Llama 3's three bands.
    Llama3 {
        /// Low frequencies are divided by it.
        factor: f64,
        /// `low_freq_factor`.
        low: f64,
        /// `high_freq_factor`.
        high: f64,
        /// `original_max_position_embeddings`.
        original: usize,
    },
    /// Frequency `i` is divided by number `i`, one number a pair of dimensions (`rope_freqs.weight` of
    /// GGUF files, which is how they store Llama 3's bands).
    Divisors(Vec<f32>),
}

/// Positions.
#[derive(Clone, Debug, PartialEq)]
pub enum Positions {
    /// A learned table, read at `position + offset` (OPT: 2).
    Learned {
        /// Added to the position before the look-up.
        offset: usize,
    },
    /// Rotary.
    Rotary {
        /// Dimensions rotated, from the start of each head.
        dims: usize,
        /// `rope_theta`.
        base: f64,
        /// Neighbouring pairs (GPT-J) instead of halves.
        interleaved: bool,
        /// Change for long contexts.
        scaling: Option<RopeScaling>,
    },
    /// A fixed vector a position, added to the embedding: `d^−½ (sin(t ω_i), cos(t ω_i))` with
    /// `ω_i = 10000^(−2i/d)`, all sines first (Vaswani et al. 2017; scaled as the learned ones begin).
    Sinusoidal,
    /// `t / n_ctx` added to the last coordinate of the embedding.
    Linear,
    /// A bias of `−slope · distance` on attention's scores, a fixed slope a head (ALiBi). Nothing else says
    /// where a token stands.
    Alibi,
    /// A learned bias on attention's scores by head and bucket of distances, the same in every block (T5).
    T5 {
        /// Buckets; the first half holds one distance each.
        buckets: usize,
        /// The last bucket begins about here.
        max_distance: usize,
    },
    /// Only the causal mask tells positions apart.
    None,
}

/// Everything the forward pass needs to know about a model's shape.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// Names of tensors.
    pub family: Family,
    /// Blocks.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of the token embedding; differs from `d_model` only in OPT-350m, which projects.
    pub d_embed: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub d_head: usize,
    /// Width of the MLP's hidden layer.
    pub d_mlp: usize,
    /// Rows of the unembedding.
    pub vocab: usize,
    /// Longest sequence.
    pub n_ctx: usize,
    /// Wiring of the blocks.
    pub wiring: Wiring,
    /// Kind of every norm.
    pub norm: NormKind,
    /// Epsilon of every norm.
    pub norm_eps: f32,
    /// Whether blocks have norms.
    pub block_norms: bool,
    /// Whether a norm stands before the unembedding (OPT-350m has none).
    pub final_norm: bool,
    /// Positions.
    pub positions: Positions,
    /// Scores are `(q·k)·scale[layer]`.
    pub attn_scale: Vec<f32>,
    /// Sliding window of each layer.
    pub window: Vec<Option<usize>>,
    /// RMS norm over each head of q and k, before rotary (Qwen3).
    pub qk_norm: bool,
    /// Non-linearity of the MLP.
    pub act: Activation,
    /// `down(act(gate(x)) * up(x))` instead of `down(act(up(x)))`.
    pub gated_mlp: bool,
    /// The unembedding is the token embedding.
    pub tied: bool,
    /// Beginning-of-sequence id, where the configuration names one.
    pub bos: Option<u32>,
    /// End-of-sequence ids.
    pub eos: Vec<u32>,
}

impl ModelSpec {
    /// Whether sequences beyond `n_ctx` are meant to work (`dynamic` rotary scaling).
    pub fn stretches(&self) -> bool {
        matches!(&self.positions, Positions::Rotary { scaling: Some(RopeScaling::Dynamic { .. }), .. })
    }

    /// Whether a sequence of so many tokens has a place in the context.
    pub fn fits(&self, tokens: usize) -> bool {
        tokens <= self.n_ctx || self.stretches()
    }
}
