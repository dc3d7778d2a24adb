//! Published figures of models that a user may have, and the protocol that gave them. They are shown beside
//! this program's numbers of the same model, never as its own.

use std::collections::BTreeMap;

use refocus_model::ModelSpec;
use refocus_tasks::classify::builtin;
use serde::{Deserialize, Serialize};

use super::means::{ALL_TASKS, SettingMeans};
use super::measures::mean;
use super::summary::SettingSummary;

const FILE: &str = include_str!("../../../../tasks/published/overthinking.toml");
/// The setting that figures by task are of.
const SETTING: &str = "permuted";
/// Tasks that the published means are taken over.
const MEAN_TASKS: usize = 14;

/// Sizes that tell a model.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sizes {
    model_type: String,
    n_layers: usize,
    d_model: usize,
    n_heads: usize,
}

impl Sizes {
    /// Whether a model has these sizes.
    pub(crate) fn fits(&self, spec: &ModelSpec) -> bool {
        spec.family.model_type() == self.model_type
            && (spec.n_layers, spec.d_model, spec.n_heads) == (self.n_layers, self.d_model, self.n_heads)
    }
}

/// Figures of one task.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct TaskFigures {
    zero_shot: f64,
    tp: f64,
    fp: f64,
    critical_layer: usize,
    best_fp: f64,
    best_fp_layer: usize,
}

/// Means over the fourteen tasks.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct MeanFigures {
    zero_shot: f64,
    tp: f64,
    fp: f64,
    fp_half: f64,
    gap_half: f64,
    fp_random: f64,
    gap_random: f64,
    exit_tp: f64,
    exit_fp: f64,
}

/// A model's figures and protocol.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// Name of the preset.
    pub name: String,
    /// Names of the model.
    pub names: Vec<String>,
    shape: Sizes,
    /// Pairs of each task.
    pub pairs: u32,
    /// Demonstrations.
    pub demos: usize,
    /// Tokens of a prompt.
    pub context: usize,
    formats: bool,
    critical_layer: usize,
    exit_layer: usize,
    label_mass: f64,
    /// False induction heads as published, `layer.head`.
    pub heads: Vec<String>,
    mean: MeanFigures,
    tasks: BTreeMap<String, TaskFigures>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    model: Vec<Published>,
}

/// A number of this run beside the published one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// Task, or `mean`.
    pub task: String,
    /// Setting.
    pub setting: String,
    /// Which number: `zero_shot`, `tp`, `fp`, `gap`, `critical_layer`, `exit_layer`, `exit_tp`,
    /// `exit_fp`, `best_fp` (FP at the layer with the best published FP), `label_mass`.
    pub number: &'static str,
    /// Of this run.
    pub here: f64,
    /// As published.
    pub published: f64,
    /// How far two independent runs differ at most in 95 % of cases; absent where that is not known.
    pub band: Option<f64>,
}

/// A run beside published figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Model whose figures they are.
    pub of: String,
    /// Whether pairs, demonstrations and mode are those of the published run.
    pub same_protocol: bool,
    /// Pairs of a task in the published run.
    pub pairs: u32,
    /// Demonstrations there.
    pub demos: usize,
    /// Heads that the paper found.
    pub heads: Vec<String>,
    /// Number by number.
    pub numbers: Vec<Compared>,
}

/// All published models.
pub fn published() -> Vec<Published> {
    // The file is compiled in, and a test reads it.
    toml::from_str::<File>(FILE).map_or_else(|_| Vec::new(), |f| f.model)
}

impl Published {
    /// Tasks of its protocol: the fourteen, the toy task and the one whose labels mean nothing.
    pub fn tasks(&self) -> Vec<String> {
        let name = |t: &String| if t == "sst2" && self.formats { "sst2.*".to_owned() } else { t.clone() };
        self.tasks.keys().map(name).collect()
    }

    /// Settings of its protocol.
    pub fn settings(&self) -> Vec<String> {
        [SETTING, "half", "random"].map(str::to_owned).to_vec()
    }

    /// Whether a model has the sizes of this one.
    pub fn fits(&self, spec: &ModelSpec) -> bool {
        self.shape.fits(spec)
    }

    /// Puts a run of the same model beside the figures. `tasks`: task, setting, summary. `as_published`:
    /// whether the run reproduces all defects.
    pub fn compare<'a>(
        &self,
        tasks: impl Iterator<Item = (&'a str, &'a str, &'a SettingSummary)>,
        means: &[SettingMeans],
        as_published: bool,
    ) -> Comparison {
        let mut numbers = Vec::new();
        let mut same_protocol = as_published;
        let mut masses = Vec::new();
        for (task, setting, s) in tasks.filter(|t| t.1 == SETTING) {
            let Some(figures) = self.tasks.get(task).filter(|_| !(self.formats && task == "sst2")) else {
                continue;
            };
            same_protocol &=
                s.pairs as u32 == self.pairs && s.curves.tp.first().map(Vec::len) == Some(self.demos);
            if builtin(task).is_ok_and(|t| !t.control) {
                masses.extend(s.label_mass_tp.last());
            }
            let band = Some(self.band(s.pairs));
            let mut tell = |number, here: f64, published: f64, band| {
                let (task, setting) = (task.to_owned(), setting.to_owned());
                numbers.push(Compared { task, setting, number, here, published, band });
            };
            let last = |grid: &[Vec<f64>]| grid.last().and_then(|r| r.last()).copied().unwrap_or(f64::NAN);
            tell("zero_shot", s.zero_shot.value, figures.zero_shot, band);
            tell("tp", last(&s.curves.tp), figures.tp, band);
            tell("fp", last(&s.curves.fp), figures.fp, band);
            if let Some(layer) = s.critical_layer() {
                tell("critical_layer", layer as f64, figures.critical_layer as f64, None);
            }
            if let Some(at) = s.curves.fp.get(figures.best_fp_layer) {
                tell("best_fp", at.last().copied().unwrap_or(f64::NAN), figures.best_fp, band);
            }
        }
        // The fingerprint of the final norm applied twice.
        if masses.len() + usize::from(self.formats) == MEAN_TASKS {
            numbers.push(Compared {
                task: "mean".to_owned(),
                setting: SETTING.to_owned(),
                number: "label_mass",
                here: mean(&masses),
                published: self.label_mass,
                band: None,
            });
        }
        for m in means {
            let Some(g) = m.groups.iter().find(|g| g.group == ALL_TASKS) else { continue };
            let mut stems: Vec<&str> = g.tasks.iter().filter_map(|t| t.split('.').next()).collect();
            stems.dedup();
            if stems.len() != MEAN_TASKS {
                continue;
            }
            let band = Some(self.band(g.gap.n / g.tasks.len()) / (MEAN_TASKS as f64).sqrt());
            let mut tell = |number, here: f64, published: f64, band| {
                let (task, setting) = ("mean".to_owned(), m.setting.clone());
                numbers.push(Compared { task, setting, number, here, published, band });
            };
            match &m.setting[..] {
                SETTING => {
                    tell("zero_shot", g.zero_shot.value, self.mean.zero_shot, band);
                    tell("tp", g.tp.value, self.mean.tp, band);
                    tell("fp", g.fp.value, self.mean.fp, band);
                    if let Some(c) = g.critical.iter().find(|c| c.share == 0.5) {
                        tell("critical_layer", c.layer as f64, self.critical_layer as f64, Some(1.0));
                    }
                    if let Some(exit) = g.mitigation("early_exit_joint") {
                        if let Some(chosen) = &exit.chosen {
                            tell("exit_layer", chosen.value, self.exit_layer as f64, None);
                        }
                        tell("exit_tp", exit.tp, self.mean.exit_tp, band);
                        tell("exit_fp", exit.fp, self.mean.exit_fp, band);
                    }
                }
                "half" => {
                    tell("fp", g.fp.value, self.mean.fp_half, band);
                    tell("gap", g.gap.value, self.mean.gap_half, band);
                }
                "random" => {
                    tell("fp", g.fp.value, self.mean.fp_random, band);
                    tell("gap", g.gap.value, self.mean.gap_random, band);
                }
                _ => {}
            }
        }
        Comparison {
            of: self.names[self.names.len() - 1].clone(),
            same_protocol: same_protocol && !numbers.is_empty(),
            pairs: self.pairs,
            demos: self.demos,
            heads: self.heads.clone(),
            numbers,
        }
    }

    /// Two runs of `pairs` and of the published number of pairs differ by less in 95 % of cases, where
    /// accuracy is one half.
    fn band(&self, pairs: usize) -> f64 {
        1.96 * 0.5 * (1.0 / pairs as f64 + 1.0 / f64::from(self.pairs)).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_holds_what_it_should() {
        let file: File = toml::from_str(FILE).expect("a file of figures");
        assert_eq!(file.model.len(), 6);
        for m in &file.model {
            assert_eq!(m.tasks.len(), 16, "{}", m.name);
            for key in m.tasks.keys() {
                builtin(key).unwrap_or_else(|e| panic!("{key}: {e}"));
            }
            // The means are those of the fourteen, as far as two digits go; sst2 alone may be another mean.
            let fourteen: Vec<&TaskFigures> =
                m.tasks.iter().filter(|(k, _)| builtin(k).is_ok_and(|t| !t.control)).map(|t| t.1).collect();
            let mean = |of: fn(&TaskFigures) -> f64| {
                fourteen.iter().map(|f| of(f)).sum::<f64>() / fourteen.len() as f64
            };
            assert_eq!(fourteen.len(), MEAN_TASKS);
            assert!((mean(|f| f.tp) - m.mean.tp).abs() < 0.006, "{}: {}", m.name, mean(|f| f.tp));
            assert!((mean(|f| f.fp) - m.mean.fp).abs() < 0.006, "{}: {}", m.name, mean(|f| f.fp));
            assert!((mean(|f| f.zero_shot) - m.mean.zero_shot).abs() < 0.006, "{}", m.name);
        }
    }

    #[test]
    fn bands_are_those_of_two_runs_of_five_hundred() {
        let m = published().swap_remove(0);
        assert!((m.band(500) - 0.062).abs() < 0.0005, "{}", m.band(500));
    }
}
