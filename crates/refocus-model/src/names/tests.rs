#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;
use crate::checkpoint::testing::{
    Temp, fixture, llama_config, llama_folder, llama_keys, llama_tensors, safetensors_raw,
};

fn rows(m: &MatrixSource<'_>) -> Vec<Vec<f32>> {
    let (n, k) = m.shape();
    let mut out = vec![vec![0.0; k]; n];
    out.iter_mut().enumerate().for_each(|(i, row)| m.row_f32(i, row));
    out
}

fn stored(c: &Checkpoint, name: &str) -> (Vec<usize>, Vec<f32>) {
    let t = c.tensor(name).unwrap();
    (t.shape.to_vec(), floats(&t.dtype, t.bytes, t.shape.iter().product()))
}

#[test]
fn gpt2_is_split_by_columns_and_turned() {
    for name in ["gpt2", "gpt2-f16"] {
        let c = Checkpoint::open(fixture(name)).unwrap();
        let d = c.spec().d_model;
        let prefix = if name == "gpt2" { "transformer." } else { "" };
        let (shape, w) = stored(&c, &format!("{prefix}h.1.attn.c_attn.weight"));
        let (_, b) = stored(&c, &format!("{prefix}h.1.attn.c_attn.bias"));
        assert_eq!(shape, [d, 3 * d]);
        for (third, part) in [Part::Q, Part::K, Part::V].into_iter().enumerate() {
            let m = rows(&c.matrix(part, 1).unwrap().unwrap());
            let bias = c.vector(part, 1, Which::Bias).unwrap().unwrap();
            for i in 0..d {
                assert_eq!(bias[i], b[third * d + i]);
                (0..d).for_each(|j| assert_eq!(m[i][j], w[j * 3 * d + third * d + i]));
            }
        }
        let (shape, w) = stored(&c, &format!("{prefix}h.0.mlp.c_fc.weight"));
        let up = rows(&c.matrix(Part::Up, 0).unwrap().unwrap());
        assert_eq!((up.len(), up[0].len()), (shape[1], shape[0]));
        assert_eq!(up[3][2], w[2 * shape[1] + 3]);
    }
}

#[test]
fn neox_is_split_by_head() {
    let c = Checkpoint::open(fixture("neox")).unwrap();
    let (d, dh) = (c.spec().d_model, c.spec().d_head);
    let (_, w) = stored(&c, "gpt_neox.layers.1.attention.query_key_value.weight");
    let (_, b) = stored(&c, "gpt_neox.layers.1.attention.query_key_value.bias");
    for (third, part) in [Part::Q, Part::K, Part::V].into_iter().enumerate() {
        let m = rows(&c.matrix(part, 1).unwrap().unwrap());
        let bias = c.vector(part, 1, Which::Bias).unwrap().unwrap();
        for r in 0..d {
            let from = (r / dh) * 3 * dh + third * dh + r % dh;
            assert_eq!(m[r], w[from * d..(from + 1) * d]);
            assert_eq!(bias[r], b[from]);
        }
    }
}

#[test]
fn llama_gguf_rows_are_put_back() {
    // What the converter does to the rows of one head of width `d`: both halves interleaved.
    let permute = |rows: Vec<usize>, d: usize| -> Vec<usize> {
        rows.chunks(d).flat_map(|h| (0..d).map(|i| h[i % 2 * (d / 2) + i / 2]).collect::<Vec<_>>()).collect()
    };
    for name in ["gguf-llama-f32", "gguf-llama-q4_1", "gguf-llama-q2_k", "gguf-llama-q4_k_m"] {
        let c = Checkpoint::open(fixture(name).join("model.gguf")).unwrap();
        let spec = c.spec();
        for part in [Part::Q, Part::K] {
            let m = c.matrix(part, 0).unwrap().unwrap();
            let (n, _) = m.shape();
            let written = permute((0..n).collect(), spec.d_head);
            let read = m.rows.unwrap();
            assert!((0..n).all(|r| written[read[r] as usize] == r), "{name}");
        }
        assert!(c.matrix(Part::V, 0).unwrap().unwrap().rows.is_none());
    }
}

#[test]
fn gpt_gguf_holds_q_then_k_then_v() {
    for (name, of) in [("gguf-gpt2-f32", "gpt2"), ("gguf-neox-f32", "neox")] {
        let c = Checkpoint::open(fixture(name).join("model.gguf")).unwrap();
        let d = c.spec().d_model;
        let (shape, w) = stored(&c, "blk.1.attn_qkv.weight");
        let (_, b) = stored(&c, "blk.1.attn_qkv.bias");
        assert_eq!(shape, [3 * d, d]);
        for (third, part) in [Part::Q, Part::K, Part::V].into_iter().enumerate() {
            let m = rows(&c.matrix(part, 1).unwrap().unwrap());
            let bias = c.vector(part, 1, Which::Bias).unwrap().unwrap();
            assert_eq!(bias, b[third * d..(third + 1) * d]);
            (0..d).for_each(|r| assert_eq!(m[r], w[(third * d + r) * d..][..d]));
        }
        // Matrix by matrix what the folder holds.
        let folder = Checkpoint::open(fixture(of)).unwrap();
        for part in [Part::Q, Part::K, Part::V, Part::O, Part::Up, Part::Down, Part::Embed] {
            let (a, b) = (c.matrix(part, 0).unwrap().unwrap(), folder.matrix(part, 0).unwrap().unwrap());
            assert!(rows(&a) == rows(&b), "{name}: {part:?}");
        }
    }
}

#[test]
fn a_repeated_embedding_in_gguf_is_tied() {
    let open = |name: &str| Checkpoint::open(fixture(name).join("model.gguf")).unwrap();
    let c = open("gguf-gpt2-f16");
    assert!(
        c.tensor("output.weight").is_ok() && c.spec().tied && c.matrix(Part::Unembed, 0).unwrap().is_none()
    );
    assert!(open("gguf-gpt2-f32").spec().tied);
    assert!(!open("gguf-neox-f32").spec().tied && !open("gguf-llama-bf16").spec().tied);
}

#[test]
fn parts_exist_as_the_family_has_them() {
    let open = |name: &str| Checkpoint::open(fixture(name)).unwrap();
    let has = |c: &Checkpoint, part: Part, which: Which| c.vector(part, 0, which).unwrap().is_some();
    let c = open("gptj");
    assert!(has(&c, Part::Unembed, Which::Bias) && has(&c, Part::Up, Which::Bias));
    assert!(
        !has(&c, Part::Q, Which::Bias)
            && !has(&c, Part::Ln2, Which::Weight)
            && !has(&c, Part::O, Which::Bias)
    );
    let c = open("opt-350m");
    assert!(c.matrix(Part::ProjectIn, 0).unwrap().is_some() && c.matrix(Part::Unembed, 0).unwrap().is_none());
    assert!(!has(&c, Part::FinalNorm, Which::Weight) && has(&c, Part::Ln2, Which::Bias));
    assert_eq!(c.matrix(Part::PosEmbed, 0).unwrap().unwrap().shape().0, c.spec().n_ctx + 2);
    let c = open("qwen2");
    assert!(
        has(&c, Part::V, Which::Bias) && !has(&c, Part::O, Which::Bias) && !has(&c, Part::Ln1, Which::Bias)
    );
    let c = open("qwen3");
    assert!(has(&c, Part::QNorm, Which::Weight) && !has(&c, Part::QNorm, Which::Bias));
    let c = open("llama-bias");
    assert!(
        has(&c, Part::Gate, Which::Bias)
            && has(&c, Part::O, Which::Bias)
            && !has(&c, Part::FinalNorm, Which::Bias)
    );
    assert!(c.matrix(Part::Q, 99).is_err());
}

#[track_caller]
fn refused(changes: Value, edit: impl FnOnce(&mut Vec<(String, Vec<usize>)>)) -> String {
    let temp = llama_folder(changes, edit);
    Checkpoint::open(temp.path()).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn missing_misshapen_and_left_over_tensors_are_named() {
    let e = refused(json!({}), |t| t.retain(|(n, _)| !n.contains("k_proj")));
    assert!(e.ends_with("tensor model.layers.0.self_attn.k_proj.weight is missing"), "{e}");
    let e = refused(json!({}), |t| t[2].1 = vec![2, 4]);
    let want = "model.safetensors: tensor model.layers.0.self_attn.q_proj.weight has shape [2, 4], the configuration asks for [4, 4]";
    assert!(e.ends_with(want), "{e}");
    let e = refused(json!({}), |t| t[1].1 = vec![1, 4]);
    assert!(e.contains("input_layernorm.weight has shape [1, 4], the configuration asks for [4]"), "{e}");
    let e = refused(json!({}), |t| t.push(("score.weight".into(), vec![2])));
    assert!(e.ends_with("the checkpoint holds tensors that the model would not use: score.weight"), "{e}");
    let e = refused(json!({}), |t| t.extend((0..20).map(|i| (format!("x{i:02}"), vec![1]))));
    assert!(e.contains("x07 and 12 more"), "{e}");
    let e = refused(json!({}), |t| t.push(("model.layers.0.self_attn.q_proj.bias".into(), vec![4])));
    assert!(e.contains("would not use: model.layers.0.self_attn.q_proj.bias"), "{e}");
    let e = refused(json!({"attention_bias": true}), |_| {});
    assert!(e.contains("q_proj.bias is missing"), "{e}");
    let e = refused(json!({"tie_word_embeddings": false}), |_| {});
    assert!(e.contains("tensor lm_head.weight is missing"), "{e}");
    let e = refused(json!({"num_hidden_layers": 2}), |_| {});
    assert!(e.contains("tensor model.layers.1.input_layernorm.weight is missing"), "{e}");
    let e = refused(json!({}), |t| t.push(("model.layers.1.self_attn.rotary_emb.inv_freq".into(), vec![1])));
    assert!(e.contains("would not use: model.layers.1.self_attn.rotary_emb.inv_freq"), "{e}");
}

#[test]
fn prefixes_and_buffers_are_tolerated() {
    for prefix in ["model.", ""] {
        let temp = llama_folder(json!({}), |t| {
            t.iter_mut().for_each(|(n, _)| *n = format!("{prefix}{}", n.trim_start_matches("model.")));
            t.push((format!("{prefix}layers.0.self_attn.rotary_emb.inv_freq"), vec![1]));
        });
        let c = Checkpoint::open(temp.path()).unwrap();
        assert_eq!(c.matrix(Part::Embed, 0).unwrap().unwrap().name, format!("{prefix}embed_tokens.weight"));
    }
    let e = refused(json!({}), |t| t[3].0 = "layers.0.self_attn.k_proj.weight".into());
    assert!(e.contains("model.layers.0.self_attn.k_proj.weight is missing"), "{e}");
}

/// Bytes of a file in which the unembedding repeats the embedding or does not.
fn with_head(equal: bool) -> Temp {
    let temp = llama_folder(json!({}), |t| t.insert(1, ("lm_head.weight".into(), vec![5, 4])));
    if equal {
        let file = temp.path().join("model.safetensors");
        let mut bytes = std::fs::read(&file).unwrap();
        let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes.copy_within(start..start + 80, start + 80);
        std::fs::write(&file, bytes).unwrap();
    }
    temp
}

#[test]
fn a_stored_unembedding_of_a_tied_model_counts_only_if_it_differs() {
    let temp = with_head(true);
    let c = Checkpoint::open(temp.path()).unwrap();
    assert!(c.spec().tied && c.matrix(Part::Unembed, 0).unwrap().is_none());
    let temp = with_head(false);
    let c = Checkpoint::open(temp.path()).unwrap();
    assert!(!c.spec().tied);
    assert_eq!(c.matrix(Part::Unembed, 0).unwrap().unwrap().name, "lm_head.weight");
    // Stored as the unembedding alone.
    let temp = llama_folder(json!({}), |t| t[0].0 = "lm_head.weight".into());
    let c = Checkpoint::open(temp.path()).unwrap();
    assert!(c.spec().tied);
    assert_eq!(c.matrix(Part::Embed, 0).unwrap().unwrap().name, "lm_head.weight");
}

#[test]
fn a_weight_of_a_type_without_arithmetic_is_an_error() {
    let temp = Temp::new();
    temp.write("config.json", llama_config(json!({})).to_string());
    let header = r#"{"model.embed_tokens.weight":{"dtype":"F64","shape":[5,4],"data_offsets":[0,160]}}"#;
    temp.write("model.safetensors", safetensors_raw(header, &[0; 160]));
    let e = Checkpoint::open(temp.path()).unwrap_err().to_string();
    assert!(e.contains("tensor model.embed_tokens.weight is stored as F64, which is not supported"), "{e}");
}

#[test]
fn gguf_biases_are_found_and_put_in_order() {
    let gguf = llama_tensors(llama_keys())
        .f32s("blk.0.attn_q.bias", &[8], 0)
        .f32s("blk.0.attn_k.bias", &[4], 0)
        .f32s("blk.0.attn_v.bias", &[4], 0);
    let temp = Temp::new();
    let c = Checkpoint::open(temp.write("m.gguf", gguf.build())).unwrap();
    let bias = |part| c.vector(part, 0, Which::Bias).unwrap();
    assert_eq!(bias(Part::Q).unwrap(), [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
    assert_eq!(bias(Part::V).unwrap(), [0.0, 1.0, 2.0, 3.0]);
    assert!(bias(Part::O).is_none());
    let extra = llama_tensors(llama_keys()).f32s("blk.0.attn_sinks", &[4], 0);
    let e = Checkpoint::open(temp.write("n.gguf", extra.build())).unwrap_err().to_string();
    assert!(e.contains("would not use: blk.0.attn_sinks"), "{e}");
}
