//! Answers from a model on this machine.
