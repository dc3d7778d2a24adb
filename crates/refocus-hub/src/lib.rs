//! Models on a hub: from `org/name[@revision]` to files in the standard cache.
//!
//! [`Hub::fetch`] is the whole of it. The cache is the one that `huggingface_hub` and `transformers` use, in
//! both directions. What makes a model is known here by the names of files alone.

mod cache;
mod download;
mod error;
mod files;
mod http;
mod id;
mod settings;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cache::Repo;
use crate::files::{Choice, Held};
use crate::http::{Client, Listing, Meta, TRIES};

pub use error::{HubError, HubResult};
pub use id::ModelId;
pub use settings::{Settings, Token, TokenUsed};

/// What happens while a model is looked for.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The hub gave no answer; what was fetched earlier is used.
    Stale {
        /// As asked for.
        id: &'a ModelId,
        /// The commit that is used.
        commit: &'a str,
        /// Why the hub gave no answer.
        why: &'a HubError,
    },
    /// The hub may not be asked; what was fetched earlier is used.
    Offline {
        /// As asked for.
        id: &'a ModelId,
        /// The commit that is used.
        commit: &'a str,
        /// The variable that says so.
        variable: &'static str,
    },
    /// The fetch failed, but an earlier commit is whole.
    Earlier {
        /// As asked for.
        id: &'a ModelId,
        /// The earlier commit.
        commit: &'a str,
    },
    /// So many files are about to be fetched. Comes again where an index names more.
    Plan {
        /// As asked for.
        id: &'a ModelId,
        /// What its revision is now.
        commit: &'a str,
        /// Files.
        files: usize,
        /// Bytes of them, those that are there included.
        bytes: u64,
    },
    /// A file begins.
    File(&'a str),
    /// More bytes of the plan are there.
    Bytes(u64),
    /// Bytes that were counted have to come again.
    Lost(u64),
    /// A file was begun by an earlier call.
    Resumed {
        /// Its path.
        file: &'a str,
        /// Bytes that are there.
        at: u64,
    },
    /// Another process fetches this file; it is waited for.
    Waiting {
        /// Its path.
        file: &'a str,
    },
    /// Something failed that may pass.
    Retry {
        /// What.
        why: &'a str,
        /// How long until the next try.
        pause: Duration,
    },
    /// Everything is there.
    Done,
}

/// A model whose files are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// A folder in Hugging Face layout, or a `.gguf` file.
    pub path: PathBuf,
    /// The commit that it is.
    pub commit: String,
}

/// A hub and the cache of what it gave.
#[derive(Clone, Debug)]
pub struct Hub {
    settings: Settings,
}

impl Hub {
    /// A hub and its cache. Nothing is asked or read yet.
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// The cache's folder.
    pub fn cache(&self) -> &Path {
        &self.settings.cache
    }

    /// Finds a model's files, in the cache or on the hub.
    ///
    /// - A full commit hash whose files are all there is used without asking anyone.
    /// - A branch or tag is asked for; only what is not there is fetched.
    /// - Where the hub gives no answer, or must not be asked, the commit that the revision was last time is
    ///   used, and `watch` is told.
    ///
    /// # Errors
    /// There is no such model, or it cannot be had or written. Files that have come are kept, and the next
    /// call goes on with the rest.
    pub fn fetch(&self, id: &ModelId, watch: &mut dyn FnMut(Event<'_>)) -> HubResult<Fetched> {
        let repo = Repo::new(&self.settings.cache, id.repo(), self.settings.links);
        let known = match id.commit() {
            Some(commit) => Some(commit.to_owned()),
            None => repo.read_ref(id.revision())?,
        };
        let held = known.as_deref().map(|commit| files::held(&repo, id, commit)).transpose()?;
        let held = known.zip(held);
        if let Some(variable) = self.settings.offline {
            return self.without_hub(&repo, id, held, variable, watch);
        }
        if let (Some(_), Some((commit, Held::Whole(path)))) = (id.commit(), &held) {
            return Ok(Fetched { path: path.clone(), commit: commit.clone() });
        }
        let earlier = match held {
            Some((commit, Held::Whole(path) | Held::Usable(path))) => Some(Fetched { path, commit }),
            _ => None,
        };
        let client = Client::new(&self.settings)?;
        let tries = if earlier.is_some() { 1 } else { TRIES };
        let listing = match (client.listing(id, tries, watch), &earlier) {
            (Ok(listing), _) => listing,
            (Err(why), Some(earlier)) if why.is_no_answer() => {
                watch(Event::Stale { id, commit: &earlier.commit, why: &why });
                return Ok(earlier.clone());
            }
            (Err(e), _) => return Err(report_earlier(e, id, earlier.as_ref(), watch)),
        };
        let mut job = Job { client: &client, repo: &repo, id, commit: &listing.commit };
        let path = match job.run(&listing, watch) {
            Ok(path) => path,
            Err(e) => {
                let other = earlier.as_ref().filter(|e| e.commit != listing.commit);
                return Err(report_earlier(e, id, other, watch));
            }
        };
        if id.commit().is_none() {
            repo.write_ref(id.revision(), &listing.commit)?;
        }
        Ok(Fetched { path, commit: listing.commit })
    }

    /// What the cache alone gives.
    fn without_hub(
        &self,
        repo: &Repo,
        id: &ModelId,
        held: Option<(String, Held)>,
        variable: &'static str,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> HubResult<Fetched> {
        match held {
            Some((commit, Held::Whole(path) | Held::Usable(path))) => {
                watch(Event::Offline { id, commit: &commit, variable });
                Ok(Fetched { path, commit })
            }
            Some((_, Held::Several(files))) => Err(HubError::Choose { id: files::without_file(id), files }),
            Some((commit, Held::Part(missing))) if repo.snapshot(&commit).is_dir() => {
                Err(HubError::OfflineIncomplete {
                    id: id.to_string(),
                    snapshot: repo.snapshot(&commit),
                    missing,
                    variable,
                })
            }
            _ => Err(HubError::Offline { id: id.to_string(), cache: self.settings.cache.clone(), variable }),
        }
    }
}

fn report_earlier(
    e: HubError,
    id: &ModelId,
    earlier: Option<&Fetched>,
    watch: &mut dyn FnMut(Event<'_>),
) -> HubError {
    if let Some(earlier) = earlier.filter(|_| id.commit().is_none()) {
        watch(Event::Earlier { id, commit: &earlier.commit });
    }
    e
}

/// Files of one commit.
struct Job<'a> {
    client: &'a Client,
    repo: &'a Repo,
    id: &'a ModelId,
    commit: &'a str,
}

impl Job<'_> {
    /// Fetches what is missing. The weights come last: where they are whole, so is the rest.
    fn run(&mut self, listing: &Listing, watch: &mut dyn FnMut(Event<'_>)) -> HubResult<PathBuf> {
        let (small, absent, weights) = match files::choose(self.id, &listing.files)? {
            Choice::Gguf(file) => {
                id::check_path(&file).map_err(|_| HubError::BadName {
                    repo: self.id.repo().to_owned(),
                    what: "path",
                    name: file.clone(),
                })?;
                self.get(&[&file], watch)?;
                watch(Event::Done);
                return Ok(self.repo.snapshot(self.commit).join(file));
            }
            Choice::Folder { small, absent, weights } => (small, absent, weights),
        };
        for file in absent {
            self.repo.mark_absent(self.commit, file)?;
        }
        self.get(&[&small[..], &[weights]].concat(), watch)?;
        let folder = self.repo.snapshot(self.commit);
        if files::is_index(weights) {
            let index = folder.join(weights);
            let shards = files::shards(&index)?;
            if let Some(shard) = shards.iter().find(|s| !listing.files.contains(*s)) {
                let why = format!("it names the shard {shard}, which the repository does not hold");
                return Err(HubError::Index { path: index, why });
            }
            self.get(&shards.iter().map(String::as_str).collect::<Vec<_>>(), watch)?;
        }
        watch(Event::Done);
        Ok(folder)
    }

    /// Fetches those of some files that the snapshot does not have.
    fn get(&self, files: &[&str], watch: &mut dyn FnMut(Event<'_>)) -> HubResult<()> {
        let mut wanted: Vec<Meta> = Vec::new();
        for file in files {
            if self.repo.find(self.commit, file)?.is_none() {
                wanted.push(self.client.meta(self.id, self.commit, file, watch)?);
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let bytes = wanted.iter().filter_map(|m| m.size).fold(0u64, u64::saturating_add);
        watch(Event::Plan { id: self.id, commit: self.commit, files: wanted.len(), bytes });
        for meta in &wanted {
            watch(Event::File(&meta.file));
            download::blob(self.client, self.repo, self.id, self.commit, meta, watch)?;
            self.repo.link(&meta.etag, self.commit, &meta.file)?;
        }
        Ok(())
    }
}
