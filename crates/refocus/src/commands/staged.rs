//! How far a stage of a study is that keeps its answers.

use indicatif::ProgressBar;

use crate::printer::Printer;

/// A stage's bar, and how much of the work was there already.
pub(super) struct Progress {
    pub(super) name: &'static str,
    pub(super) all: usize,
    bar: ProgressBar,
    there: usize,
}

impl Progress {
    pub(super) fn begin(printer: &Printer, name: &'static str, prompts: usize) -> Self {
        Self { name, all: prompts, bar: printer.count_bar(prompts as u64), there: 0 }
    }

    pub(super) fn on(&self, what: &str) {
        self.bar.set_message(format!("{}: {what}", self.name));
    }

    pub(super) fn tick(&mut self, n: usize, stored: bool) {
        self.bar.inc(n as u64);
        if stored {
            self.there += n;
            // Time left is judged by what is run.
            self.bar.reset_eta();
        }
    }

    pub(super) fn end(&self, printer: &Printer) {
        self.bar.finish_and_clear();
        if self.there > 0 {
            printer
                .note(&format!("{}: {} of {} prompts were answered before", self.name, self.there, self.all));
        }
    }
}
