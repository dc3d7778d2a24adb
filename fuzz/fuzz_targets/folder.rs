//! A folder to put the bytes at hand into: checkpoints are opened by path. In memory where the system
//! has such a place.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use refocus_compute::{Cpu, Eager, Isa};
use refocus_model::{Checkpoint, Model, capture};

/// A folder of this process; what is written into it stays until the next input.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let dir = base.join(format!("refocus-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder to work in");
        dir
    })
}

/// Puts a file there.
pub fn put(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    std::fs::write(&path, bytes).expect("writes");
    path
}

/// A file of a committed fixture.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name)
}

/// Opens a checkpoint and uses all that it gives.
pub fn open(path: &Path) {
    let Ok(c) = Checkpoint::open(path) else { return };
    if let Ok(t) = c.tokenizer() {
        let _ = t.encode("The cat, 12!", true).map(|ids| t.decode(&ids, false));
    }
    let _ = c.fingerprint();
    let mut cpu = Cpu::new(Isa::detect(), 1);
    if let Ok(m) = Model::load(&c, &mut cpu) {
        let _ = capture(&mut Eager::new(cpu), &m, &[vec![0], vec![1, 2, 0]], &[], true, &[]);
    }
}
