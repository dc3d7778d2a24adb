//! Flags of `refocus report`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

pub(super) const EXAMPLES: &str = "\
Examples:
  refocus report run
  refocus report run --out page.html --csv tables --open no
  refocus report --compare run-base run-tuned --out both.html";

/// When the page is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Open {
    /// In a terminal on a machine with a screen.
    Auto,
    /// Always.
    Yes,
    /// Never.
    No,
}

#[derive(Debug, Args)]
pub(crate) struct Report {
    /// Folder of a run.
    #[arg(required_unless_present = "compare", conflicts_with = "compare")]
    pub(crate) dir: Option<PathBuf>,
    /// Put two runs of one study side by side.
    #[arg(long, num_args = 2, value_names = ["A", "B"])]
    pub(crate) compare: Option<Vec<PathBuf>>,
    /// Where to write the page [default: report.html in the folder, or refocus-compare.html here].
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Write the tables of the run as CSV files to this folder too.
    #[arg(long, value_name = "FOLDER", conflicts_with = "compare")]
    pub(crate) csv: Option<PathBuf>,
    /// Whether to show the page in the browser.
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Open::Auto)]
    pub(crate) open: Open,
}
