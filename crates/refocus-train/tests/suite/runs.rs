//! Runs in folders: killed, resumed, refused.

use std::fs;
use std::path::{Path, PathBuf};

use refocus_compute::{Cpu, Isa};
use refocus_results::ResultsError;
use refocus_train::flipflop::Mode;
use refocus_train::{
    Anneal, DropoutRates, ModelConfig, Optimizer, Penalty, Preset, Run, RunConfig, Sharpen, TestSet,
    TrainError, Watch, checkpoint_path, load,
};

use crate::options::architectures;

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("refocus-runs-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        Self(dir)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Twenty steps on short strings of two languages.
fn config(model: ModelConfig) -> RunConfig {
    let mut c = Preset::Lstm.config().expect("a preset");
    c.task.tokens = 24;
    c.task.ignore = vec![0.5, 0.9];
    c.task.batch = 6;
    c.model = model;
    c.optimizer = Optimizer { steps: 20, lr: 3e-3, warmup: 5, clip: Some(0.7), ..Optimizer::default() };
    let sets = vec![
        TestSet { name: "in".into(), ignore: 0.5, sequences: 20 },
        TestSet { name: "sparse".into(), ignore: 0.9, sequences: 33 },
    ];
    c.watch = Watch { every: 4, save_every: 1, sets };
    c
}

/// The LSTM, then every architecture.
fn models() -> Vec<ModelConfig> {
    let lstm = [ModelConfig::Lstm { hidden: 12 }].into_iter();
    lstm.chain(architectures().into_iter().map(ModelConfig::Transformer)).collect()
}

fn cpu(threads: usize) -> Cpu {
    Cpu::new(Isa::detect(), threads)
}

/// Takes up to `steps` steps.
fn sit(dir: &Path, config: &RunConfig, threads: usize, steps: usize) -> u32 {
    let mut run = Run::open(dir, config.clone(), cpu(threads)).unwrap_or_else(|e| panic!("{e}"));
    for _ in 0..steps {
        if run.advance().unwrap_or_else(|e| panic!("{e}")).is_none() {
            break;
        }
    }
    run.steps()
}

fn files(dir: &Path) -> Vec<(&'static str, Vec<u8>)> {
    ["checkpoint.safetensors", "curve.csv", "config.toml"]
        .map(|name| (name, fs::read(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))))
        .to_vec()
}

#[test]
fn a_run_that_was_killed_ends_with_the_bytes_of_one_that_was_not() {
    for (i, model) in models().into_iter().enumerate() {
        for mode in [Mode::Clean, Mode::Generative] {
            let mut config = config(model.clone());
            config.task.mode = mode;
            if matches!(model, ModelConfig::Transformer(_)) {
                config.dropout = DropoutRates { attention: 0.1, mlp: 0.2, embedding: 0.3 };
                let (by, anneal) = (Penalty::Entropy, Anneal::Oscillating);
                config.sharpen = Some(Sharpen { by, lambda: 0.1, anneal, start: 4 });
            }
            let (whole, parts) = (Folder::new(&format!("whole-{i}")), Folder::new(&format!("parts-{i}")));
            assert_eq!(sit(&whole.0, &config, 1, 99), 20);
            let want = files(&whole.0);
            assert_eq!(sit(&parts.0, &config, 2, 7), 7);
            // What a sitting left behind that was killed between curve and checkpoint, and while saving.
            let curve = parts.0.join("curve.csv");
            let rows = fs::read_to_string(&curve).expect("a curve") + "8,0.5,0.1,,,,\n9,0.";
            fs::write(&curve, rows).expect("write");
            fs::write(parts.0.join(".checkpoint.safetensors.tmp"), "half").expect("write");
            assert_eq!(sit(&parts.0, &config, 3, 1), 8);
            assert_eq!(sit(&parts.0, &config, 1, 99), 20);
            for ((name, got), (_, want)) in files(&parts.0).iter().zip(&want) {
                assert!(got == want, "{model:?}, {mode:?}: {name}");
            }
            // Once more: nothing is left to do, nothing changes.
            assert_eq!(sit(&parts.0, &config, 1, 1), 20);
            assert!(files(&parts.0) == want, "{model:?}, {mode:?}: again");
            let text = String::from_utf8(want[1].1.clone()).expect("text");
            let last = text.lines().last().expect("a row").split(',').collect::<Vec<_>>();
            assert_eq!((text.lines().count(), last[0], last.len()), (21, "20", 7), "{text}");
        }
    }
}

#[test]
fn checkpoints_between_tests_are_taken_when_due() {
    let mut config = config(ModelConfig::Lstm { hidden: 8 });
    config.watch.save_every = 6;
    let dir = Folder::new("due");
    // Killed at step 9: three steps are done again.
    assert_eq!(sit(&dir.0, &config, 1, 9), 9);
    assert_eq!(load(&checkpoint_path(&dir.0)).expect("a checkpoint").step, 6);
    let whole = Folder::new("due-whole");
    sit(&whole.0, &config, 1, 99);
    sit(&dir.0, &config, 1, 99);
    assert!(files(&dir.0) == files(&whole.0));
}

#[test]
fn every_parameter_moves_in_one_step() {
    for model in models() {
        let mut config = config(model.clone());
        // All ids, and every position that a string has.
        config.task.batch = 32;
        config.optimizer.weight_decay = 0.0;
        config.optimizer.clip = None;
        let before = config.init().expect("parameters");
        let dir = Folder::new("moves");
        sit(&dir.0, &config, 1, 1);
        let after = load(&checkpoint_path(&dir.0)).expect("a checkpoint").into_weights();
        for ((name, a), (_, b)) in before.values().zip(after.values()) {
            let still = a.iter().zip(b).filter(|(a, b)| a == b).count();
            let most = match &model {
                // A position that only answers the last read asks nothing, nor do those beyond the strings:
                // their vectors stay.
                ModelConfig::Transformer(m) if name == "PosEmbed Weight" => {
                    let positions = m.n_ctx.unwrap_or(24);
                    a.len() / positions * (positions - 23)
                }
                // Buckets of distances that no string has: from 24 on, all but 19 of them.
                ModelConfig::Transformer(_) if name == "RelBias Weight" => a.len() / 32 * (32 - 19),
                _ => 0,
            };
            assert!(still <= most, "{model:?}: {still} of {} values of {name} did not move", a.len());
        }
    }
}

#[test]
fn another_configuration_is_refused_by_its_field() {
    let first = config(ModelConfig::Lstm { hidden: 8 });
    let dir = Folder::new("other");
    sit(&dir.0, &first, 1, 2);
    let before = files(&dir.0);
    let refusal = |change: &dyn Fn(&mut RunConfig)| {
        let mut other = first.clone();
        change(&mut other);
        Run::open(&dir.0, other, cpu(1)).err().map(|e| e.to_string()).expect("an error")
    };
    let e = refusal(&|c| c.optimizer.lr = 1e-3);
    assert!(e.ends_with("this is another run, its optimizer.lr is 0.003 and not 0.001"), "{e}");
    assert!(refusal(&|c| c.task.mode = Mode::Generative).contains("task.mode"));
    assert!(refusal(&|c| c.optimizer.clip = None).contains("optimizer.clip is 0.7 and not absent"));
    assert!(refusal(&|c| c.model = models()[1].clone()).contains("model."));
    // Also where only the checkpoint is left.
    fs::remove_file(dir.0.join("config.toml")).expect("remove");
    assert!(refusal(&|c| c.seed = 9).contains("checkpoint.safetensors: this is another run, its seed is 0"));
    assert!(!dir.0.join("config.toml").exists());
    assert_eq!(sit(&dir.0, &first, 1, 0), 2);
    assert!(files(&dir.0) == before, "nothing was lost");
}

#[test]
fn damaged_checkpoints_are_named() {
    let config = config(ModelConfig::Lstm { hidden: 8 });
    let dir = Folder::new("damaged");
    sit(&dir.0, &config, 1, 1);
    let path = checkpoint_path(&dir.0);
    let good = fs::read(&path).expect("a checkpoint");
    let mut nan = good.clone();
    let end = nan.len();
    nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    for (bytes, why) in [
        (good[..good.len() - 3].to_vec(), ""),
        (good[..5].to_vec(), ""),
        (b"not a checkpoint at all, but long enough".to_vec(), ""),
        (nan, "NaN"),
    ] {
        fs::write(&path, &bytes).expect("write");
        let e = Run::open(&dir.0, config.clone(), cpu(1)).err().map(|e| e.to_string()).expect("an error");
        assert!(e.contains("checkpoint.safetensors: ") && e.contains(why), "{e}");
    }
}

#[test]
fn a_loss_that_is_no_number_keeps_the_last_checkpoint() {
    let mut config = config(models().remove(1));
    config.optimizer = Optimizer { lr: 1e30, warmup: 0, ..config.optimizer };
    let dir = Folder::new("nan");
    let mut run = Run::open(&dir.0, config.clone(), cpu(1)).unwrap_or_else(|e| panic!("{e}"));
    assert!(run.advance().is_ok_and(|p| p.is_some_and(|p| p.saved)));
    let kept = fs::read(checkpoint_path(&dir.0)).expect("a checkpoint");
    let e = run.advance().expect_err("an error");
    assert!(e.to_string().starts_with("step 2: the loss is "), "{e}");
    assert!(fs::read(checkpoint_path(&dir.0)).expect("a checkpoint") == kept);
    drop(run);
    assert_eq!(load(&checkpoint_path(&dir.0)).expect("a checkpoint").step, 1);
}

#[test]
fn what_cannot_be_written_leaves_the_previous_checkpoint() {
    let config = config(ModelConfig::Lstm { hidden: 8 });
    let dir = Folder::new("full");
    let mut run = Run::open(&dir.0, config.clone(), cpu(1)).unwrap_or_else(|e| panic!("{e}"));
    assert!(run.advance().is_ok());
    let kept = fs::read(checkpoint_path(&dir.0)).expect("a checkpoint");
    // Nobody can write where a folder stands, not even root.
    fs::create_dir(dir.0.join(".checkpoint.safetensors.tmp")).expect("folder");
    let e = run.advance().expect_err("an error");
    assert!(matches!(e, TrainError::Write { step: 2, .. }) && e.to_string().contains("step 2"), "{e}");
    assert!(fs::read(checkpoint_path(&dir.0)).expect("a checkpoint") == kept);
    // A device that is always full.
    #[cfg(target_os = "linux")]
    {
        fs::remove_dir(dir.0.join(".checkpoint.safetensors.tmp")).expect("remove");
        std::os::unix::fs::symlink("/dev/full", dir.0.join(".checkpoint.safetensors.tmp")).expect("link");
        let e = run.advance().expect_err("an error");
        assert!(matches!(e, TrainError::Write { step: 3, .. }), "{e}");
        assert!(fs::read(checkpoint_path(&dir.0)).expect("a checkpoint") == kept);
        // The link is gone, and so is the obstacle.
        assert!(run.advance().is_ok());
    }
    drop(run);
    assert!(load(&checkpoint_path(&dir.0)).is_ok());
}

#[test]
fn one_process_at_a_time() {
    let config = config(ModelConfig::Lstm { hidden: 8 });
    let dir = Folder::new("lock");
    let run = Run::open(&dir.0, config.clone(), cpu(1)).unwrap_or_else(|e| panic!("{e}"));
    let e = Run::open(&dir.0, config.clone(), cpu(1)).err().expect("an error");
    assert!(matches!(e, TrainError::Folder(ResultsError::Busy { .. })), "{e}");
    drop(run);
    assert!(Run::open(&dir.0, config, cpu(1)).is_ok());
}
