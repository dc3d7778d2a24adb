//! Writes `docs/parity.md`: what refocus computes beside what `transformers` computes.
//!
//! ```sh
//! cargo run --release -p refocus-model --example parity -- [DIR]... > docs/parity.md
//! ```
//!
//! The fixtures are always compared. Each DIR holds reference values of a real model, as
//! `fixtures/real.py MODEL.gguf` writes them: into `reference/NAME` beside the model, which is how the
//! model is found again. Without DIR, the folders named by `REFOCUS_REFERENCE` (separated as in `PATH`).

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/suite/expected.rs"]
mod expected;

use expected::{Case, Cause, Comparison, F32_PARITY, HEADS, cases, compare_on_cpu, row};

const ABOUT: &str = "\
# Parity with `transformers`

This page is written by a command; do not edit it:

```sh
cargo run --release -p refocus-model --example parity -- [DIR]... > docs/parity.md
```

Each row is one model: refocus in f32 on the CPU beside `transformers` in f32 (eager attention). The values to
compare with were written by the scripts in [`fixtures/`](../fixtures/README.md), which names the versions.

- **greatest difference**: over every element of every compared tensor, scaled by max(1, |expected|). Compared are
  the sites of the forward pass at all positions, and the logits; **in the logits** is the greatest among those alone.
- **error of refocus**, **error of transformers**: the logits of each beside an f64 run of `transformers`, greatest and
  root mean square, scaled likewise. Where both are alike, what is left between the two is rounding.
- **top-1 equal**: positions at which the highest logit belongs to the same token.

A row passes when every difference is at most 1e-4 and every highest logit is the same. A site may differ by more only
where that is what single precision gives: where the error of refocus, beside the same site on f64 kernels, is at most
1.5 times that of `transformers`. Such rows are named at the end of the page.
";

/// The model of a folder of reference values: `reference/NAME` lies beside `NAME-….gguf`.
fn real(dir: &Path) -> Result<Case, Box<dyn Error>> {
    let short = dir.file_name().and_then(|n| n.to_str()).ok_or("a folder needs a name")?;
    let models = dir.parent().and_then(Path::parent).ok_or("the model lies two folders up")?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(models)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|n| n.to_str()).unwrap_or_default();
        if path.extension().is_some_and(|e| e == "gguf") && name.split('-').next() == Some(short) {
            found.push((name.to_owned(), path));
        }
    }
    match found.pop() {
        Some((name, model)) if found.is_empty() => Ok(Case { name, model, values: dir.to_owned() }),
        _ => {
            Err(format!("{}: exactly one {short}-*.gguf is needed in {}", dir.display(), models.display())
                .into())
        }
    }
}

/// What a difference beyond the tolerance is made of.
fn why(name: &str, c: &Comparison, cause: &Cause) -> String {
    let (within, ours, theirs) = (cause.within, cause.ours, cause.theirs);
    format!(
        "`{name}`: {within} sites are within {F32_PARITY:.0e}; the greatest difference is {:.1e}, at\n\
         `{}`. Activations of this model reach {:.0}, and f32 ends there: beside the same sites on f64\n\
         kernels, the greatest error of refocus is {:.1e} and that of `transformers` {:.1e} (root mean square {:.1e} and {:.1e}).",
        c.sites.greatest,
        c.worst,
        cause.magnitude,
        ours.greatest,
        theirs.greatest,
        ours.rms(),
        theirs.rms(),
    )
}

fn table(heads: &[&str], rows: &[Vec<String>]) {
    println!("| {} |", heads.join(" | "));
    println!("|{}", "---|".repeat(heads.len()));
    for r in rows {
        println!("| `{}` | {} |", r[0], r[1..].join(" | "));
    }
}

fn run() -> Result<bool, Box<dyn Error>> {
    let mut dirs: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if dirs.is_empty() {
        dirs = std::env::var_os("REFOCUS_REFERENCE")
            .map(|v| std::env::split_paths(&v).collect())
            .unwrap_or_default();
    }
    let reals = dirs.iter().map(|d| real(d)).collect::<Result<Vec<_>, _>>()?;

    let (mut failed, mut far) = (Vec::new(), Vec::new());
    let mut compare = |case: &Case| {
        let c = compare_on_cpu(case);
        if !c.passed() {
            failed.push(format!("{} (worst: {})", case.name, c.worst));
        }
        far.extend(c.cause.as_ref().map(|cause| why(&case.name, &c, cause)));
        eprintln!("{}: {:.1e} at {}", case.name, c.sites.greatest, c.worst);
        c
    };
    println!("{ABOUT}");
    println!("## Fixtures\n");
    println!(
        "Tiny random models, one for each family and variant; what each is for says [`fixtures/`](../fixtures/README.md).\n"
    );
    let rows: Vec<_> = cases().iter().map(|case| row(&case.name, &compare(case))).collect();
    table(&HEADS, &rows);

    println!("\n## Real models\n");
    if reals.is_empty() {
        println!("None were compared in this run.");
    } else {
        println!(
            "Prompts of 1 to 200 tokens from `fixtures/real.py`: logits of the short ones at all positions, of all at the"
        );
        println!(
            "last, and fifteen kinds of sites of two of them in every block. **greedy**: prompts whose continuation by greedy"
        );
        println!("decoding (batched, with the cache) is that of `transformers` to the last token.\n");
        let heads: Vec<&str> = HEADS.iter().copied().chain(["greedy"]).collect();
        let mut rows = Vec::new();
        for case in &reals {
            let c = compare(case);
            let mut row = row(&case.name, &c);
            row.push(c.greedy.map_or_else(|| "–".into(), |(s, n)| format!("{s}, {n} new tokens each")));
            rows.push(row);
        }
        table(&heads, &rows);
    }
    println!("\n## Verdict\n");
    let sites = if far.is_empty() { "Every site" } else { "Every site but those named below" };
    match &failed[..] {
        [] => {
            println!(
                "{sites} and all logits are within {F32_PARITY:.0e}; every highest logit and every continuation is the same."
            );
        }
        some => println!("**Not met**: {}.", some.join(", ")),
    }
    far.iter().for_each(|f| println!("\n{f}"));
    Ok(failed.is_empty())
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(2)
        }
    }
}
