//! The one place that decides what reaches the terminal.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use clap::builder::styling::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::cli::Global;
use crate::failure::{Failure, Outcome, Told};

/// Results go to standard output, everything else to standard error.
#[derive(Debug)]
pub(crate) struct Printer {
    json: bool,
    /// −1 quiet, 0 as usual, 1 and more verbose.
    level: i8,
    out_colour: bool,
    err_colour: bool,
    /// Whether a line on standard error may be drawn again.
    redraws: bool,
}

impl Printer {
    pub(crate) fn new(global: &Global) -> Self {
        // https://no-color.org: any value but the empty one switches colour off.
        let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        let no = dumb || std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let level = i8::try_from(global.verbose).unwrap_or(i8::MAX);
        Self {
            json: global.json,
            level: if global.quiet { -1 } else { level },
            out_colour: !no && io::stdout().is_terminal(),
            err_colour: !no && io::stderr().is_terminal(),
            redraws: !global.quiet && !dumb && io::stderr().is_terminal(),
        }
    }

    /// Whether the result is to be one JSON document.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether text on standard output may be coloured.
    pub(crate) fn colours(&self) -> bool {
        self.out_colour
    }

    /// A result for people.
    pub(crate) fn text(&self, text: &str) -> Outcome<()> {
        self.bytes(text.as_bytes())
    }

    /// A part of a result that is too long to be held whole.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Outcome<()> {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(Failure::Closed),
            Err(e) => Err(Failure::because("cannot write to standard output", e)),
        }
    }

    /// A result for programs: one document.
    pub(crate) fn document(&self, document: &impl Serialize) -> Outcome<()> {
        let mut text = serde_json::to_string_pretty(document)?;
        text.push('\n');
        self.text(&text)
    }

    /// A remark that `--quiet` silences.
    pub(crate) fn note(&self, text: &str) {
        if self.level >= 0 {
            self.tell("note", AnsiColor::Cyan, text);
        }
    }

    /// A remark for `--verbose`.
    pub(crate) fn detail(&self, text: &str) {
        if self.level > 0 {
            self.tell("detail", AnsiColor::BrightBlack, text);
        }
    }

    /// A bar for bytes that come, hidden where standard error is no terminal and with `--quiet`. What is
    /// said meanwhile belongs into its `suspend`.
    pub(crate) fn bytes_bar(&self) -> ProgressBar {
        let target = if self.redraws { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template(
            "{wide_msg} {decimal_bytes} of {decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left",
        );
        ProgressBar::with_draw_target(Some(0), target)
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    }

    /// A bar for things that are done one after the other, with the time left, hidden as
    /// [`Printer::bytes_bar`].
    pub(crate) fn count_bar(&self, of: usize, what: &str) -> ProgressBar {
        let target = if self.redraws { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style =
            ProgressStyle::with_template(&format!("{{wide_msg}} {{pos}} of {{len}} {what}, {{eta}} left"));
        ProgressBar::with_draw_target(Some(of as u64), target)
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    }

    /// An error, its causes, and what to do.
    pub(crate) fn failure(&self, told: &Told) {
        for (word, line) in told.lines() {
            let colour = match word {
                "error" => AnsiColor::Red,
                "cause" => AnsiColor::Yellow,
                _ => AnsiColor::Cyan,
            };
            self.tell(word, colour, &line);
        }
    }

    fn tell(&self, word: &str, colour: AnsiColor, text: &str) {
        let mut line = String::new();
        let style =
            if self.err_colour { Style::new().bold().fg_color(Some(colour.into())) } else { Style::new() };
        let _ = writeln!(line, "{style}{word}{style:#}: {text}");
        // Nothing can be done about a closed standard error.
        let _ = io::stderr().lock().write_all(line.as_bytes());
    }
}
