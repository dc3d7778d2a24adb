//! Which entries of a patch work in which command, and why others do not.

use super::{Patch, PatchError, summary};
use crate::intervene::{Action, Intervention, Position};
use crate::site::Kind;
use crate::spec::{Family, ModelSpec, Positions, Wiring};

/// What a patch can be used in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// `model forward`, and everything that runs prompts and reads them.
    Forward,
    /// `model generate`.
    Generate,
    /// `serve`.
    Serve,
    /// `patch export`: plain weights with the patch baked in.
    Export,
}

impl Job {
    /// All of them, in the order of the support table.
    pub const ALL: [Job; 4] = [Job::Forward, Job::Generate, Job::Serve, Job::Export];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Job::Forward => "forward",
            Job::Generate => "generate",
            Job::Serve => "serve",
            Job::Export => "export",
        }
    }
}

/// Whether an entry works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Support {
    /// It does.
    Yes,
    /// Not in this version.
    NotYet(String),
    /// It cannot.
    No(String),
}

impl Support {
    /// Why it does not work.
    pub fn why(&self) -> Option<&str> {
        match self {
            Support::Yes => None,
            Support::NotYet(why) | Support::No(why) => Some(why),
        }
    }
}

/// One entry of a patch file and where it works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntrySupport {
    /// Line in the file.
    pub line: usize,
    /// Its action: `zero`, `temperature`, `rewrite`.
    pub action: &'static str,
    /// How it reads.
    pub says: String,
    /// How many places of the model it changes, where it changes the inside.
    pub places: Option<usize>,
    /// In the order of [`Job::ALL`].
    pub jobs: [Support; 4],
}

impl Patch {
    /// For every entry, in the order of the file by kind, where it works.
    pub fn support(&self, spec: &ModelSpec) -> Vec<EntrySupport> {
        let mut out = Vec::new();
        for e in &self.entries {
            let all = &self.interventions[e.range.clone()];
            let Some(first) = all.first() else { continue };
            let export = all.iter().find_map(|i| bake(spec, i).err().map(|why| (i, why)));
            let export = match export {
                Some((i, why)) if all.len() > 1 => Support::No(format!("{}: {why}", i.site)),
                Some((_, why)) => Support::No(why.to_owned()),
                None => Support::Yes,
            };
            out.push(EntrySupport {
                line: e.line,
                action: first.action.name(),
                says: summary(&e.at, first),
                places: Some(all.len()),
                jobs: [Support::Yes, Support::Yes, Support::Yes, export],
            });
        }
        for (d, &line) in self.decode.iter().zip(&self.decode_lines) {
            let (forward, generate, serve) = if d.is_pointwise() {
                (Support::Yes, Support::Yes, Support::Yes)
            } else {
                let why = "it needs a second row of logits, which nothing computes yet";
                let not_yet = || Support::NotYet(why.to_owned());
                (not_yet(), not_yet(), not_yet())
            };
            let export = Support::No("weights hold no change of the final logits".to_owned());
            out.push(EntrySupport {
                line,
                action: d.name(),
                says: d.to_string(),
                places: None,
                jobs: [forward, generate, serve, export],
            });
        }
        if let Some(r) = self.rewrite {
            out.push(EntrySupport {
                line: self.rewrite_line,
                action: "rewrite",
                says: format!("rewrite the newest message ({r})"),
                places: None,
                jobs: [
                    Support::No("a forward pass takes its input as it is; `refocus serve` rewrites".to_owned()),
                    Support::No(
                        "a prompt is taken as it is; `refocus serve` rewrites messages, `refocus rewrite` one \
                         text"
                            .to_owned(),
                    ),
                    Support::Yes,
                    Support::No("weights hold no change of the prompt".to_owned()),
                ],
            });
        }
        out
    }

    /// Refuses a patch with an entry that does not work in `job`.
    ///
    /// # Errors
    /// The first such entry.
    pub fn require(&self, job: Job, spec: &ModelSpec) -> Result<(), PatchError> {
        for e in self.support(spec) {
            if let Some(why) = e.jobs[job as usize].why() {
                return Err(PatchError::Unsupported {
                    path: self.path.clone(),
                    line: e.line,
                    entry: e.action,
                    job: job.name(),
                    why: why.to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// Whether plain weights can hold an intervention: `Ok` says which ones, `Err` why not.
pub(crate) fn bake(spec: &ModelSpec, i: &Intervention) -> Result<&'static str, &'static str> {
    if i.position != Position::All {
        return Err("weights act at every position");
    }
    if i.when.is_some() {
        return Err("weights have no gate");
    }
    match (&i.action, i.site.kind) {
        (Action::Exit(_), _) => Ok("fewer blocks"),
        (Action::BlockEdge(_), _) => Err("weights have no key mask"),
        (Action::UniformAttention, _) => Err("weights have no attention pattern"),
        (Action::Sharpen(_), _) if matches!(spec.positions, Positions::Alibi | Positions::T5 { .. }) => {
            Err("its scores have a bias of distance, which queries do not scale")
        }
        (Action::Sharpen(_), _) if !spec.qk_norm => Ok("query weight and bias"),
        (Action::Sharpen(_), _) if i.head.is_none() => Ok("the gain of the query norm"),
        (Action::Sharpen(_), _) => Err("one gain of the query norm serves all heads of a layer"),
        (Action::Zero | Action::Scale(_), Kind::Z | Kind::AttnOut) => Ok("attention's output rows"),
        (Action::Zero | Action::Scale(_), Kind::MlpPost | Kind::MlpOut) => Ok("the MLP's output rows"),
        (Action::Mean(_) | Action::Add { .. }, Kind::Z | Kind::AttnOut) => {
            bias(attention_bias(spec), "attention's output rows and bias")
        }
        (Action::Mean(_) | Action::Add { .. }, Kind::MlpPost | Kind::MlpOut) => {
            bias(mlp_bias(spec), "the MLP's output rows and bias")
        }
        (Action::Add { .. }, Kind::ResidMid | Kind::ResidPost) if spec.wiring == Wiring::PostNorm => {
            Ok("the bias of the norm before it")
        }
        (Action::Add { .. }, Kind::ResidMid) => bias(attention_bias(spec), "attention's output bias"),
        (Action::Add { .. }, Kind::ResidPost) => bias(mlp_bias(spec), "the MLP's output bias"),
        (Action::Add { .. }, Kind::ResidPre) if i.site.layer > 0 => {
            bias(mlp_bias(spec), "the output bias of the block before it")
        }
        _ => Err("no single weight holds it: heads and outputs, sharpening, added vectors and exits do"),
    }
}

fn bias(has: bool, what: &'static str) -> Result<&'static str, &'static str> {
    if has { Ok(what) } else { Err("checkpoints of this family have no bias there") }
}

/// Whether a checkpoint of the family can hold a bias of attention's output (in GPT-J the MLP's bias
/// does as well, because both are added to the same stream).
fn attention_bias(spec: &ModelSpec) -> bool {
    !matches!(spec.family, Family::Mistral | Family::Qwen2)
}

/// Whether a checkpoint of the family can hold a bias of the MLP's output.
fn mlp_bias(spec: &ModelSpec) -> bool {
    !matches!(spec.family, Family::Mistral | Family::Qwen2 | Family::Qwen3)
}
