//! Files that are complete or not there.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// A file being written beside its final place. It takes that place once it is complete; until then nothing
/// there is touched, and dropping it leaves nothing behind.
#[derive(Debug)]
pub struct Pending {
    target: PathBuf,
    /// Taken by `finish`.
    temporary: Option<PathBuf>,
    file: BufWriter<File>,
}

impl Pending {
    /// Creates the file, so that a place that cannot be written to is found before the work is done. A link
    /// keeps pointing where it points: what it points to is replaced.
    ///
    /// # Errors
    /// The place is no regular file, or cannot be written to.
    pub fn create(path: &Path) -> io::Result<Self> {
        // Two processes may write to one place: the last to finish wins, and neither spoils the other's file.
        Self::beside(path, &format!(".{}.tmp", std::process::id()))
    }

    fn beside(path: &Path, ending: &str) -> io::Result<Self> {
        let target = if path.exists() { path.canonicalize()? } else { path.to_owned() };
        if target.exists() && !target.is_file() {
            // Renaming would replace a device such as /dev/null.
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let Some(name) = target.file_name() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the name of a file"));
        };
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(ending);
        let temporary = target.with_file_name(hidden);
        // What a killed process of the same number left is in nobody's way.
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?;
        Ok(Self { target, temporary: Some(temporary), file: BufWriter::with_capacity(1 << 20, file) })
    }

    /// Brings everything to the disk and moves the file to its place.
    ///
    /// # Errors
    /// What the file system reports; the old file is still there then.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        if let Some(temporary) = &self.temporary {
            std::fs::rename(temporary, &self.target)?;
            self.temporary = None;
        }
        // The new name itself must survive a power cut too; not every system lets folders be synced.
        if let Some(folder) = self.target.parent().and_then(|p| File::open(p).ok()) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

impl Write for Pending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = std::fs::remove_file(temporary);
        }
    }
}

/// Writes a file whole or not at all, in a folder that has one writer: however often that is killed, it leaves
/// one unfinished file at most.
///
/// # Errors
/// As [`Pending`].
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut out = Pending::beside(path, ".tmp")?;
    out.write_all(bytes)?;
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::tests::Tmp;

    #[test]
    fn an_unfinished_file_leaves_nothing_behind() {
        let dir = Tmp::new("unfinished");
        let path = dir.0.join("a.txt");
        write_whole(&path, b"old").expect("write");
        let mut pending = Pending::create(&path).expect("create");
        pending.write_all(b"half").expect("write");
        drop(pending);
        assert_eq!(std::fs::read(&path).expect("read"), b"old");
        assert_eq!(std::fs::read_dir(&dir.0).expect("list").count(), 1);
    }

    #[test]
    fn what_a_killed_process_left_is_in_nobodys_way() {
        let dir = Tmp::new("left");
        let path = dir.0.join("a.txt");
        for left in [".a.txt.tmp".to_owned(), format!(".a.txt.{}.tmp", std::process::id())] {
            std::fs::write(dir.0.join(left), "half of something longer").expect("write");
        }
        write_whole(&path, b"one").expect("write");
        assert_eq!(std::fs::read(&path).expect("read"), b"one");
        let mut pending = Pending::create(&path).expect("create");
        pending.write_all(b"two").expect("write");
        pending.finish().expect("finish");
        assert_eq!(std::fs::read(&path).expect("read"), b"two");
        assert_eq!(std::fs::read_dir(&dir.0).expect("list").count(), 1);
    }

    #[test]
    fn devices_and_folders_are_not_replaced() {
        assert!(Pending::create(&std::env::temp_dir()).is_err());
        #[cfg(unix)]
        assert!(Pending::create(Path::new("/dev/null")).is_err());
    }
}
