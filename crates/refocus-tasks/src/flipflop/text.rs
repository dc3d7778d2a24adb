//! The written form: one character a symbol, `w0i1r0`.

use super::{Invalid, VOCAB};

/// Characters in the order of the ids.
const SYMBOLS: [char; VOCAB] = ['w', 'r', 'i', '0', '1'];

/// Ids as characters.
///
/// # Errors
/// An id that is none of the language.
pub fn to_text(ids: &[u32]) -> Result<String, Invalid> {
    let symbol = |(at, &id): (usize, &u32)| {
        SYMBOLS.get(id as usize).copied().ok_or_else(|| Invalid::Symbol { at, found: format!("id {id}") })
    };
    ids.iter().enumerate().map(symbol).collect()
}

/// Characters as ids. Whether they make a valid string is for [`super::validate`] to say.
///
/// # Errors
/// A character that is none of the language.
pub fn from_text(text: &str) -> Result<Vec<u32>, Invalid> {
    let id = |(at, c): (usize, char)| {
        let id = SYMBOLS.iter().position(|&s| s == c);
        id.map(|id| id as u32).ok_or_else(|| Invalid::Symbol { at, found: format!("{c:?}") })
    };
    text.chars().enumerate().map(id).collect()
}
