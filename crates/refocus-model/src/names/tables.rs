//! The names of each family as data.

use super::Part;
use crate::spec::{Family, ModelSpec};

/// Where a name stands.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// After the prefix.
    Global(&'static str),
    /// After the prefix and the block's number.
    Block(&'static str),
}

/// How a logical matrix `[n_out, n_in]` lies in its tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// As it is.
    Plain,
    /// `[n_in, n_out]`.
    Transposed,
    /// `[n_in, 3 · n_out]`: all of q, then k, then v, in the columns.
    Columns(usize),
    /// `[3 · n_out, n_in]`: all of q, then k, then v.
    Rows(usize),
    /// `[3 · n_out, n_in]`: rows by head, and inside a head q, then k, then v.
    Heads(usize),
    /// The two halves of each head interleaved, as llama.cpp rotates them.
    Interleaved,
}

impl Layout {
    pub(super) fn transposed(self) -> bool {
        matches!(self, Layout::Transposed | Layout::Columns(_))
    }

    pub(super) fn fused(self) -> bool {
        matches!(self, Layout::Columns(_) | Layout::Rows(_) | Layout::Heads(_))
    }

    /// The stored row (column, if transposed) of each logical row.
    pub(super) fn rows(self, spec: &ModelSpec, part: Part) -> Option<Vec<u32>> {
        let n = part.shape(spec)[0] as u32;
        let d = spec.d_head as u32;
        match self {
            Layout::Plain | Layout::Transposed => None,
            Layout::Columns(third) | Layout::Rows(third) => {
                Some((third as u32 * n..(third as u32 + 1) * n).collect())
            }
            Layout::Heads(third) => Some((0..n).map(|r| (r / d * 3 + third as u32) * d + r % d).collect()),
            Layout::Interleaved => {
                let half = d / 2;
                let stored = |r: u32| r / d * d + (r % d % half) * 2 + r % d / half;
                Some((0..n).map(stored).collect())
            }
        }
    }
}

/// One family in one format.
#[derive(Debug)]
pub(super) struct Table {
    /// Spellings of the prefix, the usual one first.
    pub(super) prefixes: &'static [&'static str],
    /// Names of the unembedding, without prefix, the usual one first.
    pub(super) heads: &'static [&'static str],
    /// Stands before the number of a block.
    stem: &'static str,
    parts: &'static [(Part, Place, Layout)],
    /// Buffers of a block that no model reads.
    pub(super) harmless_block: &'static [&'static str],
    /// Other buffers that no model reads.
    pub(super) harmless_global: &'static [&'static str],
}

impl Table {
    pub(super) fn block_stem(&self) -> &'static str {
        self.stem
    }

    /// Name of the token embedding after the prefix.
    pub(super) fn embed(&self) -> &'static str {
        match self.find(Part::Embed).0 {
            Place::Global(name) | Place::Block(name) => name,
        }
    }

    /// A part that the family does not have keeps a name that no file has.
    pub(super) fn find(&self, part: Part) -> (Place, Layout) {
        let none = (Place::Global("(none)"), Layout::Plain);
        self.parts.iter().find(|p| p.0 == part).map_or(none, |p| (p.1, p.2))
    }
}

use Layout::{Columns, Heads, Interleaved, Plain, Rows, Transposed};
use Place::{Block, Global};

/// Tables of a Hugging Face folder.
pub(super) fn folder(family: Family) -> &'static Table {
    match family {
        Family::Gpt2 => &GPT2,
        Family::Opt => &OPT,
        Family::GptJ => &GPTJ,
        Family::NeoX => &NEOX,
        Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 => &LLAMA,
        Family::Refocus => &REFOCUS,
    }
}

/// Tables of a GGUF file.
pub(super) fn gguf(family: Family) -> &'static Table {
    match family {
        Family::Llama => &GGUF_LLAMA,
        Family::Gpt2 | Family::NeoX => &GGUF_GPT,
        _ => &GGUF_QWEN,
    }
}

static GPT2: Table = Table {
    prefixes: &["transformer.", ""],
    heads: &["lm_head"],
    stem: "h.",
    parts: &[
        (Part::Embed, Global("wte"), Plain),
        (Part::PosEmbed, Global("wpe"), Plain),
        (Part::FinalNorm, Global("ln_f"), Plain),
        (Part::Ln1, Block("ln_1"), Plain),
        (Part::Ln2, Block("ln_2"), Plain),
        (Part::Q, Block("attn.c_attn"), Columns(0)),
        (Part::K, Block("attn.c_attn"), Columns(1)),
        (Part::V, Block("attn.c_attn"), Columns(2)),
        (Part::O, Block("attn.c_proj"), Transposed),
        (Part::Up, Block("mlp.c_fc"), Transposed),
        (Part::Down, Block("mlp.c_proj"), Transposed),
    ],
    harmless_block: &["attn.bias", "attn.masked_bias"],
    harmless_global: &[],
};

static OPT: Table = Table {
    prefixes: &["model.decoder.", "decoder.", ""],
    heads: &["lm_head"],
    stem: "layers.",
    parts: &[
        (Part::Embed, Global("embed_tokens"), Plain),
        (Part::PosEmbed, Global("embed_positions"), Plain),
        (Part::ProjectIn, Global("project_in"), Plain),
        (Part::ProjectOut, Global("project_out"), Plain),
        (Part::FinalNorm, Global("final_layer_norm"), Plain),
        (Part::Ln1, Block("self_attn_layer_norm"), Plain),
        (Part::Ln2, Block("final_layer_norm"), Plain),
        (Part::Q, Block("self_attn.q_proj"), Plain),
        (Part::K, Block("self_attn.k_proj"), Plain),
        (Part::V, Block("self_attn.v_proj"), Plain),
        (Part::O, Block("self_attn.out_proj"), Plain),
        (Part::Up, Block("fc1"), Plain),
        (Part::Down, Block("fc2"), Plain),
    ],
    harmless_block: &[],
    harmless_global: &["version"],
};

static GPTJ: Table = Table {
    prefixes: &["transformer.", ""],
    heads: &["lm_head"],
    stem: "h.",
    parts: &[
        (Part::Embed, Global("wte"), Plain),
        (Part::FinalNorm, Global("ln_f"), Plain),
        (Part::Ln1, Block("ln_1"), Plain),
        (Part::Q, Block("attn.q_proj"), Plain),
        (Part::K, Block("attn.k_proj"), Plain),
        (Part::V, Block("attn.v_proj"), Plain),
        (Part::O, Block("attn.out_proj"), Plain),
        (Part::Up, Block("mlp.fc_in"), Plain),
        (Part::Down, Block("mlp.fc_out"), Plain),
    ],
    harmless_block: &["attn.bias", "attn.masked_bias", "attn.embed_positions"],
    harmless_global: &[],
};

static NEOX: Table = Table {
    prefixes: &["gpt_neox.", ""],
    heads: &["embed_out", "lm_head"],
    stem: "layers.",
    parts: &[
        (Part::Embed, Global("embed_in"), Plain),
        (Part::FinalNorm, Global("final_layer_norm"), Plain),
        (Part::Ln1, Block("input_layernorm"), Plain),
        (Part::Ln2, Block("post_attention_layernorm"), Plain),
        (Part::Q, Block("attention.query_key_value"), Heads(0)),
        (Part::K, Block("attention.query_key_value"), Heads(1)),
        (Part::V, Block("attention.query_key_value"), Heads(2)),
        (Part::O, Block("attention.dense"), Plain),
        (Part::Up, Block("mlp.dense_h_to_4h"), Plain),
        (Part::Down, Block("mlp.dense_4h_to_h"), Plain),
    ],
    harmless_block: &["attention.bias", "attention.masked_bias", "attention.rotary_emb.inv_freq"],
    harmless_global: &[],
};

static LLAMA: Table = Table {
    prefixes: &["model.", ""],
    heads: &["lm_head"],
    stem: "layers.",
    parts: &[
        (Part::Embed, Global("embed_tokens"), Plain),
        (Part::FinalNorm, Global("norm"), Plain),
        (Part::Ln1, Block("input_layernorm"), Plain),
        (Part::Ln2, Block("post_attention_layernorm"), Plain),
        (Part::Q, Block("self_attn.q_proj"), Plain),
        (Part::K, Block("self_attn.k_proj"), Plain),
        (Part::V, Block("self_attn.v_proj"), Plain),
        (Part::O, Block("self_attn.o_proj"), Plain),
        (Part::QNorm, Block("self_attn.q_norm"), Plain),
        (Part::KNorm, Block("self_attn.k_norm"), Plain),
        (Part::Gate, Block("mlp.gate_proj"), Plain),
        (Part::Up, Block("mlp.up_proj"), Plain),
        (Part::Down, Block("mlp.down_proj"), Plain),
    ],
    harmless_block: &["self_attn.rotary_emb.inv_freq"],
    harmless_global: &["rotary_emb.inv_freq"],
};

/// The llama architecture stores q and k for rotation of neighbouring pairs.
static GGUF_LLAMA: Table = Table {
    prefixes: &[""],
    heads: &["output"],
    stem: "blk.",
    parts: &[
        (Part::Embed, Global("token_embd"), Plain),
        (Part::FinalNorm, Global("output_norm"), Plain),
        (Part::Ln1, Block("attn_norm"), Plain),
        (Part::Ln2, Block("ffn_norm"), Plain),
        (Part::Q, Block("attn_q"), Interleaved),
        (Part::K, Block("attn_k"), Interleaved),
        (Part::V, Block("attn_v"), Plain),
        (Part::O, Block("attn_output"), Plain),
        (Part::Gate, Block("ffn_gate"), Plain),
        (Part::Up, Block("ffn_up"), Plain),
        (Part::Down, Block("ffn_down"), Plain),
    ],
    harmless_block: &["attn_rot_embd.weight"],
    harmless_global: &["rope.freqs"],
};

/// The Qwen architectures store q and k as they are.
static GGUF_QWEN: Table = Table {
    prefixes: &[""],
    heads: &["output"],
    stem: "blk.",
    parts: &[
        (Part::Embed, Global("token_embd"), Plain),
        (Part::FinalNorm, Global("output_norm"), Plain),
        (Part::Ln1, Block("attn_norm"), Plain),
        (Part::Ln2, Block("ffn_norm"), Plain),
        (Part::Q, Block("attn_q"), Plain),
        (Part::K, Block("attn_k"), Plain),
        (Part::V, Block("attn_v"), Plain),
        (Part::O, Block("attn_output"), Plain),
        (Part::QNorm, Block("attn_q_norm"), Plain),
        (Part::KNorm, Block("attn_k_norm"), Plain),
        (Part::Gate, Block("ffn_gate"), Plain),
        (Part::Up, Block("ffn_up"), Plain),
        (Part::Down, Block("ffn_down"), Plain),
    ],
    harmless_block: &[],
    harmless_global: &[],
};

static REFOCUS: Table = Table {
    prefixes: &[""],
    heads: &["unembed"],
    stem: "blocks.",
    parts: &[
        (Part::Embed, Global("embed"), Plain),
        (Part::PosEmbed, Global("pos_embed"), Plain),
        (Part::RelBias, Global("rel_bias"), Plain),
        (Part::FinalNorm, Global("ln_final"), Plain),
        (Part::Ln1, Block("ln1"), Plain),
        (Part::Ln2, Block("ln2"), Plain),
        (Part::Q, Block("attn.q"), Plain),
        (Part::K, Block("attn.k"), Plain),
        (Part::V, Block("attn.v"), Plain),
        (Part::O, Block("attn.o"), Plain),
        (Part::Gate, Block("mlp.gate"), Plain),
        (Part::Up, Block("mlp.up"), Plain),
        (Part::Down, Block("mlp.down"), Plain),
    ],
    harmless_block: &[],
    harmless_global: &[],
};

/// The architectures gpt2 and gptneox: the converter turns GPT-2's matrices to `[n_out, n_in]` and puts
/// NeoX's rows in the order of GPT-2's.
static GGUF_GPT: Table = Table {
    prefixes: &[""],
    heads: &["output"],
    stem: "blk.",
    parts: &[
        (Part::Embed, Global("token_embd"), Plain),
        (Part::PosEmbed, Global("position_embd"), Plain),
        (Part::FinalNorm, Global("output_norm"), Plain),
        (Part::Ln1, Block("attn_norm"), Plain),
        (Part::Ln2, Block("ffn_norm"), Plain),
        (Part::Q, Block("attn_qkv"), Rows(0)),
        (Part::K, Block("attn_qkv"), Rows(1)),
        (Part::V, Block("attn_qkv"), Rows(2)),
        (Part::O, Block("attn_output"), Plain),
        (Part::Up, Block("ffn_up"), Plain),
        (Part::Down, Block("ffn_down"), Plain),
    ],
    harmless_block: &[],
    harmless_global: &[],
};
