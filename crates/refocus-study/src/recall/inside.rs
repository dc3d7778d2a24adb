//! What happens inside, for the known facts of one relation in prompts of one form: heads, MLPs, the last blocks, and
//! what can be done. Each stage is kept when it is done, and read where it was.

use std::sync::Arc;

use refocus_compute::Ops;
use refocus_measure::MeasureError;
use refocus_measure::recall::{
    Effects, Frequencies, Observed, Prompt, Sender, Unembedding, observe, partners, shares,
};
use refocus_model::{Model, ModelSpec, Tokenizer};
use refocus_tasks::recall::Form;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::RecallError;
use super::heads::{CHOSEN, PartShare, Passer, SenderEffect, Ways, top_heads};
use super::intercept::{Intercept, Swapped};
use super::last::{Alignment, LastBlocks};
use super::mitigate::Parts;
use super::mlp::LayerFit;
use super::price::{Priced, Text};
use super::shots::AtShots;
use super::traced::{name_of, plain};
use super::{FEWEST, Judged, halves, heads, intercept, last, mitigate, mlp, pick, price, shots};
use crate::overthinking::{HeadId, Store, StudyError, hex};
use crate::{Proposed, Verdict};

/// Tokens of plain text on which repairs are paid for.
const PAID: usize = 512;
const FUNCTION_WORDS: &str =
    "the of and a in to was is that for on with as by at from his it an were are which this be or had";

/// Plain text: how often tokens occur, and what repairs cost.
#[derive(Debug)]
pub struct PlainText {
    frequencies: Frequencies,
    paid: Vec<u32>,
    function_words: Vec<u32>,
    hash: [u8; 32],
}

impl PlainText {
    /// Reads a text with the model's tokenizer.
    ///
    /// # Errors
    /// Too few different tokens; what the tokenizer reports.
    pub fn new(text: &str, tokenizer: &Tokenizer, spec: &ModelSpec) -> Result<Self, RecallError> {
        let ids = tokenizer.encode(text, false)?;
        let mut function_words = Vec::new();
        for word in FUNCTION_WORDS.split(' ') {
            if let [id] = tokenizer.encode(&format!(" {word}"), false)?[..] {
                function_words.push(id);
            }
        }
        Ok(Self {
            frequencies: Frequencies::of(&ids, spec.vocab)?,
            paid: ids[..ids.len().min(PAID)].to_vec(),
            function_words,
            hash: Sha256::digest(text).into(),
        })
    }

    /// SHA-256 of the text.
    pub fn hash(&self) -> String {
        hex(&self.hash)
    }
}

/// What the stage `heads` finds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HeadsFound {
    /// Effects of path patching and ablation, block by block.
    pub senders: Vec<SenderEffect>,
    /// Direct logit attribution of every part of the residual stream, in the order of the model; empty for post-norm
    /// models.
    pub parts: Vec<PartShare>,
    /// How far the parts' sum is from the residual stream at most, over its length; absent with them.
    pub off: Option<f64>,
    /// The heads that matter most on every second fact, on the others; empty where they cannot be looked at.
    pub passers: Vec<Passer>,
    /// The heads that were named beforehand, in the same way.
    pub named: Vec<Passer>,
    /// Block of the second half, but the last, whose MLP's replacement lowers π(Y) most, on every second fact.
    pub function: usize,
    /// Heads of the last block whose replacement raises π(Y), on the same.
    pub suppressing: Vec<HeadId>,
    /// C1 and C2.
    pub claims: Vec<Judged>,
}

/// What the stage `mlp` finds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MlpFound {
    /// The MLP that applies the function, on the heads before it and on everything before it; the last one on
    /// everything.
    pub fits: Vec<LayerFit>,
    /// What the first one's intercept does.
    pub intercept: Intercept,
    /// C3, C4 and C5.
    pub claims: Vec<Judged>,
}

/// What the intercept of another relation does in the place of this one's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SwapFound {
    /// The other relation.
    pub with: String,
    /// Measured prompts whose argument the other relation has too, with another answer.
    pub shared: usize,
    /// What it does, on the facts that the intercept was not fitted on.
    pub swapped: Swapped,
}

/// What the stage `shots` finds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShotsFound {
    /// Without other facts, then with more and more.
    pub at: Vec<AtShots>,
    /// C7c.
    pub claims: Vec<Judged>,
}

/// What the stage `last` finds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LastFound {
    /// All prompts, and by how sure the lens is before.
    pub blocks: Vec<LastBlocks>,
    /// Least and largest correlation with frequency of random vectors.
    pub by_chance: (f64, f64),
    /// Where the last MLP's intercept points, and its mean over plain text.
    pub alignments: Vec<Alignment>,
    /// C8a and C8b.
    pub claims: Vec<Judged>,
}

/// What the stage `mitigate` finds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MitigateFound {
    /// Repairs and controls with gain and price, the unchanged model first.
    pub repairs: Vec<Priced>,
    /// Tokens of text that they were paid for on.
    pub tokens: usize,
    /// The best repair, where the claim holds or holds conditionally.
    pub patch: Option<Proposed>,
    /// C9.
    pub claims: Vec<Judged>,
}

/// The known facts of a relation in prompts of one form, with what every block does there, run when first needed.
#[derive(Debug)]
pub struct Inside {
    /// Name of the relation.
    pub relation: String,
    /// What may follow the prompts.
    pub form: Form,
    /// The prompts ([`alike`](super::alike)).
    pub prompts: Vec<Prompt>,
    seed: u64,
    looked: Option<Looked>,
}

struct Looked {
    seen: Observed,
    u: Unembedding,
    partners: Vec<usize>,
}

impl std::fmt::Debug for Looked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} prompts", self.seen.n)
    }
}

impl Inside {
    /// Of prompts that were chosen.
    pub fn new(relation: &str, form: Form, prompts: Vec<Prompt>, seed: u64) -> Self {
        Self { relation: relation.to_owned(), form, prompts, seed, looked: None }
    }

    /// Whether there are facts enough to say anything.
    pub fn is_enough(&self) -> bool {
        super::facts(&self.prompts) >= FEWEST
    }

    /// Lets go of what every block does; it is run again when it is needed.
    pub fn forget(&mut self) {
        self.looked = None;
    }

    fn look<O: Ops>(&mut self, o: &mut O, m: &Model<O::K>) -> Result<(&[Prompt], &Looked), MeasureError> {
        let looked = match self.looked.take() {
            Some(looked) => looked,
            None => Looked {
                seen: observe(o, m, &self.prompts, |_| {})?,
                u: Unembedding::of(o, m, &self.prompts)?,
                partners: partners(&self.prompts, self.seed)?,
            },
        };
        Ok((&self.prompts, self.looked.insert(looked)))
    }

    /// Reads what was kept of a stage, or does it and keeps it. What is done is read back too, so that a run ends with
    /// the same numbers whether it was stopped or not. Says whether it was there.
    fn kept<O: Ops, T: Serialize + DeserializeOwned>(
        &mut self,
        (o, m): (&mut O, &Model<O::K>),
        (store, more): (&Store, &[u8]),
        work: impl FnOnce(&mut O, &[Prompt], &Looked) -> Result<T, RecallError>,
    ) -> Result<(T, bool), RecallError> {
        let name = format!("{}-{}", plain(&self.relation), self.form.name());
        let tokens = |p: &Prompt| vec![p.answer, p.argument.unwrap_or(p.answer), p.argument_at as u32];
        let mut key = name_of(self.prompts.iter().map(|p| (&p.ids[..], tokens(p))));
        key.extend(more);
        let key = store.key_of(&key);
        let bad = |e: serde_json::Error| StudyError::Stored { path: name.clone().into(), why: e.to_string() };
        // What another version kept and this one cannot read is done again.
        if let Some(text) = store.load_text(&name, &key)?
            && let Ok(found) = serde_json::from_str(&text)
        {
            return Ok((found, true));
        }
        let (prompts, at) = self.look(o, m)?;
        let text = serde_json::to_string(&work(o, prompts, at)?).map_err(bad)?;
        let found = serde_json::from_str(&text).map_err(bad)?;
        store.save_text(&name, &key, &text)?;
        Ok((found, false))
    }

    /// Who carries the answer and the argument. `named` heads are looked at beside those that are chosen. `tick` is told
    /// how many changed runs are done and how many there are.
    ///
    /// # Errors
    /// What the forward pass or the folder reports.
    pub fn heads<O: Ops>(
        &mut self,
        o: &mut O,
        m: &Model<O::K>,
        named: &[HeadId],
        store: &Store,
        tick: impl FnMut(usize, usize),
    ) -> Result<(HeadsFound, bool), RecallError> {
        let seed = self.seed;
        let more: Vec<u8> =
            named.iter().flat_map(|h| [h.layer as u64, h.head as u64]).flat_map(u64::to_le_bytes).collect();
        self.kept((o, m), (store, &more), |o, prompts, at| {
            let seen = (&at.seen, &at.u);
            let ways = Ways::of(o, m, prompts, seen, &at.partners, tick)?;
            let paths = &ways.paths;
            let [choose, _] = halves(prompts);
            let judge = |found: &[Passer]| {
                vec![
                    heads::judge_passing(prompts, found, m.spec.n_layers),
                    heads::judge_matrices(prompts, found),
                ]
            };
            let chosen = top_heads(paths, &choose, CHOSEN);
            let mut closely = |which: &[HeadId]| match which {
                [] => Ok(Vec::new()),
                _ => heads::passers(o, m, prompts, seen, paths, &at.partners, which, seed),
            };
            let (passers, named, claims) = match closely(&chosen) {
                Ok(found) => {
                    let claims = judge(&found);
                    (found, closely(named)?, claims)
                }
                // Without a plain sum, or an argument of one token, nothing is written along it.
                Err(e @ (MeasureError::PostNorm | MeasureError::NoPrompts)) => {
                    let open =
                        |j: Judged| Judged { verdict: Verdict::CannotBeTested, why: e.to_string(), ..j };
                    (Vec::new(), Vec::new(), judge(&[]).into_iter().map(open).collect())
                }
                Err(e) => return Err(e.into()),
            };
            let (parts, off) = match shares(o, m, prompts, &at.seen, &at.u) {
                Ok(all) => (heads::attributions(prompts, &all, seed), Some(all.worst)),
                Err(MeasureError::PostNorm) => (Vec::new(), None),
                Err(e) => return Err(e.into()),
            };
            Ok(HeadsFound {
                senders: heads::summarise(prompts, &ways, seed),
                parts,
                off,
                passers,
                named,
                function: function(paths, &m.spec, &choose),
                suppressing: mitigate::suppressing_heads(paths, &m.spec, &choose),
                claims,
            })
        })
    }

    /// What the MLP of the block `function` makes of the heads before it, and the last one.
    ///
    /// # Errors
    /// Too few facts to fit; what the forward pass or the folder reports.
    pub fn mlp<O: Ops>(
        &mut self,
        o: &mut O,
        m: &Model<O::K>,
        function: usize,
        store: &Store,
    ) -> Result<(MlpFound, bool), RecallError> {
        let seed = self.seed;
        self.kept((o, m), (store, &(function as u64).to_le_bytes()), |o, prompts, at| {
            let mut fit = |which| mlp::layer_fit(o, m, prompts, &at.seen, &at.partners, which, seed);
            let (local, all) = (fit((function, false))?, fit((function, true))?);
            let last = fit((m.spec.n_layers - 1, true))?;
            let intercept = intercept::intercept(o, m, prompts, (&at.seen, &at.u), (function, true), seed)?;
            let claims = vec![
                mlp::judge_activation(&local),
                mlp::judge_regression(&all),
                intercept::judge_intercept(&intercept),
            ];
            Ok(MlpFound { fits: vec![local, all, last], intercept, claims })
        })
    }

    /// What the intercept of `other`'s regression does in the place of this one's, at the MLP of the block `function`.
    /// `answers` are for each prompt the first token of the other relation's answer for the same argument
    /// ([`shared_answers`](super::shared_answers)), `facts` that relation's facts of these arguments
    /// ([`shared_facts`](super::shared_facts)). The other intercept is fitted on facts of other arguments than those that
    /// are measured; where fewer than six are left, on every second fact of its relation.
    ///
    /// # Errors
    /// Too few facts to fit; what the forward pass or the folder reports.
    pub fn swap<O: Ops>(
        &mut self,
        o: &mut O,
        m: &Model<O::K>,
        function: usize,
        (other, answers, facts): (&mut Self, &[Option<u32>], &[Option<usize>]),
        store: &Store,
    ) -> Result<(SwapFound, bool), RecallError> {
        let seed = self.seed;
        let theirs = other.prompts.iter().map(|p| (&p.ids[..], vec![p.answer]));
        let mut more = name_of(theirs);
        more.extend((function as u64).to_le_bytes());
        more.extend(answers.iter().flat_map(|a| a.map_or(u64::MAX, u64::from).to_le_bytes()));
        more.extend(facts.iter().flat_map(|f| f.map_or(u64::MAX, |f| f as u64).to_le_bytes()));
        self.kept((o, m), (store, &more), |o, prompts, at| {
            let [choose, measure] = halves(prompts);
            let which = (function, true);
            let own = intercept::intercept_of(o, m, prompts, &at.seen, which, &choose)?;
            let with = other.relation.clone();
            let (their_prompts, their) = other.look(o, m)?;
            let measured: Vec<usize> = pick(facts, &measure).into_iter().flatten().collect();
            let of_others = |i: &usize| !measured.contains(&their_prompts[*i].fact);
            let mut apart: Vec<usize> = (0..their_prompts.len()).filter(of_others).collect();
            if super::facts(&pick(their_prompts, &apart)) < FEWEST / 2 {
                [apart, _] = halves(their_prompts);
            }
            let theirs = intercept::intercept_of(o, m, their_prompts, &their.seen, which, &apart)?;
            let (prompts, answers) = (pick(prompts, &measure), pick(answers, &measure));
            let (seen, both) = (at.seen.only(&measure), (&own[..], &theirs[..]));
            let swapped = intercept::swap(o, m, &prompts, &seen, function, both, &answers, seed)?;
            Ok(SwapFound { with, shared: answers.iter().flatten().count(), swapped })
        })
    }

    /// Heads, MLP and intercept again with other facts before the question: `with` has how many, and the prompts. `tick`
    /// is told how many changed runs are done and how many there are.
    ///
    /// # Errors
    /// Too few facts to fit; what the forward pass or the folder reports.
    pub fn shots<O: Ops>(
        &mut self,
        o: &mut O,
        m: &Model<O::K>,
        (function, with): (usize, &[(usize, Vec<Prompt>)]),
        store: &Store,
        tick: impl FnMut(usize, usize),
    ) -> Result<(ShotsFound, bool), RecallError> {
        let seed = self.seed;
        let all = with.iter().flat_map(|w| w.1.iter().map(|p| (&p.ids[..], vec![p.answer, w.0 as u32])));
        let mut more = name_of(all);
        more.extend((function as u64).to_le_bytes());
        // What was kept before halves had means of their own is other numbers.
        more.extend(b"halves about their own means");
        self.kept((o, m), (store, &more), |o, prompts, at| {
            let own = (prompts, &at.seen, &at.u, &at.partners[..]);
            let found = shots::by_shots(o, m, own, with, function, seed, tick)?;
            let asked: Vec<usize> = with.iter().map(|w| w.0).collect();
            let claims = vec![shots::judge(prompts, &found, &asked)];
            Ok(ShotsFound { at: found, claims })
        })
    }

    /// Who lowers the answer in the last two blocks.
    ///
    /// # Errors
    /// What the forward pass or the folder reports.
    pub fn last<O: Ops>(
        &mut self,
        o: &mut O,
        m: &Model<O::K>,
        text: &PlainText,
        store: &Store,
    ) -> Result<(LastFound, bool), RecallError> {
        let seed = self.seed;
        self.kept((o, m), (store, &text.hash), |o, prompts, at| {
            let blocks = last::last_blocks(o, m, prompts, &at.seen, &text.frequencies, seed)?;
            let by_chance = last::by_chance(o, m, &text.frequencies, seed)?;
            let every: Vec<usize> = (0..prompts.len()).collect();
            let b = intercept::intercept_of(o, m, prompts, &at.seen, (m.spec.n_layers - 1, true), &every)?;
            let generic = price::generic_mean(o, m, &text.paid)?;
            let alignments = last::alignments(o, m, &b, &generic, &text.frequencies)?;
            let mut claims: Vec<Judged> =
                blocks.first().map(|all| last::judge_heads(all, by_chance)).into_iter().collect();
            claims.push(last::judge_intercept(&alignments, by_chance, super::facts(prompts)));
            Ok(LastFound { blocks, by_chance, alignments, claims })
        })
    }

    /// What can be done about it, chosen on every second fact and measured on the others. `tick` is told how many
    /// repairs are measured, and how many there are.
    ///
    /// # Errors
    /// What the forward pass or the folder reports.
    #[allow(clippy::too_many_arguments)]
    pub fn mitigate<O: Ops>(
        &mut self,
        o: &mut O,
        m: &Model<O::K>,
        (suppressing, fingerprint): (&[HeadId], &str),
        text: &PlainText,
        store: &Store,
        tick: impl FnMut(usize, usize),
    ) -> Result<(MitigateFound, bool), RecallError> {
        let (seed, mut more) = (self.seed, text.hash.to_vec());
        let begins = format!("{}-{}", plain(&self.relation), self.form.name());
        more.extend(suppressing.iter().flat_map(|h| (h.head as u64).to_le_bytes()));
        self.kept((o, m), (store, &more), |o, prompts, at| {
            let [choose, _] = halves(prompts);
            let mean = |h: &HeadId| mitigate::head_mean(&m.spec, &at.seen, *h, &choose);
            let means: Vec<Arc<[f32]>> = suppressing.iter().map(mean).collect();
            let parts = Parts {
                heads: suppressing,
                head_means: &means,
                intercept: &intercept::intercept_of(
                    o,
                    m,
                    prompts,
                    &at.seen,
                    (m.spec.n_layers - 1, true),
                    &choose,
                )?,
                generic: &price::generic_mean(o, m, &text.paid)?,
                frequencies: &text.frequencies,
            };
            let all = mitigate::repairs(&m.spec, &parts, seed);
            let own = price::measuring(prompts);
            let paid = Text { ids: &text.paid, function_words: &text.function_words };
            let repairs = price::measure(o, m, &own, &paid, &all, seed, tick)?;
            let judged = price::judge(&own, &repairs, seed);
            let good = matches!(judged.verdict, Verdict::Holds | Verdict::Conditional);
            let best = price::best(&repairs).filter(|_| good);
            let patch = best.and_then(|b| all.iter().find(|r| r.name == b.name)).map(|r| {
                let name = format!("{begins}-{}", r.name);
                let file = r.patch(fingerprint, &format!("{name}.safetensors"));
                let vectors = file.vectors.into_iter().map(|(name, v)| (name, v.to_vec())).collect();
                Proposed { name, text: file.text, vectors }
            });
            let tokens = repairs.first().map_or(0, |r| r.price.n);
            Ok(MitigateFound { repairs, tokens, patch, claims: vec![judged] })
        })
    }
}

/// The block of the second half, but the last, whose MLP's replacement lowers π(Y) most on some prompts.
fn function(paths: &Effects, spec: &ModelSpec, which: &[usize]) -> usize {
    let blocks = (spec.n_layers / 2).min(spec.n_layers.saturating_sub(2))..spec.n_layers.saturating_sub(1);
    let change = |(s, changed): (&Sender, &Vec<refocus_measure::recall::Score>)| {
        let Sender::Mlp(layer) = *s else { return None };
        let sum: f64 = which.iter().map(|&i| changed[i].pi() - paths.base[i].pi()).sum();
        blocks.contains(&layer).then_some((layer, sum))
    };
    let all = paths.senders.iter().zip(&paths.changed).filter_map(change);
    all.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(layer, _)| layer)
}
