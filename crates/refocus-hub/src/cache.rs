//! One repository's folder in the standard cache.
//!
//! ```text
//! CACHE/.locks/models--org--name/ETAG.lock
//! CACHE/models--org--name/refs/REVISION            the commit, as text
//!                         blobs/ETAG               content
//!                         blobs/ETAG.incomplete    what has come so far
//!                         snapshots/COMMIT/FILE    → ../../blobs/ETAG
//!                         .no_exist/COMMIT/FILE    empty: the commit has no such file
//! ```

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{HubError, HubResult};
use crate::id::is_commit;

/// The folder of one model.
#[derive(Clone, Debug)]
pub(crate) struct Repo {
    cache: PathBuf,
    /// `models--org--name`.
    name: String,
    links: bool,
}

/// Holds a blob for this process while it lives.
#[derive(Debug)]
pub(crate) struct Guard {
    _file: File,
}

impl Repo {
    pub(crate) fn new(cache: &Path, repo: &str, links: bool) -> Self {
        Self { cache: cache.to_owned(), name: format!("models--{}", repo.replace('/', "--")), links }
    }

    fn dir(&self) -> PathBuf {
        self.cache.join(&self.name)
    }

    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.dir().join("blobs").join(etag)
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.dir().join("snapshots").join(commit)
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.dir().join("refs").join(revision)
    }

    fn absence(&self, commit: &str, file: &str) -> PathBuf {
        self.dir().join(".no_exist").join(commit).join(file)
    }

    /// The commit that a revision was when it was last asked for.
    pub(crate) fn read_ref(&self, revision: &str) -> HubResult<Option<String>> {
        let path = self.reference(revision);
        let commit = match fs::read_to_string(&path) {
            Ok(text) => text.trim().to_owned(),
            // `refs/a/b` where `refs/a` is a file, or `refs/a` where it is a folder: no such revision.
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(e) => return Err(HubError::read(&path)(e)),
        };
        if is_commit(&commit) { Ok(Some(commit)) } else { Err(HubError::BadRef { path }) }
    }

    /// Notes which commit a revision is, unless the cache can only be read. Written only once the commit's files are there, so that a fetch
    /// that was interrupted does not hide the whole snapshot before it.
    pub(crate) fn write_ref(&self, revision: &str, commit: &str) -> HubResult<()> {
        let path = self.reference(revision);
        if fs::read_to_string(&path).is_ok_and(|was| was == commit) {
            return Ok(());
        }
        let write = || {
            make_parent(&path)?;
            let new = beside(&path);
            fs::write(&new, commit).map_err(HubError::write(&new))?;
            fs::rename(&new, &path).map_err(HubError::write(&path))
        };
        where_writable(write())
    }

    /// A file of a snapshot, where it is there with its content.
    ///
    /// # Errors
    /// It leads out of the cache.
    pub(crate) fn find(&self, commit: &str, file: &str) -> HubResult<Option<PathBuf>> {
        let path = self.snapshot(commit).join(file);
        let target = match fs::canonicalize(&path) {
            Ok(target) => target,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            Err(e) => return Err(HubError::read(&path)(e)),
        };
        let cache = fs::canonicalize(&self.cache).map_err(HubError::read(&self.cache))?;
        if !target.starts_with(&cache) {
            return Err(HubError::Leaves { path, target });
        }
        Ok(target.is_file().then_some(path))
    }

    /// Paths of all `.gguf` files of a snapshot, in order.
    pub(crate) fn ggufs(&self, commit: &str) -> HubResult<Vec<String>> {
        const DEEPEST: usize = 4;
        let mut found = Vec::new();
        let mut folders = vec![(self.snapshot(commit), String::new(), 0)];
        while let Some((folder, prefix, depth)) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                Err(e) => return Err(HubError::read(&folder)(e)),
            };
            for entry in entries {
                let entry = entry.map_err(HubError::read(&folder))?;
                let Ok(name) = entry.file_name().into_string() else { continue };
                let path = format!("{prefix}{name}");
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    if depth < DEEPEST {
                        folders.push((entry.path(), format!("{path}/"), depth + 1));
                    }
                } else if crate::files::is_gguf(&path) && self.find(commit, &path)?.is_some() {
                    found.push(path);
                }
            }
        }
        found.sort();
        Ok(found)
    }

    pub(crate) fn is_absent(&self, commit: &str, file: &str) -> bool {
        self.absence(commit, file).exists()
    }

    /// Notes that a commit has no such file, so that nobody needs to ask again, unless the cache can only
    /// be read.
    pub(crate) fn mark_absent(&self, commit: &str, file: &str) -> HubResult<()> {
        let path = self.absence(commit, file);
        if path.exists() {
            return Ok(());
        }
        let write = || {
            make_parent(&path)?;
            File::create(&path).map(drop).map_err(HubError::write(&path))
        };
        where_writable(write())
    }

    /// Puts a blob into a snapshot: a relative symbolic link, else a hard link, else a copy.
    pub(crate) fn link(&self, etag: &str, commit: &str, file: &str) -> HubResult<PathBuf> {
        let path = self.snapshot(commit).join(file);
        if path.exists() {
            return Ok(path);
        }
        make_parent(&path)?;
        let blob = self.blob(etag);
        let up = "../".repeat(2 + file.matches('/').count());
        let new = beside(&path);
        let _ = fs::remove_file(&new);
        let linked = self.links && symlink(&format!("{up}blobs/{etag}"), &new).is_ok();
        if !linked && fs::hard_link(&blob, &new).is_err() {
            fs::copy(&blob, &new).map_err(HubError::write(&new))?;
        }
        fs::rename(&new, &path).map_err(HubError::write(&path))?;
        Ok(path)
    }

    /// Waits until no other process fetches a blob. `None` where the file system has no locks; then
    /// `waiting` is not called either.
    pub(crate) fn lock(&self, etag: &str, waiting: impl FnOnce()) -> HubResult<Option<Guard>> {
        let path = self.cache.join(".locks").join(&self.name).join(format!("{etag}.lock"));
        make_parent(&path)?;
        let mut waiting = Some(waiting);
        loop {
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(HubError::write(&path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    if let Some(waiting) = waiting.take() {
                        waiting();
                    }
                    file.lock().map_err(HubError::write(&path))?;
                }
                Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => return Ok(None),
                Err(TryLockError::Error(e)) => return Err(HubError::write(&path)(e)),
            }
            // Others remove lock files after use: a lock on a file that has no name any more locks nothing.
            if still_there(&file, &path) {
                return Ok(Some(Guard { _file: file }));
            }
        }
    }
}

/// A cache that others keep and that has every file is good enough: what is only noted may fail there.
fn where_writable(result: HubResult<()>) -> HubResult<()> {
    match result {
        Err(HubError::Io { source, .. })
            if matches!(source.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// The folders above a file.
pub(crate) fn make_parent(path: &Path) -> HubResult<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    fs::create_dir_all(parent).map_err(HubError::write(parent))
}

/// A name in the same folder that nobody else has.
fn beside(path: &Path) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}-{}.new", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
    path.with_file_name(name)
}

#[cfg(unix)]
fn still_there(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let key = |m: fs::Metadata| (m.dev(), m.ino());
    matches!((file.metadata(), fs::metadata(path)), (Ok(a), Ok(b)) if key(a.clone()) == key(b.clone()))
}

#[cfg(not(unix))]
fn still_there(_: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(unix)]
fn symlink(target: &str, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &str, link: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(target.replace('/', "\\"), link)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    struct Tmp(PathBuf);

    impl Tmp {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("refocus-hub-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(&dir).expect("folder");
            Self(dir)
        }
    }

    impl Drop for Tmp {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn with_blob(tmp: &Tmp, links: bool) -> Repo {
        let repo = Repo::new(&tmp.0, "org/name", links);
        make_parent(&repo.blob("e1")).expect("folder");
        fs::write(repo.blob("e1"), "content").expect("blob");
        repo
    }

    #[test]
    fn names_are_the_standard_ones() {
        let repo = Repo::new(Path::new("/c"), "org/name", true);
        assert_eq!(repo.blob("e"), Path::new("/c/models--org--name/blobs/e"));
        assert_eq!(repo.snapshot("c0"), Path::new("/c/models--org--name/snapshots/c0"));
        assert_eq!(repo.reference("refs/pr/1"), Path::new("/c/models--org--name/refs/refs/pr/1"));
        assert_eq!(Repo::new(Path::new("/c"), "gpt2", true).dir(), Path::new("/c/models--gpt2"));
    }

    #[test]
    fn references_are_written_and_read() {
        let tmp = Tmp::new("refs");
        let repo = Repo::new(&tmp.0, "org/name", true);
        assert_eq!(repo.read_ref("main").expect("readable"), None);
        repo.write_ref("refs/pr/1", COMMIT).expect("written");
        assert_eq!(repo.read_ref("refs/pr/1").expect("readable").as_deref(), Some(COMMIT));
        assert_eq!(repo.read_ref("refs/pr").expect("a folder"), None);
        assert_eq!(repo.read_ref("refs/pr/1/x").expect("below a file"), None);
        repo.write_ref("main", "no commit").expect("written");
        assert!(matches!(repo.read_ref("main"), Err(HubError::BadRef { .. })));
    }

    #[test]
    #[cfg(unix)]
    fn links_are_relative_and_mended() {
        let tmp = Tmp::new("links");
        let repo = with_blob(&tmp, true);
        for (file, target) in [("a.bin", "../../blobs/e1"), ("sub/b.bin", "../../../blobs/e1")] {
            let path = repo.link("e1", COMMIT, file).expect("linked");
            assert_eq!(fs::read_link(&path).expect("a link"), Path::new(target));
            assert_eq!(repo.find(COMMIT, file).expect("inside"), Some(path));
        }
        let dangling = repo.snapshot(COMMIT).join("c.bin");
        std::os::unix::fs::symlink("../../blobs/gone", &dangling).expect("a link");
        assert_eq!(repo.find(COMMIT, "c.bin").expect("not there"), None);
        repo.link("e1", COMMIT, "c.bin").expect("mended");
        assert_eq!(fs::read_to_string(dangling).expect("content"), "content");
    }

    #[test]
    fn without_symbolic_links_the_content_is_there_too() {
        let tmp = Tmp::new("copies");
        let repo = with_blob(&tmp, false);
        let path = repo.link("e1", COMMIT, "a.bin").expect("linked");
        assert!(!path.is_symlink());
        assert_eq!(fs::read_to_string(path).expect("content"), "content");
    }

    #[test]
    #[cfg(unix)]
    fn a_link_that_leaves_the_cache_is_refused() {
        let (tmp, other) = (Tmp::new("leaves"), Tmp::new("other"));
        let repo = with_blob(&tmp, true);
        fs::write(other.0.join("secret"), "x").expect("file");
        let path = repo.snapshot(COMMIT).join("config.json");
        make_parent(&path).expect("folder");
        std::os::unix::fs::symlink(other.0.join("secret"), &path).expect("a link");
        assert!(matches!(repo.find(COMMIT, "config.json"), Err(HubError::Leaves { .. })));
    }

    #[test]
    fn a_lock_excludes() {
        let tmp = Tmp::new("locks");
        let repo = Repo::new(&tmp.0, "org/name", true);
        let held = repo.lock("e", || panic!("nobody holds it")).expect("locked");
        let (said, hears) = std::sync::mpsc::channel();
        let other = repo.clone();
        let thread = std::thread::spawn(move || {
            other.lock("e", || said.send(()).expect("heard")).expect("locked");
        });
        hears.recv().expect("the other one waits");
        drop(held);
        thread.join().expect("it goes on");
    }
}
