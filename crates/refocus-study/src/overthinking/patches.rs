//! Early exits and ablated heads as patch files, with what they gain and what they cost.

use std::fmt::Write as _;

use crate::Proposed;

use super::ablate::How;
use super::heads::HeadId;
use super::inside::HeadChoice;
use super::means::{GroupMeans, MeanMitigation, SettingMeans};
use super::resample::Estimate;
use super::rivals::{Chosen, Mitigation};
use super::summary::{Detail, SettingSummary};

/// What a patch file says of its measurement.
struct Told<'a> {
    /// What it does and how it was chosen, line by line.
    does: String,
    measured_on: &'a str,
    /// TP, FP, balanced: with the patch and the gain.
    numbers: [(&'static str, f64, Estimate); 3],
    /// The changes, in TOML.
    body: String,
}

/// What a way to answer gets, of a task or over tasks.
struct Got<'a> {
    tasks: String,
    setting: &'a str,
    chosen: Option<&'a Chosen>,
    measured_on: &'a str,
    numbers: [(&'static str, f64, Estimate); 3],
}

/// Early exits that gained on the pairs that chose them, and the chosen heads set to zero (or made uniform, where
/// that is what removes them): over the tasks of a run, or of each control where it has no other task.
/// `fingerprint` guards them against another model.
pub fn patches(
    found: &[(SettingSummary, Detail)],
    means: &[SettingMeans],
    fingerprint: &str,
    n_layers: usize,
) -> Vec<Proposed> {
    let mut out: Vec<Proposed> = Vec::new();
    let mut add = |name: String, told: Told<'_>| {
        out.push(Proposed { name, text: text(&told, fingerprint), vectors: Vec::new() });
    };
    for m in means {
        let Some(g) = m.groups.first() else { continue };
        for mitigation in g.mitigations.iter().filter(|m| m.name.starts_with("early_exit_joint")) {
            if let Some(told) = exit(over_tasks(m, g, mitigation), n_layers)
                && mitigation.chosen_gain > 0.0
            {
                add(format!("{}_{}", mitigation.name, m.setting), told);
            }
        }
    }
    for (summary, detail) in found.iter().filter(|_| means.is_empty()) {
        for mitigation in summary.mitigations.iter().filter(|m| m.name.starts_with("early_exit")) {
            if let Some(told) = exit(of_task(detail, mitigation), n_layers)
                && detail.chosen_gain(mitigation) > 0.0
            {
                add(format!("{}_{}_{}", mitigation.name, detail.task, detail.setting), told);
            }
        }
    }
    // Where one task chose the heads of all, they are one patch.
    let choices = |setting: &str| -> Vec<&HeadChoice> {
        let mine = found.iter().filter(|(_, d)| d.setting == setting);
        mine.filter_map(|(s, _)| s.inside.as_ref().map(|i| &i.chosen)).collect()
    };
    for how in [How::Zero, How::Uniform] {
        let name = if how == How::Zero { "heads_zero" } else { "heads_uniform" };
        let mut together: Vec<&str> = Vec::new();
        for m in means {
            let all = choices(&m.setting);
            let one = all.first().filter(|first| all.iter().all(|c| c == *first));
            let over = m.groups.first().and_then(|g| Some((g, g.mitigation(name)?)));
            if let (Some(choice), Some((g, mitigation))) = (one, over) {
                together.push(&m.setting);
                let told = heads(over_tasks(m, g, mitigation), choice, how, "");
                add(format!("{name}_{}", m.setting), told);
            }
        }
        for (summary, detail) in found.iter().filter(|(_, d)| !together.contains(&&d.setting[..])) {
            if let (Some(mitigation), Some(inside)) = (summary.mitigation(name), &summary.inside) {
                let told = heads(of_task(detail, mitigation), &inside.chosen, how, "");
                add(format!("{name}_{}_{}", detail.task, detail.setting), told);
            }
        }
    }
    // A mean is that of one task's prompts.
    for (summary, detail) in found.iter().filter(|(_, d)| !d.head_means.is_empty()) {
        if let (Some(mitigation), Some(inside)) = (summary.mitigation("heads_mean"), &summary.inside) {
            let name = format!("heads_mean_{}_{}", detail.task, detail.setting);
            let told = heads(of_task(detail, mitigation), &inside.chosen, How::Mean, &name);
            let vectors = detail.head_means.iter().map(|(h, v)| (head(h), v.to_vec())).collect();
            out.push(Proposed { name, text: text(&told, fingerprint), vectors });
        }
    }
    out
}

fn over_tasks<'a>(m: &'a SettingMeans, g: &'a GroupMeans, x: &'a MeanMitigation) -> Got<'a> {
    Got {
        tasks: g.tasks.join(", "),
        setting: &m.setting,
        chosen: x.chosen.as_ref(),
        measured_on: x.measured_on,
        numbers: [
            ("true demonstrations", x.tp, x.tp_gain),
            ("false demonstrations", x.fp, x.fp_gain),
            ("both", x.balanced, x.balanced_gain),
        ],
    }
}

fn of_task<'a>(d: &'a Detail, x: &'a Mitigation) -> Got<'a> {
    Got {
        tasks: d.task.clone(),
        setting: &d.setting,
        chosen: x.chosen.as_ref(),
        measured_on: x.measured_on,
        numbers: [
            ("true demonstrations", x.tp, x.tp_gain),
            ("false demonstrations", x.fp, x.fp_gain),
            ("both", x.balanced, x.balanced_gain),
        ],
    }
}

/// A pass has at least one block: there is no patch that answers from the embeddings.
fn exit(got: Got<'_>, n_layers: usize) -> Option<Told<'_>> {
    let chosen = got.chosen.filter(|c| c.what == "layer" && c.value >= 1.0)?;
    let does = format!(
        "# Answers after {} of {n_layers} blocks: the layer with the best {} on the {} of\n# {} ({}).\n",
        chosen.value, chosen.by, chosen.on, got.tasks, got.setting
    );
    let body = format!("[[intervention]]\ndo = \"exit\"\nlayer = {}\n", chosen.value);
    Some(Told { does, measured_on: got.measured_on, numbers: got.numbers, body })
}

/// As heads are written, and as the tensors of their means are called.
fn head(h: &HeadId) -> String {
    format!("{}.{}", h.layer, h.head)
}

/// `file` holds the means, without its ending.
fn heads<'a>(got: Got<'a>, choice: &HeadChoice, how: How, file: &str) -> Told<'a> {
    let names: Vec<String> = choice.heads.iter().map(head).collect();
    let (does, site, act) = match how {
        How::Uniform => ("Makes attention uniform in", "hook_pattern", "uniform_attention"),
        How::Mean => ("Sets to their mean on this task's own choosing pairs", "hook_z", "mean"),
        How::Zero => ("Sets to zero", "hook_z", "zero"),
    };
    let does = format!(
        "# {does} heads {} at the last position: the highest prefix-matching scores on the\n# {} of {} ({}). \
         Measured on {} ({}).\n",
        names.join(" "),
        choice.on,
        choice.task,
        choice.setting,
        got.tasks,
        got.setting
    );
    let entry = |h: &HeadId| {
        let vector = match how {
            How::Mean => format!("vector = \"{file}.safetensors#{}\"\n", head(h)),
            How::Zero | How::Uniform => String::new(),
        };
        format!(
            "[[intervention]]\nat = \"blocks.{}.attn.{site}\"\nhead = {}\nposition = \"last\"\ndo = \"{act}\"\n{vector}",
            h.layer, h.head
        )
    };
    let body = choice.heads.iter().map(entry).collect::<Vec<_>>().join("\n");
    Told { does, measured_on: got.measured_on, numbers: got.numbers, body }
}

fn text(told: &Told<'_>, fingerprint: &str) -> String {
    let mut out = format!("{}#\n", told.does);
    let _ = writeln!(
        out,
        "# Calibrated accuracy at the last demonstration, on the {}, {} in all:\n\
         #                       before  after  gain [95 %]",
        told.measured_on, told.numbers[0].2.n
    );
    for (what, with, gain) in &told.numbers {
        let _ = writeln!(
            out,
            "# {what:<22} {:.3}  {with:.3}  {:+.3} [{:+.3}, {:+.3}]",
            with - gain.value,
            gain.value,
            gain.low,
            gain.high
        );
    }
    let _ = writeln!(
        out,
        "#\n# Label words were compared, not generated text: what the patch does to other text was not measured.\n\n\
         [model]\nfingerprint = \"{fingerprint}\"\n"
    );
    out.push_str(&told.body);
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_proposed_file_is_a_patch_and_says_what_it_costs() {
        let gain = |value| Estimate { value, low: value - 0.1, high: value + 0.1, n: 70 };
        let got = |chosen| Got {
            tasks: "sst2, trec".to_owned(),
            setting: "permuted",
            chosen,
            measured_on: "odd pairs",
            numbers: [
                ("true demonstrations", 0.5, gain(-0.25)),
                ("false demonstrations", 0.5, gain(0.375)),
                ("both", 0.5, gain(0.0625)),
            ],
        };
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/overthinking");
        let checkpoint = refocus_model::Checkpoint::open(folder).expect("the fixture");
        let fingerprint = format!("sha256:{}", "0".repeat(64));
        let layer = Chosen { what: "layer", value: 1.0, by: "balanced score", on: "even pairs" };
        let choice = HeadChoice {
            heads: vec![HeadId { layer: 1, head: 2 }, HeadId { layer: 0, head: 0 }],
            task: "unnatural".to_owned(),
            setting: "permuted".to_owned(),
            on: "even pairs",
        };
        let all = [
            exit(got(Some(&layer)), 12).expect("a layer"),
            heads(got(None), &choice, How::Zero, ""),
            heads(got(None), &choice, How::Uniform, ""),
            heads(got(None), &choice, How::Mean, "m"),
        ];
        let dir = std::env::temp_dir().join(format!("refocus-proposed-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        let vectors = choice.heads.iter().map(|h| (head(h), vec![0.5; 8])).collect();
        let means = Proposed { name: "m".to_owned(), text: String::new(), vectors };
        let bytes = means.tensors().expect("a file").expect("vectors");
        std::fs::write(dir.join("m.safetensors"), bytes).expect("written");
        for told in all {
            let text = text(&told, &fingerprint);
            assert!(
                text.contains("# true demonstrations    0.750  0.500  -0.250 [-0.350, -0.150]\n"),
                "{text}"
            );
            let path = dir.join("p.toml");
            refocus_model::Patch::parse(&text, &path, checkpoint.spec()).expect("a patch file");
        }
        std::fs::remove_dir_all(&dir).expect("the folder");
        let embeddings = Chosen { value: 0.0, ..layer };
        assert!(exit(got(Some(&embeddings)), 12).is_none());
    }
}
