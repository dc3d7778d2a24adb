//! Questions to a hub: one request with its redirects, and the same request again where that can help.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{HeaderMap, Response, Uri};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body, Timeout};

use crate::Event;
use crate::error::{HubError, HubResult};
use crate::id::{ModelId, is_commit, is_lower_hex};
use crate::settings::{Settings, Token, TokenUsed};

/// How often a request is made that fails in a way that may pass.
pub(crate) const TRIES: u32 = 5;
/// The longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const MOST_REDIRECTS: u32 = 10;
/// A list of files of this size has some hundred thousand entries.
const LARGEST_LISTING: u64 = 64 << 20;

/// Asks one hub.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    endpoint: String,
    origin: Origin,
    token: Option<Token>,
    etag_timeout: Duration,
    download_timeout: Duration,
    pause: Duration,
}

/// Where a secret may be sent.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

/// Why one request failed.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It may work the next time, after a pause that the server may have named.
    Passing(String, Option<Duration>),
    /// It will not.
    Lasting(HubError),
}

impl From<HubError> for Trouble {
    fn from(e: HubError) -> Self {
        Self::Lasting(e)
    }
}

/// What a repository holds at a revision.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) commit: String,
    pub(crate) files: BTreeSet<String>,
}

/// What is known of a file before it is fetched.
#[derive(Clone, Debug)]
pub(crate) struct Meta {
    /// Path in the repository.
    pub(crate) file: String,
    /// Names the content.
    pub(crate) etag: String,
    /// Bytes, where the hub says it.
    pub(crate) size: Option<u64>,
}

impl Meta {
    /// Files in large file storage are named by their sha256; others by git's sha1, which also hashes a header.
    pub(crate) fn sha256(&self) -> Option<&str> {
        (self.etag.len() == 64 && is_lower_hex(&self.etag)).then_some(self.etag.as_str())
    }
}

/// An open answer with a file's bytes.
pub(crate) struct Bytes {
    /// Where in the file they begin.
    pub(crate) from: u64,
    /// Where in the file they end, where the server says it.
    pub(crate) to: Option<u64>,
    /// The whole file's length, where the server says it.
    pub(crate) total: Option<u64>,
    pub(crate) body: Box<dyn Read>,
}

impl Client {
    pub(crate) fn new(settings: &Settings) -> HubResult<Self> {
        let uri: Uri = settings
            .endpoint
            .parse()
            .map_err(|_| HubError::BadSetting { name: "HF_ENDPOINT", why: "it is no address".to_owned() })?;
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("refocus/", env!("CARGO_PKG_VERSION")))
            .accept("*/*")
            // Lengths and ranges are those of the file itself.
            .accept_encoding("identity")
            .timeout_resolve(Some(settings.etag_timeout))
            .timeout_connect(Some(settings.etag_timeout));
        if !settings.proxy {
            config = config.proxy(None);
        }
        let certificates = certificates();
        if certificates.is_empty() && uri.scheme_str() == Some("https") {
            let why = "this machine has no root certificates".to_owned();
            return Err(HubError::Unreachable { host: settings.endpoint.clone(), why });
        }
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(certificates)))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        Ok(Self {
            agent: config.tls_config(tls).build().into(),
            endpoint: settings.endpoint.clone(),
            origin: Origin::of(&uri),
            token: settings.token.clone(),
            etag_timeout: settings.etag_timeout,
            download_timeout: settings.download_timeout,
            pause: settings.pause,
        })
    }

    fn used(&self) -> TokenUsed {
        self.token.as_ref().map_or(TokenUsed::None, |t| t.used().clone())
    }

    /// Which commit a revision is now, and its files.
    pub(crate) fn listing(
        &self,
        id: &ModelId,
        tries: u32,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> HubResult<Listing> {
        #[derive(Deserialize)]
        struct Answer {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let url =
            format!("{}/api/models/{}/revision/{}", self.endpoint, id.repo(), escape(id.revision(), false));
        let answer: Answer = self.persist(&url, tries, watch, || {
            let (response, uri) = self.send("GET", &url, None, self.etag_timeout)?;
            let response = self.refuse(response, &uri, id)?;
            let not = |why: String| HubError::NotAHub { url: shown(&uri), why };
            let kind = content_type(response.headers());
            if kind.contains("html") {
                return Err(not(format!("{kind} where JSON was expected")).into());
            }
            let mut bytes = Vec::new();
            let mut body = response.into_body().into_reader().take(LARGEST_LISTING + 1);
            body.read_to_end(&mut bytes).map_err(cut)?;
            if bytes.len() as u64 > LARGEST_LISTING {
                return Err(not(format!("more than {LARGEST_LISTING} bytes")).into());
            }
            Ok(serde_json::from_slice(&bytes)
                .map_err(|e| not(format!("not the JSON that was expected: {e}")))?)
        })?;
        if !is_commit(&answer.sha) {
            return Err(HubError::NotAHub { url, why: "the commit that it names is none".to_owned() });
        }
        if id.commit().is_some_and(|c| c != answer.sha) {
            let why = format!("asked for one commit it answers with another, {}", answer.sha);
            return Err(HubError::NotAHub { url, why });
        }
        Ok(Listing { commit: answer.sha, files: answer.siblings.into_iter().map(|s| s.rfilename).collect() })
    }

    /// The address of a file at a commit.
    pub(crate) fn address(&self, repo: &str, commit: &str, file: &str) -> String {
        format!("{}/{repo}/resolve/{commit}/{}", self.endpoint, escape(file, true))
    }

    /// What the hub says about a file. Files in large file storage answer with a redirect that carries it.
    pub(crate) fn meta(
        &self,
        id: &ModelId,
        commit: &str,
        file: &str,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> HubResult<Meta> {
        let url = self.address(id.repo(), commit, file);
        self.persist(&url, TRIES, watch, || {
            let (response, uri) = self.send("HEAD", &url, None, self.etag_timeout)?;
            let linked = response.headers().contains_key(LINKED_ETAG);
            let response = if linked { response } else { self.refuse(response, &uri, id)? };
            let head = response.headers();
            let not = |why: &str| HubError::NotAHub { url: shown(&uri), why: why.to_owned() };
            let Some(etag) = text(head, LINKED_ETAG).or_else(|| text(head, "etag")) else {
                return Err(not("it names no ETag").into());
            };
            if !linked && content_type(head).contains("html") && text(head, "x-repo-commit").is_none() {
                return Err(not("a page of HTML where a file was expected").into());
            }
            let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
            if etag.is_empty() || etag.len() > 128 || etag.starts_with('.') || !etag.bytes().all(plain) {
                let repo = id.repo().to_owned();
                return Err(HubError::BadName { repo, what: "ETag", name: etag }.into());
            }
            let size = if linked { text(head, "x-linked-size") } else { text(head, "content-length") };
            Ok(Meta { file: file.to_owned(), etag, size: size.and_then(|s| s.parse().ok()) })
        })
    }

    /// Opens a file's bytes from a place on. One try: what came before it failed is kept by the caller.
    pub(crate) fn open(&self, id: &ModelId, commit: &str, file: &str, from: u64) -> Result<Bytes, Trouble> {
        let url = self.address(id.repo(), commit, file);
        let (response, uri) = self.send("GET", &url, (from > 0).then_some(from), self.download_timeout)?;
        if response.status() == 416 {
            // Nothing lies there: the caller has as much as the server, or more.
            return Ok(Bytes { from, to: Some(from), total: None, body: Box::new(std::io::empty()) });
        }
        let response = self.refuse(response, &uri, id)?;
        let head = response.headers();
        let length: Option<u64> = text(head, "content-length").and_then(|s| s.parse().ok());
        let (from, total) = if response.status() == 206 {
            // `bytes 100-199/200`
            let range = text(head, "content-range").and_then(|r| r.strip_prefix("bytes "));
            let parts = range.and_then(|r| r.split_once('/'));
            let start = parts.and_then(|(r, _)| r.split('-').next()?.parse::<u64>().ok());
            let Some(start) = start.filter(|s| *s == from) else {
                let why = "it sends another part of the file than was asked for".to_owned();
                return Err(HubError::NotAHub { url: shown(&uri), why }.into());
            };
            (start, parts.and_then(|(_, total)| total.parse().ok()))
        } else {
            (0, length)
        };
        let to = length.and_then(|l| from.checked_add(l));
        Ok(Bytes { from, to, total, body: Box::new(response.into_body().into_reader()) })
    }

    /// One request, through its redirects. The token goes to the hub alone.
    fn send(
        &self,
        method: &str,
        url: &str,
        from: Option<u64>,
        timeout: Duration,
    ) -> Result<(Response<Body>, Uri), Trouble> {
        let mut uri: Uri = url.parse().map_err(|_| redirect(url, "this is no address"))?;
        for _ in 0..=MOST_REDIRECTS {
            let mut request = if method == "HEAD" { self.agent.head(&uri) } else { self.agent.get(&uri) };
            if let Some(token) = self.token.as_ref().filter(|_| Origin::of(&uri) == self.origin) {
                request = request.header("Authorization", token.header());
            }
            if let Some(from) = from {
                request = request.header("Range", format!("bytes={from}-"));
            }
            let request =
                request.config().timeout_recv_response(Some(timeout)).timeout_per_read(Some(timeout)).build();
            let response = request.call().map_err(|e| failed(e, &uri))?;
            let moved = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            let told = method == "HEAD" && response.headers().contains_key(LINKED_ETAG);
            if !moved || told {
                return Ok((response, uri));
            }
            let next = text(response.headers(), "location").and_then(|l| join(&uri, l));
            let Some(next) = next else {
                return Err(redirect(&shown(&uri), "it redirects to no address"));
            };
            if uri.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(redirect(&shown(&uri), "it redirects from https to http, which is not followed"));
            }
            uri = next;
        }
        Err(redirect(&shown_text(url), &format!("it redirects more than {MOST_REDIRECTS} times")))
    }

    /// Makes an error of an answer that is none.
    fn refuse(&self, response: Response<Body>, uri: &Uri, id: &ModelId) -> Result<Response<Body>, Trouble> {
        let status = response.status().as_u16();
        if matches!(status, 200 | 206) {
            return Ok(response);
        }
        let head = response.headers();
        if matches!(status, 408 | 429) || status >= 500 {
            // A date is rare here, and then the usual pause serves.
            let pause =
                text(head, "retry-after").and_then(|s| s.trim().parse().ok()).map(Duration::from_secs);
            let why = format!("the hub answers {status}");
            return Err(match pause {
                Some(p) if p > LONGEST_PAUSE => {
                    let why = format!("{why} and asks to wait {} seconds", p.as_secs());
                    HubError::Failed { url: shown(uri), tries: 1, why }.into()
                }
                _ => Trouble::Passing(why, pause),
            });
        }
        let (host, repo) = (self.endpoint.clone(), id.repo().to_owned());
        let code = text(head, "x-error-code").unwrap_or_default();
        Err(Trouble::Lasting(match (code, status) {
            ("RevisionNotFound", _) => HubError::NoRevision { repo, revision: id.revision().to_owned() },
            ("GatedRepo", _) | (_, 401 | 403) => {
                HubError::Refused { host, repo, status, gated: code == "GatedRepo", token: self.used() }
            }
            ("RepoNotFound", _) => HubError::NotFound { host, repo, token: self.used() },
            ("", 404) if uri.path().contains("/api/models/") => {
                HubError::NotFound { host, repo, token: self.used() }
            }
            _ => {
                let message = text(head, "x-error-message").map(|m| m.chars().take(200).collect());
                HubError::Status { url: shown(uri), status, message }
            }
        }))
    }

    /// Tries until it works, fails for good, or has failed often enough.
    pub(crate) fn persist<T>(
        &self,
        url: &str,
        tries: u32,
        watch: &mut dyn FnMut(Event<'_>),
        mut attempt: impl FnMut() -> Result<T, Trouble>,
    ) -> HubResult<T> {
        let mut failures = 0;
        loop {
            match attempt() {
                Ok(t) => return Ok(t),
                Err(trouble) => self.pause(url, trouble, &mut failures, tries, watch)?,
            }
        }
    }

    /// Waits before the next try, or says that there is none.
    pub(crate) fn pause(
        &self,
        url: &str,
        trouble: Trouble,
        failures: &mut u32,
        tries: u32,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> HubResult<()> {
        let (why, asked) = match trouble {
            Trouble::Passing(why, asked) => (why, asked),
            Trouble::Lasting(e) => return Err(e),
        };
        *failures += 1;
        if *failures >= tries {
            return Err(HubError::Failed { url: shown_text(url), tries: *failures, why });
        }
        let pause = asked.unwrap_or(self.pause * 2u32.saturating_pow(*failures - 1)).min(LONGEST_PAUSE);
        watch(Event::Retry { why: &why, pause });
        std::thread::sleep(pause);
        Ok(())
    }
}

const LINKED_ETAG: &str = "x-linked-etag";

/// This machine's root certificates, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
fn certificates() -> Vec<Certificate<'static>> {
    let found = rustls_native_certs::load_native_certs();
    found.certs.iter().map(|c| Certificate::from_der(c.as_ref()).to_owned()).collect()
}

impl Origin {
    fn of(uri: &Uri) -> Self {
        let scheme = uri.scheme_str().unwrap_or_default().to_ascii_lowercase();
        let usual = if scheme == "https" { 443 } else { 80 };
        let host = uri.host().unwrap_or_default().to_ascii_lowercase();
        Self { port: uri.port_u16().unwrap_or(usual), scheme, host }
    }
}

fn text<'a>(head: &'a HeaderMap, name: &str) -> Option<&'a str> {
    head.get(name).and_then(|v| v.to_str().ok())
}

fn content_type(head: &HeaderMap) -> String {
    text(head, "content-type").unwrap_or_default().to_ascii_lowercase()
}

/// An address without its query (which may be a signature) and without a user.
fn shown(uri: &Uri) -> String {
    let host = uri.authority().map(|a| a.as_str().rsplit('@').next().unwrap_or_default()).unwrap_or_default();
    format!("{}://{host}{}", uri.scheme_str().unwrap_or_default(), uri.path())
}

fn shown_text(url: &str) -> String {
    url.parse().map_or_else(|_| url.to_owned(), |uri: Uri| shown(&uri))
}

fn redirect(url: &str, why: &str) -> Trouble {
    Trouble::Lasting(HubError::Redirect { url: url.to_owned(), why: why.to_owned() })
}

/// Resolves a `Location`.
fn join(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next()?;
    let scheme = base.scheme_str()?;
    let uri: Uri = if location.starts_with("//") {
        format!("{scheme}:{location}").parse().ok()?
    } else if location.starts_with('/') {
        format!("{scheme}://{}{location}", base.authority()?).parse().ok()?
    } else if location.contains("://") {
        location.parse().ok()?
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(head, _)| head);
        format!("{scheme}://{}{folder}/{location}", base.authority()?).parse().ok()?
    };
    (matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()).then_some(uri)
}

/// Percent-encodes what is not plain; slashes only where they do not separate.
fn escape(text: &str, slashes_stay: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) || (b == b'/' && slashes_stay) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

/// A body that broke off.
pub(crate) fn cut(e: std::io::Error) -> Trouble {
    let why = match e.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "no more bytes came in time".to_owned(),
        ErrorKind::UnexpectedEof => "the connection was cut".to_owned(),
        _ => match e.downcast::<ureq::Error>() {
            Ok(ureq::Error::Timeout(_)) => "no more bytes came in time".to_owned(),
            Ok(e) => format!("the connection broke off: {e}"),
            Err(e) => format!("the connection broke off: {e}"),
        },
    };
    Trouble::Passing(why, None)
}

/// A request that got no answer.
fn failed(e: ureq::Error, uri: &Uri) -> Trouble {
    let origin = Origin::of(uri);
    let port = uri.port_u16().map(|p| format!(":{p}")).unwrap_or_default();
    let host = format!("{}://{}{port}", origin.scheme, origin.host);
    let unreachable = |why: String| Trouble::Lasting(HubError::Unreachable { host: host.clone(), why });
    match e {
        ureq::Error::Io(e) => match e.kind() {
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof
            | ErrorKind::Interrupted => cut(e),
            ErrorKind::TimedOut | ErrorKind::WouldBlock => unreachable("no answer came in time".to_owned()),
            _ => unreachable(e.to_string()),
        },
        ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
            unreachable("no connection came about in time".to_owned())
        }
        ureq::Error::Timeout(_) => Trouble::Passing("no answer came in time".to_owned(), None),
        ureq::Error::Protocol(e) => Trouble::Passing(format!("its answer is no HTTP: {e}"), None),
        ureq::Error::HostNotFound => unreachable("there is no such host, or no network".to_owned()),
        e => unreachable(e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved() {
        let base: Uri = "https://h:8080/a/b?x=1".parse().expect("an address");
        let to = |l: &str| join(&base, l).map(|u| u.to_string());
        assert_eq!(to("/c?y").as_deref(), Some("https://h:8080/c?y"));
        assert_eq!(to("c").as_deref(), Some("https://h:8080/a/c"));
        assert_eq!(to("//o/c").as_deref(), Some("https://o/c"));
        assert_eq!(to("http://o/c#f").as_deref(), Some("http://o/c"));
        assert_eq!(to("file:///etc/passwd"), None);
        assert_eq!(to("ftp://o/c"), None);
    }

    #[test]
    fn a_secret_stays_with_its_origin() {
        let of = |u: &str| Origin::of(&u.parse().expect("an address"));
        assert_eq!(of("https://Hub.co/a"), of("https://hub.co:443/b"));
        for other in ["http://hub.co/", "https://cdn.hub.co/", "https://hub.co:8443/"] {
            assert_ne!(of("https://hub.co/"), of(other), "{other}");
        }
    }

    #[test]
    fn addresses_are_shown_without_secrets() {
        let uri: Uri = "https://u:p@h:1/a?signature=s".parse().expect("an address");
        assert_eq!(shown(&uri), "https://h:1/a");
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(escape("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(escape("sub/a b?.gguf", true), "sub/a%20b%3F.gguf");
    }
}
