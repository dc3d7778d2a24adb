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

/// The same, for commands whose local model is an argument without a name.
#[derive(Debug, Args)]
pub(crate) struct NamedUpstream {
    #[command(flatten)]
    pub(crate) server: UpstreamArg,
    /// Name of the model at the server of --upstream.
    #[arg(long = "model", id = "upstream_model", value_name = "NAME", requires = "upstream")]
    #[arg(conflicts_with = "model", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) name: Option<String>,
}
