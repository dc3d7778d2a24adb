//! What a proxy is told: where it passes requests on to, how long it waits, and when System 2 Attention is at work.

use std::path::PathBuf;
use std::time::Duration;

use axum::http::uri::{PathAndQuery, Scheme};
use axum::http::{HeaderValue, Uri};
use refocus_system2::Variant;
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::keys::Secret;
use crate::tls::TlsError;

/// Why a proxy cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The address of a server is none.
    #[error("'{url}' is no address of a server: {why}")]
    BadUrl {
        /// As given, without what could be a password.
        url: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A setting outside of what makes sense.
    #[error("{setting}: {why}")]
    BadSetting {
        /// Its name in the configuration file.
        setting: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The upstream cannot be checked.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A proxy in front of an OpenAI-compatible server.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProxyConfig {
    /// Address of the upstream, such as `https://api.example.com/v1` or `http://127.0.0.1:8000`.
    pub upstream: String,
    /// File with the key for it.
    pub upstream_key_file: Option<PathBuf>,
    /// Sent in the place of the client's own credentials, where there is one. Never in the settings themselves.
    #[serde(skip)]
    pub upstream_key: Option<Secret>,
    /// PEM file with certificates that are trusted beside those of the system.
    pub ca_file: Option<PathBuf>,
    /// How long a connection may take to come about, in milliseconds.
    pub connect_ms: u64,
    /// How long the upstream may take to begin its answer, in milliseconds.
    pub answer_ms: u64,
    /// How long either side may be silent inside a body, in milliseconds.
    pub idle_ms: u64,
    /// How often a connection is tried again that did not come about. Nothing was sent then, so this is safe.
    pub connect_retries: u32,
    /// How often a request is sent again after status 429 or 5xx. None by default: clients do so themselves, and a
    /// proxy that loses nothing shows them the status.
    pub status_retries: u32,
    /// First wait before trying again, in milliseconds; doubles each time.
    pub retry_ms: u64,
    /// How many connections in a row have to fail until the upstream counts as down; 0 never does.
    pub breaker_failures: u32,
    /// How long it then counts as down before one request may try it, in milliseconds.
    pub breaker_ms: u64,
    /// System 2 Attention.
    pub system2: System2Config,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            upstream: String::new(),
            upstream_key_file: None,
            upstream_key: None,
            ca_file: None,
            connect_ms: 5_000,
            answer_ms: 600_000,
            idle_ms: 300_000,
            connect_retries: 2,
            status_retries: 0,
            retry_ms: 100,
            breaker_failures: 10,
            breaker_ms: 1_000,
            system2: System2Config::default(),
        }
    }
}

/// Where OpenAI has its chats.
pub const CHATS: &str = "/v1/chat/completions";

/// Whether requests are rewritten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// They pass.
    #[default]
    Off,
    /// They pass, and a rewrite is made beside them for the log and the metrics.
    Audit,
    /// The rewrite takes the place of the newest user content.
    On,
    /// As `on` for a share of the contents, as `off` for the others.
    Canary,
}

/// When and how System 2 Attention is at work.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct System2Config {
    /// For requests that nothing else selects.
    pub mode: Mode,
    /// Share of the contents that mode `canary` rewrites, in percent. The same content falls on the same side always.
    pub canary_percent: f64,
    /// A model name that begins so is rewritten, and the upstream sees the name without it. Empty for none.
    pub prefix: String,
    /// Whether clients may choose by the header `x-refocus-s2a`.
    pub header: bool,
    /// Modes by path and model; the first that fits counts.
    pub route: Vec<Route>,
    /// Variant of the rewriting; names as in `refocus rewrite --variant`.
    pub variant: String,
    /// Server that does the rewriting; the upstream where empty.
    pub url: String,
    /// File with its key.
    pub key_file: Option<PathBuf>,
    /// Its key. Never in the settings themselves.
    #[serde(skip)]
    pub key: Option<Secret>,
    /// Model that does the rewriting; the request's own where empty.
    pub model: String,
    /// Path of chats at the server that rewrites. Where it is empty, that is the path of the request itself if the
    /// upstream rewrites, and [`CHATS`] at another server.
    pub chat_path: String,
    /// How long a rewriting may take, in milliseconds; the original goes on then.
    pub deadline_ms: u64,
    /// Rewritings at a time; requests beyond go on as they are.
    pub at_once: usize,
    /// How many rewritings have to fail in a row until none is tried for a while; 0 never stops.
    pub breaker_failures: u32,
    /// How long that is, in milliseconds.
    pub breaker_ms: u64,
    /// Largest body that is looked into, in bytes; a larger one passes.
    pub body_bytes: usize,
    /// Contents shorter than this pass, in bytes.
    pub short_bytes: usize,
    /// Rewritten contents that are remembered.
    pub cache_entries: usize,
    /// For how long, in seconds.
    pub cache_seconds: u64,
    /// Time after which a client that waits for a stream gets a comment, in milliseconds, and again after each.
    pub heartbeat_ms: u64,
    /// File that gets a line of JSON for each rewriting: which bytes went and why not, but no word of a text.
    pub log_file: Option<PathBuf>,
    /// What is rewritten although it is not by default.
    pub touch: Touch,
}

impl Default for System2Config {
    fn default() -> Self {
        Self {
            mode: Mode::Off,
            canary_percent: 5.0,
            prefix: "s2a/".to_owned(),
            header: true,
            route: Vec::new(),
            variant: "extractive".to_owned(),
            url: String::new(),
            key_file: None,
            key: None,
            model: String::new(),
            chat_path: String::new(),
            deadline_ms: 20_000,
            at_once: 32,
            breaker_failures: 5,
            breaker_ms: 30_000,
            body_bytes: 8 << 20,
            short_bytes: 48,
            cache_entries: 1024,
            cache_seconds: 3600,
            heartbeat_ms: 2_000,
            log_file: None,
            touch: Touch::default(),
        }
    }
}

/// Requests that are left alone unless asked for here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Touch {
    /// Requests with images, audio or files: their text is rewritten.
    pub media: bool,
    /// Requests that end with the result of a tool: the newest user content before it is rewritten.
    pub tool_turns: bool,
    /// Requests whose answer has to meet a JSON schema.
    pub schemas: bool,
}

/// A mode for some requests.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Start of the request's path; every path where missing.
    #[serde(default)]
    pub path: String,
    /// Model's name, `*` at its end for any that begins so; every model where missing.
    #[serde(default)]
    pub model: String,
    /// What happens to them.
    pub mode: Mode,
    /// As [`System2Config::chat_path`], for them.
    #[serde(default)]
    pub chat_path: String,
}

impl System2Config {
    /// Where step 1 asks for a request of this address and model; `asked` is nothing where there is no such request.
    pub(crate) fn step_one_path(&self, asked: Option<&Uri>, model: &str) -> PathAndQuery {
        let path = asked.map_or(CHATS, Uri::path);
        let routes = self.route.iter().filter(|route| route.fits(path, model)).map(|route| &route.chat_path);
        let told = routes.chain([&self.chat_path]).find(|path| !path.is_empty());
        let told = told.and_then(|path| path.parse().ok());
        let own = || asked.filter(|_| self.url.is_empty()).and_then(|uri| uri.path_and_query().cloned());
        told.or_else(own).unwrap_or(PathAndQuery::from_static(CHATS))
    }
}

impl Route {
    /// Whether a request is one of those meant.
    pub fn fits(&self, path: &str, model: &str) -> bool {
        let named = match self.model.strip_suffix('*') {
            Some(start) => model.starts_with(start),
            None => self.model.is_empty() || self.model == model,
        };
        named && path.starts_with(&self.path)
    }
}

/// A server's address, taken apart.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    scheme: Scheme,
    /// Name and port, also the `Host` header.
    pub(crate) host: HeaderValue,
    authority: axum::http::uri::Authority,
    /// Without a slash at its end.
    path: String,
}

impl Base {
    pub(crate) fn parse(url: &str) -> Result<Self, ConfigError> {
        let bad = |why| {
            // What stands before an @ may be a password.
            let shown = url.rsplit_once('@').map_or(url, |(_, after)| after);
            // And what is asked for behind a ? may be a key.
            let shown = shown.split(['?', '#']).next().unwrap_or_default();
            ConfigError::BadUrl { url: shown.to_owned(), why }
        };
        let uri: Uri = url.parse().map_err(|_| bad("it cannot be read as a URL"))?;
        let parts = uri.into_parts();
        let scheme = parts.scheme.ok_or_else(|| bad("it has to begin with http:// or https://"))?;
        if scheme != Scheme::HTTP && scheme != Scheme::HTTPS {
            return Err(bad("it has to begin with http:// or https://"));
        }
        let authority = parts.authority.ok_or_else(|| bad("it names no server"))?;
        if authority.as_str().contains('@') {
            return Err(bad("a key does not belong into it; give it in a file or in the environment"));
        }
        let given = parts.path_and_query;
        if given.as_ref().is_some_and(|given| given.query().is_some()) {
            return Err(bad("it has a query"));
        }
        let path = given.as_ref().map_or("", PathAndQuery::path).trim_end_matches('/').to_owned();
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| bad("its name is no host"))?;
        Ok(Self { scheme, host, authority, path })
    }

    /// Where a request for `path` goes: below this address, and `/v1` is not said twice.
    pub(crate) fn uri(&self, path: &PathAndQuery) -> Option<Uri> {
        let asked = path.as_str();
        let below = self.path.is_empty()
            || asked
                .strip_prefix(self.path.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
        let path = if below { path.clone() } else { format!("{}{asked}", self.path).parse().ok()? };
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path)
            .build()
            .ok()
    }
}

impl ProxyConfig {
    /// With everything but the address as by default.
    pub fn new(upstream: impl Into<String>) -> Self {
        Self { upstream: upstream.into(), ..Self::default() }
    }

    /// Checks what can be checked before a request comes.
    ///
    /// # Errors
    /// Names the setting and what is wrong with it.
    pub(crate) fn check(&self) -> Result<Variant, ConfigError> {
        let wrong = |setting, why: &str| Err(ConfigError::BadSetting { setting, why: why.to_owned() });
        Base::parse(&self.upstream)?;
        let Some(variant) = super::select::variant(&self.system2.variant) else {
            let known = Variant::ALL.map(Variant::name).join(", ");
            return wrong(
                "system2.variant",
                &format!("there is no '{}'; there are {known}", self.system2.variant),
            );
        };
        let two = &self.system2;
        if !two.url.is_empty() {
            Base::parse(&two.url)?;
        }
        if !(0.0..=100.0).contains(&two.canary_percent) {
            return wrong("system2.canary_percent", "a share is between 0 and 100");
        }
        if !two.prefix.chars().all(|c| c.is_ascii_graphic() && c != '"' && c != '\\') {
            return wrong("system2.prefix", "printable ASCII without quotes and backslashes");
        }
        let is_path = |path: &str| path.starts_with('/') && path.parse::<PathAndQuery>().is_ok();
        for (setting, path) in std::iter::once(("system2.chat_path", &two.chat_path))
            .chain(two.route.iter().map(|route| ("system2.route.chat_path", &route.chat_path)))
        {
            if !path.is_empty() && !is_path(path) {
                return wrong(setting, "a path begins with / and has no spaces");
            }
        }
        // A semaphore with more places panics when it is made.
        if two.at_once > Semaphore::MAX_PERMITS {
            return wrong("system2.at_once", "more than can be counted");
        }
        for (setting, value) in [
            ("connect_ms", self.connect_ms),
            ("answer_ms", self.answer_ms),
            ("idle_ms", self.idle_ms),
            ("system2.deadline_ms", two.deadline_ms),
            ("system2.heartbeat_ms", two.heartbeat_ms),
        ] {
            if value == 0 {
                return wrong(setting, "0 ms would end every request; leave it out for the default");
            }
        }
        Ok(variant)
    }

    /// The files that it names.
    pub(crate) fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let Self { upstream_key_file, ca_file, system2, .. } = self;
        [upstream_key_file, ca_file, &mut system2.key_file, &mut system2.log_file].into_iter().flatten()
    }

    pub(crate) fn idle(&self) -> Duration {
        Duration::from_millis(self.idle_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goes(base: &str, path: &str) -> String {
        let base = Base::parse(base).expect("an address");
        base.uri(&path.parse().expect("a path")).expect("an address").to_string()
    }

    #[test]
    fn requests_go_below_the_address_and_v1_is_said_once() {
        assert_eq!(goes("http://h:1", "/v1/models"), "http://h:1/v1/models");
        assert_eq!(goes("http://h:1/", "/v1/models?a=%2F"), "http://h:1/v1/models?a=%2F");
        assert_eq!(goes("https://h/v1/", "/v1/models"), "https://h/v1/models");
        assert_eq!(goes("https://h/v1", "/models"), "https://h/v1/models");
        assert_eq!(goes("https://h/v1", "/v1beta/models"), "https://h/v1/v1beta/models");
        assert_eq!(goes("https://h/openai/v1", "/v1?x"), "https://h/openai/v1/v1?x");
    }

    #[test]
    fn addresses_that_are_none_are_named_without_their_password() {
        for (url, part) in [
            ("", "read"),
            ("localhost:8000", "http"),
            ("ftp://h", "http"),
            ("http://", "read"),
            ("http://h/?a=b", "query"),
            ("http://me:hunter2@h", "key"),
            ("http://h/v1?api-key=hunter2", "query"),
        ] {
            let error = Base::parse(url).expect_err(url).to_string();
            assert!(error.contains(part), "{url}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn step_one_asks_where_the_request_goes_unless_told_otherwise() {
        let asked: Uri = "/deployments/x/chat/completions?api-version=1".parse().expect("an address");
        let path =
            |two: &System2Config, asked: Option<&Uri>, model| two.step_one_path(asked, model).to_string();
        let own = System2Config::default();
        assert_eq!(path(&own, Some(&asked), "m"), "/deployments/x/chat/completions?api-version=1");
        assert_eq!(path(&own, None, "m"), CHATS);
        let elsewhere = System2Config { url: "http://small".to_owned(), ..own.clone() };
        assert_eq!(path(&elsewhere, Some(&asked), "m"), CHATS);
        let route = Route {
            path: "/deployments".to_owned(),
            model: "gpt-*".to_owned(),
            mode: Mode::On,
            chat_path: "/deployments/small/chat/completions".to_owned(),
        };
        let told = System2Config { chat_path: "/api/chat".to_owned(), route: vec![route], ..elsewhere };
        assert_eq!(path(&told, Some(&asked), "gpt-5"), "/deployments/small/chat/completions");
        assert_eq!(path(&told, Some(&asked), "m"), "/api/chat");
        assert_eq!(path(&told, None, "gpt-5"), "/api/chat");
    }

    #[test]
    fn settings_are_read_from_toml_and_unknown_ones_refused() {
        let text = "upstream = \"http://h\"\n[system2]\nmode = \"canary\"\ncanary_percent = 12.5\n\
            [[system2.route]]\nmodel = \"gpt-*\"\nmode = \"on\"\n[system2.touch]\nmedia = true\n";
        let config: ProxyConfig = toml::from_str(text).expect("settings");
        assert_eq!((config.system2.mode, config.system2.touch.media), (Mode::Canary, true));
        assert!(config.system2.route[0].fits("/v1/chat/completions", "gpt-5"));
        assert!(!config.system2.route[0].fits("/v1/chat/completions", "llama"));
        config.check().expect("they fit");
        assert!(toml::from_str::<ProxyConfig>("upstrem = \"http://h\"").is_err());
        assert!(toml::from_str::<ProxyConfig>("upstream_key = \"k\"").is_err(), "no key in the file");
        let mut config = ProxyConfig::new("http://h");
        config.system2.canary_percent = f64::NAN;
        assert!(config.check().expect_err("no share").to_string().contains("canary_percent"));
        let mut config = ProxyConfig::new("http://h");
        config.system2.chat_path = "v1/chat".to_owned();
        assert!(config.check().expect_err("no path").to_string().contains("system2.chat_path"));
        let mut config = ProxyConfig::new("http://h");
        config.system2.at_once = usize::MAX;
        assert!(config.check().expect_err("too many").to_string().contains("at_once"));
    }
}
