//! Flip-flop language modeling (Liu et al., "Exposing Attention Glitches with Flip-Flop Language Modeling",
//! NeurIPS 2023, arXiv 2306.00946).

pub mod probe;
