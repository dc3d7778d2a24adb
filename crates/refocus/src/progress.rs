//! A line on standard error that says how far something is.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use crate::printer::Printer;
use crate::table::bytes;

/// What is done sooner needs no progress.
const PATIENCE: Duration = Duration::from_secs(2);
const BETWEEN: Duration = Duration::from_millis(100);

/// Nothing is shown in the first two seconds, nor where standard error is no terminal, nor with `--quiet`.
/// The line is cleared when the value is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    live: bool,
    what: &'static str,
    begun: Instant,
    shown: Option<Instant>,
}

impl Progress {
    pub(crate) fn new(printer: &Printer, what: &'static str) -> Self {
        Self { live: printer.is_live(), what, begun: Instant::now(), shown: None }
    }

    /// So many bytes of so many are done.
    pub(crate) fn bytes(&mut self, done: u64, of: u64) {
        let now = Instant::now();
        let due = self.shown.map_or(now - self.begun >= PATIENCE, |last| now - last >= BETWEEN);
        if !self.live || !due {
            return;
        }
        self.shown = Some(now);
        let share = done.saturating_mul(100).checked_div(of).unwrap_or(100);
        let sizes = [done, of].map(|n| bytes(usize::try_from(n).unwrap_or(usize::MAX)));
        self.write(&format!("\r\x1b[K{} {share:3} %  {} of {}", self.what, sizes[0], sizes[1]));
    }

    fn write(&self, text: &str) {
        let mut err = io::stderr().lock();
        // Nothing can be done about a closed standard error.
        let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            self.write("\r\x1b[K");
        }
    }
}
