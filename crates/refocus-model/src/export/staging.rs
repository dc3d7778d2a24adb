//! A folder that is complete or not there.
//!
//! Files are written into a hidden folder beside the final place and flushed to the disk; only a rename
//! makes them the folder that was asked for. The hidden folder is held by a lock: what a killed process left
//! is cleared away by the next one, and two processes cannot write the same folder.

use std::fs::{self, File, TryLockError};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use super::error::{ExportError, ExportResult};

const LOCK: &str = ".lock";

/// Takes the files of a folder, one after another.
pub(super) trait Sink {
    /// One file. `fill` writes its bytes; the inner error is that of the writer it was given.
    fn file(&mut self, name: &str, fill: &mut Fill<'_>) -> ExportResult<()>;
}

/// Writes the bytes of a file.
pub(super) type Fill<'a> = dyn FnMut(&mut dyn Write) -> ExportResult<io::Result<()>> + 'a;

/// The hidden folder.
#[derive(Debug)]
pub(super) struct Staging {
    target: PathBuf,
    temporary: PathBuf,
    /// Released when the process ends, however it ends.
    lock: Option<File>,
}

impl Staging {
    pub(super) fn create(target: &Path) -> ExportResult<Self> {
        let temporary = beside(target, "partial")?;
        match fs::create_dir(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(ExportError::io(target)(e)),
            _ => {}
        }
        let path = temporary.join(LOCK);
        let lock = File::create(&path).map_err(ExportError::io(target))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ExportError::Busy { path: target.to_owned() }),
            Err(TryLockError::Error(e)) => return Err(ExportError::io(target)(e)),
        }
        let staging = Self { target: target.to_owned(), temporary, lock: Some(lock) };
        staging.clear().map_err(ExportError::io(&staging.temporary))?;
        Ok(staging)
    }

    pub(super) fn path(&self) -> &Path {
        &self.temporary
    }

    /// Removes what an earlier process left.
    fn clear(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.temporary)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(entry.path())?,
                false if entry.file_name() == LOCK => {}
                false => fs::remove_file(entry.path())?,
            }
        }
        Ok(())
    }

    /// Gives the folder its name. With `replace`, a folder of that name goes first.
    pub(super) fn finish(mut self, replace: bool) -> ExportResult<()> {
        let target = self.target.clone();
        self.publish(replace).map_err(ExportError::io(&target))
    }

    fn publish(&mut self, replace: bool) -> io::Result<()> {
        fs::remove_file(self.temporary.join(LOCK))?;
        sync_folder(&self.temporary)?;
        let mut old = None;
        if replace && self.target.is_dir() {
            let aside = self.temporary.with_extension("old");
            if aside.exists() {
                fs::remove_dir_all(&aside)?;
            }
            fs::rename(&self.target, &aside)?;
            old = Some(aside);
        } else if self.target.is_dir() {
            // An empty one; this fails where it no longer is.
            fs::remove_dir(&self.target)?;
        }
        if let Err(e) = fs::rename(&self.temporary, &self.target) {
            if let Some(aside) = old {
                let _ = fs::rename(aside, &self.target);
            }
            return Err(e);
        }
        self.lock = None;
        if let Some(folder) = self.target.parent() {
            sync_folder(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })?;
        }
        old.map_or(Ok(()), fs::remove_dir_all)
    }
}

impl Sink for Staging {
    fn file(&mut self, name: &str, fill: &mut Fill<'_>) -> ExportResult<()> {
        let path = self.temporary.join(name);
        // Errors name the place that was asked for.
        let named = self.target.join(name);
        let io = |e| ExportError::io(&named)(e);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(io)?;
        }
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&path).map_err(io)?);
        fill(&mut file)?.map_err(io)?;
        file.flush().and_then(|()| file.get_ref().sync_all()).map_err(io)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.lock.take().is_some() {
            let _ = fs::remove_dir_all(&self.temporary);
        }
    }
}

/// `.NAME.SUFFIX` beside a folder.
fn beside(target: &Path, suffix: &str) -> ExportResult<PathBuf> {
    let Some(name) = target.file_name() else {
        return Err(ExportError::place(target, "this is not the name of a folder"));
    };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".");
    hidden.push(suffix);
    Ok(target.with_file_name(hidden))
}

/// Makes the names in a folder last. Systems that cannot flush a folder need not be asked.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

/// Compares what would be written with the files of a folder that is there.
#[derive(Debug)]
pub(super) struct Comparison {
    folder: PathBuf,
    seen: Vec<PathBuf>,
    /// The first thing that differs.
    pub(super) differs: Option<String>,
}

impl Comparison {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), seen: Vec::new(), differs: None }
    }

    /// Looks for files that would not have been written. Hidden ones do not count.
    pub(super) fn finish(&mut self) -> ExportResult<()> {
        let mut folders = vec![self.folder.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).map_err(ExportError::io(&folder))? {
                let entry = entry.map_err(ExportError::io(&folder))?;
                let path = entry.path();
                if entry.file_name().to_string_lossy().starts_with('.') || self.seen.contains(&path) {
                    continue;
                }
                // One level of folders is all that is ever written.
                if path.is_dir() && folder == self.folder {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(&self.folder).unwrap_or(&path).display().to_string();
                    self.differs.get_or_insert(format!("it also has {name}"));
                }
            }
        }
        Ok(())
    }
}

impl Sink for Comparison {
    fn file(&mut self, name: &str, fill: &mut Fill<'_>) -> ExportResult<()> {
        if self.differs.is_some() {
            return Ok(());
        }
        let path = self.folder.join(name);
        self.seen.push(path.clone());
        let Ok(file) = File::open(&path) else {
            self.differs = Some(format!("it has no {name}"));
            return Ok(());
        };
        let mut same = Same { file: BufReader::with_capacity(1 << 20, file), buffer: Vec::new() };
        let equal = fill(&mut same)?.is_ok() && matches!(same.file.read(&mut [0]), Ok(0));
        if !equal {
            self.differs = Some(format!("{name} is another"));
        }
        Ok(())
    }
}

/// Takes bytes as long as they are those of a file.
struct Same {
    file: BufReader<File>,
    buffer: Vec<u8>,
}

impl Write for Same {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.resize(bytes.len(), 0);
        self.file.read_exact(&mut self.buffer)?;
        if self.buffer == bytes { Ok(bytes.len()) } else { Err(io::Error::other("it differs")) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
