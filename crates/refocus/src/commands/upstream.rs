//! A model behind a server, as flags name it.

use refocus_serve::HttpChat;
use refocus_serve::client::Upstream;
use refocus_serve::config::UPSTREAM_KEY;
use refocus_serve::keys::Secret;

use crate::cli::UpstreamArg;
use crate::failure::{Failure, Outcome};

/// The client for the server of `--upstream`; nothing is sent yet.
///
/// Key files and addresses that are none, and a missing name of the model, are told here.
pub(super) fn open(arg: &UpstreamArg, url: &str, model: Option<&str>) -> Outcome<HttpChat> {
    let Some(model) = model else {
        let hint = format!("give --model NAME, one of those that {}/models lists", told(url));
        return Err(Failure::new("--upstream needs the name of a model").hint(hint));
    };
    let mut upstream = Upstream::new(url, model);
    upstream.key = match (&arg.upstream_key_file, std::env::var(UPSTREAM_KEY)) {
        (Some(file), _) => Some(Secret::of_file(file)?),
        (None, Ok(key)) if !key.is_empty() => Some(Secret::new(UPSTREAM_KEY, &key)?),
        _ => None,
    };
    if let Some(timeout) = arg.upstream_timeout {
        upstream.deadline = timeout;
    }
    Ok(HttpChat::new(upstream)?)
}

/// A server's base URL without what may be a key, as it stands in results.
pub(super) fn told(url: &str) -> &str {
    refocus_serve::client::shown(url).trim_end_matches('/')
}
