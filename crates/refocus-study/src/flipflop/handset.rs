//! Proposition 2 of the paper as weights: two layers of one head that make no error at all, set by hand.
//!
//! Width 7, heads of width 2, no norms, positions `t/C` (Liu et al. 2023, appendix C). Coordinates: 0 "is
//! `w`", 1 "is `r` or `i`", 2 and 3 the bits, 4 a constant, 5 "belongs to a write", 6 the position. The
//! first layer looks at the newest instruction, which for a bit is its own, and marks what follows `w`.
//! The second looks at the newest marked position, which is the last written bit, and copies it. Both add
//! the position to twice the mark and scale by `10 C`, so that a neighbour has `e^−10` of the weight: softmax
//! is hard enough that the MLP, which rounds in the paper's proof, has nothing to do and is zero.

use refocus_compute::{Activation, NormKind};
use refocus_model::{Family, LoadError, ModelSpec, Params, Part, Positions, Which, Wiring};
use refocus_tasks::flipflop::{VOCAB, id};

const WIDTH: usize = 7;
const HEAD: usize = 2;
/// Logit between neighbouring positions.
const GAP: f32 = 10.0;

/// Row, column, value.
type Entry = (usize, usize, f32);

/// The model for strings of up to `n_ctx` symbols.
///
/// # Errors
/// None for a context above 0.
pub fn handset(n_ctx: usize) -> Result<Params, LoadError> {
    let spec = ModelSpec {
        family: Family::Refocus,
        n_layers: 2,
        d_model: WIDTH,
        d_embed: WIDTH,
        n_heads: 1,
        n_kv_heads: 1,
        d_head: HEAD,
        d_mlp: 1,
        vocab: VOCAB,
        n_ctx,
        wiring: Wiring::PreNorm,
        norm: NormKind::Layer,
        norm_eps: 1e-5,
        block_norms: false,
        final_norm: false,
        positions: Positions::Linear,
        attn_scale: vec![1.0; 2],
        window: vec![None; 2],
        qk_norm: false,
        act: Activation::Gelu,
        gated_mlp: false,
        tied: false,
        bos: None,
        eos: Vec::new(),
    };
    let mut p = Params::new(spec);
    let matrix = |rows: usize, columns: usize, entries: &[Entry]| {
        let mut m = vec![0.0; rows * columns];
        for &(row, column, value) in entries {
            m[row * columns + column] = value;
        }
        m
    };
    let at = |id: u32| id as usize;
    let is =
        [(at(id::WRITE), 0), (at(id::READ), 1), (at(id::IGNORE), 1), (at(id::ZERO), 2), (at(id::ONE), 3)];
    let embed: Vec<_> = is.iter().flat_map(|&(row, kind)| [(row, kind, 1.0), (row, 4, 1.0)]).collect();
    p.insert(Part::Embed, 0, Which::Weight, matrix(VOCAB, WIDTH, &embed))?;
    let answers = [(at(id::ZERO), 2, 1.0), (at(id::ONE), 3, 1.0)];
    p.insert(Part::Unembed, 0, Which::Weight, matrix(VOCAB, WIDTH, &answers))?;
    let sharp = GAP * n_ctx as f32;
    let query = matrix(HEAD, WIDTH, &[(0, 4, sharp), (1, 4, sharp)]);
    // What is looked for, what is taken, and where it goes.
    let layers: [[&[Entry]; 3]; 2] = [
        [&[(0, 0, 2.0), (0, 1, 2.0), (1, 6, 1.0)], &[(0, 0, 1.0)], &[(5, 0, 1.0)]],
        [&[(0, 5, 2.0), (1, 6, 1.0)], &[(0, 2, 1.0), (1, 3, 1.0)], &[(2, 0, 1.0), (3, 1, 1.0)]],
    ];
    for (layer, [key, value, output]) in layers.into_iter().enumerate() {
        p.insert(Part::Q, layer, Which::Weight, query.clone())?;
        p.insert(Part::K, layer, Which::Weight, matrix(HEAD, WIDTH, key))?;
        p.insert(Part::V, layer, Which::Weight, matrix(HEAD, WIDTH, value))?;
        p.insert(Part::O, layer, Which::Weight, matrix(WIDTH, HEAD, output))?;
        p.insert(Part::Up, layer, Which::Weight, matrix(1, WIDTH, &[]))?;
        p.insert(Part::Down, layer, Which::Weight, matrix(WIDTH, 1, &[]))?;
    }
    Ok(p)
}

#[cfg(test)]
mod tests {
    use super::*;
    use refocus_compute::{Cpu, Eager, Isa};
    use refocus_model::Model;
    use refocus_tasks::flipflop::Set;
    use refocus_train::{Net, flipflop};

    fn errors(params: &Params, set: Set, strings: usize) -> (usize, usize) {
        let mut cpu = Cpu::new(Isa::detect(), 1);
        let model = Model::from_params(params.spec(), &mut cpu, params).expect("a model");
        let (mut o, net) = (Eager::new(cpu), Net::Transformer(Box::new(model)));
        let language = set.language().expect("a language").into();
        let s = flipflop::test(&mut o, &net, &language, 7, strings).expect("a score");
        (s.asked - s.right, s.asked)
    }

    #[test]
    fn it_makes_no_error_on_the_papers_sets_nor_on_those_that_break_others() {
        let params = handset(512).expect("parameters");
        for set in [Set::In, Set::Sparse, Set::Dense, Set::Piecewise, Set::Decoy] {
            let (errors, reads) = errors(&params, set, 300);
            assert!(errors == 0 && reads >= 300, "{}: {errors} of {reads}", set.name());
        }
    }

    /// The same test finds a model that looks at the oldest write instead.
    #[test]
    fn a_wrong_sign_is_found() {
        let mut params = handset(512).expect("parameters");
        params.get_mut(Part::K, 1, Which::Weight).expect("keys")[WIDTH + 6] = -1.0;
        let (errors, reads) = errors(&params, Set::In, 20);
        assert!(errors * 4 > reads, "{errors} of {reads}");
    }
}
