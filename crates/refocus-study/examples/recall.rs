//! The measurements of factual recall on a real model, one after the other, as text.
//!
//! `recall MODEL TEXT [RELATION [FACTS [PARTS]]]`: at most FACTS facts that the model answers right where a name is
//! forced; PARTS among `paths,ablate,movers,mlp,intercept,last,mitigate`, all of them by default.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use refocus_compute::{Cpu, Eager, Isa};
use refocus_measure::probe::Question;
use refocus_measure::recall::{
    Frequencies, Instead, Prompt, Rest, Unembedding, effects, lens, observe, partners, senders, shares,
};
use refocus_model::{Checkpoint, Model, Tokenizer};
use refocus_study::overthinking::Estimate;
use refocus_study::recall::{Judged, heads, last, mitigate, mlp, price};
use refocus_tasks::recall::{Relation, builtin};

const SEED: u64 = 1;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, text, rest @ ..] = &args[..] else {
        return Err("usage: recall MODEL TEXT [RELATION [FACTS [PARTS]]]".into());
    };
    let relation = builtin(rest.first().map_or("capital", String::as_str))?;
    let most: usize = rest.get(1).map_or(Ok(30), |n| n.parse())?;
    let parts = rest.get(2).map_or("paths,ablate,movers,mlp,intercept,last,mitigate", String::as_str);
    let has = |part: &str| parts.split(',').any(|p| p == part);
    let checkpoint = Checkpoint::open(Path::new(model))?;
    let tokenizer = checkpoint.tokenizer()?;
    let mut cpu = Cpu::new(Isa::detect(), 1);
    let m = Model::load(&checkpoint, &mut cpu)?;
    let mut o = Eager::new(cpu);
    let o = &mut o;
    let clock = Instant::now();
    let at = |what: &str| println!("\n== {what} ({:.1} s)", clock.elapsed().as_secs_f64());

    let prompts = known(o, &m, &tokenizer, &relation, most)?;
    let facts = prompts.iter().map(|p| p.fact).max().map_or(0, |f| f + 1);
    let single = prompts.iter().filter(|p| p.argument.is_some()).count();
    println!(
        "{}: {facts} known facts, {} prompts, {single} with an argument of one token",
        relation.key,
        prompts.len()
    );
    let seen = observe(o, &m, &prompts, |_| {})?;
    let u = Unembedding::of(o, &m, &prompts)?;
    let with = partners(&prompts, SEED)?;
    let [choose, _] =
        [0, 1].map(|odd| (0..prompts.len()).filter(|&i| prompts[i].fact % 2 == odd).collect::<Vec<_>>());
    let split = shares(o, &m, &prompts, &seen, &u)?;
    at(&format!("observed; parts add up to the residual stream within {:.1e}", split.worst));

    let all = senders(&m.spec);
    let run = |o: &mut Eager<Cpu>, mode| effects(o, &m, &prompts, (&seen, &u), &all, &with, mode, |_, _| {});
    let paths = run(o, (Instead::Mean, Rest::Frozen))?;
    at(&format!("path patching, {} senders, {} prompts", all.len(), prompts.len()));
    table(&heads::summarise(&prompts, &paths, SEED));
    if has("paths") {
        let paired = run(o, (Instead::Partner, Rest::Frozen))?;
        at("path patching, paired");
        table(&heads::summarise(&prompts, &paired, SEED));
    }
    if has("ablate") {
        for instead in [Instead::Zero, Instead::Mean] {
            let found = run(o, (instead, Rest::Live))?;
            at(&format!("ablation: {instead:?}"));
            table(&heads::summarise(&prompts, &found, SEED));
        }
    }
    if has("movers") {
        let found = heads::passers(o, &m, &prompts, (&seen, &u), &paths, &with, SEED)?;
        at("heads chosen on the even facts, on the others");
        for p in &found {
            print!(
                "{}.{} effect {} attention {} over random {}",
                p.id.layer,
                p.id.head,
                e(&p.effect),
                e(&p.attention),
                e(&p.over_random)
            );
            println!(" r {} p {:.4} {:.4}", p.r.as_ref().map_or("-".into(), e), p.p_effect, p.p_attention);
            if let Some(ov) = &p.ov {
                let x = ov.argument.as_ref().map_or("-".into(), e);
                println!(
                    "    OV log10 rank: answer {} argument {x} over shuffled {} over random {}",
                    e(&ov.answer),
                    e(&ov.over_shuffled),
                    e(&ov.over_random)
                );
            }
        }
        told(&heads::judge_passing(&prompts, &found, m.spec.n_layers));
        told(&heads::judge_matrices(&prompts, &found));
    }
    let last_layer = m.spec.n_layers - 1;
    // The MLP that matters most before the last, on the even facts.
    let effect = |layer: usize| -> f64 {
        let at = all.iter().position(|s| *s == refocus_measure::recall::Sender::Mlp(layer)).unwrap_or(0);
        choose.iter().map(|&i| paths.changed[at][i].pi() - paths.base[i].pi()).sum()
    };
    let function = (last_layer / 2..last_layer).min_by(|a, b| effect(*a).total_cmp(&effect(*b))).unwrap_or(0);
    if has("mlp") {
        for (layer, cumulative) in
            [(function, false), (function, true), (last_layer, false), (last_layer, true)]
        {
            let f = mlp::layer_fit(o, &m, &prompts, &seen, &with, (layer, cumulative), SEED)?;
            at(&format!("mlp {layer}, {}", if cumulative { "cumulative" } else { "local" }));
            println!(
                "R² {} by ridge {:.3?} wordings {:.3?} permuted {:.3} intercept {:.3} (uncentred {:.3}) first order {:.3} condition {:.1?}",
                e(&f.r2),
                f.r2_by_ridge,
                f.r2_templates,
                f.r2_permuted,
                f.r2_intercept,
                f.r2_intercept_uncentred,
                f.r2_first_order,
                f.condition
            );
            println!(
                "KL rebuilt {} mean {} gain {} p {:.4}; Δp rebuilt {} mean {}",
                e(&f.reconstructed.kl),
                e(&f.mean_alone.kl),
                e(&f.kl_gain),
                f.p_kl_gain,
                e(&f.reconstructed.prob),
                e(&f.mean_alone.prob)
            );
            if cumulative {
                told(&mlp::judge_regression(&f));
            } else {
                for w in &f.weights {
                    println!("  {} {}", w.part, w.weight.as_ref().map_or("does not vary".into(), e));
                }
                told(&mlp::judge_activation(&f));
            }
        }
    }
    if has("intercept") {
        for layer in [function, last_layer] {
            let i = mlp::intercept(o, &m, &prompts, (&seen, &u), (layer, true), SEED)?;
            at(&format!("intercept of mlp {layer}"));
            for (name, p) in [("own", &i.own), ("random", &i.random)] {
                println!(
                    "{name}: answer {} argument {} others {}",
                    e(&p.answer),
                    p.argument.as_ref().map_or("-".into(), e),
                    e(&p.others)
                );
            }
            println!(
                "cos {:?} random {:?}; specific {}; π without {}",
                i.cosine,
                i.cosine_random,
                e(&i.specific),
                e(&i.without)
            );
            told(&mlp::judge_intercept(&i));
        }
        let other_key = if relation.key == "capital" { "language" } else { "capital" };
        let other_relation = builtin(other_key)?;
        let other = known(o, &m, &tokenizer, &other_relation, most)?;
        let seen_other = observe(o, &m, &other, |_| {})?;
        let every: Vec<usize> = (0..prompts.len()).collect();
        let every_other: Vec<usize> = (0..other.len()).collect();
        let own = mlp::intercept_of(o, &m, &prompts, &seen, (function, true), &every)?;
        let theirs = mlp::intercept_of(o, &m, &other, &seen_other, (function, true), &every_other)?;
        let argument = |p: &Prompt| p.argument;
        let answers: Vec<Option<u32>> = prompts
            .iter()
            .map(|p| {
                other.iter().find(|q| argument(q).is_some() && argument(q) == argument(p)).map(|q| q.answer)
            })
            .collect();
        let s = mlp::swap(o, &m, &prompts, &seen, function, (&own, &theirs), &answers, SEED)?;
        at(&format!("intercept of {other_key} in prompts of {}", relation.key));
        println!(
            "π own {} random {}; log10 rank of the other answers {} random {}",
            e(&s.own),
            e(&s.random),
            s.other.as_ref().map_or("-".into(), e),
            s.other_random.as_ref().map_or("-".into(), e)
        );
    }
    let words = tokenizer.encode(&std::fs::read_to_string(text)?, false)?;
    let frequencies = Frequencies::of(&words, m.spec.vocab)?;
    let paying = &words[..words.len().min(1024)];
    let generic = price::generic_mean(o, &m, paying)?;
    if has("last") {
        let found = last::last_blocks(o, &m, &prompts, &seen, &frequencies, SEED)?;
        at("last blocks");
        for b in &found {
            println!(
                "{} ({} prompts, {} facts): p {} change {} attention {} mlp {}",
                b.bin,
                b.prompts,
                b.facts,
                b.prob.iter().map(e).collect::<Vec<_>>().join(" "),
                e(&b.change),
                b.by_attention.as_ref().map_or("-".into(), e),
                b.by_mlp.as_ref().map_or("-".into(), e)
            );
            for h in &b.heads {
                println!(
                    "  {last_layer}.{} to first {} norm {} share {:.3} frequency {:.3?}",
                    h.head,
                    e(&h.to_first),
                    e(&h.norm),
                    h.share,
                    h.frequency
                );
            }
        }
        let chance = last::by_chance(o, &m, &frequencies, SEED)?;
        told(&last::judge_heads(&found[0], chance));
        let every: Vec<usize> = (0..prompts.len()).collect();
        let b = mlp::intercept_of(o, &m, &prompts, &seen, (last_layer, true), &every)?;
        let found = last::alignments(o, &m, &b, &generic, &frequencies)?;
        for a in &found {
            println!(
                "{}: cos {:.3?} removed {:.3?} frequency {:.3?}",
                a.what, a.cosine, a.cosine_removed, a.frequency
            );
        }
        told(&last::judge_intercept(&found, chance, facts));
    }
    if has("mitigate") {
        let suppressing = mitigate::suppressing_heads(&paths, &m.spec, &choose);
        let means: Vec<_> =
            suppressing.iter().map(|&h| mitigate::head_mean(&m.spec, &seen, h, &choose)).collect();
        let b = mlp::intercept_of(o, &m, &prompts, &seen, (last_layer, true), &choose)?;
        let made = mitigate::Parts {
            heads: &suppressing,
            head_means: &means,
            intercept: &b,
            generic: &generic,
            frequencies: &frequencies,
        };
        let repairs = mitigate::repairs(&m.spec, &made, SEED);
        let function_words = function_words(&tokenizer)?;
        let paid = price::Text { ids: paying, function_words: &function_words };
        let own = price::measuring(&prompts);
        let found = price::measure(o, &m, &own, &paid, &repairs, SEED, |_, _| {})?;
        at(&format!("repairs; heads {:?}", suppressing.iter().map(|h| h.head).collect::<Vec<_>>()));
        for r in &found {
            println!(
                "{:32} p {:.3} gain {} right {:+.3} rank {:+.3} holm {:.4} entropy {:.2} | ppl {:.1} ece {:.3} brier {:.3} function words {:.3} n {} | by confidence {}",
                r.name,
                r.prob.value,
                e(&r.gain),
                r.right.value,
                r.rank.value,
                r.p_gain,
                r.entropy,
                r.price.perplexity,
                r.price.ece,
                r.price.brier,
                r.price.function_words,
                r.price.n,
                r.gain_by_confidence
                    .iter()
                    .map(|g| g.as_ref().map_or("-".into(), e))
                    .collect::<Vec<_>>()
                    .join(" ")
            );
        }
        told(&price::judge(&own, &found, SEED));
        println!("{}", repairs[repairs.len() / 2].patch("sha256:…", "vectors.safetensors").text);
    }
    at("done");
    Ok(())
}

fn e(e: &Estimate) -> String {
    format!("{:+.3} [{:+.3}, {:+.3}]", e.value, e.low, e.high)
}

fn told(j: &Judged) {
    println!("** {} {}: {} (n = {})", j.id, j.verdict.name(), j.why, j.n);
}

/// The ten largest effects each way.
fn table(all: &[heads::SenderEffect]) {
    let mut order: Vec<&heads::SenderEffect> = all.iter().collect();
    order.sort_by(|a, b| a.ratio_of_means.value.total_cmp(&b.ratio_of_means.value));
    let n = order.len();
    for s in order.iter().enumerate().filter(|(i, _)| *i < 10 || *i + 5 > n).map(|(_, s)| s) {
        println!(
            "{:8} π(Y) {} mean of ratios {:+.3} π(X) {} logit {}",
            s.sender,
            e(&s.ratio_of_means),
            s.mean_of_ratios,
            s.argument.as_ref().map_or("-".into(), e),
            e(&s.logit)
        );
    }
}

/// Facts whose answer is the model's first choice where a name is forced, asked in the open wordings and that one.
fn known(
    o: &mut Eager<Cpu>,
    m: &Model<Cpu>,
    tokenizer: &Tokenizer,
    relation: &Relation,
    most: usize,
) -> Result<Vec<Prompt>, Box<dyn Error>> {
    let mut forced = Vec::new();
    for (fact, f) in relation.facts.iter().enumerate() {
        forced.push(prompt(tokenizer, &relation.prompt, (&f.argument, &f.answer), (fact, 0))?);
    }
    let seen = observe(o, m, &forced, |_| {})?;
    let ranks = lens(o, m, &forced, &seen.resid_post)?;
    let right: Vec<usize> = (0..forced.len()).filter(|&i| ranks[i].1 == 0).take(most).collect();
    let mut out = Vec::new();
    for (template, text) in std::iter::once(&relation.prompt).chain(&relation.open).enumerate() {
        for (fact, &i) in right.iter().enumerate() {
            let f = &relation.facts[i];
            out.push(prompt(tokenizer, text, (&f.argument, &f.answer), (fact, template))?);
        }
    }
    Ok(out)
}

fn prompt(
    tokenizer: &Tokenizer,
    text: &str,
    (argument, answer): (&str, &str),
    (fact, template): (usize, usize),
) -> Result<Prompt, Box<dyn Error>> {
    let asked = text.replace("{}", argument);
    let end = asked.rfind(argument).unwrap_or(0) + argument.len();
    let q = Question::of_text(tokenizer, &asked, &format!(" {answer}"), " ?", end - argument.len()..end)?;
    let alone = tokenizer.encode(&format!(" {argument}"), false)?;
    Ok(Prompt {
        answer: q.right.first().copied().unwrap_or(0),
        argument: (alone.len() == 1).then(|| alone[0]),
        argument_at: (q.evidence.end as usize).saturating_sub(1),
        ids: q.prompt,
        fact,
        template,
    })
}

fn function_words(tokenizer: &Tokenizer) -> Result<Vec<u32>, Box<dyn Error>> {
    let mut out = Vec::new();
    for word in
        "the of and a in to was is that for on with as by at from his it an were are which this be or had"
            .split(' ')
    {
        if let [id] = tokenizer.encode(&format!(" {word}"), false)?[..] {
            out.push(id);
        }
    }
    Ok(out)
}
