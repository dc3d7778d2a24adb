//! `serve`.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use refocus_model::patch::Job;
use refocus_serve::config::{API_KEYS, Config, LISTEN, SYSTEM2_KEY, UPSTREAM, UPSTREAM_KEY};
use refocus_serve::keys::Keys;
use refocus_serve::local::{Local, Source};
use refocus_serve::metrics::Metrics;
use refocus_serve::proxy::router;
use refocus_serve::server::serve;
use serde_json::json;

use super::Ended;
use crate::cli::{Global, Serve};
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;
use crate::{backend, model_arg};

/// Runs the command.
pub(super) fn run(args: &Serve, global: &Global, printer: &Printer) -> Outcome<Ended> {
    let variables = variables(|name| std::env::var_os(name))?;
    let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|v| v.1.clone());
    let config = args.config.as_deref().map(Config::load).transpose()?.unwrap_or_default();
    let mut config = config.with_environment(variable)?;
    if let Some(listen) = args.listen {
        config.listen = listen;
    }
    let keys = config.keys(variable)?;
    if keys.is_empty() && !config.listen.ip().is_loopback() {
        printer.note(&format!(
            "{} can be reached from other machines, and there are no API keys: everyone may ask",
            config.listen
        ));
    }
    match (&args.model, &args.upstream) {
        (Some(model), _) => {
            config.proxy = None;
            of_model(model, args, &config, keys, global, printer)
        }
        (None, upstream) => {
            if let Some(url) = upstream {
                config.proxy.get_or_insert_default().upstream.clone_from(url);
            }
            if config.proxy.as_ref().is_some_and(|proxy| !proxy.upstream.is_empty()) {
                without_a_model(args)?;
            }
            config.secrets(variable)?;
            of_upstream(&config, keys, printer)
        }
    }
}

/// The variables of the environment that are settings. One that is no text is refused: were it passed over, keys that
/// somebody has set would not be asked for.
fn variables(look: impl Fn(&str) -> Option<OsString>) -> Outcome<Vec<(&'static str, String)>> {
    let mut all = Vec::new();
    for name in [LISTEN, API_KEYS, UPSTREAM, UPSTREAM_KEY, SYSTEM2_KEY] {
        if let Some(value) = look(name) {
            let value = value.into_string();
            all.push((name, value.map_err(|_| Failure::new(format!("{name}: the value is not UTF-8")))?));
        }
    }
    Ok(all)
}

/// Refuses flags that a proxy has no use for; clap does so only where the upstream is named by a flag too.
fn without_a_model(args: &Serve) -> Outcome<()> {
    let flags = [("--patch", args.patch.patch.is_some()), ("--name", args.name.is_some())];
    match flags.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((flag, _)) => Err(Failure::new(format!(
            "{flag} is for a model on this machine, and none is named"
        ))
        .hint(format!("the settings or {UPSTREAM} name another server: add --model, or leave out {flag}"))),
    }
}

/// Answers from a model on this machine.
fn of_model(
    model: &Path,
    args: &Serve,
    config: &Config,
    keys: Keys,
    global: &Global,
    printer: &Printer,
) -> Outcome<Ended> {
    let checkpoint = model_arg::open(Some(model), printer)?;
    let patch = super::patch(&args.patch, &checkpoint, Job::Serve)?;
    let name = args.name.clone().or_else(|| config.local.name.clone());
    let source = Source {
        name: name.unwrap_or_else(|| usual_name(model)),
        checkpoint,
        patch,
        isa: backend::isa()?,
        threads: backend::threads(global),
        seed: global.seed,
    };
    let name = source.name.clone();
    let local = Local::start(source, config, keys, Arc::new(Metrics::default()))?;
    let ready = |address| {
        if printer.is_json() {
            let url = format!("http://{address}/v1");
            printer.document(&json!({"schema": "refocus.serve/1", "url": url, "model": name}))
        } else {
            printer.note(&format!("{name} is served at http://{address}/v1, until Ctrl-C"));
            Ok(())
        }
    };
    let served = serve(config, local.router(), || local.cut(), ready);
    local.finish();
    served.map(|()| Ended::Well)
}

/// Passes requests on to another server.
fn of_upstream(config: &Config, keys: Keys, printer: &Printer) -> Outcome<Ended> {
    let Some(proxy) = config.proxy.clone().filter(|proxy| !proxy.upstream.is_empty()) else {
        return Err(Failure::new("there is nothing to serve")
            .hint("name a model with --model, or another server with --upstream"));
    };
    let upstream = proxy.upstream.clone();
    let router = router(proxy, keys, Arc::new(Metrics::default()))?;
    // What is still under way when the time is up ends with its connection.
    let served = serve(
        config,
        router,
        || (),
        |address| {
            if printer.is_json() {
                let url = format!("http://{address}/v1");
                printer.document(&json!({"schema": "refocus.serve/1", "url": url, "upstream": upstream}))
            } else {
                printer.note(&format!("http://{address}/v1 passes requests on to {upstream}, until Ctrl-C"));
                Ok(())
            }
        },
    );
    served.map(|()| Ended::Well)
}

/// The name of a file without its suffix, of a folder, or a hub id without revision and file.
fn usual_name(model: &Path) -> String {
    let text = model.to_string_lossy();
    if !model.exists() && text.contains('/') {
        return text.split(['@', ':']).next().unwrap_or_default().to_owned();
    }
    let of_file = if model.is_dir() { model.file_name() } else { model.file_stem() };
    of_file.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn keys_that_are_no_text_are_refused_and_not_shown() {
        use std::os::unix::ffi::OsStringExt;
        let look = |name: &str| (name == API_KEYS).then(|| OsString::from_vec(b"sk-\xff".to_vec()));
        let Err(Failure::Told(told)) = variables(look) else { panic!("it is refused") };
        assert_eq!(told.lines(), [("error", "REFOCUS_API_KEYS: the value is not UTF-8".to_owned())]);
        let known = variables(|name| (name == LISTEN).then(|| "[::1]:0".into())).expect("text");
        assert_eq!(known, [(LISTEN, "[::1]:0".to_owned())]);
    }

    #[test]
    fn a_model_is_called_as_its_user_calls_it() {
        assert_eq!(usual_name(Path::new("org/name@main")), "org/name");
        assert_eq!(usual_name(Path::new("org/name:x-Q8_0.gguf")), "org/name");
        assert_eq!(usual_name(Path::new("smollm2-135m-instruct")), "smollm2-135m-instruct");
        assert_eq!(usual_name(Path::new(env!("CARGO_MANIFEST_DIR"))), "refocus");
        assert_eq!(usual_name(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))), "Cargo");
    }
}
