//! Whether a string belongs to the language. Written from the definition and not from the generator.

use super::id::{IGNORE, ONE, READ, WRITE, ZERO};

/// Why a string is not in the language. Positions count symbols from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Too short, or half an instruction.
    #[error("a flip-flop string has an even number of symbols, at least 4: not {0}")]
    Length(usize),
    /// No symbol of the language.
    #[error("position {at}: {found} is no symbol of the flip-flop language")]
    Symbol {
        /// Position.
        at: usize,
        /// As found.
        found: String,
    },
    /// A symbol of the other kind.
    #[error("position {at}: {} is needed", if at % 2 == 0 { "an instruction (w, r, i)" } else { "a bit (0, 1)" })]
    Kind {
        /// Position.
        at: usize,
    },
    /// The string does not start with a write.
    #[error("position 0: the first instruction must write")]
    First,
    /// The string does not end with a read.
    #[error("position {at}: the last instruction must read")]
    Last {
        /// Position.
        at: usize,
    },
    /// A read that does not give what was written.
    #[error("position {at}: the bit read is not the one written at position {written}")]
    Read {
        /// Position of the bit.
        at: usize,
        /// Position of the bit that was written last.
        written: usize,
    },
}

/// Checks a whole string.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn validate(ids: &[u32]) -> Result<(), Invalid> {
    if ids.len() < 4 || ids.len() % 2 == 1 {
        return Err(Invalid::Length(ids.len()));
    }
    let last = ids.len() - 2;
    let mut written = 1;
    for (at, &symbol) in ids.iter().enumerate() {
        let fits = match symbol {
            WRITE | READ | IGNORE => at % 2 == 0,
            ZERO | ONE => at % 2 == 1,
            other => return Err(Invalid::Symbol { at, found: format!("id {other}") }),
        };
        if !fits {
            return Err(Invalid::Kind { at });
        }
        if at == 0 && symbol != WRITE {
            return Err(Invalid::First);
        }
        if at == last && symbol != READ {
            return Err(Invalid::Last { at });
        }
        if at % 2 == 1 {
            match ids[at - 1] {
                WRITE => written = at,
                READ if symbol != ids[written] => return Err(Invalid::Read { at, written }),
                _ => {}
            }
        }
    }
    Ok(())
}
