//! Settings of a server: a TOML file, over which variables `REFOCUS_*` and flags go.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::keys::{Keys, KeysError, Secret};
use crate::proxy::ProxyConfig;

/// Environment variable with the address to listen on.
pub const LISTEN: &str = "REFOCUS_LISTEN";
/// Environment variable with API keys, separated by commas.
pub const API_KEYS: &str = "REFOCUS_API_KEYS";
/// Environment variable with the address of the server that requests are passed on to.
pub const UPSTREAM: &str = "REFOCUS_UPSTREAM";
/// Environment variable with the key for that server.
pub const UPSTREAM_KEY: &str = "REFOCUS_UPSTREAM_KEY";
/// Environment variable with the key for the server that rewrites.
pub const SYSTEM2_KEY: &str = "REFOCUS_SYSTEM2_KEY";
/// A longer file is no settings.
const MOST_BYTES: u64 = 1 << 20;

/// Settings of a server. They hold no secrets: those are in files that are named here, or in the environment.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address and port; port 0 takes one that is free.
    pub listen: SocketAddr,
    /// File with API keys, one a line.
    pub api_keys_file: Option<PathBuf>,
    /// Bytes of a request's body at most.
    pub body_limit: usize,
    /// Seconds that a client may take to send the head of a request, and then its body.
    pub read_seconds: u64,
    /// Seconds after which a client that takes nothing of its answer is given up.
    pub write_seconds: u64,
    /// Seconds that answers under way may take to end when the server is stopped.
    pub drain_seconds: u64,
    /// Connections at most; more wait to be accepted.
    pub connections: usize,
    /// Of the model on this machine.
    pub local: LocalConfig,
    /// Of the proxy, where the server is one.
    pub proxy: Option<ProxyConfig>,
}

impl Default for Config {
    /// 127.0.0.1:8080, no keys, 8 MiB, 30 s, 300 s, 30 s, 2,048 connections.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            api_keys_file: None,
            body_limit: 8 << 20,
            read_seconds: 30,
            write_seconds: 300,
            drain_seconds: 30,
            connections: 2048,
            local: LocalConfig::default(),
            proxy: None,
        }
    }
}

/// Settings of a model on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LocalConfig {
    /// Its name for clients, where it is not to follow from its file.
    pub name: Option<String>,
    /// Sequences that are computed together at most; each sample counts.
    pub sequences: usize,
    /// Requests that run or wait at most; a further one gets status 429.
    pub requests: usize,
    /// Bytes of the key/value cache at most.
    pub cache_bytes: usize,
    /// Prompt tokens that one step computes at most.
    pub chunk: usize,
    /// Where a patch rewrites: time after which a client that waits for a stream gets a comment, in milliseconds,
    /// and again after each.
    pub heartbeat_ms: u64,
}

impl Default for LocalConfig {
    /// 64 sequences, 256 requests, 4 GiB, pieces of 256 tokens, a comment every two seconds.
    fn default() -> Self {
        Self {
            name: None,
            sequences: 64,
            requests: 256,
            cache_bytes: 4 << 30,
            chunk: 256,
            heartbeat_ms: 2_000,
        }
    }
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no settings.
    #[error("{}: {why}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// Line, what and what there is instead.
        why: String,
    },
    /// A variable of the environment has no use.
    #[error("{name}={value:?}: {why}")]
    Variable {
        /// Its name.
        name: &'static str,
        /// Its value; never that of a secret.
        value: String,
        /// What is wrong.
        why: String,
    },
    /// A number that leaves nothing to do.
    #[error("{name} is 0, it must be 1 or above")]
    Zero {
        /// Its name in the file.
        name: &'static str,
    },
    /// A number that nothing here can count to.
    #[error("{name} is above {most}")]
    TooMany {
        /// Its name in the file.
        name: &'static str,
        /// The largest that can be used.
        most: usize,
    },
    /// The API keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
}

impl Config {
    /// Reads a file. Paths in it are relative to its folder.
    ///
    /// # Errors
    /// It cannot be read, is no TOML, or has keys or values that there are not.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let broken = |why: String| ConfigError::Broken { path: path.to_owned(), why };
        if std::fs::metadata(path).map_err(unreadable)?.len() > MOST_BYTES {
            return Err(broken("too large for settings".to_owned()));
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let mut config: Self = toml::from_str(&text).map_err(|e| broken(told(&e, &text)))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        config.api_keys_file = config.api_keys_file.map(|file| folder.join(file));
        if let Some(proxy) = &mut config.proxy {
            proxy.paths_mut().for_each(|file| *file = folder.join(&*file));
        }
        config.check()?;
        Ok(config)
    }

    /// What the variables of the environment say instead; `variable` looks one up.
    ///
    /// # Errors
    /// A value that cannot be used.
    pub fn with_environment(
        mut self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        if let Some(value) = variable(LISTEN).filter(|v| !v.is_empty()) {
            self.listen = value.parse().map_err(|_| ConfigError::Variable {
                name: LISTEN,
                why: "an address and a port are needed, such as 127.0.0.1:8080".to_owned(),
                value,
            })?;
        }
        if let Some(value) = variable(UPSTREAM).filter(|v| !v.is_empty()) {
            self.proxy.get_or_insert_default().upstream = value;
        }
        Ok(self)
    }

    /// Gives the proxy, where there is one, its keys for other servers: of files, and of the environment over them.
    ///
    /// # Errors
    /// A file cannot be read, or a key cannot be sent in a header.
    pub fn secrets(&mut self, variable: impl Fn(&str) -> Option<String>) -> Result<(), ConfigError> {
        let secret = |file: Option<&Path>, name: &str| match (variable(name).filter(|v| !v.is_empty()), file)
        {
            (Some(key), _) => Secret::new(name, &key).map(Some),
            (None, Some(path)) => Secret::of_file(path).map(Some),
            (None, None) => Ok(None),
        };
        if let Some(proxy) = &mut self.proxy {
            proxy.upstream_key = secret(proxy.upstream_key_file.as_deref(), UPSTREAM_KEY)?;
            proxy.system2.key = secret(proxy.system2.key_file.as_deref(), SYSTEM2_KEY)?;
        }
        Ok(())
    }

    /// The API keys of the file and of the environment; without any, everyone may ask.
    ///
    /// # Errors
    /// The file cannot be read, or a key cannot be sent in a header.
    pub fn keys(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Keys, ConfigError> {
        let mut keys = Keys::default();
        if let Some(path) = &self.api_keys_file {
            keys.add_file(path)?;
        }
        if let Some(list) = variable(API_KEYS) {
            keys.add_list(API_KEYS, &list)?;
        }
        Ok(keys)
    }

    /// As [`read_seconds`](Self::read_seconds).
    pub fn read_limit(&self) -> Duration {
        // hyper adds it to an Instant, which panics where that overflows.
        Duration::from_secs(self.read_seconds.min(u64::from(u32::MAX)))
    }

    fn check(&self) -> Result<(), ConfigError> {
        let numbers = [
            ("body_limit", self.body_limit),
            ("read_seconds", self.read_seconds as usize),
            ("write_seconds", self.write_seconds as usize),
            ("connections", self.connections),
            ("local.sequences", self.local.sequences),
            ("local.requests", self.local.requests),
            ("local.cache_bytes", self.local.cache_bytes),
            ("local.chunk", self.local.chunk),
            ("local.heartbeat_ms", self.local.heartbeat_ms as usize),
        ];
        if let Some((name, _)) = numbers.into_iter().find(|(_, n)| *n == 0) {
            return Err(ConfigError::Zero { name });
        }
        // A semaphore with more places panics when it is made.
        let most = Semaphore::MAX_PERMITS;
        let at_once = self.proxy.as_ref().map_or(0, |proxy| proxy.system2.at_once);
        match [("connections", self.connections), ("proxy.system2.at_once", at_once)]
            .iter()
            .find(|(_, n)| *n > most)
        {
            Some((name, _)) => Err(ConfigError::TooMany { name, most }),
            None => Ok(()),
        }
    }
}

/// What is wrong with a settings file and on which line. The line itself is not shown: whoever put a key into it
/// would find the key in a log.
fn told(error: &toml::de::Error, text: &str) -> String {
    let line =
        error.span().and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
    let what = without_value(error.message().trim());
    match line {
        Some(line) => format!("line {line}: {what}"),
        None => what,
    }
}

/// A message without the value that it blames: a text in the wrong place may be a key. Names of keys stay.
fn without_value(message: &str) -> String {
    for (begin, end, shown) in [
        ("invalid type: string \"", "\", expected ", "invalid type: a string, expected "),
        ("invalid value: string \"", "\", expected ", "invalid value: a string, expected "),
        ("unknown variant `", "`, expected ", "unknown value, expected "),
    ] {
        if let Some(rest) = message.strip_prefix(begin) {
            // The value may hold the same words; what the reader wants is behind the last of them.
            let expected = rest.rfind(end).map_or("something else", |at| &rest[at + end.len()..]);
            return format!("{shown}{expected}");
        }
    }
    message.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(name: &str, text: &str) -> Result<Config, ConfigError> {
        let path = std::env::temp_dir().join(format!("refocus-serve-{name}-{}.toml", std::process::id()));
        std::fs::write(&path, text).expect("write");
        let config = Config::load(&path);
        std::fs::remove_file(path).expect("remove");
        config
    }

    #[test]
    fn a_file_is_laid_over_what_is_usual() {
        let config = loaded("some", "body_limit = 9\napi_keys_file = \"k\"\n[local]\nsequences = 3\n");
        let config = config.expect("loads");
        let usual = Config::default();
        assert_eq!((config.body_limit, config.local.sequences), (9, 3));
        assert_eq!((config.listen, config.local.chunk), (usual.listen, usual.local.chunk));
        assert_eq!(config.api_keys_file, Some(std::env::temp_dir().join("k")));
    }

    #[test]
    fn what_it_does_not_know_is_named() {
        let error = loaded("slip", "[local]\nsequence = 3\n").expect_err("refused").to_string();
        assert!(error.contains("unknown field `sequence`") && error.contains("`sequences`"), "{error}");
        assert!(error.contains("line 2"), "{error}");
        let error = loaded("zero", "[local]\nchunk = 0\n").expect_err("refused").to_string();
        assert_eq!(error, "local.chunk is 0, it must be 1 or above");
        // A key in the file would be read by whoever reads the file.
        let error = loaded("secret", "api_keys = [\"sk-1\"]\n").expect_err("refused").to_string();
        assert!(error.contains("`api_keys_file`") && error.contains("line 1"), "{error}");
        assert!(!error.contains("sk-1"), "{error}");
        for text in [
            "[proxy]\nupstream_key = \"sk-1\"\n",
            "[proxy]\nsystem2 = \"sk-1\"\n",
            "[proxy.system2]\nmode = \"sk-1\"\n",
            "body_limit = \"sk-1\"\n",
            "listen = \"sk-1\"\n",
            "api_keys_file = [\"sk-1\"]\n",
            "body_limit = \"sk-1\", expected \"\n",
            "api_keys_file = sk-1\n",
            "api_keys_file = \"sk-1\n",
        ] {
            let error = loaded("secrets", text).expect_err(text).to_string();
            assert!(!error.contains("sk-1") && error.contains(": line "), "{text}: {error}");
        }
    }

    #[test]
    fn numbers_beyond_what_can_be_counted_are_refused() {
        let most = Semaphore::MAX_PERMITS;
        for (name, text) in [
            ("connections", format!("connections = {}\n", most + 1)),
            ("proxy.system2.at_once", format!("[proxy.system2]\nat_once = {}\n", most + 1)),
        ] {
            let error = loaded("much", &text).expect_err(name).to_string();
            assert_eq!(error, format!("{name} is above {most}"));
        }
        loaded("most", &format!("connections = {most}\n")).expect("loads");
    }

    #[test]
    fn the_environment_goes_over_the_file() {
        let set = |name: &str| (name == LISTEN).then(|| "[::1]:0".to_owned());
        let config = Config::default().with_environment(set).expect("an address");
        assert_eq!(config.listen.to_string(), "[::1]:0");
        let wrong = Config::default().with_environment(|_| Some("here".to_owned()));
        assert!(wrong.expect_err("refused").to_string().starts_with("REFOCUS_LISTEN=\"here\": an address"));
    }
}
