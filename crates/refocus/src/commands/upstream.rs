//! A model behind a server, as flags name it.

use std::path::Path;

use refocus_serve::HttpChat;
use refocus_serve::client::Upstream;
use refocus_serve::config::UPSTREAM_KEY;
use refocus_serve::keys::Secret;

use crate::cli::UpstreamArg;
use crate::failure::{Failure, Outcome};

/// Environment variable with the key for the server that judges.
const JUDGE_KEY: &str = "REFOCUS_JUDGE_KEY";

/// The client for the server of `--upstream`; nothing is sent yet.
///
/// Key files and addresses that are none, and a missing name of the model, are told here.
pub(super) fn open(arg: &UpstreamArg, url: &str, model: Option<&str>, at_once: u16) -> Outcome<HttpChat> {
    let Some(model) = model else {
        let hint = format!("give --model NAME, one of those that {}/models lists", told(url));
        return Err(Failure::new("--upstream needs the name of a model").hint(hint));
    };
    let mut upstream = Upstream { at_once: at_once.into(), ..Upstream::new(url, model) };
    upstream.key = key(arg.upstream_key_file.as_deref(), UPSTREAM_KEY)?;
    if let Some(timeout) = arg.upstream_timeout {
        upstream.deadline = timeout;
    }
    Ok(HttpChat::new(upstream)?)
}

/// The client for a server with a key of its own; the first model that it lists where none is named.
pub(super) fn judge(
    url: &str,
    model: Option<&str>,
    key_file: Option<&Path>,
    at_once: u16,
) -> Outcome<HttpChat> {
    let (key, at_once) = (key(key_file, JUDGE_KEY)?, at_once.into());
    let of = |model: &str| Upstream { key: key.clone(), at_once, ..Upstream::new(url, model) };
    if let Some(model) = model {
        return Ok(HttpChat::new(of(model))?);
    }
    // No model is named in this request; what an error names is the server.
    let listed = HttpChat::new(of(told(url)))?.models();
    let listed =
        listed.map_err(|e| Failure::from(e).hint("give --judge-model NAME if it lists no models"))?;
    let Some(model) = listed.into_iter().next() else {
        let why = format!("{}/models lists no model", told(url));
        return Err(Failure::new(why).hint("give --judge-model NAME"));
    };
    Ok(HttpChat::new(of(&model))?)
}

/// The key in a file, else that of a variable, else none.
fn key(file: Option<&Path>, variable: &'static str) -> Outcome<Option<Secret>> {
    Ok(match (file, std::env::var(variable)) {
        (Some(file), _) => Some(Secret::of_file(file)?),
        (None, Ok(key)) if !key.is_empty() => Some(Secret::new(variable, &key)?),
        _ => None,
    })
}

/// A server's base URL without what may be a key, as it stands in results.
pub(super) fn told(url: &str) -> &str {
    refocus_serve::client::shown(url).trim_end_matches('/')
}
