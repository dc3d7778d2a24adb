//! System 2 Attention, judged (Weston & Sukhbaatar, "System 2 Attention (is something you might need too)",
//! arXiv 2311.11829): does a model that rewrites its context answer better, and what does the rewriting lose?
//!
//! A [`Suite`] gives items whose planted and needed pieces are known; an [`Arm`] is a way to answer them;
//! [`run_suite`] asks and keeps what came of it, item by item; [`summarise`] counts, with paired tests and
//! verdicts whose rules stand in [`RULES`]; [`write_tables`] keeps all of it as result tables.

mod answer;
mod arm;
mod attention;
mod error;
mod judged;
mod judged_summary;
mod kept;
mod memo;
mod page;
mod projected;
mod removal;
mod run;
mod suite;
mod summary;
mod tables;
#[cfg(test)]
mod tests;
mod verdict;

pub use self::answer::{Answered, Choosing, Record, Rewriting, wording};
pub use self::arm::{Arm, STUDY, UnknownArm};
pub use self::attention::{HeadMass, Local, Looked, SpanRow, look};
pub use self::error::System2Error;
pub use self::judged::{Judgement, Opinions, judge_suite};
pub use self::judged_summary::{JudgedArm, JudgedSummary, summarise_judged};
pub use self::kept::Kept;
pub use self::page::{Evaluation, Served, markdown};
pub use self::projected::projected;
pub use self::removal::{Removal, Roc, RocPoint, Share};
pub use self::run::{Progress, SuiteRun, run_suite};
pub use self::suite::{Suite, UnknownSuite};
pub use self::summary::{ArmSummary, CellSummary, Cost, RewritingSummary, SuiteSummary, summarise};
pub use self::tables::write_tables;
pub use self::verdict::RULES;
