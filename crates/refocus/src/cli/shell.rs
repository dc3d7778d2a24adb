//! Flags of `completions` and `man`.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// Shell to write them for.
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Folder to write one page a command to, which has to be there [default: the page of refocus itself, on
    /// standard output].
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}
