//! The study of factual recall: path patching of all heads and MLPs.

use std::time::Instant;

use refocus_compute::{Cpu, Eager};
use refocus_measure::recall::{Effects, Instead, Prompt, Rest, Score, Unembedding, effects, observe, partners, senders};
use refocus_model::{Checkpoint, Model};
use refocus_study::recall::{Case, Settings, alike};
use refocus_tasks::recall::{Form, builtin_all};
use serde::Serialize;
use serde_json::json;

use crate::Outcome;

const SEED: u64 = 0;

/// Prompts, and for each the one it is corrupted with.
pub struct Asked {
    prompts: Vec<Prompt>,
    partners: Vec<usize>,
}

impl Asked {
    /// How many prompts.
    pub fn len(&self) -> usize {
        self.prompts.len()
    }
}

/// What the other side compares.
#[derive(Serialize)]
struct Values {
    /// As in the other side's list.
    senders: Vec<String>,
    /// `[senders][prompts]`: logits of the answer, and the mean logit.
    changed: Vec<Vec<[f64; 2]>>,
}

/// Asks for the capitals of `facts` countries in so many wordings, whether the model knows them or not, and writes the
/// prompts for the other side.
pub fn draw(model: &str, facts: usize, wordings: usize, file: &str) -> Outcome<Asked> {
    let checkpoint = Checkpoint::open(model)?;
    let tokenizer = checkpoint.tokenizer()?;
    let relation = builtin_all()?.into_iter().find(|r| r.key == "capital").ok_or("no capitals")?;
    let settings = Settings { facts, wordings, shots: 0, first_token: true, seed: SEED };
    let mut case = Case::new(relation, &tokenizer, &settings)?;
    case.known.clone_from(&case.asked);
    let prompts = alike(&case, (Form::Open, 0), &tokenizer, checkpoint.spec(), &settings)?;
    let partners = partners(&prompts, SEED)?;
    let lines: Vec<_> = prompts
        .iter()
        .zip(&partners)
        .map(|(p, partner)| json!({"ids": p.ids, "answer": p.answer, "partner": partner}))
        .collect();
    std::fs::write(file, serde_json::to_vec(&lines)?)?;
    Ok(Asked { prompts, partners })
}

fn patched(o: &mut Eager<Cpu>, m: &Model<Cpu>, asked: &Asked) -> Outcome<Effects> {
    let seen = observe(o, m, &asked.prompts, |_| {})?;
    let u = Unembedding::of(o, m, &asked.prompts)?;
    let mode = (Instead::Mean, Rest::Frozen);
    Ok(effects(o, m, &asked.prompts, (&seen, &u), &senders(&m.spec), &asked.partners, mode, |_, _| {})?)
}

/// Seconds of everything: what blocks do in all prompts, rows of the unembedding, and every head and MLP replaced.
pub fn paths(o: &mut Eager<Cpu>, m: &Model<Cpu>, asked: &Asked) -> Outcome<f64> {
    let start = Instant::now();
    std::hint::black_box(patched(o, m, asked)?);
    Ok(start.elapsed().as_secs_f64())
}

/// Writes what is compared, as JSON.
pub fn values(o: &mut Eager<Cpu>, m: &Model<Cpu>, asked: &Asked, file: &str) -> Outcome<()> {
    let found = patched(o, m, asked)?;
    let senders = found.senders.iter().map(ToString::to_string).collect();
    let row = |all: &Vec<Score>| all.iter().map(|s| [s.answer, s.mean]).collect();
    let changed = found.changed.iter().map(row).collect();
    Ok(std::fs::write(file, serde_json::to_vec(&Values { senders, changed })?)?)
}
