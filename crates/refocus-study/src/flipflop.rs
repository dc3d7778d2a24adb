//! The flip-flop study: models trained on the language, and how they do it.
