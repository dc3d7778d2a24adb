//! The stages of `overthinking`: each keeps what it finished in a folder of its own.

use refocus_compute::{Cpu, Eager};
use refocus_model::Model;
use refocus_study::overthinking::{
    AblationPlan, Answers, CausalCell, Detail, Half, HeadChoice, HeadId, HeadScore, InsideSummary, Kind,
    Means, Method, PairEffect, Pairs, Questions, SettingSummary, SettingWork, Store, Work, ask_stored,
    can_be_ablated, causal_map, heads_found, level_of_formats, see,
};
use serde::Serialize;

use crate::commands::staged::Progress;
use crate::failure::Outcome;
use crate::printer::Printer;

/// The task on which the heads of all tasks are chosen, where it is among them, as in the paper.
const TOY: &str = "unnatural";
const PERMUTED: &str = "permuted";

/// A stage that was done.
#[derive(Serialize)]
pub(super) struct Stage {
    name: &'static str,
    prompts: usize,
}

/// What every stage works with.
pub(super) struct Run<'a> {
    pub(super) work: &'a Work,
    pub(super) method: &'a Method,
    pub(super) store: &'a Store,
    pub(super) model: &'a Model<Cpu>,
    pub(super) printer: &'a Printer,
    pub(super) done: Vec<Stage>,
}

/// One task under one setting, and what its files are called.
pub(super) struct Case<'a> {
    pub(super) pairs: Pairs<'a>,
    pub(super) name: String,
}

impl Case<'_> {
    fn words(&self) -> String {
        format!("{} ({})", self.pairs.task.task, self.pairs.setting.name)
    }
}

/// Scores of all heads of a case, on the pairs that choose.
pub(super) struct Scores {
    pub(super) on_true: Vec<HeadScore>,
    pub(super) on_false: Vec<HeadScore>,
}

/// What the stages after the lens found, case by case; empty where they were left out.
#[derive(Default)]
pub(super) struct Inside {
    pub(super) scores: Vec<Scores>,
    choices: Vec<HeadChoice>,
    pub(super) effects: Vec<PairEffect>,
    pub(super) maps: Vec<Vec<CausalCell>>,
}

impl Run<'_> {
    fn begin(&self, name: &'static str, prompts: usize) -> Progress {
        Progress::begin(self.printer, name, prompts)
    }

    fn end(&mut self, p: &Progress) {
        p.end(self.printer);
        self.done.push(Stage { name: p.name, prompts: p.all });
    }

    /// Asks some prompts of every task, in the order of the tasks; `folder` keeps the answers.
    pub(super) fn ask<'w>(
        &mut self,
        o: &mut Eager<Cpu>,
        (name, folder): (&'static str, &str),
        of: impl Fn(usize) -> Questions<'w>,
    ) -> Outcome<Vec<Vec<Answers>>> {
        let store = self.store.stage(folder)?;
        let all = 0..self.work.tasks.len();
        let mut p = self.begin(name, all.clone().map(|t| of(t).prompts.len()).sum());
        let mut answers = Vec::new();
        for number in all {
            p.on(&self.work.tasks[number].task);
            let tick = |n, stored| p.tick(n, stored);
            answers.push(ask_stored(o, self.model, of(number), self.method, &store, tick)?);
        }
        self.end(&p);
        Ok(answers)
    }

    /// Scores all heads on the pairs that choose, chooses `k`, and looks whether these attend to labels of the
    /// same class on the pairs that measure.
    pub(super) fn heads(
        &mut self,
        o: &mut Eager<Cpu>,
        cases: &[Case<'_>],
        found: &mut [(SettingSummary, Detail)],
        k: usize,
    ) -> Outcome<Inside> {
        let store = self.store.stage("heads")?;
        let half = |c: &Case<'_>| Half::Choosing.prompts(&c.pairs);
        // Of the other half the false prompts alone.
        let other = |c: &Case<'_>| Half::Measuring.prompts(&c.pairs) / 2;
        let mut p = self.begin("heads", cases.iter().map(|c| half(c) + other(c)).sum());
        let (mut scores, mut own) = (Vec::new(), Vec::new());
        for case in cases {
            p.on(&case.words());
            let kept = (&store, &case.name[..]);
            let seen = see(o, self.model, &case.pairs, Half::Choosing, kept, |n, s| p.tick(n, s))?;
            own.push(HeadChoice::of(&case.pairs, &seen, k));
            scores.push(Scores { on_true: seen.scores(Kind::True), on_false: seen.scores(Kind::False) });
        }
        let choices: Vec<HeadChoice> = cases.iter().map(|c| own[chooser(cases, c)].clone()).collect();
        let mut effects = Vec::new();
        for (case, choice) in cases.iter().zip(&choices) {
            p.on(&case.words());
            let name = format!("{}-top{k}", case.name);
            let tick = |n, s| p.tick(n, s);
            let effect = heads_found(o, self.model, &case.pairs, &choice.heads, (&store, &name), tick)?;
            if !effect.values.is_empty() {
                effects.push(effect);
            }
        }
        self.end(&p);
        for (((summary, _), choice), scores) in found.iter_mut().zip(&choices).zip(&scores) {
            let of = |id: &HeadId| scores.on_false.iter().find(|s| s.id == *id).cloned();
            summary.inside = Some(InsideSummary {
                chosen: choice.clone(),
                scores: choice.heads.iter().filter_map(of).collect(),
                late_from: None,
                against_random: Vec::new(),
            });
        }
        Ok(Inside { scores, choices, effects, maps: Vec::new() })
    }

    /// Ablates the chosen heads, random ones and late blocks on the pairs that measure, and adds what that does
    /// to the ways to answer.
    pub(super) fn ablations(
        &mut self,
        o: &mut Eager<Cpu>,
        cases: &[Case<'_>],
        inside: &mut Inside,
        found: &mut [(SettingSummary, Detail)],
        seed: u64,
    ) -> Outcome<()> {
        let (store, looked) = (self.store.stage("ablations")?, self.store.stage("heads")?);
        let rules = self.method.ablation();
        let details: Vec<Detail> = found.iter().map(|f| f.1.clone()).collect();
        let level = |i: usize| level_of_formats(&details, &details[i]);
        let able =
            |i: &usize| can_be_ablated(&cases[*i].pairs) && (!rules.first_format_only || level(*i).is_some());
        let which: Vec<usize> = (0..cases.len()).filter(able).collect();
        let prompts = which.iter().map(|&i| Half::Measuring.prompts(&cases[i].pairs)).sum();
        let mut p = self.begin("ablations", prompts);
        for i in which {
            let (case, choice) = (&cases[i], &inside.choices[i]);
            p.on(&case.words());
            let plan = AblationPlan::new(&self.model.spec, choice, &details[i], rules, seed);
            let means = self.means(o, case, (Half::Choosing, &case.name), &looked)?;
            let name = format!("{}-top{}", case.name, choice.heads.len());
            let tick = |n, s| p.tick(n, s);
            let ablated = plan.run(o, self.model, &case.pairs, &means, (&store, &name), tick)?;
            let level = level(i).filter(|_| rules.first_format_only);
            let (measured, told) = plan.effects(&ablated, &details[i], level, seed)?;
            let (summary, detail) = &mut found[i];
            let scores = summary.inside.take().map_or_else(Vec::new, |s| s.scores);
            summary.inside = Some(InsideSummary { scores, ..told });
            detail.mitigations.extend(measured);
            let d_head = self.model.spec.d_head;
            detail.head_means =
                choice.heads.iter().map(|h| (*h, means.before_last_label(*h, d_head))).collect();
            inside.effects.extend(plan.evidence(detail));
        }
        self.end(&p);
        Ok(())
    }

    /// Means of one half of a case, from what was looked at before.
    fn means(
        &self,
        o: &mut Eager<Cpu>,
        case: &Case<'_>,
        (half, name): (Half, &str),
        store: &Store,
    ) -> Outcome<Means> {
        Ok(see(o, self.model, &case.pairs, half, (store, name), |_, _| {})?.means())
    }

    /// Ablates every head by itself on the first `n` pairs.
    pub(super) fn map(
        &mut self,
        o: &mut Eager<Cpu>,
        cases: &[Case<'_>],
        inside: &mut Inside,
        n: usize,
    ) -> Outcome<()> {
        let (store, looked) = (self.store.stage("map")?, self.store.stage("heads")?);
        let pairs = |c: &Case<'_>| c.pairs.setting.pairs.len().min(n);
        let able: Vec<&Case<'_>> = cases.iter().filter(|c| can_be_ablated(&c.pairs)).collect();
        let other = |c: &Case<'_>| Half::Measuring.prompts(&c.pairs);
        let mut p = self.begin("map", able.iter().map(|c| 2 * pairs(c) + other(c)).sum());
        for case in cases {
            if !can_be_ablated(&case.pairs) {
                inside.maps.push(Vec::new());
                continue;
            }
            p.on(&case.words());
            let even = self.means(o, case, (Half::Choosing, &case.name), &looked)?;
            let name = format!("{}-measuring", case.name);
            let kept = (&store, &name[..]);
            let odd = see(o, self.model, &case.pairs, Half::Measuring, kept, |n, s| p.tick(n, s))?.means();
            let few = SettingWork {
                name: case.pairs.setting.name.clone(),
                pairs: case.pairs.setting.pairs[..pairs(case)].to_vec(),
            };
            let name = format!("{}-first{}", case.name, pairs(case));
            let both = (case.pairs.task, &few);
            let tick = |n, s| p.tick(n, s);
            inside.maps.push(causal_map(o, self.model, both, [&even, &odd], Some((&store, &name)), tick)?);
        }
        self.end(&p);
        Ok(())
    }
}

/// The case that chooses the heads of another: the toy task's, else its own task's, permuted where it is so.
fn chooser(cases: &[Case<'_>], of: &Case<'_>) -> usize {
    let at = |task: &str, setting: &str| {
        let same = |c: &Case<'_>| c.pairs.task.task == task && c.pairs.setting.name == setting;
        cases.iter().position(same)
    };
    let own = (&of.pairs.task.task[..], &of.pairs.setting.name[..]);
    let wanted = [(TOY, PERMUTED), (TOY, own.1), (own.0, PERMUTED), own];
    wanted.into_iter().find_map(|(task, setting)| at(task, setting)).unwrap_or(0)
}
