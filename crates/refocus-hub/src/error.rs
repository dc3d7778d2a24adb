//! What can go wrong between a model's name and its files.

use std::path::{Path, PathBuf};

use crate::settings::TokenUsed;

/// A result of asking or reading a hub.
pub type HubResult<T> = Result<T, HubError>;

/// Errors name the model and the file or address; [`HubError::hint`] says what to do. None holds a token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A text that names no model.
    #[error("'{id}' is no hub id: {why}")]
    BadId {
        /// As given.
        id: String,
        /// What is wrong.
        why: String,
    },
    /// An environment variable whose value cannot be used; the value is left out where it may be secret.
    #[error("{name}: {why}")]
    BadSetting {
        /// Name of the variable.
        name: &'static str,
        /// What is wrong.
        why: String,
    },
    /// No connection: no network, no such host, refused, or no trust.
    #[error("cannot reach {host}: {why}")]
    Unreachable {
        /// Scheme, host and port.
        host: String,
        /// Cause.
        why: String,
    },
    /// The server or the connection failed again and again.
    #[error("{url}: {why}{}", times(*tries))]
    Failed {
        /// Address without its query.
        url: String,
        /// How often it was tried.
        tries: u32,
        /// What the last try gave.
        why: String,
    },
    /// The hub does not know the model.
    #[error("{host} has no model {repo}")]
    NotFound {
        /// The hub.
        host: String,
        /// `org/name`.
        repo: String,
        /// Token that was sent.
        token: TokenUsed,
    },
    /// The hub knows the model, but not the revision.
    #[error("{repo} has no branch, tag or commit '{revision}'")]
    NoRevision {
        /// `org/name`.
        repo: String,
        /// As asked.
        revision: String,
    },
    /// The hub answers 401 or 403.
    #[error(
        "{host} does not give {repo} ({status}): {}; asked with {token}",
        if *gated { "it is gated" } else { "it does not exist, or it is private or gated" }
    )]
    Refused {
        /// The hub.
        host: String,
        /// `org/name`.
        repo: String,
        /// 401 or 403.
        status: u16,
        /// Whether the hub says that the model is gated.
        gated: bool,
        /// Token that was sent.
        token: TokenUsed,
    },
    /// Another answer that means no.
    #[error("{url}: the hub answers {status}{}", said(message))]
    Status {
        /// Address without its query.
        url: String,
        /// HTTP status.
        status: u16,
        /// The hub's own words.
        message: Option<String>,
    },
    /// An answer that no hub gives.
    #[error("{url}: this is no answer of a hub: {why}")]
    NotAHub {
        /// Address without its query.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// A redirect that is not followed.
    #[error("{url}: {why}")]
    Redirect {
        /// First address, without its query.
        url: String,
        /// Why not.
        why: String,
    },
    /// A repository without a model that can be used.
    #[error("{repo} holds no model that can be used: {why}{}", among(files))]
    NoModel {
        /// `org/name`.
        repo: String,
        /// What is missing.
        why: &'static str,
        /// Some of what it holds.
        files: Vec<String>,
    },
    /// Several GGUF files, and none was chosen.
    #[error("{id} holds several .gguf files: {}", files.join(", "))]
    Choose {
        /// As given.
        id: String,
        /// Their paths.
        files: Vec<String>,
    },
    /// A GGUF file that is not there.
    #[error("{repo} holds no .gguf file '{wanted}'{}", among(files))]
    NoGguf {
        /// `org/name`.
        repo: String,
        /// As asked.
        wanted: String,
        /// The ones that it holds.
        files: Vec<String>,
    },
    /// A model in several GGUF files.
    #[error("{repo}: {file} is one part of a model in several .gguf files, which cannot be read")]
    SplitGguf {
        /// `org/name`.
        repo: String,
        /// Path of the file.
        file: String,
    },
    /// An index that is no index, or names what it should not.
    #[error("{}: {why}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A name from the hub that cannot become a file of the cache.
    #[error("{repo}: the {what} '{name}' cannot be the name of a file in the cache")]
    BadName {
        /// `org/name`.
        repo: String,
        /// ETag or path.
        what: &'static str,
        /// As sent.
        name: String,
    },
    /// A file of the cache that lies elsewhere.
    #[error("{}: leads out of the cache, to {}", path.display(), target.display())]
    Leaves {
        /// In the snapshot.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// A file of `refs` that holds no commit.
    #[error("{}: holds no commit", path.display())]
    BadRef {
        /// File.
        path: PathBuf,
    },
    /// A file longer or shorter than announced.
    #[error("{file}: {got} bytes came where {want} were announced")]
    Length {
        /// `org/name/FILE`.
        file: String,
        /// Announced.
        want: u64,
        /// As it came.
        got: u64,
    },
    /// A file whose content is not the one that the hub names.
    #[error("{file}: its sha256 is {got} where {want} was announced; what had come was removed")]
    Checksum {
        /// `org/name/FILE`.
        file: String,
        /// Announced.
        want: String,
        /// As it came.
        got: String,
    },
    /// The disk is full; what came is kept.
    #[error("{}: no space left for {wanted} more bytes of {file}", path.display())]
    DiskFull {
        /// The incomplete file.
        path: PathBuf,
        /// `org/name/FILE`.
        file: String,
        /// Bytes that are still to come.
        wanted: u64,
        /// Cause.
        source: std::io::Error,
    },
    /// A file or folder of the cache cannot be read or written.
    #[error("{}: cannot be {doing}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// `read` or `written`.
        doing: &'static str,
        /// Cause.
        source: std::io::Error,
    },
    /// Nothing in the cache, and the hub must not be asked.
    #[error("{id} is not in the cache {}, and {variable} forbids asking the hub", cache.display())]
    Offline {
        /// As given.
        id: String,
        /// The cache.
        cache: PathBuf,
        /// The variable that says so.
        variable: &'static str,
    },
    /// A part in the cache, and the hub must not be asked.
    #[error("{id} is not whole in the cache: {} of {} missing, and {variable} forbids asking the hub", missing.join(", "), snapshot.display())]
    OfflineIncomplete {
        /// As given.
        id: String,
        /// Its folder.
        snapshot: PathBuf,
        /// What is not there.
        missing: Vec<String>,
        /// The variable that says so.
        variable: &'static str,
    },
}

impl HubError {
    pub(crate) fn read(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), doing: "read", source }
    }

    pub(crate) fn write(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), doing: "written", source }
    }

    /// Whether the hub gave no answer at all (as opposed to one that means no): then an older copy may be
    /// used.
    pub fn is_no_answer(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Failed { .. } | Self::NotAHub { .. })
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::BadId { .. } => "a hub id is org/name, org/name@revision or org/name:FILE.gguf".to_owned(),
            Self::BadSetting { .. } => return None,
            Self::Unreachable { .. } => {
                "check the network, HTTPS_PROXY and HF_ENDPOINT; for a certificate of your own set SSL_CERT_FILE"
                    .to_owned()
            }
            Self::Failed { .. } => "run the command again later: what has come is kept".to_owned(),
            Self::NotFound { token: TokenUsed::None, .. } => {
                "check the spelling; a private model needs HF_TOKEN".to_owned()
            }
            Self::NotFound { .. } => "check the spelling, and that the token may see this model".to_owned(),
            Self::NoRevision { .. } => "check the part after '@'; without it, main is meant".to_owned(),
            Self::Refused { token: TokenUsed::None, host, repo, .. } => format!(
                "check the spelling; ask for access at {host}/{repo} where it is gated, then set HF_TOKEN to a token \
                 that may read it"
            ),
            Self::Refused { host, repo, .. } => format!(
                "ask for access at {host}/{repo} where it is gated, and check that the token is valid and may read it \
                 (HF_TOKEN)"
            ),
            Self::NotAHub { .. } => {
                "check HF_ENDPOINT, and whether a proxy or a login page of the network answers instead".to_owned()
            }
            Self::Choose { id, files } => {
                let file = files.first().map_or("FILE.gguf", String::as_str);
                format!("choose one, such as {id}:{file}")
            }
            Self::NoGguf { files, .. } if files.is_empty() => {
                "leave out the part after ':' to take the other weights of the repository".to_owned()
            }
            Self::NoModel { .. } => "adapters, data sets and other formats cannot be used; the weights they belong to can"
                .to_owned(),
            Self::SplitGguf { .. } => "choose a file that is whole, or another repository".to_owned(),
            Self::Length { .. } | Self::Checksum { .. } => {
                "run the command again to fetch it anew; if it happens again, a proxy or mirror changes files".to_owned()
            }
            Self::DiskFull { path, .. } => format!(
                "make room, or set HF_HOME to a folder with room, and run the command again: it goes on from {}",
                path.display()
            ),
            Self::Leaves { path, .. } | Self::BadRef { path } => format!("remove {} to fetch it anew", path.display()),
            Self::Offline { variable, .. } | Self::OfflineIncomplete { variable, .. } => {
                format!("check the spelling, or fetch it once with {variable}=0")
            }
            _ => return None,
        })
    }
}

fn times(tries: u32) -> String {
    if tries == 1 { String::new() } else { format!(" ({tries} tries)") }
}

fn said(message: &Option<String>) -> String {
    message.as_ref().map(|m| format!(": {m}")).unwrap_or_default()
}

fn among(files: &[String]) -> String {
    const MOST: usize = 8;
    if files.is_empty() {
        return String::new();
    }
    let mut text = files.iter().take(MOST).cloned().collect::<Vec<_>>().join(", ");
    if files.len() > MOST {
        text.push_str(&format!(" and {} more", files.len() - MOST));
    }
    format!(" (it holds {text})")
}
