//! Named places inside a model, spelled as TransformerLens spells them.

use std::fmt;
use std::str::FromStr;

use crate::spec::{ModelSpec, Positions, Wiring};

/// What a site is, without its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `hook_embed`: token embeddings, `[tokens, d_model]` (after OPT-350m's projection).
    Embed,
    /// `hook_pos_embed`: learned positions, `[tokens, d_model]`.
    PosEmbed,
    /// `hook_resid_pre`, `[tokens, d_model]`.
    ResidPre,
    /// `ln1.hook_scale`, `[tokens]`.
    Ln1Scale,
    /// `ln1.hook_normalized`, `[tokens, d_model]`.
    Ln1,
    /// `attn.hook_q`, `[tokens, heads, d_head]`, before q-norm and rotary.
    Q,
    /// `attn.hook_k`, `[tokens, kv_heads, d_head]`.
    K,
    /// `attn.hook_v`, `[tokens, kv_heads, d_head]`.
    V,
    /// `attn.hook_rot_q`, `[tokens, heads, d_head]`.
    RotQ,
    /// `attn.hook_rot_k`, `[tokens, kv_heads, d_head]`.
    RotK,
    /// `attn.hook_attn_scores`, `[heads, tokens, tokens]`, scaled, −∞ where masked.
    Scores,
    /// `attn.hook_pattern`, `[heads, tokens, tokens]`.
    Pattern,
    /// `attn.hook_z`, `[tokens, heads, d_head]`.
    Z,
    /// `attn.hook_result`, `[tokens, heads, d_model]`, without the output bias.
    Result,
    /// `hook_attn_out`, `[tokens, d_model]`.
    AttnOut,
    /// `hook_resid_mid`, `[tokens, d_model]`; not in parallel blocks.
    ResidMid,
    /// `ln2.hook_scale`, `[tokens]`.
    Ln2Scale,
    /// `ln2.hook_normalized`, `[tokens, d_model]`.
    Ln2,
    /// `mlp.hook_pre`, `[tokens, d_mlp]`: the gate in gated MLPs.
    MlpPre,
    /// `mlp.hook_pre_linear`, `[tokens, d_mlp]`: what the gate multiplies.
    MlpPreLinear,
    /// `mlp.hook_post`, `[tokens, d_mlp]`.
    MlpPost,
    /// `hook_mlp_out`, `[tokens, d_model]`.
    MlpOut,
    /// `hook_resid_post`, `[tokens, d_model]`.
    ResidPost,
    /// `ln_final.hook_scale`, `[tokens]`.
    FinalScale,
    /// `ln_final.hook_normalized`, `[tokens, d_model]`.
    Final,
}

/// All kinds in the order the forward pass meets them, with their names inside a block (or alone).
const NAMES: [(Kind, &str); 25] = [
    (Kind::Embed, "hook_embed"),
    (Kind::PosEmbed, "hook_pos_embed"),
    (Kind::ResidPre, "hook_resid_pre"),
    (Kind::Ln1Scale, "ln1.hook_scale"),
    (Kind::Ln1, "ln1.hook_normalized"),
    (Kind::Q, "attn.hook_q"),
    (Kind::K, "attn.hook_k"),
    (Kind::V, "attn.hook_v"),
    (Kind::RotQ, "attn.hook_rot_q"),
    (Kind::RotK, "attn.hook_rot_k"),
    (Kind::Scores, "attn.hook_attn_scores"),
    (Kind::Pattern, "attn.hook_pattern"),
    (Kind::Z, "attn.hook_z"),
    (Kind::Result, "attn.hook_result"),
    (Kind::AttnOut, "hook_attn_out"),
    (Kind::ResidMid, "hook_resid_mid"),
    (Kind::Ln2Scale, "ln2.hook_scale"),
    (Kind::Ln2, "ln2.hook_normalized"),
    (Kind::MlpPre, "mlp.hook_pre"),
    (Kind::MlpPreLinear, "mlp.hook_pre_linear"),
    (Kind::MlpPost, "mlp.hook_post"),
    (Kind::MlpOut, "hook_mlp_out"),
    (Kind::ResidPost, "hook_resid_post"),
    (Kind::FinalScale, "ln_final.hook_scale"),
    (Kind::Final, "ln_final.hook_normalized"),
];

impl Kind {
    /// All kinds, in the order in which the forward pass meets them.
    pub fn all() -> impl Iterator<Item = Kind> {
        NAMES.iter().map(|n| n.0)
    }

    /// Its name inside a block, or alone where it stands once.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|n| n.0 == self).map_or("", |n| n.1)
    }

    /// Whether it stands once in a model and not in every block.
    pub fn is_global(self) -> bool {
        matches!(self, Kind::Embed | Kind::PosEmbed | Kind::FinalScale | Kind::Final)
    }

    /// Whether a model has it, and otherwise why not.
    pub fn check(self, spec: &ModelSpec) -> Result<(), &'static str> {
        let parallel = matches!(spec.wiring, Wiring::Parallel { .. });
        match self {
            Kind::PosEmbed
                if !matches!(
                    spec.positions,
                    Positions::Learned { .. } | Positions::Sinusoidal | Positions::Linear
                ) =>
            {
                Err("this model has no learned positions")
            }
            Kind::Ln1 | Kind::Ln1Scale | Kind::Ln2 | Kind::Ln2Scale if !spec.block_norms => {
                Err("the blocks of this model have no norms")
            }
            Kind::RotQ | Kind::RotK if !matches!(spec.positions, Positions::Rotary { .. }) => {
                Err("this model has no rotary positions")
            }
            Kind::ResidMid if parallel => {
                Err("attention and MLP run in parallel here: there is no residual stream between them")
            }
            Kind::Ln2 | Kind::Ln2Scale if spec.wiring == (Wiring::Parallel { shared_norm: true }) => {
                Err("the MLP reads ln1 in this model")
            }
            Kind::MlpPreLinear if !spec.gated_mlp => Err("the MLP of this model has no gate"),
            Kind::Final | Kind::FinalScale if !spec.final_norm => Err("this model has no final norm"),
            _ => Ok(()),
        }
    }

    /// Shape of one token's value: `[]` for scales, `[heads, d_head]` and so on. Empty for the
    /// attention matrices, whose shape is `[heads, tokens, tokens]`.
    pub fn token_shape(self, spec: &ModelSpec) -> Vec<usize> {
        match self {
            Kind::Q | Kind::RotQ | Kind::Z => vec![spec.n_heads, spec.d_head],
            Kind::K | Kind::V | Kind::RotK => vec![spec.n_kv_heads, spec.d_head],
            Kind::Result => vec![spec.n_heads, spec.d_model],
            Kind::MlpPre | Kind::MlpPreLinear | Kind::MlpPost => vec![spec.d_mlp],
            Kind::Ln1Scale | Kind::Ln2Scale | Kind::FinalScale | Kind::Scores | Kind::Pattern => vec![],
            _ => vec![spec.d_model],
        }
    }
}

/// A named place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// Block, from zero; 0 for places that stand once.
    pub layer: usize,
    /// What it is.
    pub kind: Kind,
}

impl Site {
    /// A place in a block.
    pub fn new(layer: usize, kind: Kind) -> Self {
        Self { layer: if kind.is_global() { 0 } else { layer }, kind }
    }

    /// Every site of a model, in the order the forward pass meets them.
    pub fn all(spec: &ModelSpec) -> Vec<Site> {
        let mut sites = Vec::new();
        let own = |sites: &mut Vec<Site>, layer: usize, pick: &dyn Fn(Kind) -> bool| {
            let kinds = NAMES.iter().map(|n| n.0).filter(|k| pick(*k) && k.check(spec).is_ok());
            sites.extend(kinds.map(|kind| Site { layer, kind }));
        };
        own(&mut sites, 0, &|k| matches!(k, Kind::Embed | Kind::PosEmbed));
        for layer in 0..spec.n_layers {
            own(&mut sites, layer, &|k| !k.is_global());
        }
        own(&mut sites, 0, &|k| matches!(k, Kind::Final | Kind::FinalScale));
        sites
    }

    /// The sites whose names match a pattern with `*` (any characters) and `?` (one).
    ///
    /// # Errors
    /// Nothing matches; the message explains a well-formed name that this model lacks.
    pub fn glob(pattern: &str, spec: &ModelSpec) -> Result<Vec<Site>, SiteError> {
        let found: Vec<_> = Self::all(spec)
            .into_iter()
            .filter(|s| matches(pattern.as_bytes(), s.to_string().as_bytes()))
            .collect();
        if !found.is_empty() {
            return Ok(found);
        }
        match pattern.parse::<Site>() {
            Ok(site) => Err(site.check(spec).err().unwrap_or_else(|| SiteError::Nothing(pattern.to_owned()))),
            Err(e) if pattern.contains(['*', '?']) => {
                let _ = e;
                Err(SiteError::Nothing(pattern.to_owned()))
            }
            Err(e) => Err(e),
        }
    }

    /// Whether a model has this site.
    pub fn check(self, spec: &ModelSpec) -> Result<(), SiteError> {
        self.kind.check(spec).map_err(|why| SiteError::Absent { site: self, why })?;
        if !self.kind.is_global() && self.layer >= spec.n_layers {
            return Err(SiteError::Layer { site: self, n_layers: spec.n_layers });
        }
        Ok(())
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.kind.name();
        if self.kind.is_global() { f.write_str(name) } else { write!(f, "blocks.{}.{name}", self.layer) }
    }
}

/// A name that is no site, or no site of this model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SiteError {
    /// Not a name.
    #[error("'{name}' is not a site{}", suggestion.as_ref().map_or_else(String::new, |s| format!("; did you mean '{s}'?")))]
    Unknown {
        /// As given.
        name: String,
        /// The nearest name.
        suggestion: Option<String>,
    },
    /// This kind of model has none.
    #[error("this model has no site '{site}': {why}")]
    Absent {
        /// As given.
        site: Site,
        /// Reason.
        why: &'static str,
    },
    /// Beyond the last block.
    #[error("there is no '{site}': the model has blocks 0 to {}", n_layers - 1)]
    Layer {
        /// As given.
        site: Site,
        /// Blocks.
        n_layers: usize,
    },
    /// A pattern without a match.
    #[error("no site of this model matches '{0}'")]
    Nothing(String),
}

impl FromStr for Site {
    type Err = SiteError;

    fn from_str(s: &str) -> Result<Self, SiteError> {
        let inside = s.strip_prefix("blocks.").and_then(|rest| rest.split_once('.'));
        let parsed = match inside {
            Some((layer, name)) => NAMES
                .iter()
                .find(|n| n.1 == name && !n.0.is_global())
                .and_then(|n| Some(Site { layer: layer.parse().ok()?, kind: n.0 })),
            None => NAMES.iter().find(|n| n.1 == s && n.0.is_global()).map(|n| Site { layer: 0, kind: n.0 }),
        };
        parsed.ok_or_else(|| {
            let layer = inside.and_then(|(l, _)| l.parse().ok()).unwrap_or(0);
            let names = NAMES.iter().map(|n| Site { layer, kind: n.0 }.to_string());
            SiteError::Unknown { name: s.to_owned(), suggestion: nearest(s, names) }
        })
    }
}

/// The nearest of some names, if it is near enough to be a slip.
pub(crate) fn nearest(s: &str, names: impl Iterator<Item = String>) -> Option<String> {
    names.map(|n| (distance(s, &n), n)).min().filter(|(d, n)| *d <= (n.len() / 3).max(2)).map(|(_, n)| n)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Shell-like match of the whole name, in time proportional to the product of the lengths.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            star = Some((p, n));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == b'?' || pattern[p] == name[n]) {
            p += 1;
            n += 1;
        } else if let Some((at, from)) = star {
            p = at + 1;
            n = from + 1;
            star = Some((at, n));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for (kind, _) in NAMES {
            let site = Site::new(7, kind);
            assert_eq!(site.to_string().parse::<Site>(), Ok(site));
        }
    }

    #[test]
    fn a_slip_gets_a_suggestion() {
        let e = "blocks.3.hook_resid_pst".parse::<Site>();
        assert_eq!(
            e.map_err(|e| e.to_string()),
            Err("'blocks.3.hook_resid_pst' is not a site; did you mean 'blocks.3.hook_resid_post'?".into())
        );
    }

    #[test]
    fn globs_match_whole_names() {
        assert!(matches(b"blocks.*.hook_z", b"blocks.12.hook_z"));
        assert!(matches(b"*", b"anything"));
        assert!(matches(b"blocks.?.attn.*", b"blocks.3.attn.hook_z"));
        assert!(!matches(b"blocks.?.attn.*", b"blocks.13.attn.hook_z"));
        assert!(!matches(b"hook_z", b"blocks.1.attn.hook_z"));
    }
}
