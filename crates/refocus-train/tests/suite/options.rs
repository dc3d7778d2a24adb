//! Every option of a transformer: gradients, one step, saving, and the contract on bits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use refocus_compute::{
    Batch, Cpu, Eager, Isa, Kernels, KvUse, Ops, RefBuf, Reference, RowSet, Tape, Var, Vocab, VocabOut,
};
use refocus_model::doctor::doctor;
use refocus_model::export::Export;
use refocus_model::{
    Checkpoint, Kind, Mode, Model, Noise, Params, Part, Plan, Reading, Readout, Site, Which, capture, forward,
};
use refocus_tasks::flipflop::{FlipFlop, Split, VOCAB};
use refocus_train::flipflop::Mode as Asked;
use refocus_train::{Anneal, Architecture, Examples, Mlp, Norms, Penalty, PositionKind, Sharpen, flipflop};

const TOKENS: usize = 24;

/// Every position kind, MLP and norm at least once, each in its own company.
pub fn architectures() -> Vec<Architecture> {
    use PositionKind::{Alibi, Learned, Linear, None, Rotary, Sinusoidal, T5};
    let paper = Architecture::paper(2, 16, 2);
    let of = |positions, mlp, norm, bias, temperature| Architecture {
        positions,
        mlp,
        norm,
        bias,
        temperature,
        ..paper.clone()
    };
    vec![
        paper.clone(),
        Architecture::llama(2, 16, 2),
        of(Sinusoidal, Mlp::Geglu, Norms::Layer, true, 1.0),
        of(Alibi, Mlp::Swiglu, Norms::Rms, true, 0.3),
        of(T5, Mlp::Gelu, Norms::Layer, false, 1.0),
        of(Linear, Mlp::Gelu, Norms::None, true, 3.0),
        of(None, Mlp::Geglu, Norms::None, false, 1.0),
        of(Rotary, Mlp::Gelu, Norms::Layer, true, 1.0),
        Architecture { n_ctx: Some(60), d_mlp: Some(20), ..of(Learned, Mlp::Swiglu, Norms::Rms, false, 1.0) },
    ]
}

fn language() -> FlipFlop {
    FlipFlop::ignoring(TOKENS, 0.5).expect("a language")
}

fn examples() -> Examples {
    flipflop::batch(&language().into(), Asked::Clean, 3, 0, 3)
}

/// Loss as a node of a tape; with statistics, plus a sum over them.
fn loss<K: Kernels>(
    tape: &mut Tape<K>,
    params: &Params,
    noise: Option<Noise>,
    stats: bool,
    whole: bool,
) -> (Var<K>, Model<K>) {
    let m = Model::from_params(params.spec(), tape.kernels(), params).expect("a model");
    let e = examples();
    let batch = Batch::from_lengths(e.lengths.iter().copied());
    let want = vec![Vocab::Nll(e.targets.as_slice().into())];
    let mut readouts = vec![Readout::logits(&m.spec, Some(RowSet::new(e.rows.clone())), want)];
    if stats {
        let of = |layer| Readout::Attention { layer, rows: None, groups: None, stats: true };
        readouts.extend((0..m.spec.n_layers).map(of));
    }
    if whole {
        // Everything of the last layer at every row.
        let site = Site::new(m.spec.n_layers - 1, Kind::ResidPost);
        readouts.push(Readout::Raw { site, rows: None });
    }
    let mut plan = Plan::compile(&m.spec, &batch, &readouts, &[], Mode::default()).expect("a plan");
    if let Some(noise) = noise {
        plan = plan.with_noise(noise);
    }
    let mut total: Option<Var<K>> = None;
    for reading in forward(tape, &m, &e.ids, &plan, KvUse::None).expect("a pass") {
        let term = match reading {
            Reading::Lens(sites) => match &sites[0][0] {
                VocabOut::Values(nll) => tape.mean(nll).expect("a mean"),
                _ => panic!("no values"),
            },
            Reading::Attention { stats: Some(s), .. } => {
                let n = tape.shape(&s).0 * tape.shape(&s).1;
                let weights: Vec<f32> = (0..n).map(|i| [0.01, -0.02, 0.0][i % 3]).collect();
                tape.weighted_sum(&s, &weights).expect("a sum")
            }
            _ => continue,
        };
        total = Some(match total {
            Some(t) => tape.add(&t, &term).expect("a sum"),
            None => term,
        });
    }
    (total.expect("a loss"), m)
}

type Grads = BTreeMap<(Part, usize, Which), Vec<f64>>;

fn reference(params: &Params, noise: Option<Noise>, stats: bool, whole: bool) -> (f64, Grads) {
    let mut tape = Tape::new(Reference);
    let (l, m) = loss(&mut tape, params, noise, stats, whole);
    let value = l.value().data()[0];
    let grads = tape.backward(&l, None).expect("gradients");
    let of = |id| grads.param(id).map(RefBuf::data).map(<[f64]>::to_vec);
    let all = m.params.iter().filter_map(|p| Some(((p.part, p.layer, p.which), of(p.id)?))).collect();
    (value, all)
}

fn noise() -> Option<Noise> {
    Some(Noise { attention: 0.2, mlp: 0.3, embedding: 0.1, seed: 4, step: 9 })
}

#[test]
fn gradients_are_difference_quotients() {
    for (i, a) in architectures().into_iter().enumerate() {
        let params = a.init(VOCAB, TOKENS, 1).expect("parameters");
        // Half of them with dropout and statistics.
        let (noise, stats) = if i % 2 == 0 { (noise(), true) } else { (None, false) };
        let (_, grads) = reference(&params, noise, stats, false);
        assert_eq!(grads.len(), params.iter().count(), "{a:?}");
        for (&(part, layer, which), d) in &grads {
            let key = (part, layer, which);
            // A few values of each, at places that differ from tensor to tensor.
            for e in (0..d.len()).step_by(d.len() / 2 + 1).map(|e| (e + 7 * layer + 3) % d.len()) {
                let mut moved = params.clone();
                let mut at = |by: f32| {
                    let x = moved.get_mut(part, layer, which).expect("values");
                    let before = x[e];
                    x[e] += by;
                    let step = f64::from(x[e]) - f64::from(before);
                    let value = reference(&moved, noise, stats, false).0;
                    moved.get_mut(part, layer, which).expect("values")[e] = before;
                    (step, value)
                };
                let (h, (up, high), (down, low)) = (1.0f32 / 1024.0, at(1.0 / 1024.0), at(-1.0 / 1024.0));
                let slope = (high - low) / (up - down);
                let close = 2e-5 * slope.abs().max(1e-1) + f64::from(h * h);
                assert!((d[e] - slope).abs() <= close, "{a:?}: {key:?}[{e}]: {}, quotient {slope}", d[e]);
            }
        }
    }
}

#[test]
fn the_cpu_agrees_with_the_reference() {
    for a in architectures() {
        let params = a.init(VOCAB, TOKENS, 2).expect("parameters");
        for noise in [None, noise()] {
            let (want, grads) = reference(&params, noise, true, false);
            let mut tape = Tape::new(Cpu::new(Isa::detect(), 2));
            let (l, m) = loss(&mut tape, &params, noise, true, false);
            let got = tape.to_host(&l).expect("a number")[0];
            assert!((f64::from(got) - want).abs() <= 1e-5 * want.abs().max(1.0), "{a:?}: {got} and {want}");
            let found = tape.backward(&l, None).expect("gradients");
            for p in &m.params {
                let want = &grads[&(p.part, p.layer, p.which)];
                let d = tape.kernels().download(found.param(p.id).expect("a gradient")).expect("numbers");
                let largest = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
                for (g, w) in d.iter().zip(want) {
                    let close = 2e-4 * largest.max(1e-3);
                    assert!((f64::from(*g) - w).abs() <= close, "{a:?}: {p:?}: {g}, reference {w}");
                }
            }
        }
    }
}

/// The clean mode leaves out what nobody asks for, and nothing else: the same loss and gradients.
#[test]
fn the_last_layer_at_read_positions_only_is_exact() {
    for a in architectures() {
        let params = a.init(VOCAB, TOKENS, 3).expect("parameters");
        for noise in [None, noise()] {
            let (few, few_grads) = reference(&params, noise, false, false);
            let (all, all_grads) = reference(&params, noise, false, true);
            assert!((few - all).abs() <= 1e-14, "{a:?}: {few} and {all}");
            assert_eq!(few_grads.len(), all_grads.len());
            for (key, d) in &few_grads {
                for (x, y) in d.iter().zip(&all_grads[key]) {
                    assert!((x - y).abs() <= 1e-12, "{a:?}: {key:?}: {x} and {y}");
                }
            }
        }
    }
}

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn save(params: &Params, dir: &Path) {
    let written = Export::new(params.spec(), params).and_then(|e| e.write(dir, false, &mut |_, _| {}));
    assert!(!written.unwrap_or_else(|e| panic!("{:?}: {e}", params.spec())).already);
}

#[test]
fn a_saved_model_is_a_checkpoint_like_any_other() {
    for (i, a) in architectures().into_iter().enumerate() {
        let params = a.init(VOCAB, TOKENS, 5).expect("parameters");
        let dir = Folder(std::env::temp_dir().join(format!("refocus-options-{i}-{}", std::process::id())));
        save(&params, &dir.0);
        let text = std::fs::read_to_string(dir.0.join("config.json")).expect("a configuration");
        let kind = if i == 1 { "\"llama\"" } else { "\"refocus\"" };
        assert!(text.contains(&format!("\"model_type\": {kind}")), "{text}");
        let checkpoint = Checkpoint::open(&dir.0).unwrap_or_else(|e| panic!("{a:?}: {e}"));
        assert_eq!(Params::read(&checkpoint).expect("values").iter().count(), params.iter().count());

        // The same bits from the file and from memory, and every site can be read.
        let ids: Vec<Vec<u32>> = language().strings(1, Split::Test, 0).take(3).collect();
        let run = |m: &Model<Cpu>, o: &mut Eager<Cpu>| {
            let sites = Site::all(&m.spec);
            capture(o, m, &ids, &sites, true, &[]).expect("sites")
        };
        let mut o = Eager::new(Cpu::new(Isa::detect(), 2));
        let loaded = Model::load(&checkpoint, &mut o.kernels).expect("a model");
        let memory = Model::from_params(params.spec(), &mut o.kernels, &params).expect("a model");
        let (one, two) = (run(&loaded, &mut o), run(&memory, &mut o));
        assert_eq!(one.len(), 3);
        for (one, two) in one.iter().zip(&two) {
            assert!(one.len() > 20 && one.len() == two.len(), "{a:?}");
            for ((site, x), (_, y)) in one.iter().zip(two) {
                let bits =
                    |t: &refocus_model::HostTensor| t.data.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert!(bits(x) == bits(y), "{a:?}: {site}");
            }
        }

        // The contract on bits: alone, batched, cached, at any number of threads, captured.
        for c in doctor(&checkpoint, &ids, Isa::detect(), 2, |_| {}).expect("runs") {
            assert_ne!(c.passed, Some(false), "{a:?}: {}: {}", c.name, c.detail);
        }
    }
}

#[test]
fn damaged_configurations_are_errors() {
    let params = architectures()[4].init(VOCAB, TOKENS, 5).expect("parameters");
    let dir = Folder(std::env::temp_dir().join(format!("refocus-options-bad-{}", std::process::id())));
    save(&params, &dir.0);
    let path = dir.0.join("config.json");
    let text = std::fs::read_to_string(&path).expect("a configuration");
    for (from, to, why) in [
        ("\"t5_buckets\": 32", "\"t5_buckets\": 1", "t5_buckets"),
        ("\"t5_buckets\": 32", "\"t5_buckets\": 31", "rel_bias"),
        ("\"positions\": \"t5\"", "\"positions\": \"t6\"", "positions"),
        ("\"positions\": \"t5\"", "\"positions\": \"alibi\"", "t5_"),
        ("\"n_layers\": 2", "\"n_layers\": 3", "blocks.2"),
        ("\"block_norms\": true,", "", "block_norms"),
        ("\"attention_scale\"", "\"attention_scales\"", "attention_scale"),
        ("\"d_head\": 8", "\"d_head\": 8000000000", "d_head"),
    ] {
        assert!(text.contains(from), "{from} in {text}");
        std::fs::write(&path, text.replace(from, to)).expect("write");
        let e = Checkpoint::open(&dir.0).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(e.contains(why), "{to}: '{e}'");
    }
    let linear = "\"positions\": \"sinusoidal\", \"n_ctx\": 2000000000";
    let text = text.replace("\"n_ctx\": 24,", "").replace("\"positions\": \"t5\"", linear);
    std::fs::write(&path, text).expect("write");
    let e = Checkpoint::open(&dir.0).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(e.contains("table of positions"), "'{e}'");
}

/// With a penalty alone (no reads answered better) attention becomes what the penalty says.
#[test]
fn sharpening_sharpens() {
    use refocus_train::{Config, Schedule, Trainer};
    let entropy = |t: &mut Trainer<Cpu>| {
        let (net, o) = t.model();
        let m = net.transformer().expect("a transformer");
        let e = examples();
        let batch = Batch::from_lengths(e.lengths.iter().copied());
        let of = |layer| Readout::Attention { layer, rows: None, groups: None, stats: true };
        let readouts: Vec<Readout> = (0..2).map(of).collect();
        let plan = Plan::compile(&m.spec, &batch, &readouts, &[], Mode::default()).expect("a plan");
        let mut sums = [0.0f64; 3];
        for r in forward(o, m, &e.ids, &plan, KvUse::None).expect("a pass") {
            let Reading::Attention { stats: Some(s), .. } = r else { panic!("no statistics") };
            for row in o.to_host(&s).expect("numbers").chunks_exact(3) {
                sums.iter_mut().zip(row).for_each(|(s, x)| *s += f64::from(*x));
            }
        }
        sums
    };
    for by in [Penalty::Entropy, Penalty::L2, Penalty::Max] {
        let run = |sharpen| {
            let schedule = Schedule { lr: 3e-3, warmup: 5, steps: 40 };
            let config = Config { schedule, sharpen, ..Config::default() };
            let first = architectures()[0].init(VOCAB, TOKENS, 1).expect("parameters");
            let mut t = Trainer::new(first, config, Cpu::new(Isa::detect(), 1)).expect("a trainer");
            for step in 0..40 {
                t.step(&flipflop::batch(&language().into(), Asked::Clean, 3, step, 3)).expect("a step");
            }
            entropy(&mut t)
        };
        let soft = run(None);
        let sharp = run(Some(Sharpen { by, lambda: 1.0, anneal: Anneal::Constant, start: 0 }));
        // One that never starts changes nothing.
        let late = run(Some(Sharpen { by, lambda: 1.0, anneal: Anneal::Linear, start: 40 }));
        assert_eq!(soft, late);
        let sharper = sharp[0] < soft[0] && sharp[1] > soft[1] && sharp[2] > soft[2];
        assert!(sharper, "{by:?}: {soft:?}, {sharp:?}");
    }
}
