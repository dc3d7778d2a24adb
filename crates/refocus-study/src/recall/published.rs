//! Heads that the paper names, of models that a user may have. They are shown beside what this program finds on the same
//! model, never as its own findings.

use refocus_model::ModelSpec;
use serde::Deserialize;

use crate::overthinking::{HeadId, Sizes};

const FILE: &str = include_str!("../../../../tasks/published/recall.toml");

/// A head, and what is said of it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedHead {
    /// Block, from zero.
    pub layer: usize,
    /// Query head, from zero.
    pub head: usize,
    /// What it is said to do.
    pub said: String,
}

impl NamedHead {
    /// Which.
    pub fn id(&self) -> HeadId {
        HeadId { layer: self.layer, head: self.head }
    }
}

/// A model with its named heads, and how it was asked.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Name of the preset.
    pub name: String,
    shape: Sizes,
    /// Relation that the heads were named for.
    pub relation: String,
    /// Wordings of each fact.
    pub wordings: u32,
    /// The heads.
    pub heads: Vec<NamedHead>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    model: Vec<Named>,
}

/// All models with named heads.
pub fn named() -> Vec<Named> {
    // The file is compiled in, and a test reads it.
    toml::from_str::<File>(FILE).map_or_else(|_| Vec::new(), |f| f.model)
}

impl Named {
    /// Whether a model has the sizes of this one.
    pub fn fits(&self, spec: &ModelSpec) -> bool {
        self.shape.fits(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_holds_what_it_should() {
        let file: File = toml::from_str(FILE).expect("a file of heads");
        let [gpt2] = &file.model[..] else { panic!("one model") };
        assert_eq!((gpt2.name.as_str(), gpt2.relation.as_str(), gpt2.wordings), ("gpt2", "capital", 15));
        let ids: Vec<HeadId> = gpt2.heads.iter().map(NamedHead::id).collect();
        assert_eq!(ids, [HeadId { layer: 9, head: 8 }, HeadId { layer: 10, head: 0 }]);
        let fixture = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/gpt2");
        let spec = refocus_model::Checkpoint::open(fixture).expect("a fixture").spec().clone();
        assert!(!gpt2.fits(&spec), "a small model of the same family is another model");
        let same = ModelSpec { n_layers: 12, d_model: 768, n_heads: 12, ..spec };
        assert!(gpt2.fits(&same));
    }
}
