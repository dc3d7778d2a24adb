//! A run as data: everything that its result depends on.

use refocus_model::Noise;
use refocus_tasks::flipflop::Set;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use toml::Value;

use crate::adamw::Schedule;
use crate::architecture::Architecture;
use crate::error::{Result, TrainError};
use crate::flipflop::Mode;
use crate::lstm::LstmShape;
use crate::sharpen::Sharpen;
use crate::task::Task;
use crate::trainer;
use crate::weights::Weights;

/// A training run, of the flip-flop task or another. The same configuration gives the same bytes on every machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Seed of first parameters and dropout.
    pub seed: u64,
    /// Seed of the strings or documents.
    pub data_seed: u64,
    /// What is learned.
    pub task: Task,
    /// What learns.
    pub model: ModelConfig,
    /// Dropout.
    #[serde(default)]
    pub dropout: DropoutRates,
    /// A penalty on soft attention; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sharpen: Option<Sharpen>,
    /// How.
    pub optimizer: Optimizer,
    /// What is watched meanwhile.
    pub watch: Watch,
}

/// What learns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum ModelConfig {
    /// A transformer.
    Transformer(Architecture),
    /// An LSTM of one layer.
    Lstm {
        /// Width of embedding and state.
        hidden: usize,
    },
}

/// Shares that are dropped in each step, in steps of 1/65,536.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropoutRates {
    /// Of attention's weights, after the softmax.
    pub attention: f64,
    /// Of the MLP's hidden features.
    pub mlp: f64,
    /// Of the embedding, positions included.
    pub embedding: f64,
}

/// AdamW and its schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optimizer {
    /// Steps of the run; the rate would be 0 one step later.
    pub steps: u32,
    /// Highest rate.
    pub lr: f64,
    /// Steps of linear rise.
    pub warmup: u32,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Of every parameter.
    pub weight_decay: f64,
    /// Longest gradient; absent: gradients are not clipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
}

impl Default for Optimizer {
    /// The paper's.
    fn default() -> Self {
        Self {
            steps: 10_000,
            lr: 3e-4,
            warmup: 50,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.1,
            clip: None,
        }
    }
}

/// What is measured and saved on the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// Steps between tests; 0: only at the end.
    pub every: u32,
    /// Steps between checkpoints.
    pub save_every: u32,
    /// What is tested; counts go into the curve.
    pub sets: Vec<TestSet>,
}

/// Test strings of one language.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestSet {
    /// Names the columns of the curve.
    pub name: String,
    /// Probability to ignore.
    pub ignore: f64,
    /// Strings.
    pub sequences: u32,
}

/// A named configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// The paper's LSTM, in full (`spec/flip-flop.md` 2.3).
    Lstm,
    /// A transformer that two cores train in minutes on strings of half the length.
    Cpu,
    /// The paper's transformer (`spec/flip-flop.md` 2.1).
    Paper,
    /// One head on the automaton task (`spec/flip-flop.md` 4.2 and 7.2).
    Automaton,
    /// The built-in model, on documents of a world.
    World,
}

/// The recipe of [`Preset::World`].
const WORLD: &str = include_str!("../../../models/world.toml");

impl Preset {
    /// The configuration.
    ///
    /// # Errors
    /// As [`Set::language`], or a damaged recipe.
    pub fn config(self) -> Result<RunConfig> {
        match self {
            Preset::Automaton => return Ok(automaton()),
            Preset::World => return RunConfig::parse(WORLD),
            Preset::Lstm | Preset::Cpu | Preset::Paper => {}
        }
        let (sets, model, optimizer, every, save_every, sequences) = match self {
            Preset::Lstm => {
                let optimizer = Optimizer { steps: 500, ..Optimizer::default() };
                (Set::PAPER, ModelConfig::Lstm { hidden: 128 }, optimizer, 100, 100, [100, 200, 50])
            }
            Preset::Cpu => {
                let model = ModelConfig::Transformer(Architecture::llama(2, 128, 4));
                let optimizer = Optimizer { steps: 2_000, lr: 1e-3, ..Optimizer::default() };
                (Set::HALF, model, optimizer, 100, 250, [100, 200, 50])
            }
            Preset::Paper | Preset::Automaton | Preset::World => {
                let model = ModelConfig::Transformer(Architecture::paper(6, 512, 8));
                (Set::PAPER, model, Optimizer::default(), 1_000, 100, [1_000, 1_000, 100])
            }
        };
        // The first of each three is what is trained on.
        let trained = sets[0].language()?;
        let test = |(set, sequences): (Set, u32)| {
            let ignore = set.language()?.probabilities().ignore();
            Ok(TestSet { name: set.name().to_owned(), ignore, sequences })
        };
        Ok(RunConfig {
            seed: 0,
            data_seed: 0,
            task: Task {
                tokens: trained.tokens(),
                ignore: vec![trained.probabilities().ignore()],
                mode: Mode::Clean,
                batch: 16,
                symbols: None,
                registers: None,
                family: None,
                world: None,
            },
            model,
            dropout: DropoutRates::default(),
            sharpen: None,
            optimizer,
            watch: Watch {
                every,
                save_every,
                sets: sets.into_iter().zip(sequences).map(test).collect::<Result<_>>()?,
            },
        })
    }
}

/// A model as GPT-2 is made, as the paper's study of the automaton used it, so without a bias of the
/// unembedding.
fn automaton() -> RunConfig {
    let architecture = Architecture { unembed_bias: Some(false), ..Architecture::paper(1, 64, 1) };
    let test = |name: &str, ignore| TestSet { name: name.to_owned(), ignore, sequences: 100 };
    RunConfig {
        seed: 0,
        data_seed: 0,
        task: Task {
            tokens: 128,
            ignore: vec![0.5],
            mode: Mode::Automaton,
            batch: 32,
            symbols: None,
            registers: None,
            family: None,
            world: None,
        },
        model: ModelConfig::Transformer(architecture),
        dropout: DropoutRates::default(),
        sharpen: None,
        optimizer: Optimizer { steps: 2_000, lr: 1e-3, ..Optimizer::default() },
        watch: Watch { every: 500, save_every: 500, sets: vec![test("in", 0.5), test("sparse", 0.98)] },
    }
}

fn bad(what: &'static str, got: f64, why: &'static str) -> TrainError {
    TrainError::Config { what, got, why }
}

/// In one line.
fn unreadable(e: &toml::de::Error) -> TrainError {
    TrainError::Toml(e.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
}

impl RunConfig {
    /// Reads a `config.toml`.
    ///
    /// # Errors
    /// No TOML, an unknown or missing key, or a value of the wrong type.
    pub fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|e| unreadable(&e))
    }

    /// As `config.toml` holds it.
    ///
    /// # Errors
    /// A number that TOML cannot hold.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| TrainError::TomlOut(Box::new(e)))
    }

    /// `sha256:…` of [`RunConfig::to_toml`].
    ///
    /// # Errors
    /// As [`RunConfig::to_toml`].
    pub fn hash(&self) -> Result<String> {
        let digest = Sha256::digest(self.to_toml()?);
        Ok(digest.iter().fold("sha256:".to_owned(), |hex, byte| hex + &format!("{byte:02x}")))
    }

    /// Refuses seeds that `config.toml` cannot hold.
    ///
    /// # Errors
    /// Names the seed.
    pub fn check_seeds(&self) -> Result<()> {
        for (what, seed) in [("seed", self.seed), ("data_seed", self.data_seed)] {
            if i64::try_from(seed).is_err() {
                return Err(TrainError::Seed { what, seed });
            }
        }
        Ok(())
    }

    /// Refuses what cannot be run.
    ///
    /// # Errors
    /// Names the field.
    pub fn check(&self) -> Result<()> {
        self.check_seeds()?;
        let vocab = self.task.language()?.vocab();
        for s in &self.watch.sets {
            self.task.test_language(s.ignore)?;
        }
        let counts = [
            ("task.batch", self.task.batch as f64),
            ("optimizer.steps", f64::from(self.optimizer.steps)),
            ("watch.save_every", f64::from(self.watch.save_every)),
        ];
        for (what, got) in counts {
            if got < 1.0 {
                return Err(bad(what, got, "it must not be zero"));
            }
        }
        if self.task.batch.saturating_mul(self.task.tokens) > 1 << 26 {
            return Err(bad("task.batch", self.task.batch as f64, "a step of so many symbols does not fit"));
        }
        let d = self.dropout;
        for (what, rate) in
            [("dropout.attention", d.attention), ("dropout.mlp", d.mlp), ("dropout.embedding", d.embedding)]
        {
            if !(0.0..1.0).contains(&rate) {
                return Err(bad(what, rate, "it must lie in [0, 1)"));
            }
        }
        if let Some(s) = &self.sharpen {
            s.check(self.optimizer.steps)?;
        }
        match &self.model {
            ModelConfig::Transformer(a) => {
                a.spec(vocab, self.task.tokens)?;
            }
            ModelConfig::Lstm { .. } => {
                let rates = d.attention + d.mlp + d.embedding;
                if rates > 0.0 {
                    return Err(bad("dropout", rates, "an LSTM is trained without"));
                }
                if let Some(s) = &self.sharpen {
                    return Err(bad("sharpen.lambda", s.lambda, "an LSTM has no attention"));
                }
            }
        }
        Ok(())
    }

    /// First parameters.
    ///
    /// # Errors
    /// Sizes that make no model.
    pub fn init(&self) -> Result<Weights> {
        let vocab = self.task.language()?.vocab();
        Ok(match &self.model {
            ModelConfig::Transformer(a) => a.init(vocab, self.task.tokens, self.seed)?.into(),
            ModelConfig::Lstm { hidden } => LstmShape { vocab, hidden: *hidden }.init(self.seed)?.into(),
        })
    }

    /// The trainer's part.
    pub fn trainer(&self) -> trainer::Config {
        let o = &self.optimizer;
        trainer::Config {
            schedule: Schedule { lr: o.lr as f32, warmup: o.warmup, steps: o.steps },
            betas: (o.beta1 as f32, o.beta2 as f32),
            eps: o.eps as f32,
            weight_decay: o.weight_decay as f32,
            clip: o.clip.map(|c| c as f32),
            noise: (self.dropout != DropoutRates::default()).then_some(Noise {
                attention: self.dropout.attention,
                mlp: self.dropout.mlp,
                embedding: self.dropout.embedding,
                seed: self.seed,
                step: 0,
            }),
            sharpen: self.sharpen,
        }
    }

    /// The same with one field changed: `optimizer.lr`, `task.ignore`; the value as TOML has it, or a bare word.
    ///
    /// # Errors
    /// There is no such field, or it cannot have the value.
    pub fn with(&self, field: &str, value: &str) -> Result<Self> {
        let parsed = toml::from_str::<toml::Table>(&format!("x = {value}"));
        let value =
            parsed.ok().and_then(|mut t| t.remove("x")).unwrap_or_else(|| Value::String(value.to_owned()));
        let mut whole = Value::try_from(self).map_err(|e| TrainError::TomlOut(Box::new(e)))?;
        let mut at = &mut whole;
        for key in field.split('.') {
            let Value::Table(t) = at else { return Err(TrainError::Field { field: field.to_owned() }) };
            at = t.entry(key).or_insert_with(|| Value::Table(toml::Table::new()));
        }
        // Whole numbers are fine where any number is.
        *at = match (&*at, value) {
            (Value::Float(_), Value::Integer(i)) => Value::Float(i as f64),
            (_, value) => value,
        };
        // A family by its name alone has its usual values.
        if let Some(family) = whole.get_mut("task").and_then(|t| t.get_mut("family"))
            && family.is_str()
        {
            *family = Value::Table(toml::Table::from_iter([("kind".to_owned(), family.clone())]));
        }
        if let Value::Table(t) = &mut whole
            && let Some(Value::Table(s)) = t.get_mut("sharpen")
        {
            for (key, usual) in [("anneal", Value::String("constant".into())), ("start", Value::Integer(0))] {
                s.entry(key).or_insert(usual);
            }
            for (key, usual) in [("by", Value::String("entropy".into())), ("lambda", Value::Float(0.01))] {
                s.entry(key).or_insert(usual);
            }
        }
        whole.try_into().map_err(|e| unreadable(&e))
    }

    /// The first field in which another configuration differs, with its value there and here.
    ///
    /// # Errors
    /// As [`RunConfig::to_toml`].
    pub fn difference(&self, other: &Self) -> Result<Option<(String, String, String)>> {
        let table = |c: &Self| Value::try_from(c).map_err(|e| TrainError::TomlOut(Box::new(e)));
        Ok(first_difference("", Some(&table(other)?), Some(&table(self)?)))
    }
}

fn first_difference(
    path: &str,
    there: Option<&Value>,
    here: Option<&Value>,
) -> Option<(String, String, String)> {
    if there == here {
        return None;
    }
    if let (Some(Value::Table(a)), Some(Value::Table(b))) = (there, here) {
        let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        let keys = a.keys().chain(b.keys().filter(|k| !a.contains_key(*k)));
        return keys.map(|k| first_difference(&join(k), a.get(k), b.get(k))).find_map(|d| d);
    }
    let show = |v: Option<&Value>| v.map_or_else(|| "absent".to_owned(), Value::to_string);
    Some((path.to_owned(), show(there), show(here)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_can_be_run_and_written() {
        for preset in [Preset::Lstm, Preset::Cpu, Preset::Paper, Preset::Automaton, Preset::World] {
            let c = preset.config().expect("a preset");
            c.check().expect("a configuration");
            let text = c.to_toml().expect("text");
            assert_eq!(RunConfig::parse(&text).expect("the same"), c, "{text}");
            assert_eq!(c.difference(&c).expect("tables"), None);
        }
        assert_eq!(Preset::Lstm.config().expect("a preset").init().expect("weights").count(), 133_381);
        assert_eq!(Preset::Paper.config().expect("a preset").init().expect("weights").count(), 19_170_309);
    }

    #[test]
    fn the_differing_field_is_named() {
        let (a, mut b) = (Preset::Cpu.config().expect("a preset"), Preset::Cpu.config().expect("a preset"));
        b.optimizer.lr = 0.002;
        let d = a.difference(&b).expect("tables").expect("a difference");
        assert_eq!(d, ("optimizer.lr".to_owned(), "0.002".to_owned(), "0.001".to_owned()));
        b.optimizer.lr = a.optimizer.lr;
        b.optimizer.clip = Some(1.0);
        let d = a.difference(&b).expect("tables").expect("a difference");
        assert_eq!(d, ("optimizer.clip".to_owned(), "1.0".to_owned(), "absent".to_owned()));
        assert_ne!(a.hash().expect("a hash"), b.hash().expect("a hash"));
    }

    #[test]
    fn single_fields_can_be_changed() {
        let c = Preset::Cpu.config().expect("a preset");
        let c = c.with("optimizer.lr", "1").and_then(|c| c.with("task.ignore", "[0.1, 0.9]"));
        let c = c.and_then(|c| c.with("model.positions", "t5")).and_then(|c| c.with("optimizer.clip", "0.5"));
        let c = c.and_then(|c| c.with("sharpen.by", "\"l2\"")).expect("a configuration");
        assert_eq!((c.optimizer.lr, c.optimizer.clip, c.task.ignore.len()), (1.0, Some(0.5), 2));
        let s = c.sharpen.expect("a penalty");
        assert_eq!((s.by, s.lambda, s.start), (crate::sharpen::Penalty::L2, 0.01, 0));
        let refusal = |f, v| {
            Preset::Cpu
                .config()
                .expect("a preset")
                .with(f, v)
                .err()
                .map(|e| e.to_string())
                .unwrap_or_default()
        };
        assert!(refusal("optimizer.rate", "1").contains("unknown field `rate`"));
        assert!(refusal("seed.x", "1").contains("'seed.x'"));
        assert!(refusal("task.mode", "dirty").contains("dirty"));
        assert!(refusal("model.layers", "-1").contains("-1"));
    }

    #[test]
    fn what_cannot_be_run_is_named() {
        let refusal = |change: fn(&mut RunConfig)| {
            let mut c = Preset::Lstm.config().expect("a preset");
            change(&mut c);
            c.check().err().map(|e| e.to_string()).expect("an error")
        };
        assert!(refusal(|c| c.task.tokens = 511).contains("511"));
        assert!(refusal(|c| c.task.ignore = vec![1.5]).contains("1.5"));
        assert!(refusal(|c| c.task.ignore.clear()).contains("task.ignore"));
        assert!(refusal(|c| c.task.batch = 0).contains("task.batch"));
        let most = i64::MAX as u64;
        assert!(refusal(|c| c.seed = u64::MAX).starts_with("seed = 18446744073709551615: "));
        assert!(refusal(|c| c.data_seed = i64::MAX as u64 + 1).starts_with("data_seed = "));
        let c = RunConfig { seed: most, data_seed: most, ..Preset::Lstm.config().expect("a preset") };
        c.check().expect("the largest seed");
        assert_eq!(RunConfig::parse(&c.to_toml().expect("text")).expect("the same"), c);
        assert!(refusal(|c| c.task.batch = usize::MAX).contains("task.batch"));
        let text = Preset::Lstm.config().expect("a preset").to_toml().expect("text");
        let e = RunConfig::parse(&text.replace("warmup", "warmpu")).err().map(|e| e.to_string());
        assert!(e.is_some_and(|e| e.contains("warmpu")));
    }
}
