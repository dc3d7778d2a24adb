//! From what is wanted to what is computed: every site, head and shape is checked here, once, so that
//! the forward pass has nothing left to doubt.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use refocus_compute::{Batch, KeyGroups, RowSet, Seg, Vocab};

use crate::intervene::{Action, Gate, Intervention, Position};
use crate::site::{Kind, Site, SiteError};
use crate::spec::ModelSpec;

/// Rows of the packed batch; all of them where absent.
pub type Rows = Option<RowSet>;

/// Something to read from a forward pass.
#[derive(Clone, Debug)]
pub enum Readout {
    /// A site's value as it is (after interventions there).
    Raw {
        /// Where.
        site: Site,
        /// At which rows.
        rows: Rows,
    },
    /// Questions about the vocabulary, asked of residual streams through the model's own final norm,
    /// whose statistics are computed anew at each site. At the last `hook_resid_post` these are the
    /// model's logits.
    Lens {
        /// `hook_embed`, `hook_resid_pre`, `hook_resid_mid`, `hook_resid_post`.
        sites: Vec<Site>,
        /// At which rows; ids of [`Vocab::Nll`] and [`Vocab::RankOf`] are one for each of them.
        rows: Rows,
        /// The questions.
        want: Vec<Vocab>,
    },
    /// Attention summed over groups of keys, or statistics of each row.
    Attention {
        /// Block.
        layer: usize,
        /// At which rows.
        rows: Rows,
        /// For each segment the groups, for each group absolute ranges of keys.
        groups: Option<KeyGroups>,
        /// Entropy (nats), ℓ2, maximum of each row and head.
        stats: bool,
    },
    /// What each head writes along directions: `z_h · (W_Oʰ u)`.
    HeadDot {
        /// Block.
        layer: usize,
        /// At which rows.
        rows: Rows,
        /// `[n, d_model]`.
        dirs: Arc<[f32]>,
    },
}

impl Readout {
    /// The model's logits at some rows.
    pub fn logits(spec: &ModelSpec, rows: Rows, want: Vec<Vocab>) -> Self {
        Readout::Lens { sites: vec![Site::new(spec.n_layers - 1, Kind::ResidPost)], rows, want }
    }
}

/// An intervention and the segments it applies to (all where absent).
#[derive(Clone, Debug)]
pub struct Applied {
    /// What is changed.
    pub what: Arc<Intervention>,
    /// Indices of segments.
    pub segs: Option<Vec<usize>>,
}

/// A request that does not fit the model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// No such site.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// No such head.
    #[error("{site}: there is no head {head}, only 0 to {}", heads - 1)]
    Head {
        /// Site.
        site: Site,
        /// As given.
        head: usize,
        /// Heads at the site.
        heads: usize,
    },
    /// A head was named where there is none.
    #[error("{site} has no heads")]
    NoHeads {
        /// Site.
        site: Site,
    },
    /// A vector of another length than what it would change.
    #[error("{site}: the vector for '{action}' has {got} numbers, {want} are needed")]
    Width {
        /// Site.
        site: Site,
        /// Action.
        action: &'static str,
        /// As given.
        got: usize,
        /// As needed.
        want: usize,
    },
    /// This action cannot be done there.
    #[error("'{action}' cannot be done at {site}: {why}")]
    Action {
        /// Site.
        site: Site,
        /// Action.
        action: &'static str,
        /// Reason.
        why: &'static str,
    },
    /// An intervention that touches no position of any sequence.
    #[error("'{action}' at {site} matches no position of this input")]
    Nothing {
        /// Site.
        site: Site,
        /// Action.
        action: &'static str,
    },
    /// A number that makes no sense.
    #[error("'{action}' at {site}: {what}")]
    Value {
        /// Site.
        site: Site,
        /// Action.
        action: &'static str,
        /// What is wrong.
        what: String,
    },
    /// A readout beyond the layer where the pass exits.
    #[error("{site} is never reached: the patch exits after block {}", exit - 1)]
    Exited {
        /// Site.
        site: Site,
        /// First block skipped.
        exit: usize,
    },
    /// A site before the block where the pass begins.
    #[error("{site} is never reached: the pass begins at block {start}")]
    Skipped {
        /// Site.
        site: Site,
        /// First block that is run.
        start: usize,
    },
    /// A lens on something that is no residual stream.
    #[error("a lens cannot read {0}: it reads residual streams")]
    Lens(Site),
    /// Two questions about attention groups at one layer.
    #[error("block {0}: attention can be asked for one set of key groups at a time")]
    Groups(usize),
    /// Rows beyond the batch.
    #[error("row {row} is asked for, the batch has {rows}")]
    Row {
        /// As given.
        row: u32,
        /// Rows of the batch.
        rows: usize,
    },
    /// A readout whose parts do not fit together.
    #[error("{0}")]
    Shape(String),
}

/// One edit of an activation, rows known.
#[derive(Clone, Debug)]
pub(crate) struct Edit {
    pub rows: RowSet,
    pub cols: Range<usize>,
    pub action: Action,
    pub gate: Option<usize>,
}

/// One edit of a pattern.
#[derive(Clone, Debug)]
pub(crate) struct PatternPlan {
    pub rows: RowSet,
    pub heads: Range<usize>,
    pub action: Action,
    pub gate: Option<usize>,
}

/// A gate and the rows it must decide on.
#[derive(Clone, Debug)]
pub(crate) struct GatePlan {
    pub gate: Gate,
    pub rows: BTreeSet<u32>,
}

/// What is done at one site.
#[derive(Clone, Debug, Default)]
pub(crate) struct AtSite {
    pub edits: Vec<Edit>,
    /// Readout, rows.
    pub raws: Vec<(usize, Rows)>,
    /// Readout, index of the site in it, rows, questions.
    pub lenses: Vec<(usize, usize, Rows, Vec<Vocab>)>,
}

/// What is asked of one attention layer.
#[derive(Clone, Debug, Default)]
pub(crate) struct AtAttention {
    pub edits: Vec<PatternPlan>,
    pub groups: Option<(usize, KeyGroups)>,
    /// Readouts that want mass or statistics, with their rows.
    pub wants: Vec<(usize, Rows, bool)>,
    /// Readout, rows, directions.
    pub dots: Vec<(usize, Rows, Arc<[f32]>)>,
}

/// A checked request, ready to run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) batch: Batch,
    pub(crate) readouts: usize,
    /// The first block that is run, on a residual stream given; from token ids where absent.
    pub(crate) start: Option<usize>,
    /// Blocks to run, those before the first included.
    pub(crate) layers: usize,
    /// Blocks of the model after an exit: the final norm follows the last of them.
    pub(crate) exit: usize,
    /// Rows that anyone needs after the keys and values of the last block; all where absent.
    pub(crate) alive: Option<RowSet>,
    pub(crate) sites: BTreeMap<Site, AtSite>,
    pub(crate) attention: BTreeMap<usize, AtAttention>,
    pub(crate) gates: Vec<GatePlan>,
    /// Dropout, while training.
    pub(crate) noise: Option<Noise>,
    /// One bit a kind, for each layer and (last) for the sites that stand once.
    mask: Vec<u32>,
}

/// Dropout of a training step. A mask depends on nothing but seed, step, place, sequence of the batch and
/// position, so that the same step drops the same.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Noise {
    /// Share of attention's weights that is dropped after the softmax.
    pub attention: f64,
    /// Share of the MLP's hidden features that is dropped.
    pub mlp: f64,
    /// Share of the embedding (tokens and positions together) that is dropped.
    pub embedding: f64,
    /// Seed of the run.
    pub seed: u64,
    /// Step of the run.
    pub step: u32,
}

/// What a plan is made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// Keys and values of every block are needed because they are kept.
    pub keeps_cache: bool,
    /// The rows are new tokens and not prompts: entries for prompt positions may match nothing.
    pub decoding: bool,
}

impl Plan {
    /// Checks a request against a model and works out what must be computed.
    pub fn compile(
        spec: &ModelSpec,
        batch: &Batch,
        readouts: &[Readout],
        interventions: &[Applied],
        mode: Mode,
    ) -> Result<Self, PlanError> {
        Self::begin(spec, batch, None, readouts, interventions, mode)
    }

    /// The same for a pass that begins before block `start` with a residual stream at hand, for
    /// [`crate::forward_from`]. What lies before cannot be read or changed.
    pub fn resume(
        spec: &ModelSpec,
        batch: &Batch,
        start: usize,
        readouts: &[Readout],
        interventions: &[Applied],
    ) -> Result<Self, PlanError> {
        let first = Site::new(start, Kind::ResidPre);
        first.check(spec)?;
        let plan = Self::begin(spec, batch, Some(start), readouts, interventions, Mode::default())?;
        if plan.exit <= start {
            return Err(PlanError::Exited { site: first, exit: plan.exit });
        }
        Ok(plan)
    }

    fn begin(
        spec: &ModelSpec,
        batch: &Batch,
        start: Option<usize>,
        readouts: &[Readout],
        interventions: &[Applied],
        mode: Mode,
    ) -> Result<Self, PlanError> {
        let exit = interventions
            .iter()
            .filter_map(|a| match a.what.action {
                Action::Exit(layer) => Some((layer, a)),
                _ => None,
            })
            .try_fold(spec.n_layers, |least, (layer, a)| check_exit(spec, a, layer).map(|l| least.min(l)))?;
        let mut p = Plan {
            batch: batch.clone(),
            readouts: readouts.len(),
            start,
            layers: 0,
            exit,
            alive: None,
            sites: BTreeMap::new(),
            attention: BTreeMap::new(),
            gates: Vec::new(),
            noise: None,
            mask: vec![0; spec.n_layers + 1],
        };
        for (i, r) in readouts.iter().enumerate() {
            p.add_readout(spec, i, r)?;
        }
        for a in interventions {
            p.add_intervention(spec, a, mode)?;
        }
        if mode.keeps_cache || readouts.is_empty() {
            p.layers = exit;
        }
        p.alive = p.alive_rows(readouts);
        for site in p.sites.keys() {
            p.mask[if site.kind.is_global() { spec.n_layers } else { site.layer }] |= 1 << site.kind as u32;
        }
        Ok(p)
    }

    /// Whether anything happens at a site.
    pub(crate) fn touches(&self, layer: usize, kind: Kind) -> bool {
        let at = if kind.is_global() { self.mask.len() - 1 } else { layer };
        self.mask[at] & (1 << kind as u32) != 0
    }

    /// The same plan with dropout. What is read of attention's pattern is what it was before.
    pub fn with_noise(mut self, noise: Noise) -> Self {
        self.noise = Some(noise);
        self
    }

    /// The batch the plan was made for.
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    fn check_rows(&self, rows: &Rows) -> Result<(), PlanError> {
        let n = self.batch.rows();
        match rows.as_ref().and_then(|r| r.as_slice().last()) {
            Some(&row) if row as usize >= n => Err(PlanError::Row { row, rows: n }),
            _ => Ok(()),
        }
    }

    /// Refuses what lies before the first block that is run.
    fn check_start(&self, site: Site) -> Result<(), PlanError> {
        match self.start {
            Some(start)
                if matches!(site.kind, Kind::Embed | Kind::PosEmbed)
                    || (!site.kind.is_global() && site.layer < start) =>
            {
                Err(PlanError::Skipped { site, start })
            }
            _ => Ok(()),
        }
    }

    /// Notes that `site` must be reached.
    fn reach(&mut self, spec: &ModelSpec, site: Site) -> Result<(), PlanError> {
        site.check(spec)?;
        self.check_start(site)?;
        // The last residual stream is where the pass ends, exit or not.
        let ends = site.layer + 1 == spec.n_layers && site.kind == Kind::ResidPost;
        let layers = match site.kind {
            Kind::Embed | Kind::PosEmbed => 0,
            Kind::Final | Kind::FinalScale => self.exit,
            _ if ends => self.exit,
            _ if site.layer >= self.exit => return Err(PlanError::Exited { site, exit: self.exit }),
            _ => site.layer + 1,
        };
        self.layers = self.layers.max(layers);
        Ok(())
    }

    /// The site as the pass meets it: the last residual stream is that of the block before an exit.
    fn met(&self, spec: &ModelSpec, site: Site) -> Site {
        if site.layer + 1 == spec.n_layers && site.kind == Kind::ResidPost {
            Site::new(self.exit - 1, Kind::ResidPost)
        } else {
            site
        }
    }

    fn add_readout(&mut self, spec: &ModelSpec, i: usize, r: &Readout) -> Result<(), PlanError> {
        match r {
            Readout::Raw { site, rows } => {
                self.reach(spec, *site)?;
                self.check_rows(rows)?;
                let site = self.met(spec, *site);
                self.sites.entry(site).or_default().raws.push((i, rows.clone()));
            }
            Readout::Lens { sites, rows, want } => {
                self.check_rows(rows)?;
                let n = rows.as_ref().map_or(self.batch.rows(), RowSet::len);
                for w in want {
                    check_question(spec, w, n)?;
                }
                for (j, site) in sites.iter().enumerate() {
                    let residual = [Kind::Embed, Kind::ResidPre, Kind::ResidMid, Kind::ResidPost];
                    if !residual.contains(&site.kind) {
                        return Err(PlanError::Lens(*site));
                    }
                    self.reach(spec, *site)?;
                    let site = self.met(spec, *site);
                    let at = self.sites.entry(site).or_default();
                    at.lenses.push((i, j, rows.clone(), want.clone()));
                }
            }
            Readout::Attention { layer, rows, groups, stats } => {
                self.reach(spec, Site::new(*layer, Kind::Pattern))?;
                self.check_rows(rows)?;
                let segs = self.batch.segs.len();
                let at = self.attention.entry(*layer).or_default();
                if let Some(g) = groups {
                    if at.groups.is_some() {
                        return Err(PlanError::Groups(*layer));
                    }
                    if g.len() != segs || g.iter().any(|s| s.len() != g[0].len()) {
                        let why = format!("groups of keys are given for {} of {segs} sequences", g.len());
                        return Err(PlanError::Shape(why));
                    }
                    at.groups = Some((i, g.clone()));
                }
                at.wants.push((i, rows.clone(), *stats));
            }
            Readout::HeadDot { layer, rows, dirs } => {
                self.reach(spec, Site::new(*layer, Kind::Z))?;
                self.check_rows(rows)?;
                if dirs.is_empty() || !dirs.len().is_multiple_of(spec.d_model) {
                    let why = format!("{} numbers are no directions of width {}", dirs.len(), spec.d_model);
                    return Err(PlanError::Shape(why));
                }
                let at = self.attention.entry(*layer).or_default();
                at.dots.push((i, rows.clone(), Arc::clone(dirs)));
            }
        }
        Ok(())
    }

    fn add_intervention(&mut self, spec: &ModelSpec, a: &Applied, mode: Mode) -> Result<(), PlanError> {
        let w = &a.what;
        if matches!(w.action, Action::Exit(_)) {
            return Ok(());
        }
        let heads_at = check_intervention(spec, w)?;
        let rows = self.rows_of(a);
        let bad = |e| Err(e);
        if rows.is_empty() {
            return if mode.decoding {
                Ok(())
            } else {
                bad(PlanError::Nothing { site: w.site, action: w.action.name() })
            };
        }
        self.check_start(w.site)?;
        if let Some(g) = w.when {
            self.check_start(Site::new(g.lens_layer, Kind::ResidPost))?;
        }
        if !w.site.kind.is_global() && w.site.layer >= self.exit {
            return bad(PlanError::Exited { site: w.site, exit: self.exit });
        }
        if let Some(g) = w.when
            && g.lens_layer >= self.exit
        {
            // It would never decide, and the intervention would silently do nothing.
            return bad(PlanError::Exited {
                site: Site::new(g.lens_layer, Kind::ResidPost),
                exit: self.exit,
            });
        }
        let gate = w.when.map(|gate| self.gate(gate, &rows));
        if w.action.is_pattern() || matches!((&w.action, w.site.kind), (Action::Set(_), Kind::Pattern)) {
            let heads = w.head.map_or(0..spec.n_heads, |h| h..h + 1);
            let edit = PatternPlan { rows, heads, action: w.action.clone(), gate };
            self.attention.entry(w.site.layer).or_default().edits.push(edit);
            return Ok(());
        }
        let width: usize = w.site.kind.token_shape(spec).iter().product();
        let cols = match (w.head, heads_at) {
            (Some(h), Some(n)) => h * (width / n)..(h + 1) * (width / n),
            _ => 0..width,
        };
        let got = match &w.action {
            Action::Add { vector, .. } | Action::Mean(vector) => Some((vector.len(), cols.len())),
            Action::Set(rows_given) => Some((rows_given.len(), cols.len() * rows.len())),
            _ => None,
        };
        if let Some((got, want)) = got
            && got != want
        {
            return bad(PlanError::Width { site: w.site, action: w.action.name(), got, want });
        }
        let edit = Edit { rows, cols, action: w.action.clone(), gate };
        self.sites.entry(w.site).or_default().edits.push(edit);
        Ok(())
    }

    /// The number of this gate; its rows join those already to be decided.
    fn gate(&mut self, gate: Gate, rows: &RowSet) -> usize {
        let i = self.gates.iter().position(|g| g.gate == gate).unwrap_or_else(|| {
            self.gates.push(GatePlan { gate, rows: BTreeSet::new() });
            // The pass stops there to let the gate decide.
            self.sites.entry(Site::new(gate.lens_layer, Kind::ResidPost)).or_default();
            self.gates.len() - 1
        });
        self.gates[i].rows.extend(rows.as_slice());
        i
    }

    /// Packed rows that an intervention touches.
    fn rows_of(&self, a: &Applied) -> RowSet {
        let mut rows = Vec::new();
        let segs: Vec<&Seg> = match &a.segs {
            None => self.batch.segs.iter().collect(),
            Some(list) => list.iter().filter_map(|&i| self.batch.segs.get(i)).collect(),
        };
        for s in segs.into_iter().filter(|s| !s.rows.is_empty()) {
            let n = s.rows.end - s.rows.start;
            match a.what.position {
                Position::All => rows.extend(s.rows.clone()),
                Position::Last => rows.push(s.rows.end - 1),
                Position::At(p) if (s.pos0..s.pos0 + n).contains(&p) => rows.push(s.rows.start + p - s.pos0),
                Position::FromEnd(k) if (1..=n).contains(&k) => rows.push(s.rows.end - k),
                Position::At(_) | Position::FromEnd(_) => {}
            }
        }
        RowSet::new(rows)
    }

    /// The rows that readouts want at or after the queries of the last block, if not all.
    fn alive_rows(&self, readouts: &[Readout]) -> Option<RowSet> {
        let last = self.layers.checked_sub(1)?;
        let mut alive = BTreeSet::new();
        for r in readouts {
            let (rows, wanted) = match r {
                Readout::Raw { site, rows } => (rows, self.is_late(*site, last)),
                Readout::Lens { sites, rows, .. } => (rows, sites.iter().any(|s| self.is_late(*s, last))),
                Readout::Attention { layer, rows, .. } | Readout::HeadDot { layer, rows, .. } => {
                    (rows, *layer == last)
                }
            };
            match (wanted, rows) {
                (false, _) => {}
                (true, None) => return None,
                (true, Some(rows)) => alive.extend(rows.as_slice()),
            }
        }
        let alive = RowSet::new(alive.into_iter().collect());
        (alive.len() < self.batch.rows()).then_some(alive)
    }

    /// Whether a site is met after the keys and values of block `last`.
    fn is_late(&self, site: Site, last: usize) -> bool {
        match site.kind {
            Kind::Final | Kind::FinalScale => true,
            Kind::Embed | Kind::PosEmbed => false,
            Kind::ResidPre | Kind::Ln1Scale | Kind::Ln1 | Kind::K | Kind::V | Kind::RotK => false,
            _ => site.layer >= last,
        }
    }
}

fn check_exit(spec: &ModelSpec, a: &Applied, layer: usize) -> Result<usize, PlanError> {
    let (site, action) = (a.what.site, "exit");
    if a.segs.is_some() || a.what.when.is_some() || a.what.position != Position::All {
        return Err(PlanError::Action { site, action, why: "it holds for whole batches, at all positions" });
    }
    if layer == 0 || layer > spec.n_layers {
        let what = format!("layer {layer} is not among 1 to {}", spec.n_layers);
        return Err(PlanError::Value { site, action, what });
    }
    Ok(layer)
}

/// Site, head, action and numbers; gives the number of heads at the site.
fn check_intervention(spec: &ModelSpec, w: &Intervention) -> Result<Option<usize>, PlanError> {
    let (site, action) = (w.site, w.action.name());
    site.check(spec)?;
    let refuse = |why| Err(PlanError::Action { site, action, why });
    let on_pattern = matches!(site.kind, Kind::Scores | Kind::Pattern);
    match site.kind {
        Kind::Ln1Scale | Kind::Ln2Scale | Kind::FinalScale => {
            return refuse("norm statistics can be read, not changed");
        }
        Kind::Result => return refuse("a head's output is changed at hook_z"),
        _ => {}
    }
    if w.action.is_pattern() && !on_pattern {
        return refuse("it changes attention: use hook_pattern or hook_attn_scores");
    }
    if on_pattern
        && !w.action.is_pattern()
        && !matches!((&w.action, site.kind), (Action::Set(_), Kind::Pattern))
    {
        return refuse("attention takes uniform_attention, block_edge and sharpen");
    }
    let heads = match site.kind {
        Kind::Q | Kind::RotQ | Kind::Z | Kind::Scores | Kind::Pattern => Some(spec.n_heads),
        Kind::K | Kind::V | Kind::RotK => Some(spec.n_kv_heads),
        _ => None,
    };
    match (w.head, heads) {
        (Some(head), Some(heads)) if head >= heads => return Err(PlanError::Head { site, head, heads }),
        (Some(_), None) => return Err(PlanError::NoHeads { site }),
        _ => {}
    }
    let value = |what: String| Err(PlanError::Value { site, action, what });
    match &w.action {
        Action::Scale(f) if !f.is_finite() => return value(format!("the factor is {f}")),
        Action::Sharpen(t) if !t.is_finite() || *t <= 0.0 => {
            return value(format!("the temperature is {t}, it must be above 0"));
        }
        Action::BlockEdge(r) if r.is_empty() => {
            return value(format!("keys {} to {} are none", r.start, r.end));
        }
        Action::Add { vector, alpha } if !alpha.is_finite() || vector.iter().any(|x| !x.is_finite()) => {
            return value("the vector or its factor is not finite".to_owned());
        }
        Action::Mean(v) | Action::Set(v) if v.iter().any(|x| !x.is_finite()) => {
            return value("the vector is not finite".to_owned());
        }
        _ => {}
    }
    if let Some(g) = w.when {
        let before =
            matches!(site.kind, Kind::Final) || (!site.kind.is_global() && g.lens_layer < site.layer);
        if !before {
            return value(format!("the gate reads block {}, which comes after it", g.lens_layer));
        }
        if g.lens_layer >= spec.n_layers {
            return value(format!("the gate reads block {} of {}", g.lens_layer, spec.n_layers));
        }
    }
    Ok(heads)
}

fn check_question(spec: &ModelSpec, w: &Vocab, rows: usize) -> Result<(), PlanError> {
    let ids = match w {
        Vocab::Ids(ids) => ids,
        Vocab::Nll(ids) | Vocab::RankOf(ids) => {
            if ids.len() != rows {
                return Err(PlanError::Shape(format!("{} target ids for {rows} rows", ids.len())));
            }
            ids
        }
        _ => return Ok(()),
    };
    match ids.iter().find(|&&id| id as usize >= spec.vocab) {
        Some(id) => Err(PlanError::Shape(format!("id {id} is not in the vocabulary of {}", spec.vocab))),
        None => Ok(()),
    }
}
