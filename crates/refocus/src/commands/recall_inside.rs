//! The stages of `recall` that look inside: heads, MLPs, last blocks, repairs.

use std::path::Path;

use refocus_compute::{Cpu, Eager};
use refocus_model::{ModelSpec, Tokenizer};
use refocus_study::overthinking::Store;
use refocus_study::recall::inside::{HeadsFound, Inside, LastFound, MitigateFound, MlpFound, PlainText};
use refocus_study::recall::{Case, Claim, Outcome as Became, RecallError, alike};
use refocus_tasks::recall::Form;
use serde::Serialize;

use super::recall::Run;
use crate::cli::RecallStage;
use crate::failure::{Failure, Outcome};

/// Text that the project wrote, about nothing that is asked.
const PLAIN: &str = include_str!("../../../../tasks/plain.txt");

/// What was found inside for one relation and form; stages that were not done are absent.
#[derive(Serialize)]
pub(super) struct Found {
    pub(super) relation: String,
    pub(super) form: Form,
    pub(super) prompts: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) heads: Option<HeadsFound>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mlp: Option<MlpFound>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last: Option<LastFound>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mitigate: Option<MitigateFound>,
}

impl Found {
    /// The stages that were done.
    pub(super) fn stages(&self) -> impl Iterator<Item = &'static str> {
        let all = [
            ("heads", self.heads.is_some()),
            ("mlp", self.mlp.is_some()),
            ("last", self.last.is_some()),
            ("mitigate", self.mitigate.is_some()),
        ];
        all.into_iter().filter(|s| s.1).map(|s| s.0)
    }

    /// The claims about it.
    pub(super) fn claims(&self) -> Vec<Claim> {
        let all = [
            self.heads.as_ref().map(|f| &f.claims),
            self.mlp.as_ref().map(|f| &f.claims),
            self.last.as_ref().map(|f| &f.claims),
            self.mitigate.as_ref().map(|f| &f.claims),
        ];
        all.into_iter().flatten().flatten().map(|j| j.about(&self.relation, self.form)).collect()
    }
}

/// Plain text for frequencies and perplexity, or why there is none.
pub(super) enum Plain {
    /// As counted.
    Text(Box<PlainText>),
    /// The shipped text has too few tokens of this model.
    TooShort(String),
}

impl Plain {
    /// SHA-256 of the text.
    pub(super) fn hash(&self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.hash()),
            Self::TooShort(_) => None,
        }
    }
}

/// The text of `--text`, or the shipped one.
pub(super) fn plain_text(path: Option<&Path>, tokenizer: &Tokenizer, spec: &ModelSpec) -> Outcome<Plain> {
    let Some(path) = path else {
        return match PlainText::new(PLAIN, tokenizer, spec) {
            Ok(text) => Ok(Plain::Text(Box::new(text))),
            Err(RecallError::Measure(e)) => Ok(Plain::TooShort(e.to_string())),
            Err(e) => Err(e.into()),
        };
    };
    let text = std::fs::read_to_string(path)
        .map_err(|e| Failure::because(format!("{}: cannot be read as text", path.display()), e))?;
    let named = |e| Failure::because(format!("{}: cannot be counted", path.display()), e);
    Ok(Plain::Text(Box::new(PlainText::new(&text, tokenizer, spec).map_err(named)?)))
}

/// Whether stages need others that are not named.
pub(super) fn check(stages: &[RecallStage]) -> Outcome<()> {
    let has = |s: RecallStage| stages.contains(&s);
    let name = |s: RecallStage| match s {
        RecallStage::Facts => "facts",
        RecallStage::Trace => "trace",
        RecallStage::Heads => "heads",
        RecallStage::Mlp => "mlp",
        RecallStage::Last => "last",
        RecallStage::Mitigate => "mitigate",
    };
    let needs = |s: &RecallStage| match s {
        RecallStage::Facts => None,
        RecallStage::Mlp | RecallStage::Mitigate if !has(RecallStage::Heads) => {
            Some((name(*s), name(RecallStage::Heads)))
        }
        _ if !has(RecallStage::Facts) => Some((name(*s), name(RecallStage::Facts))),
        _ => None,
    };
    match stages.iter().find_map(needs) {
        None if stages.is_empty() => Err(Failure::new("there is no stage to do")),
        None => Ok(()),
        Some((stage, other)) => Err(Failure::new(format!("the stage {stage} needs the stage {other}"))
            .hint("name it in --stages too")),
    }
}

impl Run<'_> {
    /// Looks inside, relation by relation and form by form.
    pub(super) fn inside(
        &self,
        o: &mut Eager<Cpu>,
        cases: &[Case],
        (stages, plain): (&[RecallStage], &Plain),
        (store, fingerprint): (&Store, &str),
    ) -> Outcome<Vec<Found>> {
        let has = |s: RecallStage| stages.contains(&s);
        let mut all: Vec<Inside> = Vec::new();
        for case in cases.iter().filter(|c| c.outcome(self.settings) == Became::Measured) {
            for form in [Form::Open, Form::Forced] {
                let prompts = alike(case, form, self.tokenizer, &self.model.spec, self.settings)?;
                all.push(Inside::new(&case.relation.key, form, prompts, self.settings.seed));
            }
        }
        all.retain(Inside::is_enough);
        if let (Plain::TooShort(why), false) = (plain, all.is_empty())
            && (has(RecallStage::Last) || has(RecallStage::Mitigate))
        {
            self.printer.note(&format!("without the stages last and mitigate: {why}"));
        }
        let (m, mut out) = (self.model, Vec::new());
        let [heads_at, mlp_at, last_at, mitigate_at] =
            ["heads", "mlp", "last", "mitigate"].map(|name| store.stage(name));
        let (heads_at, mlp_at, last_at, mitigate_at) = (heads_at?, mlp_at?, last_at?, mitigate_at?);
        for mut inside in all {
            let title = format!("{}, {}", inside.relation, inside.form.name());
            let mut found = Found {
                relation: inside.relation.clone(),
                form: inside.form,
                prompts: inside.prompts.len(),
                heads: None,
                mlp: None,
                last: None,
                mitigate: None,
            };
            if has(RecallStage::Heads) {
                let got = self.step("heads", &title, |tick| inside.heads(o, m, &heads_at, tick))?;
                if has(RecallStage::Mlp) {
                    let work = |_: &mut dyn FnMut(usize, usize)| inside.mlp(o, m, got.function, &mlp_at);
                    found.mlp = Some(self.step("mlp", &title, work)?);
                }
                if let (Plain::Text(text), true) = (plain, has(RecallStage::Mitigate)) {
                    let heads = (&got.suppressing[..], fingerprint);
                    let made = self.step("mitigate", &title, |tick| {
                        inside.mitigate(o, m, heads, text, &mitigate_at, tick)
                    })?;
                    if let Some(patch) = &made.patch {
                        let at = |end: &str| format!("patches/{}.{end}", patch.name);
                        let tensors =
                            patch.tensors().map_err(|e| Failure::because("a patch cannot be written", e))?;
                        if let Some(tensors) = tensors {
                            store.write_bytes(&at("safetensors"), &tensors)?;
                        }
                        let said: Vec<String> = made
                            .claims
                            .iter()
                            .map(|j| format!("# {}: {}\n", j.verdict.name(), j.why))
                            .collect();
                        store.write(&at("toml"), &(said.concat() + &patch.text))?;
                    }
                    found.mitigate = Some(made);
                }
                found.heads = Some(got);
            }
            if let (Plain::Text(text), true) = (plain, has(RecallStage::Last)) {
                let work = |_: &mut dyn FnMut(usize, usize)| inside.last(o, m, text, &last_at);
                found.last = Some(self.step("last", &title, work)?);
            }
            out.push(found);
        }
        Ok(out)
    }

    /// One stage of one relation and form, with its progress.
    fn step<T>(
        &self,
        name: &str,
        title: &str,
        work: impl FnOnce(&mut dyn FnMut(usize, usize)) -> Result<(T, bool), RecallError>,
    ) -> Outcome<T> {
        let bar = self.printer.count_bar(0);
        bar.set_message(format!("{name}: {title}"));
        let (found, there) = work(&mut |done, all| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        })?;
        bar.finish_and_clear();
        if there {
            self.printer.note(&format!("{name}: {title}: was done before"));
        }
        Ok(found)
    }
}
