//! Every parameter's gradient of every fixture against PyTorch's, over both backends.
//!
//! `fixtures/README.md`: the loss is the mean next-token cross-entropy over the longest sequence, computed
//! in f64 and stored as f32 under the checkpoint's own tensor names.

use std::collections::BTreeMap;
use std::path::Path;

use refocus_compute::{
    Batch, Cpu, Eager, Kernels, KvUse, Ops, ParamId, Reference, RowSet, Tape, Vocab, VocabOut,
};
use refocus_model::{
    Checkpoint, LoadError, Mode, Model, ParamInfo, Params, Part, Plan, Positions, Readout, Which, capture,
    forward,
};

use crate::expected::{all, isa, tokens};

/// The tolerance class of f32 gradients on CPU: the difference, scaled by the tensor's largest gradient.
/// Measured: 3e-6.
const F32_GRADIENT: f64 = 1e-5;

/// The same in f64 arithmetic, with rotary tables, losses and stored values in f32. Measured: 4e-7.
const F64_GRADIENT: f64 = 1e-6;

/// A tensor whose gradients are all below this share of the model's largest one has none but rounding:
/// softmax ignores what is added to all scores of a row, so without rotary positions the bias of the keys
/// has no gradient.
const NOTHING: f64 = 1e-9;

/// Such a tensor's rounding is scaled by this share of the model's largest gradient.
const ROUNDING: f64 = 1e-2;

/// A stored tensor.
struct Tensor {
    shape: Vec<usize>,
    data: Vec<f32>,
}

/// What PyTorch says about a fixture.
struct Fixture {
    name: String,
    checkpoint: Checkpoint,
    /// The longest sequence.
    ids: Vec<u32>,
    loss: f64,
    grads: BTreeMap<String, Tensor>,
}

impl Fixture {
    fn largest(&self) -> f64 {
        self.grads.values().map(|t| largest(&t.data)).fold(0.0, f64::max)
    }

    /// Whether the true gradient of a parameter is zero.
    fn is_nothing(&self, p: &ParamInfo) -> bool {
        let at = self.checkpoint.location(p.part, p.layer, p.which).expect("location").expect("a parameter");
        let stored = &self.grads[at.name].data;
        let own = match &at.rows {
            Some(rows) if p.which == Which::Bias => rows.iter().map(|&r| stored[r as usize]).collect(),
            _ => stored.clone(),
        };
        largest(&own) < NOTHING * self.largest()
    }
}

fn largest(x: &[f32]) -> f64 {
    x.iter().fold(0.0, |m, x| f64::from(x.abs()).max(m))
}

fn read_grads(path: &Path) -> Option<BTreeMap<String, Tensor>> {
    let bytes = std::fs::read(path.join("grads.safetensors")).ok()?;
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let tensor = |t: safetensors::tensor::TensorView<'_>| Tensor {
        shape: t.shape().to_vec(),
        data: t.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
    };
    Some(file.tensors().into_iter().map(|(name, t)| (name, tensor(t))).collect())
}

/// The fixtures that have gradients.
fn fixtures() -> Vec<Fixture> {
    let found: Vec<Fixture> = all()
        .into_iter()
        .filter_map(|(name, path)| {
            let mut grads = read_grads(&path)?;
            let loss = f64::from(grads.remove("loss").expect("a loss").data[0]);
            let checkpoint = Checkpoint::open(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
            let ids = tokens(&path).into_iter().max_by_key(Vec::len).expect("a sequence");
            Some(Fixture { name, checkpoint, ids, loss, grads })
        })
        .collect();
    assert!(found.len() >= 18, "only {} fixtures have gradients", found.len());
    found
}

/// The loss and all gradients. `whole`: the last token, which predicts nothing, is left out, so that no
/// layer drops rows.
fn run<K: Kernels>(kernels: K, m: &Model<K>, ids: &[u32], whole: bool) -> (f64, BTreeMap<ParamId, Vec<f32>>) {
    let n = ids.len() - 1;
    let (batch, input, rows) = if whole {
        (Batch::from_lengths([n]), &ids[..n], None)
    } else {
        (Batch::from_lengths([n + 1]), ids, Some(RowSet::all(n)))
    };
    let want = vec![Vocab::Nll(ids[1..].into())];
    let plan = Plan::compile(&m.spec, &batch, &[Readout::logits(&m.spec, rows, want)], &[], Mode::default());
    let mut tape = Tape::new(kernels);
    let readings = forward(&mut tape, m, input, &plan.expect("a plan"), KvUse::None).expect("runs");
    let Some([VocabOut::Values(nll)]) = readings[0].lens(0) else { panic!("no losses") };
    let mean = tape.mean(nll).expect("a mean");
    let loss = tape.to_host(&mean).expect("a loss")[0];
    let grads = tape.backward(&mean, None).expect("gradients").into_params();
    let kernels = tape.kernels();
    let grads = grads.iter().map(|(id, d)| (*id, kernels.download(d).expect("numbers"))).collect();
    (f64::from(loss), grads)
}

/// Gradients by the checkpoint's tensor names, in the stored shapes.
fn stored(
    f: &Fixture,
    params: &[ParamInfo],
    grads: &BTreeMap<ParamId, Vec<f32>>,
) -> BTreeMap<String, Tensor> {
    let mut out = BTreeMap::<String, Tensor>::new();
    for p in params {
        let what = format!("{}: {:?} {:?} of block {}", f.name, p.part, p.which, p.layer);
        let at = f.checkpoint.location(p.part, p.layer, p.which).expect("location").expect("a parameter");
        let shape = at.shape.to_vec();
        let d = grads.get(&p.id).unwrap_or_else(|| panic!("{what} has no gradient"));
        let t = out.entry(at.name.to_owned()).or_insert_with(|| {
            let data = vec![f32::NAN; shape.iter().product()];
            Tensor { shape, data }
        });
        let outputs = at.rows.as_ref().map_or(if at.transposed { t.shape[1] } else { t.shape[0] }, Vec::len);
        let inputs = d.len() / outputs;
        for (i, row) in d.chunks_exact(inputs).enumerate() {
            let r = at.rows.as_ref().map_or(i, |rows| rows[i] as usize);
            for (j, &x) in row.iter().enumerate() {
                let place = if at.transposed { j * t.shape[1] + r } else { r * inputs + j };
                assert!(t.data[place].is_nan(), "{what}: two gradients for one number");
                t.data[place] = x;
            }
        }
    }
    out
}

/// Greatest scaled difference over all tensors.
fn compare(f: &Fixture, got: &BTreeMap<String, Tensor>, tolerance: f64) -> f64 {
    let (got_names, names): (Vec<_>, Vec<_>) = (got.keys().collect(), f.grads.keys().collect());
    assert_eq!(got_names, names, "{}", f.name);
    let mut worst = 0.0f64;
    for (name, want) in &f.grads {
        let got = &got[name];
        assert_eq!(got.shape, want.shape, "{}: {name}", f.name);
        let scale = match largest(&want.data) {
            own if own < NOTHING * f.largest() => ROUNDING * f.largest(),
            own => own,
        };
        for (i, (g, w)) in got.data.iter().zip(&want.data).enumerate() {
            let d = f64::from((g - w).abs()) / scale;
            assert!(d <= tolerance, "{}: {name}[{i}] is {g:e} instead of {w:e}, off by {d:e}", f.name);
            worst = worst.max(d);
        }
    }
    worst
}

fn check<K: Kernels>(backend: &str, mut kernels: impl FnMut() -> K, tolerance: f64) {
    let mut worst = (0.0, String::new());
    for f in fixtures() {
        for whole in [false, true] {
            if whole && f.checkpoint.spec().stretches() {
                // Its angles depend on the length of the sequence.
                continue;
            }
            let mut k = kernels();
            let m = Model::load(&f.checkpoint, &mut k).unwrap_or_else(|e| panic!("{}: {e}", f.name));
            let (loss, grads) = run(k, &m, &f.ids, whole);
            assert!((loss - f.loss).abs() <= 1e-5 * f.loss, "{}: loss {loss} instead of {}", f.name, f.loss);
            assert_eq!(grads.len(), m.params.len(), "{}: gradients of parameters nobody has", f.name);
            let d = compare(&f, &stored(&f, &m.params, &grads), tolerance);
            if d > worst.0 {
                worst = (d, f.name.clone());
            }
        }
    }
    println!("{backend}: greatest scaled difference {:e} ({})", worst.0, worst.1);
}

#[test]
fn every_gradient_of_every_family_equals_pytorchs() {
    check("cpu", || Cpu::new(isa(), 2), F32_GRADIENT);
}

#[test]
fn the_references_gradients_equal_pytorchs_too() {
    check("reference", || Reference, F64_GRADIENT);
}

/// One step of gradient descent from the parameters of a checkpoint.
fn descend(f: &Fixture, params: &mut Params, lr: f32) -> (Vec<ParamInfo>, f64) {
    let mut k = Cpu::new(isa(), 1);
    let m = Model::from_params(f.checkpoint.spec(), &mut k, params).expect("a model");
    let (loss, grads) = run(k, &m, &f.ids, false);
    for p in &m.params {
        let values = params.get_mut(p.part, p.layer, p.which).expect("its values");
        values.iter_mut().zip(&grads[&p.id]).for_each(|(x, d)| *x -= lr * d);
    }
    (m.params, loss)
}

#[test]
fn one_step_moves_every_parameter_and_lowers_the_loss() {
    for f in fixtures() {
        let before = Params::read(&f.checkpoint).expect("values");
        let mut after = before.clone();
        let (infos, loss) = descend(&f, &mut after, 0.05);
        assert_eq!(infos.len(), before.iter().count(), "{}: a parameter is not in the model", f.name);
        for p in &infos {
            let key = (p.part, p.layer, p.which);
            if f.is_nothing(p) {
                // Only what no loss can see: softmax ignores what is added to all scores of a row. With
                // rotary positions the same bias gives other scores at other distances.
                let learned = matches!(f.checkpoint.spec().positions, Positions::Learned { .. });
                assert!(learned && p.part == Part::K && p.which == Which::Bias, "{}: {key:?}", f.name);
                continue;
            }
            let (b, a) = (before.get(p.part, p.layer, p.which), after.get(p.part, p.layer, p.which));
            assert!(b != a, "{}: {key:?} has not moved", f.name);
        }
        let (_, next) = descend(&f, &mut after, 0.0);
        assert!(next < loss, "{}: the loss went from {loss} to {next}", f.name);
    }
}

#[test]
fn a_model_from_memory_equals_the_checkpoint_bit_for_bit() {
    for (name, path) in all() {
        let checkpoint = Checkpoint::open(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut o = Eager::new(Cpu::new(isa(), 2));
        let stored = Model::load(&checkpoint, &mut o.kernels).expect("loads");
        let params = Params::read(&checkpoint).expect("values");
        let memory = Model::from_params(checkpoint.spec(), &mut o.kernels, &params).expect("packs");
        assert_eq!(memory.params, stored.params, "{name}");
        let seqs = tokens(&path);
        let a = capture(&mut o, &stored, &seqs, &[], true, &[]).expect("runs");
        let b = capture(&mut o, &memory, &seqs, &[], true, &[]).expect("runs");
        assert!(a == b, "{name}");
    }
}

#[test]
fn what_is_wrong_with_parameters_in_memory_is_named() {
    let f = fixtures().into_iter().find(|f| f.name == "gpt2").expect("gpt2");
    let params = Params::read(&f.checkpoint).expect("values");
    let spec = f.checkpoint.spec();
    let refusal = |params: &Params| -> String {
        let e = Model::from_params(spec, &mut Reference, params).err().expect("an error");
        let LoadError::Pack { path, source } = e else { panic!("{e}") };
        format!("{}: {source}", path.display())
    };
    let mut p = params.clone();
    p.get_mut(Part::Q, 1, Which::Weight).expect("values")[5] = f32::NAN;
    let text = refusal(&p);
    assert!(text.contains("(parameters in memory)") && text.contains("Q Weight of block 1"), "{text}");
    let mut p = params.clone();
    p.get_mut(Part::FinalNorm, 0, Which::Bias).expect("values")[2] = f32::INFINITY;
    let text = refusal(&p);
    assert!(text.contains("FinalNorm Bias: value 2 is inf"), "{text}");
    let text = refusal(&Params::new(spec.clone()));
    assert!(text.contains("Embed Weight: there is none"), "{text}");

    let mut p = params;
    let short = p.insert(Part::Up, 0, Which::Bias, vec![0.0]).expect_err("an error");
    assert!(matches!(short, LoadError::Pack { .. }), "{short}");
    for (part, layer) in [(Part::Gate, 0), (Part::Up, spec.n_layers), (Part::Embed, 1)] {
        let [n, k] = part.shape(spec);
        assert!(p.insert(part, layer, Which::Weight, vec![0.0; n * k]).is_err(), "{part:?} {layer}");
    }
}
