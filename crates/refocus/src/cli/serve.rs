//! Flags of `serve`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::PatchArg;

/// Shown below the help.
pub(super) const EXAMPLES: &str = "\
Examples:
  refocus serve --model smollm2-135m-instruct
  refocus serve --model MODEL --patch repair.toml --listen 127.0.0.1:9000
  REFOCUS_API_KEYS=sk-mine refocus serve --model MODEL --config serve.toml
  refocus serve --upstream https://api.example.com/v1

Addresses with --model:
  POST /v1/chat/completions, /v1/completions; GET /v1/models, /health, /metrics

Addresses with --upstream, everything else is passed on byte for byte, see docs/proxy.md:
  POST /v1/rewrite, /beta/litellm_basic_guardrail_api; GET /openapi.json, /health, /metrics

Environment:
  REFOCUS_LISTEN        address and port, as --listen
  REFOCUS_API_KEYS      keys that clients must send, with commas between; without any, everyone may ask
  REFOCUS_UPSTREAM      as --upstream
  REFOCUS_UPSTREAM_KEY  key for the upstream, in the place of the client's
  REFOCUS_SYSTEM2_KEY   key for the server that rewrites, where it is another";

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// A folder in Hugging Face layout, a .gguf file, a hub id org/name[@revision][:FILE.gguf], or builtin;
    /// also looked for in REFOCUS_MODELS.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<PathBuf>,
    /// Base URL of an OpenAI-compatible server that requests are passed on to.
    #[arg(long, value_name = "URL", conflicts_with_all = ["model", "name", "patch"])]
    pub(crate) upstream: Option<String>,
    /// Name of the model for clients [default: that of its file or folder, or its hub id].
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) name: Option<String>,
    /// Address and port to listen on; port 0 takes one that is free [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// File with settings, see docs/serve.md.
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) patch: PatchArg,
}
