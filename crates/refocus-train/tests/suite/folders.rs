//! Folders of trained models that `transformers` loads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use refocus_compute::{Cpu, Eager, Isa};
use refocus_model::export::Export;
use refocus_model::{Checkpoint, Family, Model, capture};
use refocus_train::{RunConfig, Weights};
use safetensors::SafeTensors;
use serde::Deserialize;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/trained-gpt2")
}

fn read(name: &str) -> String {
    let path = fixture().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[derive(Deserialize)]
struct Expected {
    ids: Vec<Vec<u32>>,
    logits: Vec<Vec<Vec<f32>>>,
}

/// `fixtures/trained.py` loaded the folder with `transformers` and wrote these logits.
#[test]
fn a_trained_gpt2_is_the_same_model_to_transformers() {
    let checkpoint = Checkpoint::open(fixture()).expect("a checkpoint");
    assert_eq!(checkpoint.spec().family, Family::Gpt2);
    let mut cpu = Cpu::new(Isa::detect(), 1);
    let model = Model::load(&checkpoint, &mut cpu).expect("a model");
    let want: Expected = serde_json::from_str(&read("transformers.json")).expect("JSON");
    let got = capture(&mut Eager::new(cpu), &model, &want.ids, &[], true, &[]).expect("logits");
    let mut greatest = 0.0f32;
    for (got, want) in got.iter().zip(&want.logits) {
        let want = want.concat();
        assert_eq!(got["logits"].data.len(), want.len());
        for (g, w) in got["logits"].data.iter().zip(want) {
            greatest = greatest.max((g - w).abs() / w.abs().max(1.0));
        }
    }
    assert!(greatest <= 1e-4, "{greatest:e}");
    println!("greatest difference {greatest:e}");
}

/// What is saved today has the configuration and the tensors of the folder that was loaded.
#[test]
fn the_same_run_is_still_saved_that_way() {
    let config = RunConfig::parse(&read("run.toml")).expect("a configuration");
    let Weights::Transformer(params) = config.init().expect("parameters") else { panic!("a transformer") };
    let dir = std::env::temp_dir().join(format!("refocus-folders-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    Export::new(params.spec(), &*params)
        .expect("an export")
        .write(&dir, false, &mut |_, _| {})
        .expect("written");
    let again = std::fs::read_to_string(dir.join("config.json")).expect("a configuration");
    assert_eq!(again, read("config.json"));
    let shapes = |folder: &Path| -> BTreeMap<String, Vec<usize>> {
        let bytes = std::fs::read(folder.join("model.safetensors")).expect("weights");
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        file.tensors().into_iter().map(|(name, t)| (name, t.shape().to_vec())).collect()
    };
    assert_eq!(shapes(&dir), shapes(&fixture()));
    std::fs::remove_dir_all(&dir).expect("remove");
}
