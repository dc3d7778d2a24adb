//! Runs on documents.

use std::path::{Path, PathBuf};

use refocus_compute::{Cpu, Isa};
use refocus_model::Checkpoint;
use refocus_tasks::flipflop::Split;
use refocus_tasks::world::{END, Mixture, Vocabulary, World};
use refocus_train::{ModelConfig, Preset, Run, RunConfig};

fn small() -> RunConfig {
    let mut c = Preset::World.config().expect("the recipe");
    (c.task.batch, c.optimizer.steps, c.watch.save_every) = (2, 3, 1);
    let ModelConfig::Transformer(a) = &mut c.model else { panic!("a transformer") };
    (a.layers, a.d_model, a.heads, a.d_mlp) = (1, 16, 2, Some(16));
    c
}

fn folder(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("refocus-train-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

fn run(dir: &Path, steps: u32, threads: usize) -> PathBuf {
    let mut run = Run::open(dir, small(), Cpu::new(Isa::detect(), threads)).expect("a run");
    for _ in 0..steps {
        run.advance().expect("a step");
    }
    run.save_model().expect("a folder").expect("a transformer")
}

#[test]
fn a_stopped_run_ends_with_the_same_files() {
    let (whole, parts) = (folder("world-whole"), folder("world-parts"));
    run(&whole, 3, 1);
    run(&parts, 1, 2);
    run(&parts, 2, 1);
    for name in ["curve.csv", "checkpoint.safetensors", "model/model.safetensors", "model/tokenizer.json"] {
        let read = |dir: &Path| std::fs::read(dir.join(name)).expect(name);
        assert!(read(&whole) == read(&parts), "{name}");
    }
    for dir in [whole, parts] {
        std::fs::remove_dir_all(dir).expect("remove");
    }
}

/// The tokenizer that the folder brings is the one that the model learned with.
#[test]
fn the_folder_reads_texts_as_they_were_learned() {
    let dir = folder("world-tokens");
    let checkpoint = Checkpoint::open(run(&dir, 1, 1)).expect("a checkpoint");
    assert_eq!(checkpoint.spec().eos, [END]);
    let tokenizer = checkpoint.tokenizer().expect("a tokenizer");
    let (world, vocabulary) =
        (World::new(Mixture::default()).expect("a world"), Vocabulary::new().expect("a vocabulary"));
    let mut texts: Vec<String> = (0..300).map(|i| world.document(5, Split::Test, 0, i)).collect();
    texts.extend(["", "  two  spaces\n\n\nand it's 12:30, isn't it?  ", "Zürich — naïve"].map(str::to_owned));
    for text in texts {
        assert_eq!(tokenizer.encode(&text, true).expect("ids"), vocabulary.encode(&text), "{text:?}");
    }
    std::fs::remove_dir_all(dir).expect("remove");
}

/// The model that the program brings can be trained again: recipe and tokens are those of its folder.
#[test]
fn the_built_in_model_is_of_this_world() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/builtin");
    let read = |name: &str| std::fs::read_to_string(root.join(name)).expect(name);
    let recipe = Preset::World.config().expect("the recipe");
    assert_eq!(recipe.to_toml().expect("text"), read("recipe.toml"));
    let tokens = Vocabulary::new().expect("a vocabulary").tokenizer();
    assert!(serde_json::to_string_pretty(&tokens).expect("JSON") == read("tokenizer.json"));
}

/// Texts are no part of a configuration, so a version with others would go on with them unseen.
#[test]
fn a_run_of_another_world_is_not_gone_on_with() {
    let dir = folder("other-world");
    run(&dir, 1, 1);
    let path = dir.join("checkpoint.safetensors");
    let mut bytes = std::fs::read(&path).expect("a checkpoint");
    let key = b"texts\\\":\\\"sha256:";
    let at = bytes.windows(key.len()).position(|w| w == key).expect("the texts' hash") + key.len();
    bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
    std::fs::write(&path, bytes).expect("write");
    let refused = Run::open(&dir, small(), Cpu::new(Isa::detect(), 1)).err().expect("refused");
    assert!(refused.to_string().contains("other texts"), "{refused}");
    std::fs::remove_dir_all(&dir).expect("remove");
}
