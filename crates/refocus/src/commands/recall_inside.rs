//! The stages of `recall` that look inside: heads, MLPs, last blocks, repairs.

use std::path::Path;

use refocus_compute::{Cpu, Eager};
use refocus_model::{ModelSpec, Tokenizer};
use refocus_study::overthinking::Store;
use refocus_study::recall::inside::{
    HeadsFound, Inside, LastFound, MitigateFound, MlpFound, PlainText, ShotsFound, SwapFound,
};
use refocus_study::recall::{
    Case, Claim, Outcome as Became, RecallError, alike, shared_answers, shared_facts,
};
use refocus_tasks::recall::Form;
use serde::Serialize;

use super::recall::Run;
use super::recall_named::Heads;
use crate::cli::RecallStage;
use crate::failure::{Failure, Outcome};

/// Text that the project wrote, about nothing that is asked.
const PLAIN: &str = include_str!("../../../../tasks/plain.txt");

/// Stages that there are.
const ALL: usize = 7;

/// What was found inside for one relation and form; stages that were not done are absent.
#[derive(Serialize)]
pub(super) struct Found {
    pub(super) relation: String,
    pub(super) form: Form,
    pub(super) prompts: usize,
    /// Those with other facts before, of the stage `shots`.
    #[serde(skip)]
    pub(super) with_facts: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) heads: Option<HeadsFound>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mlp: Option<MlpFound>,
    /// Where another relation is asked in prompts of the same form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) swap: Option<SwapFound>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) shots: Option<ShotsFound>,
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
            ("shots", self.shots.is_some()),
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
            self.shots.as_ref().map(|f| &f.claims),
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
        RecallStage::Shots => "shots",
        RecallStage::Last => "last",
        RecallStage::Mitigate => "mitigate",
    };
    let needs = |s: &RecallStage| match s {
        RecallStage::Facts => None,
        RecallStage::Mlp | RecallStage::Shots | RecallStage::Mitigate if !has(RecallStage::Heads) => {
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

/// What is done inside, and with what.
pub(super) struct Stages<'a> {
    pub(super) wanted: &'a [RecallStage],
    pub(super) plain: &'a Plain,
    pub(super) heads: &'a Heads,
    pub(super) fingerprint: &'a str,
}

impl Stages<'_> {
    fn has(&self, stage: RecallStage) -> bool {
        self.wanted.contains(&stage)
    }
}

/// A relation in prompts of one form, and its case.
struct Asked<'a> {
    case: &'a Case,
    inside: Inside,
}

impl Run<'_> {
    /// Looks inside, relation by relation and form by form.
    pub(super) fn inside(
        &self,
        o: &mut Eager<Cpu>,
        cases: &[Case],
        stages: &Stages<'_>,
        store: &Store,
    ) -> Outcome<Vec<Found>> {
        let mut all: Vec<Asked<'_>> = Vec::new();
        for case in cases.iter().filter(|c| c.outcome(self.settings) == Became::Measured) {
            for form in [Form::Open, Form::Forced] {
                let prompts = alike(case, (form, 0), self.tokenizer, &self.model.spec, self.settings)?;
                let inside = Inside::new(&case.relation.key, form, prompts, self.settings.seed);
                all.push(Asked { case, inside });
            }
        }
        all.retain(|a| a.inside.is_enough());
        if let (Plain::TooShort(why), false) = (stages.plain, all.is_empty())
            && (stages.has(RecallStage::Last) || stages.has(RecallStage::Mitigate))
        {
            self.printer.note(&format!("without the stages last and mitigate: {why}"));
        }
        // All stages together are what is done where none is named.
        if stages.has(RecallStage::Shots) && stages.wanted.len() < ALL && self.settings.shots == 0 {
            self.printer.note("without the stage shots: --shots is 0");
        }
        let mut out = Vec::new();
        for at in 0..all.len() {
            let mut found = self.look(o, &mut all[at], stages, store)?;
            if let Some(function) = found.heads.as_ref().map(|h| h.function).filter(|_| found.mlp.is_some()) {
                found.swap = self.swap(o, (&mut all, at), function, store)?;
            }
            all[at].inside.forget();
            out.push(found);
        }
        Ok(out)
    }

    /// All stages of one relation and form.
    fn look(
        &self,
        o: &mut Eager<Cpu>,
        asked: &mut Asked<'_>,
        stages: &Stages<'_>,
        store: &Store,
    ) -> Outcome<Found> {
        let (m, inside) = (self.model, &mut asked.inside);
        let title = title(inside);
        let mut found = Found {
            relation: inside.relation.clone(),
            form: inside.form,
            prompts: inside.prompts.len(),
            with_facts: 0,
            heads: None,
            mlp: None,
            swap: None,
            shots: None,
            last: None,
            mitigate: None,
        };
        if stages.has(RecallStage::Heads) {
            let (at, named) = (store.stage("heads")?, stages.heads.of_relation(&inside.relation));
            let got = self.step("heads", &title, |tick| inside.heads(o, m, &named, &at, tick))?;
            if stages.has(RecallStage::Mlp) {
                let at = store.stage("mlp")?;
                let work = |_: &mut dyn FnMut(usize, usize)| inside.mlp(o, m, got.function, &at);
                found.mlp = Some(self.step("mlp", &title, work)?);
            }
            if stages.has(RecallStage::Shots) && self.settings.shots > 0 {
                let at = store.stage("shots")?;
                let mut with = Vec::new();
                for shots in 1..=self.settings.shots {
                    let how = (inside.form, shots);
                    with.push((shots, alike(asked.case, how, self.tokenizer, &m.spec, self.settings)?));
                }
                let asked = (got.function, &with[..]);
                let made = self.step("shots", &title, |tick| inside.shots(o, m, asked, &at, tick))?;
                let done = |w: &&(usize, Vec<_>)| made.at.iter().any(|a| a.shots == w.0);
                found.with_facts = with.iter().filter(done).map(|w| w.1.len()).sum();
                found.shots = Some(made);
            }
            if let (Plain::Text(text), true) = (stages.plain, stages.has(RecallStage::Mitigate)) {
                let (at, heads) = (store.stage("mitigate")?, (&got.suppressing[..], stages.fingerprint));
                let made =
                    self.step("mitigate", &title, |tick| inside.mitigate(o, m, heads, text, &at, tick))?;
                write_patch(&made, store)?;
                found.mitigate = Some(made);
            }
            found.heads = Some(got);
        }
        if let (Plain::Text(text), true) = (stages.plain, stages.has(RecallStage::Last)) {
            let at = store.stage("last")?;
            let work = |_: &mut dyn FnMut(usize, usize)| inside.last(o, m, text, &at);
            found.last = Some(self.step("last", &title, work)?);
        }
        Ok(found)
    }

    /// The intercept of another relation, that which has most of the same arguments with other answers, in the place of
    /// one's own; nothing where no other is asked in prompts of the same form.
    fn swap(
        &self,
        o: &mut Eager<Cpu>,
        (all, at): (&mut [Asked<'_>], usize),
        function: usize,
        store: &Store,
    ) -> Outcome<Option<SwapFound>> {
        let own = &all[at];
        let answers = |other: &Asked<'_>| shared_answers(own.case, other.case, &own.inside.prompts);
        let others = all
            .iter()
            .enumerate()
            .filter(|(_, a)| a.inside.form == own.inside.form && a.inside.relation != own.inside.relation);
        let mut best: Option<(usize, Vec<Option<u32>>)> = None;
        for (i, other) in others {
            let found = answers(other);
            let many = |a: &[Option<u32>]| a.iter().flatten().count();
            if best.as_ref().is_none_or(|b| many(&found) > many(&b.1)) {
                best = Some((i, found));
            }
        }
        let Some((other, answers)) = best else { return Ok(None) };
        let facts = shared_facts(own.case, all[other].case, &own.inside.prompts);
        let (low, high) = all.split_at_mut(at.max(other));
        let (own, other) = match at < other {
            true => (&mut low[at].inside, &mut high[0].inside),
            false => (&mut high[0].inside, &mut low[other].inside),
        };
        let (stage, title, m) = (store.stage("swap")?, title(own), self.model);
        let found =
            self.step("swap", &title, |_| own.swap(o, m, function, (other, &answers, &facts), &stage))?;
        other.forget();
        Ok(Some(found))
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

fn title(inside: &Inside) -> String {
    format!("{}, {}", inside.relation, inside.form.name())
}

/// Writes the best repair, where there is one that is worth having.
fn write_patch(made: &MitigateFound, store: &Store) -> Outcome<()> {
    let Some(patch) = &made.patch else { return Ok(()) };
    let at = |end: &str| format!("patches/{}.{end}", patch.name);
    let tensors = patch.tensors().map_err(|e| Failure::because("a patch cannot be written", e))?;
    if let Some(tensors) = tensors {
        store.write_bytes(&at("safetensors"), &tensors)?;
    }
    let said: Vec<String> =
        made.claims.iter().map(|j| format!("# {}: {}\n", j.verdict.name(), j.why)).collect();
    store.write(&at("toml"), &(said.concat() + &patch.text))?;
    Ok(())
}
