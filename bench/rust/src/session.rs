//! A model and what is timed on it.

use std::sync::Arc;
use std::time::Instant;

use refocus_compute::{Batch, Cpu, Eager, Isa, KvUse, Ops, RowSet, Seg, Vocab, VocabOut};
use refocus_model::{Checkpoint, Kind, Mode, Model, Plan, Reading, Readout, Site, empty_cache, forward};

use crate::learner::{Learner, Shape};
use crate::product::Packed;
use crate::{Outcome, machine, median, overthinking, recall};

/// Labels of the lens.
const LABELS: usize = 20;
/// Positions where the lens is asked for log-sum-exp.
const SLOTS: usize = 20;

/// The team, the model once loaded, the weights of a lone product, and a model that learns with a team of
/// its own.
pub struct Session {
    isa: Isa,
    ops: Eager<Cpu>,
    model: Option<Model<Cpu>>,
    path: String,
    study: Option<refocus_study::overthinking::TaskWork>,
    facts: Option<recall::Asked>,
    packed: Packed,
    learner: Option<Learner>,
}

/// Token ids that both sides of a comparison can make.
fn ids(count: usize, vocab: usize, seed: usize) -> Vec<u32> {
    (0..count).map(|i| ((7919 * (i + 1) + 104_729 * seed) % vocab) as u32).collect()
}

impl Session {
    pub fn new() -> Outcome<Self> {
        let isa = match std::env::var("REFOCUS_ISA") {
            Ok(name) => Isa::parse(&name)?,
            Err(_) => Isa::detect(),
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let ops = Eager::new(Cpu::new(isa, threads));
        Ok(Self {
            isa,
            ops,
            model: None,
            path: String::new(),
            study: None,
            facts: None,
            packed: Packed::new(),
            learner: None,
        })
    }

    pub fn product(&mut self) -> (&mut Cpu, &mut Packed) {
        (&mut self.ops.kernels, &mut self.packed)
    }

    pub fn team(&self) -> usize {
        self.ops.kernels.threads()
    }

    pub fn threads(&mut self, n: usize) -> Outcome<&'static str> {
        self.ops = Eager::new(Cpu::new(self.isa, n));
        Ok(self.isa.name())
    }

    /// The median of 40 short bursts: a best-of would not see a neighbour at work.
    pub fn peak(&mut self) -> f64 {
        let mut bursts: Vec<f64> = (0..40).map(|_| self.ops.kernels.peak_gflops(1)).collect();
        bursts.sort_by(f64::total_cmp);
        bursts[bursts.len() / 2]
    }

    pub fn load(&mut self, path: &str) -> Outcome<f64> {
        self.model = None;
        let start = Instant::now();
        let checkpoint = Checkpoint::open(path)?;
        self.model = Some(Model::load(&checkpoint, &mut self.ops.kernels)?);
        path.clone_into(&mut self.path);
        Ok(start.elapsed().as_secs_f64())
    }

    /// Draws prompts for the model loaded.
    pub fn draw(&self, task: &str, pairs: usize, demos: usize, context: usize, file: &str) -> Outcome<()> {
        overthinking::draw(&self.path, task, pairs as u32, demos, context, file)
    }

    /// Reads prompts; gives how many there are.
    pub fn prompts(&mut self, file: &str) -> Outcome<usize> {
        let task = overthinking::prompts(self.model.as_ref().ok_or("no model is loaded")?, file)?;
        Ok(self.study.insert(task).prompts.len())
    }

    pub fn lens(&mut self, n: usize) -> Outcome<f64> {
        let m = self.model.as_ref().ok_or("no model is loaded")?;
        overthinking::lens(&mut self.ops, m, self.study.as_ref().ok_or("no prompts")?, n)
    }

    pub fn causal(&mut self, n: usize) -> Outcome<(f64, f64)> {
        let m = self.model.as_ref().ok_or("no model is loaded")?;
        overthinking::causal(&mut self.ops, m, self.study.as_ref().ok_or("no prompts")?, n)
    }

    pub fn values(&mut self, file: &str, n: usize) -> Outcome<()> {
        let m = self.model.as_ref().ok_or("no model is loaded")?;
        overthinking::values(&mut self.ops, m, self.study.as_ref().ok_or("no prompts")?, n, file)
    }

    /// Draws prompts about facts for the model loaded; gives how many there are.
    pub fn facts(&mut self, facts: usize, wordings: usize, file: &str) -> Outcome<usize> {
        Ok(self.facts.insert(recall::draw(&self.path, facts, wordings, file)?).len())
    }

    pub fn paths(&mut self) -> Outcome<f64> {
        let m = self.model.as_ref().ok_or("no model is loaded")?;
        recall::paths(&mut self.ops, m, self.facts.as_ref().ok_or("no prompts")?)
    }

    pub fn path_values(&mut self, file: &str) -> Outcome<()> {
        let m = self.model.as_ref().ok_or("no model is loaded")?;
        recall::values(&mut self.ops, m, self.facts.as_ref().ok_or("no prompts")?, file)
    }

    /// Begins to learn, on as many threads as the team has now.
    pub fn learn(&mut self, shape: Shape, ask: &str, file: &str) -> Outcome<()> {
        self.learner = None;
        self.learner = Some(Learner::new(Cpu::new(self.isa, self.team()), shape, ask, file)?);
        Ok(())
    }

    pub fn learner(&mut self) -> Outcome<&mut Learner> {
        self.learner.as_mut().ok_or_else(|| "nothing learns".into())
    }

    /// Writes the logits that follow `t` tokens.
    pub fn logits(&mut self, file: &str, t: usize) -> Outcome<()> {
        let m = self.model.as_ref().ok_or("no model is loaded")?;
        let batch = Batch::from_lengths([t]);
        let last = RowSet::new(vec![t as u32 - 1]);
        let readout = Readout::logits(&m.spec, Some(last), vec![Vocab::All]);
        let plan = Plan::compile(&m.spec, &batch, &[readout], &[], Mode::default())?;
        let readings = forward(&mut self.ops, m, &ids(t, m.spec.vocab, 0), &plan, KvUse::None)?;
        let Some([VocabOut::Values(logits)]) = readings[0].lens(0) else { return Err("no logits".into()) };
        let bytes: Vec<u8> = self.ops.to_host(logits)?.iter().flat_map(|x| x.to_le_bytes()).collect();
        Ok(std::fs::write(file, bytes)?)
    }

    /// Seconds of one pass over `b` sequences of `t` tokens, compiling its plan included.
    pub fn forward(&mut self, what: &str, b: usize, t: usize, reps: usize) -> Outcome<f64> {
        let m = self.model.as_ref().ok_or("no model is loaded")?;
        let batch = Batch::from_lengths(vec![t; b]);
        let layers = || (0..m.spec.n_layers).map(|l| Site::new(l, Kind::ResidPost)).collect::<Vec<_>>();
        let labels = || {
            let ids: Arc<[u32]> = ids(LABELS, m.spec.vocab, 1).into();
            Readout::Lens { sites: layers(), rows: None, want: vec![Vocab::Ids(ids)] }
        };
        let readouts = match what {
            "hidden" => vec![Readout::Raw { site: Site::new(0, Kind::Final), rows: None }],
            "logits" => vec![Readout::logits(&m.spec, None, vec![Vocab::All])],
            "labels" => vec![labels()],
            "slots" => {
                let n = batch.rows();
                let slots = RowSet::new((1..=SLOTS).map(|i| (n * i / SLOTS - 1) as u32).collect());
                let lse = Readout::Lens { sites: layers(), rows: Some(slots), want: vec![Vocab::LogSumExp] };
                vec![labels(), lse]
            }
            other => return Err(format!("no pass is called '{other}'").into()),
        };
        let tokens: Vec<u32> = (0..b).flat_map(|s| ids(t, m.spec.vocab, s)).collect();
        median(reps, || {
            let plan = Plan::compile(&m.spec, &batch, &readouts, &[], Mode::default())?;
            std::hint::black_box(forward(&mut self.ops, m, &tokens, &plan, KvUse::None)?);
            Ok(())
        })
    }

    /// Greedy decoding of `b` sequences from prompts of `t` tokens: seconds of the prefill, seconds of
    /// `n` steps after it, and the tokens of the first sequence.
    pub fn decode(&mut self, b: usize, t: usize, n: usize, reps: usize) -> Outcome<String> {
        let m = self.model.as_ref().ok_or("no model is loaded")?;
        let prompts: Vec<u32> = (0..b).flat_map(|s| ids(t, m.spec.vocab, s)).collect();
        let (mut prefills, mut times, mut said) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..reps.max(1) {
            let start = Instant::now();
            let mut caches: Vec<_> = (0..b).map(|_| empty_cache(m)).collect();
            let mut next =
                step(&mut self.ops, m, &prompts, &Batch::from_lengths(vec![t; b]), &mut caches, false)?;
            prefills.push(start.elapsed().as_secs_f64());
            said = vec![next[0]];
            let start = Instant::now();
            for i in 0..n {
                let seg = |s: u32| Seg { rows: s..s + 1, pos0: (t + i) as u32 };
                let batch = Batch { segs: (0..b as u32).map(seg).collect() };
                next = step(&mut self.ops, m, &next, &batch, &mut caches, true)?;
                said.push(next[0]);
            }
            times.push(start.elapsed().as_secs_f64());
        }
        let middle = |mut v: Vec<f64>| {
            v.sort_by(f64::total_cmp);
            v[v.len() / 2]
        };
        let said: Vec<String> = said.iter().map(u32::to_string).collect();
        Ok(format!("{} {} {}", middle(prefills), middle(times), said.join(" ")))
    }
}

type Cache = refocus_compute::KvSeq<refocus_compute::CpuPage>;

/// Appends rows to caches and gives the likeliest token after each sequence.
fn step(
    ops: &mut Eager<Cpu>,
    m: &Model<Cpu>,
    tokens: &[u32],
    batch: &Batch,
    caches: &mut [Cache],
    decoding: bool,
) -> Outcome<Vec<u32>> {
    let last = RowSet::new(batch.segs.iter().map(|s| s.rows.end - 1).collect());
    let readout = Readout::logits(&m.spec, Some(last), vec![Vocab::Top(1)]);
    let plan = Plan::compile(&m.spec, batch, &[readout], &[], Mode { keeps_cache: true, decoding })?;
    let readings = forward(ops, m, tokens, &plan, KvUse::Append(caches))?;
    let [Reading::Lens(sites)] = &readings[..] else { return Err("no lens".into()) };
    let [VocabOut::Top(top)] = &sites[0][..] else { return Err("no answer".into()) };
    Ok(top.iter().map(|t| t[0].0).collect())
}

/// A cold process: loads, reads the prompt, says one token; prints seconds, bytes of VmHWM and the token.
pub fn first(path: &str, text: &str) -> Outcome<()> {
    let start = Instant::now();
    let mut s = Session::new()?;
    let checkpoint = Checkpoint::open(path)?;
    // A random checkpoint comes without a tokenizer.
    let tokenizer = checkpoint.tokenizer().ok();
    let prompt = match &tokenizer {
        Some(t) => t.encode(text, true)?,
        None => ids(5, checkpoint.spec().vocab, 0),
    };
    let m = Model::load(&checkpoint, &mut s.ops.kernels)?;
    let mut cache = [empty_cache(&m)];
    let next = step(&mut s.ops, &m, &prompt, &Batch::from_lengths([prompt.len()]), &mut cache, false)?;
    let said = tokenizer.map_or_else(|| next[0].to_string(), |t| t.token(next[0]));
    let seconds = start.elapsed().as_secs_f64();
    println!("{seconds} {} {said}", machine::peak_memory()?);
    Ok(())
}
