//! The patches that are tried. All act at every position, so that what is measured is what is exported and
//! served.

use refocus_model::ModelSpec;

use super::super::Probe;

/// Temperatures of attention.
const SHARPEN: [f32; 4] = [0.9, 0.8, 0.7, 0.5];
/// How many heads are set to zero.
const HEADS: [usize; 5] = [1, 2, 4, 8, 16];

/// One patch to try.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Candidate {
    /// In words.
    pub(super) name: String,
    /// Its entries in TOML.
    pub(super) body: String,
}

fn entry(at: &str, rest: &str) -> String {
    format!("[[intervention]]\nat = \"{at}\"\n{rest}\n")
}

/// What is tried against one probe's failure. `pushes` says which heads push the wrong answer most, `[layers ·
/// heads]`; empty where that is not known.
pub(super) fn candidates(spec: &ModelSpec, probe: Probe, pushes: &[f64]) -> Vec<Candidate> {
    let last = spec.n_layers - 1;
    let mut out = Vec::new();
    let mut add = |name: String, body: String| out.push(Candidate { name, body });
    let attention = matches!(probe, Probe::Flipflop | Probe::Overthinking | Probe::Distractors);
    if attention {
        for t in SHARPEN {
            let body = entry("blocks.*.attn.hook_pattern", &format!("do = \"sharpen\"\nfactor = {t}"));
            add(format!("attention sharpened to {t}"), body);
        }
        let mut order: Vec<usize> = (0..pushes.len()).collect();
        order.sort_by(|&a, &b| pushes[b].total_cmp(&pushes[a]));
        order.retain(|&i| pushes[i] > 0.0);
        for n in HEADS.into_iter().filter(|&n| n <= order.len()) {
            let heads: Vec<[usize; 2]> =
                order[..n].iter().map(|i| [i / spec.n_heads, i % spec.n_heads]).collect();
            let one = |[l, h]: &[usize; 2]| {
                entry(&format!("blocks.{l}.attn.hook_z"), &format!("head = {h}\ndo = \"zero\""))
            };
            let names: Vec<String> = heads.iter().map(|[l, h]| format!("{l}.{h}")).collect();
            let body = heads.iter().map(one).collect::<Vec<_>>().join("\n");
            add(format!("without {} {}", if n == 1 { "head" } else { "heads" }, names.join(" ")), body);
        }
    }
    if matches!(probe, Probe::Overthinking | Probe::Recall) {
        let fewest = (spec.n_layers / 2).max(1);
        for layer in (fewest..spec.n_layers).rev().take(8) {
            add(
                format!("exit after {layer} blocks"),
                format!("[[intervention]]\ndo = \"exit\"\nlayer = {layer}\n"),
            );
        }
    }
    if probe == Probe::Recall {
        for (what, site) in [("attention", "hook_attn_out"), ("MLP", "hook_mlp_out")] {
            for factor in [0.5, 0.0] {
                let body =
                    entry(&format!("blocks.{last}.{site}"), &format!("do = \"scale\"\nfactor = {factor}"));
                add(format!("last {what} times {factor}"), body);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use refocus_model::Patch;

    use super::*;

    #[test]
    fn every_candidate_is_a_patch() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/smollm2");
        let checkpoint = refocus_model::Checkpoint::open(folder).expect("a fixture");
        let spec = checkpoint.spec();
        let pushes: Vec<f64> = (0..spec.n_layers * spec.n_heads).map(|i| i as f64 - 1.0).collect();
        for probe in Probe::ALL {
            let all = candidates(spec, probe, &pushes);
            assert!(!all.is_empty(), "{probe:?}");
            for c in all {
                Patch::parse(&c.body, Path::new("candidate"), spec).expect(&c.body);
            }
        }
        let named = candidates(spec, Probe::Flipflop, &pushes);
        let best = format!("without head {}.{}", spec.n_layers - 1, spec.n_heads - 1);
        assert!(named.iter().any(|c| c.name == best), "{named:?}");
    }
}
