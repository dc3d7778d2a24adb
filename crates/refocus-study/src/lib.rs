//! Published studies, each as one protocol that runs on any model. A study draws its inputs, runs the model,
//! keeps what the runs gave, and works out its measures; how they are shown is for the program to say.

pub mod diagnose;
pub mod flipflop;
pub mod overthinking;
mod proposed;
pub mod recall;
pub mod system2;
pub mod tuned_lens;
mod verdict;

pub use proposed::Proposed;
pub use verdict::Verdict;
