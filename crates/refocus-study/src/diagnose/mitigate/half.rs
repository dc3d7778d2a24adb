//! Half of a probe's items, and what a patch does to them.

use refocus_compute::Ops;
use refocus_model::{Applied, Model, Patch};

use super::super::{DiagnoseError, Probe};
use super::cases::{Cases, Harm, Prompt, Rule, mean, say};
use super::rewriting::Texts;

/// Half of a probe's items.
pub(super) struct Half<'a> {
    pub(super) cases: Cases,
    /// The same as texts, where rewriting is tried.
    pub(super) texts: Option<Texts<'a>>,
    /// The harm, for the model as it is, where a sentence tells the answer; empty without texts.
    pub(super) told: Vec<f64>,
}

impl<'a> Half<'a> {
    pub(super) fn new<O: Ops>(
        o: &mut O,
        m: &Model<O::K>,
        cases: Cases,
        texts: Option<Texts<'a>>,
    ) -> Result<Self, DiagnoseError> {
        let told = match &texts {
            Some(texts) => told(o, m, cases.probe, texts.asked(None)?.told, &[])?,
            None => Vec::new(),
        };
        Ok(Self { cases, texts, told })
    }

    /// The harm with a patch; and where that rewrites, the harm where a sentence tells the answer.
    pub(super) fn harm<O: Ops>(
        &self,
        o: &mut O,
        m: &Model<O::K>,
        patch: &Patch,
    ) -> Result<(Harm, Option<Vec<f64>>), DiagnoseError> {
        let applied = patch.applied();
        let Some((texts, how)) = self.texts.as_ref().zip(patch.rewrite) else {
            return Ok((self.cases.harm(&say(o, m, &self.cases.prompts, &applied)?), None));
        };
        let asked = texts.asked(Some(how))?;
        let harm = self.cases.harm(&say(o, m, &asked.against, &applied)?);
        Ok((harm, Some(told(o, m, self.cases.probe, asked.told, &applied)?)))
    }

    /// All that a patch costs on these items. One that rewrites pays for answers that were told and got lost.
    pub(super) fn total<O: Ops>(
        &self,
        o: &mut O,
        m: &Model<O::K>,
        patch: &Patch,
    ) -> Result<f64, DiagnoseError> {
        let (harm, told) = self.harm(o, m, patch)?;
        Ok(harm.total() + told.map_or(0.0, |told| mean(&told) - mean(&self.told)))
    }
}

/// The harm by item where a sentence tells the answer.
fn told<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    probe: Probe,
    prompts: Vec<Prompt>,
    applied: &[Applied],
) -> Result<Vec<f64>, DiagnoseError> {
    let cases = Cases { probe, rule: Rule::Choice, prompts };
    Ok(cases.harm(&say(o, m, &cases.prompts, applied)?).main)
}
