//! Flip-flop language models (Liu et al., "Exposing Attention Glitches with Flip-Flop Language Modeling",
//! NeurIPS 2023, arXiv 2306.00946): errors at reads, the grid of mitigations, what becomes of the paper's
//! claims, and how trained models do it.
//!
//! [`sets_for`] says on which strings a model is tested, [`evaluate`] finds the reads it gets wrong, and
//! [`SetResult`] counts them. A [`Grid`] is a list of training runs as data; [`run_job`] carries one out in a
//! folder; [`summarise`] and [`judge`] put the results together. [`look`] says where a model attends, [`draw`]
//! draws the mechanistic study's figures, and [`handset`] is the model that makes no error.

mod attend;
mod attention;
mod automata;
mod changed;
mod curve;
mod error;
mod eval;
mod figures;
mod grid;
mod handset;
mod job;
mod kept;
pub mod probe;
mod projection;
mod propositions;
mod result;
mod sets;
mod study;
mod subject;
mod summary;
mod table;
mod tables;
mod verdict;

pub use self::attend::{FIRST, GROUPS, HeadMeans, Look, LookError, Place, Reads, look};
pub use self::attention::{Sharpness, sharpness};
pub use self::automata::{Automata, PROBE, Sharpened, Snapshot};
pub use self::changed::{
    AtTemperature, Counterfactual, Pairs, TEMPERATURES, Temperatures, counterfactual, temperatures,
};
pub use self::curve::CurvePoint;
pub use self::error::FlipflopError;
pub use self::eval::{Wrong, evaluate};
pub use self::figures::{Chart, Drawn, Figure, FigureError, Series as ChartSeries, draw};
pub use self::grid::{Grid, Job, Row};
pub use self::handset::handset;
pub use self::job::{Stage, job_sets, run_job};
pub use self::kept::Kept;
pub use self::projection::{Cost, measure};
pub use self::propositions::{Dilution, TieBreak, bound, tie_break};
pub use self::result::{BinResult, SetResult};
pub use self::sets::{EvalSet, Role, Skipped, sets_for};
pub use self::study::{Series, Study};
pub use self::subject::{Subject, SubjectError, open_run};
pub use self::summary::{JobResult, RowSummary, SeedCount, SetSummary, read_results, summarise};
pub use self::table::{csv, markdown, percent};
pub use self::tables::write_tables;
pub use self::verdict::{Claim, Judgement, Test, judge};
