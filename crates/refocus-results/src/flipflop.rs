//! Tables of a flip-flop study: a row of the study is one way of training, run with several seeds and tested
//! on several sets. Intervals are 95 %.

use crate::record::records;

records! {
    /// One trained model on one set.
    Row in "rows" {
        /// Name of the way of training, such as `baseline` or `embedding-dropout`.
        row: String [""],
        /// Group of the study that it belongs to.
        group: String [""],
        /// Seed of the training run.
        seed: i64 [""],
        /// Set of strings: in, sparse, dense or another name.
        set: String [""],
        /// Reads that were judged.
        reads: i64 ["reads"],
        /// Wrong ones.
        errors: i64 ["reads"],
        /// Lower end of the error rate's interval.
        low: f64 ["share"],
        /// Upper end of the error rate's interval.
        high: f64 ["share"],
        /// Time of training, where it is known.
        seconds: Option<f64> ["s"],
        /// Steps of training.
        steps: i64 ["steps"],
    }

    /// One set at one step of training.
    TrainingPoint in "curve" {
        /// Name of the way of training.
        row: String [""],
        /// Seed of the training run.
        seed: i64 [""],
        /// Step of training.
        step: i64 ["steps"],
        /// Set of strings.
        set: String [""],
        /// Wrong reads.
        errors: i64 ["reads"],
        /// Reads that were judged.
        reads: i64 ["reads"],
    }

    /// Reads at one distance.
    Distance in "distance" {
        /// Name of the way of training.
        row: String [""],
        /// Seed of the training run.
        seed: i64 [""],
        /// Set of strings.
        set: String [""],
        /// What the distance is counted from: write or non_ignore; or stale_writes, their number.
        by: String [""],
        /// Smallest distance of the bin.
        from: i64 ["instructions"],
        /// Largest distance of the bin.
        to: i64 ["instructions"],
        /// Reads that were judged.
        reads: i64 ["reads"],
        /// Wrong ones.
        errors: i64 ["reads"],
    }
}

/// Claims are judged as those of the other study; tasks and settings stay empty.
pub use crate::overthinking::Claim;
