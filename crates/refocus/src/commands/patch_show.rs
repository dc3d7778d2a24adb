//! `patch show`.

use refocus_model::patch::{Decode, Job, Rewrite, Support, Variant};
use refocus_model::{Action, Intervention, Kind, ModelSpec, Patch, Position};
use serde::Serialize;

use super::Ended;
use super::patch::{Opened, headline, open};
use crate::cli::Check;
use crate::failure::Outcome;
use crate::model_arg;
use crate::printer::Printer;

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    patch: String,
    model: String,
    /// `none`, `same` or `forced`.
    guard: &'static str,
    entries: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    line: usize,
    says: String,
    /// Commands in which it works.
    works_in: Vec<&'static str>,
}

/// Runs the command.
pub(super) fn run(args: &Check, printer: &Printer) -> Outcome<Ended> {
    let checkpoint = model_arg::open(args.model.model.as_deref(), printer)?;
    let Opened { patch, guard, .. } = open(args, &checkpoint)?;
    let says = sentences(&patch, checkpoint.spec());
    let works = patch.support(checkpoint.spec()).into_iter().map(|e| {
        let yes = Job::ALL.into_iter().filter(|&j| e.jobs[j as usize] == Support::Yes);
        yes.map(Job::name).collect()
    });
    let entry = |((line, says), works_in)| Entry { line, says, works_in };
    let document = Document {
        schema: "refocus.patch-show/1",
        patch: args.patch.display().to_string(),
        model: model_arg::shown(&checkpoint),
        guard,
        entries: says.into_iter().zip(works).map(entry).collect(),
    };
    if printer.is_json() {
        printer.document(&document)?;
        return Ok(Ended::Well);
    }
    let mut out = headline(&document.patch, &document.model, guard);
    for e in &document.entries {
        let works = if e.works_in.is_empty() { "nothing yet".to_owned() } else { e.works_in.join(", ") };
        out.push_str(&format!("{}.\n    line {}; works in {works}\n", e.says, e.line));
    }
    printer.text(&out)?;
    Ok(Ended::Well)
}

/// One sentence for each entry, without its full stop, with its line; in the order of [`Patch::support`].
pub(super) fn sentences(patch: &Patch, spec: &ModelSpec) -> Vec<(usize, String)> {
    let (decode, rewrite) = patch.lines();
    let inside = patch.entries().filter_map(|(line, _, all)| Some((line, inside(all, spec)?)));
    let outside = patch.decode.iter().zip(decode).map(|(d, &line)| (line, self::decode(d)));
    let before = patch.rewrite.zip(rewrite).map(|(r, line)| (line, rewriting(r)));
    inside.chain(outside).chain(before).collect()
}

fn rewriting(r: Rewrite) -> String {
    let newest = "Before answering, the newest message of a user is rewritten without what does not matter";
    match (r.variant, r.threshold) {
        (Variant::Scored, Some(t)) => {
            format!("{newest} (scored: the model judges each sentence; what scores below {t} nats goes)")
        }
        (Variant::Scored, None) => {
            format!("{newest} (scored: the model judges each sentence; what it does not call needed goes)")
        }
        (variant, _) => format!("{newest} ({})", variant.name()),
    }
}

fn inside(all: &[Intervention], spec: &ModelSpec) -> Option<String> {
    let first = all.first()?;
    if let Action::Exit(layer) = first.action {
        let n = spec.n_layers;
        return Some(format!("The model answers after {layer} of its {n} blocks"));
    }
    let what = place(all, first);
    let mut says = match &first.action {
        Action::Zero => format!("{what} becomes zero"),
        Action::Scale(f) => format!("{what} is multiplied by {f}"),
        Action::Mean(_) => format!("{what} is replaced by a fixed vector"),
        Action::Set(_) => format!("{what} is replaced by given values"),
        Action::Add { alpha, .. } => format!("{what} gets {alpha} times a fixed vector added"),
        Action::UniformAttention => format!("{what} looks at all tokens before it alike"),
        Action::BlockEdge(keys) if *keys == (0..1) => format!("{what} cannot look at the first token"),
        Action::BlockEdge(keys) => {
            format!("{what} cannot look at tokens {} to {}", keys.start, keys.end.saturating_sub(1))
        }
        Action::Sharpen(t) if *t < 1.0 => format!("{what} is sharpened: its scores are divided by {t}"),
        Action::Sharpen(t) if *t == 1.0 => format!("{what} stays as it is: its scores are divided by 1"),
        Action::Sharpen(t) => format!("{what} is flattened: its scores are divided by {t}"),
        Action::Exit(_) => return None,
    };
    says.push_str(&match first.position {
        Position::All => ", at every position".to_owned(),
        Position::Last => ", at the end of the prompt and at each new token".to_owned(),
        Position::At(p) => format!(", at position {p}"),
        Position::FromEnd(k) => format!(", at position -{k} of the prompt"),
    });
    if let Some(gate) = first.when {
        says.push_str(&format!(
            ", only where the lens after block {} gives its first choice a probability above {}",
            gate.lens_layer, gate.top1_prob_above
        ));
    }
    Some(says)
}

/// The place that an entry changes, at the beginning of a sentence.
fn place(all: &[Intervention], first: &Intervention) -> String {
    let layers: Vec<usize> = all.iter().map(|i| i.site.layer).collect();
    let blocks = blocks(&layers);
    if let Some(head) = first.head {
        let heads: Vec<String> = layers.iter().map(|l| format!("{l}.{head}")).collect();
        let passes = if heads.len() == 1 { "passes" } else { "pass" };
        let heads = if heads.len() > 4 {
            format!("head {head} of each of {blocks}")
        } else {
            format!("{} {}", if heads.len() == 1 { "head" } else { "heads" }, listed(&heads))
        };
        return match first.site.kind {
            Kind::Z | Kind::Result => format!("What {heads} {passes} on"),
            Kind::Pattern | Kind::Scores => format!("Attention of {heads}"),
            kind => format!("{} of {heads}", kind.name()),
        };
    }
    match first.site.kind {
        Kind::Z => format!("What all heads of {blocks} pass on"),
        Kind::Pattern | Kind::Scores => format!("Attention in {blocks}"),
        Kind::AttnOut => format!("What attention writes in {blocks}"),
        Kind::MlpOut => format!("What the MLP writes in {blocks}"),
        Kind::MlpPost => format!("The MLP's hidden layer in {blocks}"),
        Kind::ResidPre => format!("The residual stream before {blocks}"),
        Kind::ResidMid => format!("The residual stream between attention and MLP of {blocks}"),
        Kind::ResidPost => format!("The residual stream after {blocks}"),
        kind if kind.is_global() => kind.name().to_owned(),
        kind => format!("{} of {blocks}", kind.name()),
    }
}

/// `block 3`, `blocks 3, 5 and 7 to 9`.
fn blocks(layers: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &l in layers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == l => *last = l,
            _ => runs.push((l, l)),
        }
    }
    let word = |&(a, b): &(usize, usize)| match b - a {
        0 => a.to_string(),
        1 => format!("{a}, {b}"),
        _ => format!("{a} to {b}"),
    };
    let words: Vec<String> = runs.iter().map(word).collect();
    format!("{} {}", if layers.len() == 1 { "block" } else { "blocks" }, listed(&words))
}

/// `a`, `a and b`, `a, b and c`.
fn listed(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [init @ .., last] => format!("{} and {last}", init.join(", ")),
    }
}

fn decode(d: &Decode) -> String {
    match d {
        Decode::Temperature(t) => format!("The final logits are divided by {t}"),
        Decode::UnigramPrior { alpha, .. } => {
            format!("{alpha} times the logarithm of each token's frequency is taken from its final logit")
        }
        Decode::ContrastContext { alpha } => {
            let away = if *alpha < 0.0 { "away from" } else { "towards" };
            format!("The final logits lean {away} the context, by {}", alpha.abs())
        }
        Decode::ContrastLayer { layer, alpha } => {
            format!("The final logits are contrasted with the lens after block {layer}, by {alpha}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_told_in_runs() {
        assert_eq!(blocks(&[3]), "block 3");
        assert_eq!(blocks(&[3, 4]), "blocks 3, 4");
        assert_eq!(blocks(&[3, 5, 7, 8, 9]), "blocks 3, 5 and 7 to 9");
    }
}
