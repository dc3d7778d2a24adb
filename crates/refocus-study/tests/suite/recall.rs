//! Following tokens through models of every wiring, beside the model's own readouts.

use std::path::{Path, PathBuf};

use refocus_compute::{Batch, Cpu, Eager, Isa, KvUse, Ops, RowSet, Vocab, VocabOut};
use refocus_measure::recall::Prompt;
use refocus_measure::residual::{Node, split};
use refocus_model::{Checkpoint, Kind, Mode, Model, Plan, Readout, Site, forward};
use refocus_study::Verdict;
use refocus_study::overthinking::{Configuration, Store};
use refocus_study::recall::{
    Beginning, Condition, Group, Item, Reach, Seen, Traced, claims, curves, falls, trace_stored,
};
use refocus_study::tuned_lens::{Affine, PackedLens};
use refocus_tasks::recall::Form;
use serde_json::Map;

/// Serial, parallel with one norm and with two, post-norm, without biases.
const FIXTURES: [&str; 5] = ["gpt2", "gptj", "neox", "opt-350m", "llama2"];
const CONDITION: Condition = Condition { form: Form::Open, shots: 0, beginning: Beginning::Bare };

fn load(name: &str) -> (Eager<Cpu>, Model<Cpu>, PackedLens<Cpu>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name);
    let mut cpu = Cpu::new(Isa::detect(), 2);
    let m = Model::load(&Checkpoint::open(path).expect("opens"), &mut cpu).expect("loads");
    let d = m.spec.d_model;
    let nothing = vec![Affine { weight: vec![0.0; d * d], bias: vec![0.0; d] }; m.spec.n_layers];
    let lens = PackedLens::new(&mut cpu, &nothing).expect("a lens");
    (Eager::new(cpu), m, lens)
}

/// Twenty facts, two wordings each; every third argument has several tokens.
fn items(vocab: usize) -> Vec<Item> {
    let id = |i: usize| (i % (vocab - 3)) as u32 + 3;
    let one = |i: usize| {
        let (fact, template) = (i / 2, i % 2);
        let argument = (!fact.is_multiple_of(3)).then(|| id(5 * fact));
        let ids = (0..4 + i % 3).map(|j| id(7 * i + 3 * j)).collect();
        let prompt = Prompt { ids, answer: id(11 * fact), argument, argument_at: 1, fact, template };
        Item { prompt, other: (id(11 * fact + 1), Some(id(5 * fact + 2))) }
    };
    (0..40).map(one).collect()
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("refocus-recall-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Self(dir)
    }

    fn store(&self) -> Store {
        Store::open(&self.0, &Configuration(Map::new())).expect("a folder").stage("trace").expect("a stage")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The answers' likelihoods by the model's own lens at a site.
fn own(o: &mut Eager<Cpu>, m: &Model<Cpu>, items: &[Item], site: Site) -> Vec<f32> {
    let batch = Batch::from_lengths(items.iter().map(|i| i.prompt.ids.len()));
    let ids: Vec<u32> = items.iter().flat_map(|i| i.prompt.ids.clone()).collect();
    let rows = RowSet::new(batch.segs.iter().map(|s| s.rows.end - 1).collect());
    let want = vec![Vocab::Nll(items.iter().map(|i| i.prompt.answer).collect())];
    let readout = Readout::Lens { sites: vec![site], rows: Some(rows), want };
    let plan = Plan::compile(&m.spec, &batch, &[readout], &[], Mode::default()).expect("plan");
    let got = forward(o, m, &ids, &plan, KvUse::None).expect("runs");
    let Some([VocabOut::Values(t)]) = got[0].lens(0) else { panic!("no values") };
    o.to_host(t).expect("values")
}

#[test]
fn every_node_is_what_the_model_reads_there() {
    for name in FIXTURES {
        let (mut o, m, lens) = load(name);
        let items = items(m.spec.vocab);
        let folder = Folder::new(name);
        let store = folder.store();
        let both = (&m, Some(&lens));
        let mut done = Vec::new();
        let run = |o: &mut Eager<Cpu>, done: &mut Vec<(usize, bool)>| -> Vec<Traced> {
            let tick = |n, stored| done.push((n, stored));
            trace_stored(o, both, &items, ("r", CONDITION), &store, tick).expect("runs")
        };
        let traced = run(&mut o, &mut done);
        // What was kept is what was seen, and other prompts are not taken for these.
        assert_eq!(run(&mut o, &mut done), traced, "{name}");
        assert_eq!(done, [(40, false), (40, true)], "{name}");
        let others = trace_stored(&mut o, both, &items[..39], ("r", CONDITION), &store, |_, _| {});
        assert!(others.is_err(), "{name}: a block of other prompts");

        let reach = Reach::of(&m.spec);
        for (i, node) in reach.nodes.iter().enumerate() {
            let site = match *node {
                Node::Embedded => Site::new(0, Kind::ResidPre),
                Node::Block(l) => Site::new(l, Kind::ResidPost),
                Node::Attention(l) if node.is_real(&m.spec) => Site::new(l, Kind::ResidMid),
                _ => continue,
            };
            let want = own(&mut o, &m, &items, site);
            let got: Vec<f32> = traced.iter().map(|t| t.seen[i][0].nll).collect();
            assert_eq!(got, want, "{name} at {site}");
        }
        for t in &traced {
            // A lens that adds nothing is the logit lens, and its last node the output.
            let blocks = reach.nodes.iter().zip(&t.seen).filter(|(n, _)| reach.blocks.contains(n));
            assert!(blocks.map(|(_, s)| s).eq(&t.tuned), "{name}");
            let at = |node| reach.nodes.iter().position(|n| *n == node).expect("a node");
            for layer in 0..m.spec.n_layers {
                let prob = |node| t.seen[at(node)][0].prob();
                let (attention, mlp) = split(&m.spec, layer, prob);
                let all = prob(Node::Block(layer)) - prob(Node::before(layer));
                assert!((attention + mlp - all).abs() < 1e-12, "{name}, block {layer}");
            }
        }
    }
}

#[test]
fn falls_are_the_sum_of_their_parts_and_random_models_pass_no_test() {
    for name in FIXTURES {
        let (mut o, m, lens) = load(name);
        let items = items(m.spec.vocab);
        let folder = Folder::new(&format!("falls-{name}"));
        let tick = |_, _| {};
        let traced = trace_stored(&mut o, (&m, Some(&lens)), &items, ("r", CONDITION), &folder.store(), tick)
            .expect("runs");
        let seen = [Seen { relation: "r", condition: CONDITION, items: &items, traced: &traced }];
        let all = falls(&seen, &m.spec, 0);
        let of = |lens: &str| all.iter().find(|f| f.group == Group::All && f.lens == lens).expect("all");
        let (logit, tuned) = (of("logit"), of("tuned"));
        assert_eq!((logit.prompts, logit.fall.n, tuned.fall), (40, 20, logit.fall), "{name}");
        let parts: f64 = logit.parts.iter().map(|p| p.taken.value).sum();
        assert!((parts - logit.fall.value).abs() < 1e-12, "{name}");
        assert!((logit.before - logit.after - logit.fall.value).abs() < 1e-12, "{name}");

        let shown = curves(&seen, &m.spec, 0);
        let argument =
            shown.iter().find(|c| c.token == "argument" && c.group == Group::All).expect("a curve");
        assert_eq!(argument.prob[0].n, 13, "facts whose argument is one token");
        assert_eq!(shown.iter().filter(|c| c.group == Group::All).count(), 8, "four tokens, two lenses");

        let judged = claims(&seen, &m.spec, 0);
        let verdict = |id: &str| judged.iter().find(|c| c.id == id).expect("a claim").verdict;
        assert_eq!(verdict("C8"), Verdict::DoesNotHold, "{name}");
        // Two layers: none lies before the last two.
        assert_eq!(verdict("C6a"), Verdict::CannotBeTested, "{name}");
        assert!(!judged.iter().any(|c| c.id.starts_with("C7")), "nothing was asked with shots");
    }
}
