//! Early exits as patch files, with what they gain and what they cost.

use std::fmt::Write as _;

use super::means::{GroupMeans, MeanMitigation, SettingMeans};
use super::resample::Estimate;
use super::rivals::Mitigation;
use super::summary::{Detail, SettingSummary};

/// A patch file that a run proposes.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposed {
    /// Name without its ending.
    pub name: String,
    /// Contents.
    pub text: String,
}

/// What a patch file says of its measurement.
struct Told<'a> {
    tasks: String,
    setting: &'a str,
    layer: usize,
    by: &'a str,
    on: &'a str,
    measured_on: &'a str,
    /// TP, FP, balanced: with the patch and the gain.
    numbers: [(&'static str, f64, Estimate); 3],
}

/// The exits that gained on the pairs that chose them: over the tasks of a run, or of each control where it has
/// no other task. `fingerprint` guards them against another model.
pub fn patches(
    found: &[(SettingSummary, Detail)],
    means: &[SettingMeans],
    fingerprint: &str,
    n_layers: usize,
) -> Vec<Proposed> {
    let mut out: Vec<Proposed> = Vec::new();
    let mut add = |name: String, told: Option<Told<'_>>, gained: bool| {
        // A pass has at least one block.
        if let Some(told) = told.filter(|t| t.layer > 0 && gained) {
            out.push(Proposed { name, text: text(&told, fingerprint, n_layers) });
        }
    };
    for m in means {
        let Some(g) = m.groups.first() else { continue };
        for mitigation in g.mitigations.iter().filter(|m| m.name.starts_with("early_exit_joint")) {
            let name = format!("{}_{}", mitigation.name, m.setting);
            add(name, over_tasks(m, g, mitigation), mitigation.chosen_gain > 0.0);
        }
    }
    if means.is_empty() {
        for (summary, detail) in found {
            for mitigation in summary.mitigations.iter().filter(|m| m.name.starts_with("early_exit")) {
                let name = format!("{}_{}_{}", mitigation.name, detail.task, detail.setting);
                add(name, of_task(detail, mitigation), detail.chosen_gain(mitigation) > 0.0);
            }
        }
    }
    out
}

fn over_tasks<'a>(m: &'a SettingMeans, g: &'a GroupMeans, x: &'a MeanMitigation) -> Option<Told<'a>> {
    let chosen = x.chosen.as_ref()?;
    Some(Told {
        tasks: g.tasks.join(", "),
        setting: &m.setting,
        layer: chosen.value as usize,
        by: chosen.by,
        on: chosen.on,
        measured_on: x.measured_on,
        numbers: [
            ("true demonstrations", x.tp, x.tp_gain),
            ("false demonstrations", x.fp, x.fp_gain),
            ("both", x.balanced, x.balanced_gain),
        ],
    })
}

fn of_task<'a>(d: &'a Detail, x: &'a Mitigation) -> Option<Told<'a>> {
    let chosen = x.chosen.as_ref()?;
    Some(Told {
        tasks: d.task.clone(),
        setting: &d.setting,
        layer: chosen.value as usize,
        by: chosen.by,
        on: chosen.on,
        measured_on: x.measured_on,
        numbers: [
            ("true demonstrations", x.tp, x.tp_gain),
            ("false demonstrations", x.fp, x.fp_gain),
            ("both", x.balanced, x.balanced_gain),
        ],
    })
}

fn text(told: &Told<'_>, fingerprint: &str, n_layers: usize) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "# Answers after {} of {n_layers} blocks: the layer with the best {} on the {} of\n# {} ({}).\n#",
        told.layer, told.by, told.on, told.tasks, told.setting
    );
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
         [model]\nfingerprint = \"{fingerprint}\"\n\n[[intervention]]\ndo = \"exit\"\nlayer = {}",
        told.layer
    );
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_proposed_file_is_a_patch_and_says_what_it_costs() {
        let gain = |value| Estimate { value, low: value - 0.1, high: value + 0.1, n: 70 };
        let told = Told {
            tasks: "sst2, trec".to_owned(),
            setting: "permuted",
            layer: 1,
            by: "balanced score",
            on: "even pairs",
            measured_on: "odd pairs",
            numbers: [
                ("true demonstrations", 0.5, gain(-0.25)),
                ("false demonstrations", 0.5, gain(0.375)),
                ("both", 0.5, gain(0.0625)),
            ],
        };
        let text = text(&told, &format!("sha256:{}", "0".repeat(64)), 12);
        assert!(text.contains("# true demonstrations    0.750  0.500  -0.250 [-0.350, -0.150]\n"), "{text}");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/overthinking");
        let checkpoint = refocus_model::Checkpoint::open(folder).expect("the fixture");
        refocus_model::Patch::parse(&text, Path::new("p.toml"), checkpoint.spec()).expect("a patch file");
    }
}
