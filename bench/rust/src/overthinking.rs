//! The study of false demonstrations: the lens at every slot, and the causal map of all heads.

use std::path::Path;
use std::time::Instant;

use refocus_compute::{Cpu, Eager};
use refocus_model::{Checkpoint, Model};
use refocus_study::overthinking::{
    Asked, HeadScore, How, Kind, Line, Method, Request, TaskWork, Variant, Work, ablate, ask, build, looks, observe,
    single_heads,
};
use refocus_tasks::classify::{Dataset, Setting, builtin};
use serde::Serialize;

use crate::Outcome;

/// What the other side compares.
#[derive(Serialize)]
struct Values {
    /// `[prompts][layers][slots][labels]`
    lens: Vec<Vec<Vec<Vec<f32>>>>,
    /// `[prompts][heads][labels]`, each head by itself zero at the last slot.
    causal: Vec<Vec<Vec<f32>>>,
    /// On false prompts.
    scores: Vec<HeadScore>,
}

/// Draws pairs of a task under the permuted setting and writes them as `refocus overthinking --dump-prompts`.
pub fn draw(model: &str, task: &str, pairs: u32, demos: usize, context: usize, file: &str) -> Outcome<()> {
    let checkpoint = Checkpoint::open(model)?;
    let task = builtin(task)?;
    let folder = std::env::var_os("REFOCUS_DATA").map(|d| Path::new(&d).join("tasks"));
    let data = Dataset::read(&task, folder.as_deref())?;
    let request = Request { pairs, demos, context, settings: vec![Setting::Permuted], seed: 0 };
    let built = build(&task, &data, &checkpoint.tokenizer()?, checkpoint.spec(), &request)?;
    let text: Vec<String> = built.lines.iter().map(|l: &Line| serde_json::to_string(l)).collect::<Result<_, _>>()?;
    Ok(std::fs::write(file, text.join("\n") + "\n")?)
}

/// The prompts of a file, all of one task.
pub fn prompts(m: &Model<Cpu>, file: &str) -> Outcome<TaskWork> {
    let work = Work::read(Path::new(file), &m.spec)?;
    work.tasks.into_iter().next().ok_or_else(|| "no prompts".into())
}

fn heads(m: &Model<Cpu>) -> Vec<Variant> {
    single_heads(&m.spec).into_iter().filter(|v| v.how == How::Zero).collect()
}

/// Seconds of the lens over all layers and slots of the first `n` prompts.
pub fn lens(o: &mut Eager<Cpu>, m: &Model<Cpu>, task: &TaskWork, n: usize) -> Outcome<f64> {
    let start = Instant::now();
    std::hint::black_box(ask(o, m, &task.prompts[..n], &task.label_ids, &Method::correct(), |_| {})?);
    Ok(start.elapsed().as_secs_f64())
}

/// Seconds of the passes of the first `n` prompts, and of all heads' variants over what they left.
pub fn causal(o: &mut Eager<Cpu>, m: &Model<Cpu>, task: &TaskWork, n: usize) -> Outcome<(f64, f64)> {
    let prompts: Vec<&Asked> = task.prompts[..n].iter().collect();
    let mut seconds = |variants: &[Variant]| -> Outcome<f64> {
        let start = Instant::now();
        std::hint::black_box(ablate(o, m, &prompts, &task.label_ids, variants, None, |_| {})?);
        Ok(start.elapsed().as_secs_f64())
    };
    let base = seconds(&[])?;
    Ok((base, seconds(&heads(m))? - base))
}

/// Writes what is compared, of the first `n` prompts, as JSON.
pub fn values(o: &mut Eager<Cpu>, m: &Model<Cpu>, task: &TaskWork, n: usize, file: &str) -> Outcome<()> {
    let answers = ask(o, m, &task.prompts[..n], &task.label_ids, &Method::correct(), |_| {})?;
    let lens = answers
        .iter()
        .map(|a| {
            let slots = |layer| (0..a.shape.slots).map(|slot| a.logits(layer, slot).collect()).collect();
            (0..a.shape.layers).map(slots).collect()
        })
        .collect();
    let prompts: Vec<&Asked> = task.prompts[..n].iter().collect();
    let causal = ablate(o, m, &prompts, &task.label_ids, &heads(m), None, |_| {})?;
    let causal = causal.into_iter().map(|a| a.variants).collect();
    let setting = &task.settings[0];
    let all: Vec<usize> = (0..setting.pairs.len().min(n)).collect();
    let scores = observe(o, m, task, &looks(task, setting, &all, Kind::False), |_| {})?.scores();
    Ok(std::fs::write(file, serde_json::to_vec(&Values { lens, causal, scores })?)?)
}
