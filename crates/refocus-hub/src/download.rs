//! One file's bytes into a blob of the cache: resumed, counted, hashed.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::Event;
use crate::cache::{Repo, make_parent};
use crate::error::{HubError, HubResult};
use crate::http::{Bytes, Client, Meta, TRIES, Trouble, cut};
use crate::id::ModelId;

/// After so many new bytes, the earlier failures do not count any more.
const PROGRESS: u64 = 1 << 20;
const BUFFER: usize = 1 << 18;

/// Makes sure that a blob is there.
///
/// Nothing is fetched where it is there already, or where another process brings it meanwhile. What came
/// before an error stays in `ETAG.incomplete`, and the next call goes on from there.
pub(crate) fn blob(
    client: &Client,
    repo: &Repo,
    id: &ModelId,
    commit: &str,
    meta: &Meta,
    watch: &mut dyn FnMut(Event<'_>),
) -> HubResult<()> {
    let path = repo.blob(&meta.etag);
    if path.is_file() {
        watch(Event::Bytes(meta.size.unwrap_or(0)));
        return Ok(());
    }
    make_parent(&path)?;
    let guard = repo.lock(&meta.etag, || watch(Event::Waiting { file: &meta.file }))?;
    if path.is_file() {
        watch(Event::Bytes(meta.size.unwrap_or(0)));
        return Ok(());
    }
    // Without a lock, each process has a file of its own.
    let own = if guard.is_some() { String::new() } else { format!(".{}", std::process::id()) };
    let name = format!("{}/{}", id.repo(), meta.file);
    let mut part = Part::open(path.with_file_name(format!("{}{own}.incomplete", meta.etag)), name, meta)?;
    if part.have > 0 {
        watch(Event::Resumed { file: &meta.file, at: part.have });
        watch(Event::Bytes(part.have));
    }
    let url = client.address(id.repo(), commit, &meta.file);
    let (mut failures, mut counted) = (0, part.have);
    while part.size != Some(part.have) {
        let trouble = match client.open(id, commit, &meta.file, part.have) {
            Ok(bytes) => match part.take(bytes, watch) {
                Ok(()) => break,
                Err(trouble) => trouble,
            },
            Err(trouble) => trouble,
        };
        if part.have > counted + PROGRESS {
            failures = 0;
        }
        counted = part.have;
        client.pause(&url, trouble, &mut failures, TRIES, watch)?;
    }
    part.finish(&path)
}

/// A file on its way.
struct Part {
    path: PathBuf,
    file: File,
    /// `org/name/FILE`, for errors.
    name: String,
    have: u64,
    size: Option<u64>,
    /// The sum of what is there, and the one that is wanted.
    sum: Option<(Sha256, String)>,
}

impl Part {
    /// What an earlier call left, or nothing.
    fn open(path: PathBuf, name: String, meta: &Meta) -> HubResult<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(HubError::write(&path))?;
        let sum = meta.sha256().map(|want| (Sha256::new(), want.to_owned()));
        let mut part = Self { path, file, name, have: 0, size: meta.size, sum };
        let there = part.file.metadata().map_err(HubError::read(&part.path))?.len();
        if part.size.is_some_and(|size| there > size) {
            part.empty()?;
        } else if part.sum.is_some() {
            part.rehash(there)?;
        } else {
            part.have = there;
            part.file.seek(SeekFrom::End(0)).map_err(HubError::read(&part.path))?;
        }
        Ok(part)
    }

    /// Adds what is there to the sum.
    fn rehash(&mut self, there: u64) -> HubResult<()> {
        let mut buffer = vec![0; BUFFER];
        let mut rest = (&self.file).take(there);
        loop {
            let n = rest.read(&mut buffer).map_err(HubError::read(&self.path))?;
            if n == 0 {
                return Ok(());
            }
            if let Some((sum, _)) = &mut self.sum {
                sum.update(&buffer[..n]);
            }
            self.have += n as u64;
        }
    }

    /// Starts over.
    fn empty(&mut self) -> HubResult<()> {
        let write = HubError::write(&self.path);
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(write)?;
        self.have = 0;
        if let Some((sum, _)) = &mut self.sum {
            *sum = Sha256::new();
        }
        Ok(())
    }

    /// Appends an answer's bytes.
    fn take(&mut self, mut bytes: Bytes, watch: &mut dyn FnMut(Event<'_>)) -> Result<(), Trouble> {
        if let (Some(want), Some(got)) = (self.size, bytes.total)
            && want != got
        {
            return Err(self.length(want, got)?.into());
        }
        // The server does not resume, or has nothing there.
        let nothing = bytes.to == Some(bytes.from) && self.size.is_some();
        if self.have > 0 && (bytes.from != self.have || nothing) {
            watch(Event::Lost(self.have));
            self.empty()?;
            if nothing {
                return Err(Trouble::Passing("the hub cannot go on from there".to_owned(), None));
            }
        }
        let mut buffer = vec![0; BUFFER];
        loop {
            let n = match bytes.body.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(cut(e)),
            };
            self.file.write_all(&buffer[..n]).map_err(|e| self.full(e))?;
            if let Some((sum, _)) = &mut self.sum {
                sum.update(&buffer[..n]);
            }
            self.have += n as u64;
            watch(Event::Bytes(n as u64));
            if let Some(size) = self.size.filter(|size| self.have > *size) {
                return Err(self.length(size, self.have)?.into());
            }
        }
        match self.size.or(bytes.to) {
            Some(size) if self.have < size => Err(Trouble::Passing(
                format!("the connection was cut after {} of {size} bytes", self.have),
                None,
            )),
            _ => Ok(()),
        }
    }

    /// A file of another length than announced is another file: nothing of it is kept.
    fn length(&self, want: u64, got: u64) -> HubResult<HubError> {
        remove(&self.path)?;
        Ok(HubError::Length { file: self.name.clone(), want, got })
    }

    fn full(&self, source: std::io::Error) -> HubError {
        if !matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
            return HubError::write(&self.path)(source);
        }
        let wanted = self.size.unwrap_or(0).saturating_sub(self.have);
        HubError::DiskFull { path: self.path.clone(), file: self.name.clone(), wanted, source }
    }

    /// Checks the whole and gives it its name.
    fn finish(self, blob: &Path) -> HubResult<()> {
        self.file.sync_all().map_err(|e| self.full(e))?;
        if let Some((sum, want)) = self.sum {
            let got = hex(&sum.finalize());
            if got != want {
                remove(&self.path)?;
                return Err(HubError::Checksum { file: self.name, want, got });
            }
        }
        drop(self.file);
        fs::rename(&self.path, blob).map_err(HubError::write(blob))
    }
}

fn remove(path: &Path) -> HubResult<()> {
    fs::remove_file(path).map_err(HubError::write(path))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
