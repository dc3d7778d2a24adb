//! Decoding token by token, in time proportional to the text.
//!
//! A decoder that looks at the whole text cannot be run again for every token. The usual ones are taken
//! apart into steps that keep a little state; any other gives its text at the end.

use serde_json::Value;
use tokenizers::DecoderWrapper;

use super::Tokenizer;
use crate::error::LoadResult;

/// The decoder of a tokenizer as something that can work token by token.
#[derive(Clone, Debug)]
pub(super) enum Plan {
    /// Tokens are spelled in bytes.
    Bytes,
    /// Tokens go through these steps one by one; at most so many of a character are cut from the front of
    /// the text that they make.
    Pieces { steps: Vec<Step>, cut: Option<(char, usize)> },
    /// Tokens are joined with spaces.
    Spaced,
    /// Only the whole text is known to be right.
    Whole,
}

/// What happens to one token.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Replace {
        from: String,
        to: String,
    },
    /// `<0x41>` is a byte. A run of such tokens is text if all of it is UTF-8, else one `U+FFFD` for each.
    Bytes,
    /// A character stands for a space; in the first token it may stand for nothing.
    Space {
        mark: char,
        drop_first: bool,
    },
    Cut {
        what: char,
        most: usize,
    },
}

impl Plan {
    pub(super) fn of(decoder: Option<&DecoderWrapper>) -> Self {
        let Some(decoder) = decoder else { return Self::Spaced };
        let Ok(decoder) = serde_json::to_value(decoder) else { return Self::Whole };
        let listed = decoder.get("decoders").and_then(Value::as_array);
        let list = listed.map_or(std::slice::from_ref(&decoder), Vec::as_slice);
        if let [one] = list
            && one["type"] == "ByteLevel"
        {
            return Self::Bytes;
        }
        Self::pieces(list).unwrap_or(Self::Whole)
    }

    fn pieces(list: &[Value]) -> Option<Self> {
        let fuse = list.iter().position(|d| d["type"] == "Fuse").unwrap_or(list.len());
        let steps: Vec<Step> = list[..fuse].iter().map(Step::of).collect::<Option<_>>()?;
        // Each step keeps its state by itself, so one of a kind is enough.
        let runs = steps.iter().filter(|s| matches!(s, Step::Bytes)).count();
        let firsts = steps.iter().filter(|s| matches!(s, Step::Space { .. })).count();
        if runs > 1 || firsts > 1 {
            return None;
        }
        let cut = match list.get(fuse + 1..).unwrap_or_default() {
            [] => None,
            [one] => match Step::of(one)? {
                Step::Cut { what, most } => Some((what, most)),
                _ => return None,
            },
            _ => return None,
        };
        Some(Self::Pieces { steps, cut })
    }
}

impl Step {
    fn of(decoder: &Value) -> Option<Self> {
        let character = |key: &str| decoder.get(key)?.as_str()?.chars().next();
        match decoder.get("type")?.as_str()? {
            "Replace" => {
                let from = decoder.get("pattern")?.get("String")?.as_str()?;
                let to = decoder.get("content")?.as_str()?;
                (!from.is_empty()).then(|| Self::Replace { from: from.to_owned(), to: to.to_owned() })
            }
            "ByteFallback" => Some(Self::Bytes),
            "Metaspace" => Some(Self::Space {
                mark: character("replacement")?,
                drop_first: decoder.get("prepend_scheme")?.as_str()? != "never",
            }),
            "Strip" if decoder.get("stop")?.as_u64()? == 0 => Some(Self::Cut {
                what: character("content")?,
                most: usize::try_from(decoder.get("start")?.as_u64()?).ok()?,
            }),
            _ => None,
        }
    }
}

/// Text that grows token by token. A character may take several tokens: it is held back until it is whole.
///
/// `U+FFFD` comes out only once it is certain that the bytes are no text, and all pieces together are what
/// [`Tokenizer::decode`] gives for all ids.
#[derive(Clone, Debug)]
pub struct Stream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    /// Bytes that are not text yet.
    held: Vec<u8>,
    /// How many of them are known to be whole characters.
    whole: usize,
    /// A run of bytes is known to be no text; nothing of it is held.
    broken: bool,
    /// Whether a token has come.
    begun: bool,
    /// How many characters may still be cut from the front.
    cut: usize,
    /// All ids, where only the whole text is known to be right.
    ids: Vec<u32>,
}

impl<'a> Stream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> Self {
        let cut = match &tokenizer.plan {
            Plan::Pieces { cut: Some((_, most)), .. } => *most,
            _ => 0,
        };
        Self {
            tokenizer,
            skip_special,
            held: Vec::new(),
            whole: 0,
            broken: false,
            begun: false,
            cut,
            ids: Vec::new(),
        }
    }

    /// The text that became certain with this token.
    pub fn push(&mut self, id: u32) -> String {
        let mut out = String::new();
        let tokenizer = self.tokenizer;
        let Some(token) = tokenizer.spelled(id, self.skip_special) else { return out };
        match &tokenizer.plan {
            Plan::Whole => self.ids.push(id),
            Plan::Spaced => {
                if self.begun {
                    out.push(' ');
                }
                self.begun = true;
                out.push_str(&token);
            }
            Plan::Bytes => {
                self.held.extend(bytes_of(&token));
                self.give_text(&mut out);
            }
            Plan::Pieces { steps, .. } => {
                self.step(steps, token, &mut out);
                self.cut_front(&mut out);
            }
        }
        out
    }

    /// What was held back: the rest of the text.
    ///
    /// # Errors
    /// The tokenizer's decoder fails.
    pub fn finish(mut self) -> LoadResult<String> {
        let mut out = String::new();
        match &self.tokenizer.plan {
            Plan::Whole => return self.tokenizer.decode(&self.ids, self.skip_special),
            Plan::Spaced => {}
            Plan::Bytes => out = String::from_utf8_lossy(&self.held).into_owned(),
            Plan::Pieces { steps, .. } => {
                if let Some(at) = steps.iter().position(|s| matches!(s, Step::Bytes)) {
                    self.end_run(&steps[at + 1..], &mut out);
                }
                self.cut_front(&mut out);
            }
        }
        Ok(out)
    }

    /// Moves whole characters out of what is held, and `U+FFFD` for what cannot become one.
    fn give_text(&mut self, out: &mut String) {
        let held = std::mem::take(&mut self.held);
        let mut rest = held.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => return out.push_str(text),
                Err(e) => {
                    let (text, bad) = rest.split_at(e.valid_up_to());
                    out.push_str(&String::from_utf8_lossy(text));
                    let Some(n) = e.error_len() else {
                        self.held = bad.to_vec();
                        return;
                    };
                    out.push('\u{fffd}');
                    rest = &bad[n..];
                }
            }
        }
    }

    /// Sends a token through the steps.
    fn step(&mut self, steps: &[Step], token: String, out: &mut String) {
        let Some((step, rest)) = steps.split_first() else { return out.push_str(&token) };
        match step {
            Step::Replace { from, to } => self.step(rest, token.replace(from, to), out),
            Step::Cut { what, most } => {
                let n = token.chars().take(*most).take_while(|c| c == what).count();
                self.step(rest, token.chars().skip(n).collect(), out);
            }
            Step::Space { mark, drop_first } => {
                let first = !std::mem::replace(&mut self.begun, true);
                let space = if first && *drop_first { "" } else { " " };
                self.step(rest, token.replace(*mark, space), out);
            }
            Step::Bytes => match byte_of(&token) {
                Some(byte) => self.add_byte(byte, rest, out),
                None => {
                    self.end_run(rest, out);
                    self.step(rest, token, out);
                }
            },
        }
    }

    fn add_byte(&mut self, byte: u8, rest: &[Step], out: &mut String) {
        if self.broken {
            return self.step(rest, "\u{fffd}".to_owned(), out);
        }
        self.held.push(byte);
        match std::str::from_utf8(&self.held[self.whole..]) {
            Ok(_) => self.whole = self.held.len(),
            Err(e) if e.error_len().is_none() => {}
            Err(_) => self.break_run(rest, out),
        }
    }

    /// One `U+FFFD` for each byte of the run.
    fn break_run(&mut self, rest: &[Step], out: &mut String) {
        self.broken = true;
        for _ in std::mem::take(&mut self.held) {
            self.step(rest, "\u{fffd}".to_owned(), out);
        }
    }

    /// A run of bytes is over.
    fn end_run(&mut self, rest: &[Step], out: &mut String) {
        if self.whole < self.held.len() {
            self.break_run(rest, out);
        } else if !self.held.is_empty() {
            let text = String::from_utf8_lossy(&std::mem::take(&mut self.held)).into_owned();
            self.step(rest, text, out);
        }
        (self.whole, self.broken) = (0, false);
    }

    fn cut_front(&mut self, out: &mut String) {
        let Plan::Pieces { cut: Some((what, _)), .. } = &self.tokenizer.plan else { return };
        while self.cut > 0 && !out.is_empty() {
            if out.starts_with(*what) {
                out.remove(0);
                self.cut -= 1;
            } else {
                self.cut = 0;
            }
        }
    }
}

/// The bytes that a byte-level token spells; one with another character in it stands for its own.
fn bytes_of(token: &str) -> Vec<u8> {
    let bytes: Option<Vec<u8>> = token.chars().map(super::gguf::byte).collect();
    bytes.unwrap_or_else(|| token.as_bytes().to_vec())
}

/// The byte that a token like `<0x41>` is.
fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}
