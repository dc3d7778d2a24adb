//! Running the program where paths are the same on every machine.

use std::path::{Path, PathBuf};

use snapbox::cmd::{Command, OutputAssert};
use snapbox::{Assert, Redactions};

/// The root of the repository: commands run there, so that fixtures have the same names everywhere.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("root")
}

/// The program with its arguments, as `refocus` in a shell would be given them.
pub fn refocus(args: &str) -> Command {
    command(args.split_whitespace(), Redactions::new())
}

/// As [`refocus`], for arguments with spaces.
pub fn refocus_args(args: &[&str]) -> Command {
    command(args.iter().copied(), Redactions::new())
}

fn command<'a>(args: impl Iterator<Item = &'a str>, redactions: Redactions) -> Command {
    // Tokens such as "\n" must stay as they are; no path of the program's own is Windows-like here.
    let assert = Assert::new()
        .action_env(snapbox::assert::DEFAULT_ACTION_ENV)
        .normalize_paths(false)
        .redact_with(redactions);
    Command::new(snapbox::cmd::cargo_bin!("refocus"))
        .with_assert(assert)
        .args(args)
        .current_dir(root())
        .env("COLUMNS", "100")
        .env_remove("REFOCUS_MODELS")
        .env_remove("REFOCUS_DATA")
        // No test asks a hub unless it brings one, or reads the cache of this machine.
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HOME", std::env::temp_dir().join("refocus-no-cache"))
        .env("XDG_CACHE_HOME", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"))
        .env_remove("HF_HUB_CACHE")
        .env_remove("HUGGINGFACE_HUB_CACHE")
        .env_remove("HF_TOKEN")
        .env_remove("HUGGING_FACE_HUB_TOKEN")
        .env_remove("HF_TOKEN_PATH")
        .env_remove("RUST_BACKTRACE")
        .stdin("")
}

/// A folder of one test, `[TMP]` in transcripts, removed at the end.
pub struct Tmp(PathBuf);

impl Tmp {
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("refocus-cli-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("folder");
        Self(dir.canonicalize().expect("folder"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("write");
    }

    /// The program; `[TMP]` in arguments is this folder too.
    pub fn refocus(&self, args: &str) -> Command {
        let dir = self.0.to_str().expect("UTF-8").to_owned();
        let mut redactions = Redactions::new();
        redactions.insert("[TMP]", dir.clone()).expect("a redaction");
        let args: Vec<String> = args.split_whitespace().map(|a| a.replace("[TMP]", &dir)).collect();
        command(args.iter().map(String::as_str), redactions)
    }

    /// Names of the files inside.
    pub fn list(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(&self.0)
            .expect("list")
            .map(|e| e.expect("entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Tmp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A bad use or input: code 2, nothing on standard output.
pub fn refused(command: Command) -> OutputAssert {
    command.assert().code(2).stdout_eq("")
}
