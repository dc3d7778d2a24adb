//! Files mapped into memory.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::{LoadError, LoadResult};

/// A file mapped read-only for as long as the value lives.
///
/// The file must not be truncated meanwhile: the system ends a process that reads a page which is no
/// longer there. [`Mapped::check_length`] notices a changed length and is called before tensors are
/// handed out; it cannot notice what happens afterwards.
#[derive(Debug)]
pub(crate) struct Mapped {
    path: PathBuf,
    file: File,
    map: Mmap,
}

impl Mapped {
    /// Maps a regular file.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        // SAFETY: the mapping is read-only and only handed out as shared bytes. Another process that
        // writes to or truncates the file while it is mapped would break this; weights files are not
        // changed in place, the documentation of `Checkpoint` says that they must not be, and a changed
        // length is detected before tensors are handed out.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self { path: path.to_owned(), file, map })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// All bytes, as long as the file was when it was opened.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Fails if the file is no longer as long as the mapping.
    pub(crate) fn check_length(&self) -> LoadResult<()> {
        let is = self.file.metadata().map_err(LoadError::io(&self.path))?.len();
        let was = self.map.len() as u64;
        if is == was { Ok(()) } else { Err(LoadError::Changed { path: self.path.clone(), was, is }) }
    }

    /// Tells the system that these bytes are not needed for now. They are read again from the file if
    /// they are. A refusal does no harm and is not reported.
    ///
    /// Reading one byte maps up to 64 KiB around it where the file is cached, so as much is released on
    /// both sides of the range.
    pub(crate) fn release(&self, range: Range<usize>) {
        const AROUND: usize = 1 << 16;
        if range.is_empty() || range.end > self.map.len() {
            return;
        }
        let range = range.start.saturating_sub(AROUND)..(range.end + AROUND).min(self.map.len());
        #[cfg(unix)]
        {
            // SAFETY: the pages belong to a shared read-only mapping of a file, so dropping them loses
            // nothing: the next access reads the same bytes again.
            let _ = unsafe {
                self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
            };
        }
    }
}
