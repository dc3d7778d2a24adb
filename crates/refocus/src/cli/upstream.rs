//! Flags for a model behind a server.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::rewrite::seconds;

/// A server that is asked in the place of a local model.
#[derive(Debug, Args)]
pub(crate) struct UpstreamArg {
    /// Ask a model behind an OpenAI-compatible server, by its base URL such as http://127.0.0.1:8080/v1.
    ///
    /// Its key is read from REFOCUS_UPSTREAM_KEY or --upstream-key-file, never from the command line.
    #[arg(long, value_name = "URL")]
    pub(crate) upstream: Option<String>,
    /// File with the key for the server [default: REFOCUS_UPSTREAM_KEY].
    #[arg(long, value_name = "FILE", requires = "upstream")]
    pub(crate) upstream_key_file: Option<PathBuf>,
    /// Wait no longer than this for an answer of the server, all tries together [default: 120].
    #[arg(long, value_name = "SECONDS", requires = "upstream", value_parser = seconds)]
    pub(crate) upstream_timeout: Option<Duration>,
}

/// How much is asked of a server at the same time.
#[derive(Debug, Args)]
pub(crate) struct AtOnce {
    /// Ask a server so many questions at the same time.
    ///
    /// More take less time where the server answers several beside each other. One that asks to wait is waited
    /// for.
    #[arg(long = "at-once", value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) questions: u16,
}

/// The same, for commands whose local model is an argument without a name.
#[derive(Debug, Args)]
pub(crate) struct NamedUpstream {
    #[command(flatten)]
    pub(crate) server: UpstreamArg,
    /// Name of the model at the server of --upstream.
    #[arg(long = "model", id = "upstream_model", value_name = "NAME", requires = "upstream")]
    #[arg(conflicts_with = "model", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) at_once: AtOnce,
}
