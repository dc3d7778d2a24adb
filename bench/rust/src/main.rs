//! refocus' side of the benchmarks. Commands come one a line on standard input, and each is answered by
//! one line of numbers, so that Python can alternate between refocus and its rivals in one run:
//!
//! ```text
//! threads N                   → instruction set           a new team; a loaded model stays
//! peak                        → GFLOP/s                    fused multiply-adds on registers, median of bursts
//! bandwidth                   → GB/s                       all threads read a buffer beyond any cache
//! load PATH                   → seconds                    open and pack
//! logits FILE T               → 0                          raw f32 of the last position after T tokens
//! forward WHAT B T REPS       → seconds                    WHAT: hidden, logits, labels, slots
//! decode B T N REPS           → prefill, seconds, ids …    prompts of T tokens, then N steps
//! linear DTYPE ROWS K N REPS  → seconds, checksum
//! learner SHAPE ASK FILE      → 0                          SHAPE: layers (0: LSTM) width heads vocab T B
//!                                                          ASK: all, reads; parameters and batches → FILE
//! losses STEPS                → losses …                   of the learner's next steps
//! step REPS                   → seconds                    a training step
//! score REPS                  → seconds                    a batch scored
//! generate T COUNT            → seconds                    flip-flop strings, one thread
//! draw TASK PAIRS DEMOS CONTEXT FILE → 0                  prompts for the study of false demonstrations
//! prompts FILE                → number                     reads them
//! lens N                      → seconds                    labels at every slot after every layer, N prompts
//! causal N                    → base, map                  plain passes, then every head by itself removed
//! values FILE N               → 0                          both, and head scores, as JSON
//! facts FACTS WORDINGS FILE   → number                     prompts for the study of factual recall
//! paths                       → seconds                    every head and MLP replaced, paths to the output
//! path_values FILE            → 0                          the same, as JSON
//! memory                      → VmHWM in bytes
//! ```
//!
//! Seconds are medians of REPS repetitions. `refocus-bench first PATH TEXT` loads a model, says its next
//! token and prints the time this took inside the process and VmHWM.

mod learner;
mod machine;
mod overthinking;
mod product;
mod recall;
mod session;

use std::io::Write;
use std::time::Instant;

use session::Session;

/// Anything that goes wrong is a message for the other side.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Median seconds of `reps` calls.
pub fn median(reps: usize, mut call: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    let mut times = Vec::with_capacity(reps.max(1));
    for _ in 0..reps.max(1) {
        let start = Instant::now();
        call()?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn answer(session: &mut Session, line: &str) -> Outcome<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |i: usize| -> Outcome<usize> { Ok(words.get(i).ok_or("a number is missing")?.parse()?) };
    let word = |i: usize| words.get(i).copied().ok_or("a word is missing");
    Ok(match word(0)? {
        "threads" => session.threads(number(1)?)?.to_owned(),
        "peak" => session.peak().to_string(),
        "bandwidth" => machine::bandwidth(session.team()).to_string(),
        "load" => session.load(line.trim_start_matches("load").trim())?.to_string(),
        "logits" => session.logits(word(1)?, number(2)?).map(|()| "0".to_owned())?,
        "forward" => session.forward(word(1)?, number(2)?, number(3)?, number(4)?)?.to_string(),
        "decode" => session.decode(number(1)?, number(2)?, number(3)?, number(4)?)?,
        "linear" => {
            let shape = [number(2)?, number(3)?, number(4)?];
            product::linear(session, word(1)?, shape, number(5)?)?
        }
        "learner" => {
            let shape = [number(1)?, number(2)?, number(3)?, number(4)?, number(5)?, number(6)?];
            session.learn(shape, word(7)?, word(8)?).map(|()| "0".to_owned())?
        }
        "losses" => session.learner()?.losses(number(1)?)?,
        "step" => session.learner()?.steps(number(1)?)?.to_string(),
        "score" => session.learner()?.scores(number(1)?)?.to_string(),
        "generate" => learner::generate(number(1)?, u32::try_from(number(2)?)?)?.to_string(),
        "draw" => {
            session.draw(word(1)?, number(2)?, number(3)?, number(4)?, word(5)?).map(|()| "0".to_owned())?
        }
        "prompts" => session.prompts(word(1)?)?.to_string(),
        "lens" => session.lens(number(1)?)?.to_string(),
        "causal" => {
            let (base, map) = session.causal(number(1)?)?;
            format!("{base} {map}")
        }
        "values" => session.values(word(1)?, number(2)?).map(|()| "0".to_owned())?,
        "facts" => session.facts(number(1)?, number(2)?, word(3)?)?.to_string(),
        "paths" => session.paths()?.to_string(),
        "path_values" => session.path_values(word(1)?).map(|()| "0".to_owned())?,
        "memory" => machine::peak_memory()?.to_string(),
        other => return Err(format!("no command is called '{other}'").into()),
    })
}

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().collect();
    if let [_, first, path, text] = &args[..]
        && first == "first"
    {
        return session::first(path, text);
    }
    let mut session = Session::new()?;
    for line in std::io::stdin().lines() {
        match answer(&mut session, &line?) {
            Ok(numbers) => println!("ok {numbers}"),
            Err(e) => println!("error {e}"),
        }
        std::io::stdout().flush()?;
    }
    Ok(())
}
