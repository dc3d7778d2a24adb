#![allow(clippy::unwrap_used)]

use std::fs;

use serde_json::json;

use super::*;
use crate::checkpoint::testing::{Gguf, fixture, fixtures_with, llama_folder, llama_keys, llama_tensors};
use crate::checkpoint::{Checkpoint, testing::Temp};
use crate::spec::RopeScaling;

fn read(config: Value) -> LoadResult<Described> {
    from_json(Path::new("config.json"), config.as_object().unwrap())
}

fn spec(config: Value) -> ModelSpec {
    read(config).unwrap().spec
}

/// The error of a configuration, which names the key.
#[track_caller]
fn refused(config: Value, key: &str) -> String {
    match read(config.clone()) {
        Ok(_) => panic!("{config} is accepted"),
        Err(e) => {
            let text = e.to_string();
            assert!(text.contains(key), "{text} does not name {key}");
            text
        }
    }
}

fn rotary(spec: &ModelSpec) -> (usize, f64, bool, Option<RopeScaling>) {
    match &spec.positions {
        Positions::Rotary { dims, base, interleaved, scaling } => {
            (*dims, *base, *interleaved, scaling.clone())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn missing_keys_take_the_defaults_of_the_family() {
    let sizes = |family: &str| {
        let s = spec(json!({"model_type": family}));
        assert_eq!(s.window.len(), s.n_layers);
        assert_eq!(s.attn_scale.len(), s.n_layers);
        ([s.n_layers, s.d_model, s.n_heads, s.n_kv_heads, s.d_head, s.d_mlp, s.n_ctx, s.vocab], s)
    };
    let (n, s) = sizes("gpt2");
    assert_eq!(n, [12, 768, 12, 12, 64, 3072, 1024, 50257]);
    assert!(s.tied && s.act == Activation::GeluTanh && s.positions == Positions::Learned { offset: 0 });
    assert!(s.bos == Some(50256) && s.eos == [50256] && s.norm_eps == 1e-5);
    let (n, s) = sizes("opt");
    assert_eq!(n, [12, 768, 12, 12, 64, 3072, 2048, 50272]);
    assert!(s.tied && s.act == Activation::Relu && s.positions == Positions::Learned { offset: 2 });
    assert!(s.d_embed == 768 && s.final_norm && s.bos == Some(2));
    let (n, s) = sizes("gptj");
    assert_eq!(n, [28, 4096, 16, 16, 256, 16384, 2048, 50400]);
    assert!(!s.tied && s.wiring == Wiring::Parallel { shared_norm: true });
    assert_eq!(rotary(&s), (64, 10000.0, true, None));
    let (n, s) = sizes("gpt_neox");
    assert_eq!(n, [44, 6144, 64, 64, 96, 24576, 2048, 50432]);
    assert!(!s.tied && s.act == Activation::Gelu && s.wiring == Wiring::Parallel { shared_norm: false });
    assert_eq!(rotary(&s), (24, 10000.0, false, None));
    assert!(s.bos == Some(0) && s.eos == [2]);
    let (n, s) = sizes("llama");
    assert_eq!(n, [32, 4096, 32, 32, 128, 11008, 2048, 32000]);
    assert!(!s.tied && s.norm == NormKind::Rms && s.norm_eps == 1e-6 && s.gated_mlp && !s.qk_norm);
    assert_eq!(rotary(&s), (128, 10000.0, false, None));
    let (n, s) = sizes("mistral");
    assert_eq!(n, [32, 4096, 32, 8, 128, 14336, 131_072, 32000]);
    assert_eq!(s.window, [Some(4096); 32]);
    let (n, s) = sizes("qwen2");
    assert_eq!(n, [32, 4096, 32, 32, 128, 22016, 32768, 151_936]);
    assert!(s.window == [None; 32] && s.bos.is_none() && s.eos.is_empty());
    let (n, s) = sizes("qwen3");
    assert_eq!(n, [32, 4096, 32, 32, 128, 22016, 32768, 151_936]);
    assert!(s.qk_norm);
}

#[test]
fn both_spellings_of_every_fixture_say_the_same() {
    let names = fixtures_with("config.v5.json");
    assert!(names.len() > 12);
    for name in names {
        let read = |file: &str| -> Described {
            let text = fs::read(fixture(&name).join(file)).unwrap();
            read(serde_json::from_slice(&text).unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"))
        };
        assert_eq!(read("config.json"), read("config.v5.json"), "{name}");
    }
}

#[test]
fn a_key_that_is_not_known_is_an_error() {
    for family in ["gpt2", "opt", "gptj", "gpt_neox", "llama", "mistral", "qwen2", "qwen3"] {
        let text =
            refused(json!({"model_type": family, "residual_multiplier": 0.5}), "residual_multiplier = 0.5");
        assert!(text.starts_with("config.json: ") && text.contains("unknown"));
        refused(json!({"model_type": family, "quantization_config": {"bits": 4}}), "quantization_config");
        refused(json!({"model_type": family, "is_encoder_decoder": true}), "is_encoder_decoder = true");
        refused(json!({"model_type": family, "pruned_heads": {"0": [1]}}), "pruned_heads");
        spec(
            json!({"model_type": family, "quantization_config": null, "pruned_heads": {}, "dtype": "float16"}),
        );
    }
    refused(json!({"model_type": "bert"}), "model_type = \"bert\"");
    refused(json!({}), "key model_type is missing");
    refused(json!({"model_type": 3}), "model_type");
    refused(json!({"model_type": "llama", "sliding_window": 8}), "sliding_window = 8");
    refused(json!({"model_type": "llama", "use_sliding_window": true}), "use_sliding_window");
    refused(json!({"model_type": "llama", "rope_interleaved": true}), "rope_interleaved");
    refused(json!({"model_type": "gpt2", "rope_theta": 1.0}), "rope_theta");
    refused(json!({"model_type": "mistral", "attention_bias": true}), "attention_bias");
    refused(json!({"model_type": "qwen2", "mlp_bias": true}), "mlp_bias");
    refused(json!({"model_type": "gptj", "rotary": false}), "rotary");
    refused(json!({"model_type": "gptj", "scale_attn_weights": false}), "scale_attn_weights");
    refused(json!({"model_type": "gpt2", "reorder_and_upcast_attn": true}), "reorder_and_upcast_attn");
    refused(json!({"model_type": "gpt2", "add_cross_attention": true}), "add_cross_attention");
    refused(json!({"model_type": "gpt_neox", "head_dim": 8}), "head_dim");
}

#[test]
fn values_that_make_no_sense_are_errors() {
    let llama = |key: &str, value: Value| {
        let mut config = json!({"model_type": "llama"});
        config[key] = value;
        config
    };
    for bad in [
        json!(0),
        json!(-1),
        json!(1.5),
        json!(32.0),
        json!("32"),
        json!(null),
        json!(true),
        json!(1u64 << 40),
    ] {
        for key in
            ["num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size", "intermediate_size"]
        {
            refused(llama(key, bad.clone()), &format!("{key} = "));
        }
    }
    refused(llama("num_hidden_layers", json!(1_000_000)), "num_hidden_layers");
    refused(llama("num_attention_heads", json!(33)), "no multiple");
    refused(llama("num_key_value_heads", json!(5)), "num_key_value_heads");
    refused(llama("head_dim", json!(0)), "head_dim");
    refused(llama("head_dim", json!(5)), "head_dim");
    refused(llama("rms_norm_eps", json!(-1e-6)), "rms_norm_eps");
    refused(llama("rms_norm_eps", json!(1e300)), "rms_norm_eps");
    refused(llama("rms_norm_eps", json!("1e-6")), "rms_norm_eps");
    refused(llama("rope_theta", json!(0)), "rope_theta");
    refused(llama("rope_theta", json!(-10.0)), "rope_theta");
    refused(llama("hidden_act", json!("xielu")), "hidden_act = \"xielu\"");
    refused(llama("hidden_act", json!("quick_gelu")), "hidden_act");
    refused(llama("tie_word_embeddings", json!("no")), "tie_word_embeddings");
    refused(llama("eos_token_id", json!(["</s>"])), "eos_token_id");
    refused(llama("bos_token_id", json!(-1)), "bos_token_id");
    refused(json!({"model_type": "gpt2", "n_embd": 770}), "n_head");
    refused(json!({"model_type": "gpt2", "n_embd": 768, "hidden_size": 512}), "hidden_size = 512");
    refused(json!({"model_type": "gptj", "rotary_dim": null}), "rotary_dim");
    refused(json!({"model_type": "gptj", "rotary_dim": 7}), "rotary_dim");
    refused(json!({"model_type": "gptj", "rotary_dim": 258}), "rotary_dim");
    refused(json!({"model_type": "gpt_neox", "rotary_pct": 1.5}), "rotary_pct");
    refused(json!({"model_type": "gpt_neox", "rotary_pct": 0.0}), "rotary_pct");
}

#[test]
fn switches_of_the_families_are_read() {
    let s = spec(json!({"model_type": "gpt2", "hidden_size": 8, "n_head": 2, "n_layer": 3, "n_inner": null,
        "scale_attn_by_inverse_layer_idx": true, "activation_function": "relu"}));
    assert_eq!(s.attn_scale, [0.5, 0.25, (0.5f64 / 3.0) as f32]);
    assert!(s.d_mlp == 32 && s.act == Activation::Relu);
    let s = spec(json!({"model_type": "gpt2", "scale_attn_weights": false}));
    assert_eq!(s.attn_scale, [1.0; 12]);
    let s = spec(json!({"model_type": "opt", "do_layer_norm_before": false, "word_embed_proj_dim": 512}));
    assert!(s.wiring == Wiring::PostNorm && !s.final_norm && s.d_embed == 512);
    assert!(!spec(json!({"model_type": "opt", "_remove_final_layer_norm": true})).final_norm);
    let has =
        read(json!({"model_type": "opt", "enable_bias": false, "layer_norm_elementwise_affine": false}))
            .unwrap()
            .has;
    assert!(!has.qkv_bias && !has.out_bias && !has.mlp_bias && !has.gain && !has.norm_bias);
    let s = spec(json!({"model_type": "gpt_neox", "use_parallel_residual": false}));
    assert_eq!(s.wiring, Wiring::PreNorm);
    let has = read(json!({"model_type": "llama", "attention_bias": true, "mlp_bias": true})).unwrap().has;
    assert!(has.qkv_bias && has.out_bias && has.mlp_bias && !has.norm_bias);
    let has = read(json!({"model_type": "qwen2"})).unwrap().has;
    assert!(has.qkv_bias && !has.out_bias && !has.mlp_bias);
    let s = spec(
        json!({"model_type": "llama", "eos_token_id": [2, 3, 999_999], "bos_token_id": null, "num_key_value_heads": null}),
    );
    assert!(s.eos == [2, 3] && s.bos.is_none() && s.n_kv_heads == 32);
    let s = spec(
        json!({"model_type": "qwen3", "hidden_size": 96, "head_dim": 10, "num_attention_heads": 4, "num_key_value_heads": 2}),
    );
    assert!(s.d_head == 10 && s.attn_scale[0] == 10f32.powf(-0.5));
}

#[test]
fn windows_follow_every_way_to_say_them() {
    let window = |config: Value| {
        let mut config = config;
        config["num_hidden_layers"] = json!(3);
        spec(config).window
    };
    assert_eq!(window(json!({"model_type": "mistral", "sliding_window": null})), [None; 3]);
    assert_eq!(window(json!({"model_type": "mistral", "sliding_window": 7})), [Some(7); 3]);
    let qwen = |mut more: Value| {
        more["model_type"] = json!("qwen2");
        more
    };
    assert_eq!(window(qwen(json!({"sliding_window": 7}))), [None; 3]);
    let on = json!({"use_sliding_window": true, "sliding_window": 7, "max_window_layers": 1});
    assert_eq!(window(qwen(on.clone())), [None, Some(7), Some(7)]);
    let mut listed = on.clone();
    listed["layer_types"] = json!(["sliding_attention", "full_attention", "full_attention"]);
    assert_eq!(window(qwen(listed)), [Some(7), None, None]);
    assert_eq!(window(qwen(json!({"use_sliding_window": true, "max_window_layers": 0}))), [Some(4096); 3]);
    assert_eq!(
        window(qwen(json!({"use_sliding_window": true, "sliding_window": null, "max_window_layers": 0}))),
        [None; 3]
    );
    let types = |kinds: Value| json!({"model_type": "qwen2", "num_hidden_layers": 2, "layer_types": kinds});
    refused(types(json!(["full_attention"])), "a list of 2");
    refused(types(json!(["full_attention", "chunked_attention"])), "chunked_attention");
    refused(types(json!(["full_attention", "sliding_attention"])), "no sliding window");
    refused(
        json!({"model_type": "mistral", "num_hidden_layers": 1, "layer_types": ["full_attention"]}),
        "layer_types",
    );
    refused(json!({"model_type": "qwen2", "max_window_layers": -1}), "max_window_layers");
    refused(json!({"model_type": "mistral", "sliding_window": 0}), "sliding_window");
}

#[test]
fn rotary_positions_follow_both_spellings() {
    let rope = |key: &str, value: Value| {
        let mut config = json!({"model_type": "llama", "max_position_embeddings": 64});
        config[key] = value;
        config
    };
    let scaling = |config: Value| rotary(&spec(config)).3;
    for key in ["rope_scaling", "rope_parameters"] {
        for kind in ["type", "rope_type"] {
            let mut linear = json!({"factor": 2});
            linear[kind] = json!("linear");
            assert_eq!(scaling(rope(key, linear)), Some(RopeScaling::Linear { factor: 2.0 }));
        }
        let dynamic = json!({"rope_type": "dynamic", "factor": 4.0});
        assert_eq!(scaling(rope(key, dynamic)), Some(RopeScaling::Dynamic { factor: 4.0, original: 64 }));
        let mut llama3 =
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0});
        let bands = |original| Some(RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original });
        assert_eq!(scaling(rope(key, llama3.clone())), bands(64));
        llama3["original_max_position_embeddings"] = json!(32);
        assert_eq!(scaling(rope(key, llama3.clone())), bands(32));
        llama3["high_freq_factor"] = json!(1.0);
        refused(rope(key, llama3), &format!("{key}.high_freq_factor"));
        assert_eq!(rotary(&spec(rope(key, json!({"rope_theta": 7})))).1, 7.0);
        assert_eq!(scaling(rope(key, json!({}))), None);
        assert_eq!(scaling(rope(key, json!(null))), None);
        for kind in ["yarn", "longrope", "su", "proportional", "mrope"] {
            refused(
                rope(key, json!({"rope_type": kind, "factor": 2.0})),
                &format!("{key}.rope_type = \"{kind}\""),
            );
        }
        refused(rope(key, json!({"type": "linear"})), &format!("{key}.factor"));
        refused(rope(key, json!({"type": "linear", "factor": -1.0})), &format!("{key}.factor"));
        refused(
            rope(key, json!({"type": "linear", "factor": 2.0, "beta_fast": 32})),
            &format!("{key}.beta_fast"),
        );
        refused(rope(key, json!({"factor": 2.0})), &format!("{key}.factor"));
        refused(
            rope(key, json!({"type": "linear", "rope_type": "dynamic", "factor": 2.0})),
            &format!("{key}.type"),
        );
        refused(
            rope(key, json!({"full_attention": {"rope_type": "default"}})),
            &format!("{key}.full_attention"),
        );
        refused(rope(key, json!({"partial_rotary_factor": 0.5})), &format!("{key}.partial_rotary_factor"));
        refused(rope(key, json!("linear")), key);
        let original = json!({"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 32});
        refused(rope(key, original), "original_max_position_embeddings");
    }
    let mut both = rope("rope_parameters", json!({"rope_theta": 7.0}));
    both["rope_theta"] = json!(8.0);
    refused(both.clone(), "rope_theta = 8.0");
    both["rope_theta"] = json!(7);
    assert_eq!(rotary(&spec(both.clone())).1, 7.0);
    both["rope_scaling"] = json!({"rope_theta": 9.0});
    refused(both, "rope_scaling");
    refused(rope("partial_rotary_factor", json!(0.5)), "partial_rotary_factor");
}

#[test]
fn neox_rotates_a_part_of_each_head() {
    let neox = |mut more: Value| {
        more["model_type"] = json!("gpt_neox");
        more["hidden_size"] = json!(40);
        more["num_attention_heads"] = json!(2);
        more
    };
    let dims = |more: Value| rotary(&spec(neox(more)));
    assert_eq!(dims(json!({"rotary_pct": 0.5, "rotary_emb_base": 500})), (10, 500.0, false, None));
    assert_eq!(dims(json!({"rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 500}})).0, 10);
    assert_eq!(dims(json!({"rope_scaling": {"type": "linear", "factor": 2}, "rotary_pct": 1.0})).0, 20);
    // A quarter of 20 is odd: six dimensions turn, with the exponents of five.
    let (n, base, ..) = dims(json!({}));
    assert_eq!(n, 6);
    for i in 0..3 {
        let want = 10000f64.powf(-2.0 * f64::from(i) / 5.0);
        assert!((base.powf(-2.0 * f64::from(i) / 6.0) / want - 1.0).abs() < 1e-14);
    }
    refused(neox(json!({"rope_scaling": {"type": "dynamic", "factor": 2}})), "rotary_pct");
    refused(
        neox(json!({"rotary_pct": 0.5, "rope_parameters": {"partial_rotary_factor": 0.25}})),
        "rotary_pct",
    );
    refused(neox(json!({"rotary_emb_base": 5, "rope_parameters": {"rope_theta": 6}})), "rotary_emb_base");
    refused(neox(json!({"rope_theta": 6})), "rope_theta");
    refused(neox(json!({"rotary_pct": 0.01})), "rotary_pct");
    let odd =
        json!({"model_type": "gpt_neox", "hidden_size": 38, "num_attention_heads": 2, "rotary_pct": 1.0});
    refused(odd, "rotary_pct = 1.0: 19 of the 19 dimensions");
}

#[test]
fn activations_have_the_names_of_transformers() {
    assert_eq!(activation("gelu"), Some(Activation::Gelu));
    for name in ["gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_accurate"] {
        assert_eq!(activation(name), Some(Activation::GeluTanh));
    }
    assert_eq!(activation("swish"), activation("silu"));
    for name in ["quick_gelu", "gelu_10", "relu2", "tanh", ""] {
        assert_eq!(activation(name), None);
    }
}

fn gguf(edit: impl FnOnce(Gguf) -> Gguf) -> LoadResult<Described> {
    let temp = Temp::new();
    let path = temp.write("m.gguf", llama_tensors(edit(llama_keys())).build());
    Checkpoint::open(path).map(|c| c.described().clone())
}

#[test]
fn gguf_metadata_is_read_key_by_key() {
    let s =
        gguf(|g| g.f32("llama.rope.freq_base", 500.0).u32("tokenizer.ggml.eos_token_id", 3)).unwrap().spec;
    assert_eq!(
        (s.n_layers, s.d_model, s.n_heads, s.n_kv_heads, s.d_head, s.d_mlp, s.vocab, s.n_ctx),
        (1, 8, 2, 1, 4, 6, 4, 8)
    );
    assert!(s.tied && s.eos == [3] && s.bos.is_none() && s.norm_eps == 1e-5 && s.gated_mlp);
    assert_eq!(rotary(&s), (4, 500.0, false, None));
    // The end of a turn ends a text too; an id twice, or past the vocabulary, does not count.
    let end = |g: Gguf, role: &str, id| g.u32(&format!("tokenizer.ggml.{role}_token_id"), id);
    assert_eq!(gguf(|g| end(end(end(g, "eot", 1), "eom", 3), "eos", 3)).unwrap().spec.eos, [3, 1]);
    assert_eq!(gguf(|g| end(end(g, "eot", 9), "eom", 2)).unwrap().spec.eos, [2]);
    let linear = |g: Gguf| g.text("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 2.0);
    assert_eq!(rotary(&gguf(linear).unwrap().spec).3, Some(RopeScaling::Linear { factor: 2.0 }));
    let refused = |edit: &dyn Fn(Gguf) -> Gguf, key: &str| {
        let e = gguf(edit).unwrap_err().to_string();
        assert!(e.contains(key), "{e} does not name {key}");
    };
    refused(&|g| g.text("llama.rope.scaling.type", "yarn"), "llama.rope.scaling.type = \"yarn\"");
    refused(&|g| g.text("llama.rope.scaling.type", "linear"), "llama.rope.scaling.factor is missing");
    refused(&|g| g.f32("llama.logit_scale", 2.0), "llama.logit_scale = 2");
    refused(&|g| g.u32("llama.expert_count", 8), "llama.expert_count = 8");
    refused(&|g| g.u32("llama.rope.dimension_count", 2), "llama.rope.dimension_count = 2");
    refused(&|g| g.u32("llama.attention.value_length", 2), "llama.attention.value_length");
    refused(&|g| g.u32("llama.vocab_size", 0), "llama.vocab_size = 0");
    refused(
        &|g| g.u32("llama.vocab_size", 5),
        "token_embd.weight has shape [4, 8], the configuration asks for [5, 8]",
    );
    refused(&|g| g.text("general.type", "adapter"), "general.type");
    refused(&|g| g.u32("split.count", 2), "split.count");
    refused(&|_| Gguf::new().text("general.architecture", "mamba"), "general.architecture = \"mamba\"");
    refused(&|_| Gguf::new(), "general.architecture is missing");
    refused(&|_| Gguf::new().text("general.architecture", "llama"), "llama.block_count is missing");
    gguf(|g| g.u32("llama.expert_count", 0).flag("llama.attention.causal", true).text("general.name", "x"))
        .unwrap();
}

/// A GGUF fixture with one changed key.
fn changed(name: &str, edit: impl FnOnce(Vec<u8>) -> Vec<u8>) -> LoadResult<ModelSpec> {
    let temp = Temp::new();
    let bytes = std::fs::read(fixture(name).join("model.gguf")).unwrap();
    let path = temp.write("m.gguf", edit(bytes));
    Checkpoint::open(path).map(|c| c.spec().clone())
}

/// Overwrites the value of a key, `skip` bytes after its name.
fn set(mut bytes: Vec<u8>, key: &str, value: &[u8]) -> Vec<u8> {
    let at = bytes.windows(key.len()).position(|w| w == key.as_bytes()).unwrap() + key.len() + 4;
    bytes[at..at + value.len()].copy_from_slice(value);
    bytes
}

#[test]
fn gguf_keys_of_gpt2_and_gptneox_are_read() {
    let s = changed("gguf-gpt2-f32", |b| b).unwrap();
    assert_eq!(
        (s.family, s.norm, s.positions.clone(), s.act),
        (Family::Gpt2, NormKind::Layer, Positions::Learned { offset: 0 }, Activation::GeluTanh)
    );
    let s = changed("gguf-neox-f32", |b| b).unwrap();
    assert_eq!((s.wiring, s.act, s.d_head), (Wiring::Parallel { shared_norm: false }, Activation::Gelu, 11));
    assert_eq!(rotary(&s), (4, 10000.0, false, None));
    let s = changed("gguf-neox-f16", |b| b).unwrap();
    assert_eq!((s.wiring, s.norm_eps), (Wiring::PreNorm, 0.01));
    assert_eq!(rotary(&s), (4, 500.0, false, None));
    let parallel = changed("gguf-neox-f16", |b| set(b, "gptneox.use_parallel_residual", &[1])).unwrap();
    assert_eq!(parallel.wiring, Wiring::Parallel { shared_norm: false });
    let refused = |name: &str, key: &str, value: u32, why: &str| {
        let e = changed(name, |b| set(b, key, &value.to_le_bytes())).unwrap_err().to_string();
        assert!(e.contains(key) && e.contains(why), "{e}");
    };
    refused("gguf-neox-f32", "gptneox.rope.dimension_count", 3, "odd width 3");
    refused("gguf-neox-f32", "gptneox.rope.dimension_count", 12, "only up to 11");
    refused("gguf-gpt2-f32", "gpt2.attention.head_count", 4, "no multiple");
    refused("gguf-gpt2-f32", "gpt2.attention.head_count", 0, "at least 1");
    refused("gguf-qwen3-f32", "qwen3.attention.value_length", 8, "only 10");
    let shape = |name: &str, key: &str, value: u32| {
        changed(name, |b| set(b, key, &value.to_le_bytes())).unwrap_err().to_string()
    };
    let e = shape("gguf-gpt2-f32", "gpt2.context_length", 25);
    assert!(
        e.contains("position_embd.weight has shape [24, 21], the configuration asks for [25, 21]"),
        "{e}"
    );
    let e = shape("gguf-gpt2-f32", "gpt2.block_count", 3);
    assert!(e.contains("tensor blk.2.attn_norm.weight is missing"), "{e}");
    let e = changed("gguf-gpt2-f32", |b| {
        let at = b.windows(8).position(|w| w == b"attn_qkv").unwrap();
        [&b[..at], b"attn_qk_", &b[at + 8..]].concat()
    });
    assert!(e.unwrap_err().to_string().contains("blk.0.attn_qkv.weight is missing"));
    let e = gguf(|g| g.u32("llama.vocab_size", 5)).unwrap_err().to_string();
    assert!(e.contains("token_embd.weight has shape [4, 8], the configuration asks for [5, 8]"), "{e}");
    // Keys of other families.
    let refused = |edit: &dyn Fn(Gguf) -> Gguf, key: &str| {
        let e = gguf(edit).unwrap_err().to_string();
        assert!(e.contains(key), "{e} does not name {key}");
    };
    refused(&|g| g.flag("llama.use_parallel_residual", true), "llama.use_parallel_residual = true");
    refused(&|g| g.f32("llama.rope.scaling.attn_factor", 0.5), "llama.rope.scaling.attn_factor = 0.5");
    gguf(|g| g.f32("llama.rope.scaling.attn_factor", 1.0).flag("llama.use_parallel_residual", false))
        .unwrap();
}

#[test]
fn gguf_rotary_divisors_are_read() {
    let with = |values: &[f32]| {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let temp = Temp::new();
        let file = llama_keys().entry("rope_freqs.weight", &[values.len() as u64], 0, 0).data(&bytes);
        let path = temp.write("m.gguf", llama_tensors(file).build());
        Checkpoint::open(path).map(|c| rotary(c.spec()).3)
    };
    assert_eq!(with(&[1.0, 8.0]).unwrap(), Some(RopeScaling::Divisors(vec![1.0, 8.0])));
    assert_eq!(with(&[1.0, 1.0]).unwrap(), None);
    for bad in [&[1.0, 0.0][..], &[f32::NAN, 1.0], &[1.0], &[1.0, 2.0, 3.0]] {
        assert!(with(bad).unwrap_err().to_string().contains("rope_freqs.weight"));
    }
}

#[test]
fn a_folder_with_a_bad_configuration_does_not_open() {
    let temp = llama_folder(json!({"logit_softcapping": 30.0}), |_| {});
    let e = Checkpoint::open(temp.path()).unwrap_err().to_string();
    assert!(e.contains("config.json: logit_softcapping = 30.0"), "{e}");
}
