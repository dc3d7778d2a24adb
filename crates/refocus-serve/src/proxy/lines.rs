//! Server-sent events as lines: whole lines go on byte for byte, and a line with usage may be changed in passing.
//!
//! A line ends with LF, CR LF, or CR alone. A CR at the end of what came is not held until it is known whether an LF
//! follows: an event would wait for the next one. An LF that does follow then counts as an empty line.

use bytes::{Bytes, BytesMut};

/// A longer line is not held.
const MOST_HELD: usize = 1 << 20;

/// What becomes of a whole line, its end included; nothing for a line that stays.
pub(crate) type Change = Box<dyn FnMut(&str) -> Option<String> + Send + Sync>;

/// Lines of a stream as they come.
pub(crate) struct Lines {
    held: BytesMut,
    /// Part of the line was already let go because it is too long.
    inside: bool,
    /// What went on last ended with a CR, whose LF may be missing.
    cr: bool,
    change: Option<Change>,
}

impl Lines {
    /// Lines that stay.
    pub(crate) fn new() -> Self {
        Self { held: BytesMut::new(), inside: false, cr: false, change: None }
    }

    /// Lines that may be changed.
    pub(crate) fn changed(change: Change) -> Self {
        Self { change: Some(change), ..Self::new() }
    }

    /// Whether all that went on ended with the end of a line.
    pub(crate) fn at_line_start(&self) -> bool {
        !self.inside
    }

    /// What ends an event that broke off after a whole line.
    pub(crate) fn gap(&self) -> &'static str {
        // The first LF would only be the rest of that line's end.
        if self.cr { "\n\n" } else { "\n" }
    }

    /// What may go on now that more came.
    pub(crate) fn push(&mut self, data: Bytes) -> impl Iterator<Item = Bytes> {
        let cut = data.iter().rposition(|b| matches!(b, b'\n' | b'\r')).map_or(0, |last| last + 1);
        let (whole, rest) = (data.slice(..cut), data.slice(cut..));
        let mut out = None;
        if !whole.is_empty() {
            self.cr = whole.ends_with(b"\r");
            let began = !std::mem::take(&mut self.inside);
            out = Some(if self.held.is_empty() {
                whole
            } else {
                self.held.extend_from_slice(&whole);
                self.held.split().freeze()
            });
            if let (true, Some(lines)) = (began, &mut out) {
                self.change_lines(lines);
            }
        }
        self.held.extend_from_slice(&rest);
        let mut long = None;
        if self.held.len() > MOST_HELD || (self.inside && !self.held.is_empty()) {
            self.inside = true;
            long = Some(self.held.split().freeze());
        }
        out.into_iter().chain(long)
    }

    /// What is left at the end of the stream.
    pub(crate) fn end(&mut self) -> Option<Bytes> {
        let mut rest = (!self.held.is_empty()).then(|| self.held.split().freeze())?;
        self.change_lines(&mut rest);
        Some(rest)
    }

    fn change_lines(&mut self, lines: &mut Bytes) {
        let Some(change) = &mut self.change else { return };
        let Ok(text) = std::str::from_utf8(lines) else { return };
        let mut out = String::new();
        let mut done = 0;
        let mut at = 0;
        for line in lines_of(text) {
            if let Some(new) = change(line) {
                out.push_str(&text[done..at]);
                out.push_str(&new);
                done = at + line.len();
            }
            at += line.len();
        }
        if done > 0 {
            out.push_str(&text[done..]);
            *lines = Bytes::from(out);
        }
    }
}

/// The lines of a text with their ends; the last may have none.
fn lines_of(text: &str) -> impl Iterator<Item = &str> {
    let mut left = text;
    std::iter::from_fn(move || {
        let end = match left.find(['\n', '\r']) {
            Some(at) => at + if left[at..].starts_with("\r\n") { 2 } else { 1 },
            None => left.len(),
        };
        let (line, rest) = left.split_at(end);
        left = rest;
        (!line.is_empty()).then_some(line)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn through(lines: &mut Lines, parts: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for part in parts {
            for bytes in lines.push(Bytes::copy_from_slice(part)) {
                out.extend_from_slice(&bytes);
            }
        }
        out
    }

    #[test]
    fn half_a_line_waits_for_its_end() {
        let mut lines = Lines::new();
        assert_eq!(through(&mut lines, &[b"data: a\n\ndat"]), b"data: a\n\n");
        assert_eq!(through(&mut lines, &[b"a: ", b"b\n"]), b"data: b\n");
        assert!(lines.at_line_start());
        assert_eq!(through(&mut lines, &[b"data"]), b"");
        assert_eq!(lines.end().as_deref(), Some(&b"data"[..]));
    }

    #[test]
    fn a_line_without_end_is_not_held_forever() {
        let mut lines = Lines::changed(Box::new(|_| Some("changed".to_owned())));
        let long = vec![b'x'; MOST_HELD + 1];
        assert_eq!(through(&mut lines, &[&long]).len(), long.len());
        assert!(!lines.at_line_start());
        assert_eq!(through(&mut lines, &[b"y", b"z\n"]), b"yz\n", "and its end is left as it is");
        assert!(lines.at_line_start());
    }

    #[test]
    fn single_lines_are_changed_however_they_are_cut() {
        let text = b"data: 1\r\ndata: 2\r\n\xc3\xa9\ndata: 1\rdata: 1\r\rdata: 1\n";
        for cut in 0..text.len() {
            let mut lines =
                Lines::changed(Box::new(|line| line.strip_prefix("data: 1").map(|end| format!("X{end}"))));
            let out = through(&mut lines, &[&text[..cut], &text[cut..]]);
            assert_eq!(out, b"X\r\ndata: 2\r\n\xc3\xa9\nX\rX\r\rX\n", "cut at {cut}");
        }
    }

    #[test]
    fn an_event_whose_lines_end_with_cr_alone_is_not_held() {
        let mut lines = Lines::new();
        assert_eq!(through(&mut lines, &[b"data: a\r\r"]), b"data: a\r\r");
        assert!(lines.at_line_start());
        assert_eq!(through(&mut lines, &[b"data: b\r"]), b"data: b\r");
        assert_eq!(lines.gap(), "\n\n");
        assert_eq!(through(&mut lines, &[b"\n\r\ndata"]), b"\n\r\n");
        assert_eq!(lines.gap(), "\n");
        assert_eq!(lines.end().as_deref(), Some(&b"data"[..]));
    }

    proptest! {
        #[test]
        fn bytes_stay(parts in prop::collection::vec(prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..20), 0..20)) {
            let mut lines = Lines::changed(Box::new(|_| None));
            let mut out = through(&mut lines, &parts.iter().map(Vec::as_slice).collect::<Vec<_>>());
            out.extend_from_slice(&lines.end().unwrap_or_default());
            prop_assert_eq!(out, parts.concat());
        }
    }
}
