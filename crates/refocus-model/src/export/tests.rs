#![allow(clippy::unwrap_used)]

use std::fs;

use super::*;
use crate::checkpoint::testing::{Temp, fixture, fixtures_with, llama_folder, llama_keys, llama_tensors};
use crate::config::from_json;
use crate::params::Params;
use crate::spec::{Positions, RopeScaling};

fn open(name: &str) -> Checkpoint {
    let folder = fixture(name);
    let gguf = folder.join("model.gguf");
    Checkpoint::open(if gguf.exists() { gguf } else { folder }).unwrap()
}

/// Every value of every parameter.
fn values(c: &Checkpoint) -> Params {
    Params::read(c).unwrap()
}

#[track_caller]
fn refused(result: ExportResult<impl Sized>, part: &str) {
    match result {
        Ok(_) => panic!("no error that says {part}"),
        Err(e) => {
            let mut text = e.to_string();
            let mut source = std::error::Error::source(&e);
            while let Some(e) = source {
                text.push_str(&format!(": {e}"));
                source = e.source();
            }
            assert!(text.contains(part), "{text} does not say {part}");
        }
    }
}

#[test]
fn a_specification_becomes_a_configuration_that_says_the_same() {
    for name in fixtures_with("expected.safetensors") {
        let c = open(&name);
        let has = c.described().has;
        let Configured { described, keys } = config::configure(c.spec(), has).unwrap();
        let divisors =
            matches!(c.spec().positions, Positions::Rotary { scaling: Some(RopeScaling::Divisors(_)), .. });
        assert_eq!(divisors, name == "gguf-llama3-f16", "{name}");
        if divisors {
            let Positions::Rotary { scaling, .. } = &described.spec.positions else { panic!("rotary") };
            let want = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 128 };
            assert_eq!(scaling.as_ref(), Some(&want));
        } else {
            assert_eq!(described, *c.described(), "{name}");
        }
        assert_eq!(from_json(Path::new("config.json"), &keys).unwrap(), described, "{name}");
        // What is found by looking at the parameters is what the configuration says.
        assert_eq!(found(c.spec(), &c).unwrap(), has, "{name}");
    }
}

#[test]
fn every_fixture_comes_back_value_for_value() {
    let temp = Temp::new();
    for name in fixtures_with("expected.safetensors") {
        let c = open(&name);
        let want = values(&c);
        for (i, precision) in [Precision::Keep, Precision::F32].into_iter().enumerate() {
            let dir = temp.path().join(format!("{name}-{i}"));
            let written =
                Export::of(&c).unwrap().precision(precision).write(&dir, false, &mut |_, _| {}).unwrap();
            let again = Checkpoint::open(&dir).unwrap();
            assert!(!written.already);
            assert_eq!(written.fingerprint, again.fingerprint().unwrap());
            assert!(values(&again).iter().eq(want.iter()), "{name}");
        }
        // From parameters in memory: the configuration follows from the specification.
        let dir = temp.path().join(format!("{name}-memory"));
        Export::new(c.spec(), &want).unwrap().write(&dir, false, &mut |_, _| {}).unwrap();
        let again = Checkpoint::open(&dir).unwrap();
        assert!(values(&again).iter().eq(want.iter()), "{name}");
    }
}

#[test]
fn kept_types_are_those_of_the_source() {
    let temp = Temp::new();
    let typed = |name: &str| {
        let c = open(name);
        let dir = temp.path().join(name);
        let written = Export::of(&c).unwrap().write(&dir, false, &mut |_, _| {}).unwrap();
        let again = Checkpoint::open(&dir).unwrap();
        let mut types: Vec<_> = again.tensors().map(|t| t.dtype.name()).collect();
        types.sort_unstable();
        types.dedup();
        (written.dtype, types)
    };
    assert_eq!(typed("llama-bf16"), ("bfloat16", vec!["bf16"]));
    assert_eq!(typed("gpt2-f16"), ("float16", vec!["f16"]));
    // Norms are f32 there, and f32 is what holds both.
    assert_eq!(typed("gguf-llama-f16"), ("float32", vec!["f16", "f32"]));
    assert_eq!(typed("gguf-llama-q4_1"), ("float32", vec!["f32"]));
    let config = fs::read_to_string(temp.path().join("gguf-llama-f16/config.json")).unwrap();
    assert!(config.contains(r#""torch_dtype": "float32""#), "{config}");
}

#[test]
fn weights_are_rounded_to_the_nearest_and_never_to_infinity() {
    // A model in which layers.0.mlp.down_proj.weight, which counts from 9000 on, begins with another value.
    let model = |first: f32| {
        let folder = llama_folder(serde_json::json!({}), |_| {});
        let path = folder.path().join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.windows(4).position(|w| w == 9000f32.to_le_bytes()).unwrap();
        bytes[at..at + 4].copy_from_slice(&first.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        folder
    };
    let write = |first: f32, precision| {
        let folder = model(first);
        let c = Checkpoint::open(folder.path()).unwrap();
        let out = Temp::new();
        let dir = out.path().join("out");
        let written = Export::of(&c).unwrap().precision(precision).write(&dir, false, &mut |_, _| {});
        assert_eq!(dir.exists(), written.is_ok());
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), usize::from(written.is_ok()));
        written.map(|_| {
            let again = Checkpoint::open(&dir).unwrap();
            values(&again).get(Part::Down, 0, Which::Weight).unwrap().to_vec()
        })
    };
    // Numbers of f16 lie 8 apart there. 9004 and 9012 are in the middle: both go to 9008, whose last bit is 0.
    let got = write(9000.0, Precision::F16).unwrap();
    assert_eq!([got[0], got[1], got[4], got[5], got[12]], [9000.0, 9000.0, 9008.0, 9008.0, 9008.0]);
    // Those of bfloat16 lie 64 apart.
    let got = write(9000.0, Precision::Bf16).unwrap();
    assert_eq!([got[0], got[1]], [8960.0 + 64.0, 8960.0 + 64.0]);
    assert_eq!(write(9000.0, Precision::Keep).unwrap()[1], 9001.0);

    let down = "model.layers.0.mlp.down_proj.weight, value 0: ";
    let beyond = |x: &str, t: &str| format!("{down}{x} is beyond the largest number of {t}");
    assert_eq!(write(65519.0, Precision::F16).unwrap()[0], 65504.0);
    refused(write(65520.0, Precision::F16), &beyond("6.552e4", "float16"));
    refused(write(f32::MAX, Precision::Bf16), &beyond("3.4028235e38", "bfloat16"));
    assert_eq!(write(f32::MAX, Precision::F32).unwrap()[0], f32::MAX);
    refused(write(f32::NAN, Precision::Keep), &format!("{down}it is NaN"));
    refused(write(f32::NEG_INFINITY, Precision::F32), &format!("{down}it is -inf"));
}

#[test]
fn tensors_are_divided_into_files_by_size() {
    let temp = Temp::new();
    let c = open("llama2");
    let dir = temp.path().join("out");
    let written = Export::of(&c).unwrap().max_shard(8000).write(&dir, false, &mut |_, _| {}).unwrap();
    let shards: Vec<_> = written.files.iter().filter(|(n, _)| n.ends_with(".safetensors")).collect();
    assert!(shards.len() > 3 && shards[0].0 == format!("model-00001-of-{:05}.safetensors", shards.len()));
    for (name, bytes) in &written.files {
        assert_eq!(fs::metadata(dir.join(name)).unwrap().len(), *bytes, "{name}");
    }
    let again = Checkpoint::open(&dir).unwrap();
    assert!(values(&again).iter().eq(values(&c).iter()));
    // The division is no part of the model.
    let whole = temp.path().join("whole");
    let one = Export::of(&c).unwrap().write(&whole, false, &mut |_, _| {}).unwrap();
    assert_eq!(one.fingerprint, written.fingerprint);
    // A tensor larger than the limit has a file of its own.
    let small = temp.path().join("small");
    let each = Export::of(&c).unwrap().max_shard(1).write(&small, false, &mut |_, _| {}).unwrap();
    assert_eq!(each.files.iter().filter(|(n, _)| n.ends_with(".safetensors")).count(), each.tensors);
    assert!(values(&Checkpoint::open(&small).unwrap()).iter().eq(values(&c).iter()));
}

#[test]
fn biases_that_only_some_layers_have_are_zeros_elsewhere() {
    let c = open("llama2");
    let mut params = values(&c);
    let bias: Vec<f32> = (0..c.spec().d_model).map(|i| i as f32).collect();
    params.insert(Part::O, 1, Which::Bias, bias.clone()).unwrap();
    let temp = Temp::new();
    let dir = temp.path().join("out");
    Export::new(c.spec(), &params).unwrap().write(&dir, false, &mut |_, _| {}).unwrap();
    let again = values(&Checkpoint::open(&dir).unwrap());
    assert_eq!(again.get(Part::O, 1, Which::Bias).unwrap(), bias);
    for (part, layer) in [(Part::O, 0), (Part::Q, 0), (Part::K, 1), (Part::V, 1)] {
        assert!(again.get(part, layer, Which::Bias).unwrap().iter().all(|&x| x == 0.0));
    }
}

#[test]
fn what_a_family_cannot_say_is_an_error() {
    let c = open("llama2");
    let mut spec = c.spec().clone();
    spec.window[1] = Some(4);
    refused(
        Export::new(&spec, &c),
        "the llama family: its configuration has no way to say its sliding windows",
    );
    let mut spec = c.spec().clone();
    spec.attn_scale[0] *= 2.0;
    refused(Export::new(&spec, &c), "the scale of its attention scores");
    let mut spec = c.spec().clone();
    let divisors = RopeScaling::Divisors(vec![1.0, 2.0, 1.5]);
    if let Positions::Rotary { scaling, .. } = &mut spec.positions {
        *scaling = Some(divisors);
    }
    refused(Export::new(&spec, &c), "a table that is not llama3 scaling");

    let qwen = open("qwen2");
    let mut params = values(&qwen);
    params.insert(Part::O, 0, Which::Bias, vec![1.0; qwen.spec().d_model]).unwrap();
    refused(Export::new(qwen.spec(), &params), "the qwen2 family: it has a bias of attention's output");
}

#[test]
fn the_unembedding_of_a_tied_configuration_is_kept_where_the_file_has_another() {
    let folder = llama_folder(serde_json::json!({}), |t| t.push(("lm_head.weight".to_owned(), vec![5, 4])));
    let c = Checkpoint::open(folder.path()).unwrap();
    assert!(!c.spec().tied);
    let temp = Temp::new();
    let dir = temp.path().join("out");
    Export::of(&c).unwrap().write(&dir, false, &mut |_, _| {}).unwrap();
    let config = fs::read_to_string(dir.join("config.json")).unwrap();
    assert!(config.contains(r#""tie_word_embeddings": false"#), "{config}");
    assert!(values(&Checkpoint::open(&dir).unwrap()).iter().eq(values(&c).iter()));
}

#[test]
fn tokenizers_and_templates_come_back() {
    let temp = Temp::new();
    for name in fixtures_with("texts.json") {
        let c = open(&name);
        let dir = temp.path().join(&name);
        Export::of(&c).unwrap().write(&dir, false, &mut |_, _| {}).unwrap();
        let again = Checkpoint::open(&dir).unwrap();
        let (was, is) = (c.tokenizer().unwrap(), again.tokenizer().unwrap());
        let texts: Value =
            serde_json::from_slice(&fs::read(fixture(&name).join("texts.json")).unwrap()).unwrap();
        for text in
            texts.as_array().unwrap().iter().map(|t| t["text"].as_str().unwrap()).chain(["ŽŽ 🙂\u{0}"])
        {
            for special in [false, true] {
                assert_eq!(was.encode(text, special).unwrap(), is.encode(text, special).unwrap(), "{text}");
            }
            let ids = was.encode(text, true).unwrap();
            assert_eq!(was.decode(&ids, true).unwrap(), is.decode(&ids, true).unwrap());
        }
        assert_eq!(c.chat_template().unwrap(), again.chat_template().unwrap());
    }
}

#[test]
fn added_first_and_last_tokens_and_named_templates_come_back() {
    let temp = Temp::new();
    let gguf = llama_tensors(
        llama_keys()
            .text("tokenizer.ggml.model", "gpt2")
            .texts("tokenizer.ggml.merges", &["a b"])
            .ints("tokenizer.ggml.token_type", &[1, 1, 1, 3])
            .u32("tokenizer.ggml.bos_token_id", 3)
            .u32("tokenizer.ggml.eos_token_id", 3)
            .flag("tokenizer.ggml.add_bos_token", true)
            .flag("tokenizer.ggml.add_eos_token", true)
            .text("tokenizer.chat_template", "plain")
            .text("tokenizer.chat_template.tool_use", "with tools")
            .text("tokenizer.chat_template.../../evil", "no"),
    );
    let path = temp.write("model.gguf", gguf.build());
    let c = Checkpoint::open(&path).unwrap();
    assert_eq!(c.tokenizer().unwrap().encode("abba", true).unwrap(), [3, 2, 1, 0, 3]);
    let dir = temp.path().join("out");
    Export::of(&c).unwrap().write(&dir, false, &mut |_, _| {}).unwrap();
    let again = Checkpoint::open(&dir).unwrap();
    for text in ["abba", "", "a<s>b"] {
        let ids = |c: &Checkpoint, special| c.tokenizer().unwrap().encode(text, special).unwrap();
        assert_eq!(ids(&c, true), ids(&again, true), "{text}");
        assert_eq!(ids(&c, false), ids(&again, false), "{text}");
    }
    assert_eq!(again.chat_template().unwrap().as_deref(), Some("plain"));
    assert_eq!(fs::read_to_string(dir.join(TEMPLATES).join("tool_use.jinja")).unwrap(), "with tools");
    assert_eq!(fs::read_dir(dir.join(TEMPLATES)).unwrap().count(), 1);
    // The same again, and what a copy of the folder takes along.
    assert!(Export::of(&c).unwrap().write(&dir, false, &mut |_, _| {}).unwrap().already);
    let copy = temp.path().join("copy");
    let written = Export::of(&again).unwrap().write(&copy, false, &mut |_, _| {}).unwrap();
    assert!(written.files.iter().any(|(n, _)| n == "additional_chat_templates/tool_use.jinja"));
}

#[test]
fn folders_that_are_there_are_kept_unless_they_are_the_same() {
    let temp = Temp::new();
    let dir = temp.path().join("out");
    let write = |name: &str, force: bool| Export::of(&open(name)).unwrap().write(&dir, force, &mut |_, _| {});
    fs::create_dir(&dir).unwrap();
    // An empty one is taken.
    assert!(!write("llama2", false).unwrap().already);
    assert!(write("llama2", false).unwrap().already);
    assert!(write("llama2", true).unwrap().already);
    refused(
        write("gpt2", false),
        "the folder is there already and holds something else: config.json is another",
    );
    assert_eq!(Checkpoint::open(&dir).unwrap().spec(), open("llama2").spec());
    // Another file beside the same ones.
    fs::write(dir.join("notes.txt"), "mine").unwrap();
    fs::write(dir.join(".hidden"), "").unwrap();
    refused(write("llama2", false), "it also has notes.txt");
    fs::remove_file(dir.join("notes.txt")).unwrap();
    assert!(write("llama2", false).unwrap().already);
    // One value of the weights.
    let weights = dir.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, &bytes).unwrap();
    refused(write("llama2", false), "model.safetensors is another");
    assert_eq!(fs::read(&weights).unwrap(), bytes);
    // Longer by a byte.
    *bytes.last_mut().unwrap() ^= 1;
    bytes.push(0);
    fs::write(&weights, &bytes).unwrap();
    refused(write("llama2", false), "model.safetensors is another");
    assert!(!write("gpt2", true).unwrap().already);
    assert_eq!(Checkpoint::open(&dir).unwrap().spec(), open("gpt2").spec());
    // Only what looks like a model is replaced.
    fs::create_dir(dir.join("src")).unwrap();
    refused(write("llama2", true), "it has a folder src; it is not replaced");
    fs::remove_file(dir.join("config.json")).unwrap();
    refused(write("llama2", true), "the folder has no config.json; it is not replaced");
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
}

#[test]
fn a_model_is_not_written_into_or_over_itself() {
    let folder = llama_folder(serde_json::json!({}), |_| {});
    let c = Checkpoint::open(folder.path()).unwrap();
    let write = |dir: &Path| Export::of(&c).unwrap().write(dir, true, &mut |_, _| {});
    refused(write(folder.path()), "this is the model itself");
    refused(write(&folder.path().join("out")), "inside the model's own folder");
    refused(write(&folder.path().join("..")), "this is not the name of a folder");
    refused(write(folder.path().parent().unwrap()), "the model itself lies in this folder");
    refused(write(&folder.path().join("model.safetensors")), "inside the model's own folder");
    let other = Temp::new();
    refused(write(&other.path().join("a/b")), "there is no folder");
    refused(write(&other.write("file", "")), "this is a file");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn what_a_killed_process_left_is_cleared_and_a_live_one_is_respected() {
    let temp = Temp::new();
    let dir = temp.path().join("out");
    let partial = temp.path().join(".out.partial");
    fs::create_dir_all(partial.join(TEMPLATES)).unwrap();
    fs::write(partial.join("model.safetensors"), "half").unwrap();
    let held = Staging::create(&dir).unwrap();
    assert_eq!(fs::read_dir(&partial).unwrap().count(), 1, "only the lock");
    refused(Export::of(&open("llama2")).unwrap().write(&dir, false, &mut |_, _| {}), "another process");
    drop(held);
    assert!(!partial.exists());
    Export::of(&open("llama2")).unwrap().write(&dir, false, &mut |_, _| {}).unwrap();
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    assert!(!dir.join(".lock").exists());
}
