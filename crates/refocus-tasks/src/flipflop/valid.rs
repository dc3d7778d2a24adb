//! Whether a string belongs to the language. Written from the definition and not from the generator.

use super::text::Kind;
use super::{Alphabet, id};

/// Why a string is not in the language. Positions count symbols from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Too short, or part of an instruction.
    #[error("a string has at least {least} symbols, {group} for each instruction: not {found}")]
    Length {
        /// Symbols.
        found: usize,
        /// Symbols of the shortest string.
        least: usize,
        /// Symbols of an instruction with its datum.
        group: usize,
    },
    /// No symbol that can stand there.
    #[error("position {at}: {found} where {needed} is needed")]
    Symbol {
        /// Position.
        at: usize,
        /// As found.
        found: String,
        /// What can stand there.
        needed: String,
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
    /// A read of a register that has not been written.
    #[error("position {at}: the register is read before it is written")]
    Unwritten {
        /// Position of the read.
        at: usize,
    },
    /// A read that does not give what was written.
    #[error("position {at}: the datum read is not the one written at position {written}")]
    Read {
        /// Position of the first symbol that differs.
        at: usize,
        /// Position of the symbol that was written last.
        written: usize,
    },
    /// There are no characters for so many symbols.
    #[error("data of {0} symbols have no written form: there are 64 characters; use ids")]
    Unwritable(usize),
}

impl Invalid {
    /// The position that is wrong, where it is one.
    pub fn position(&self) -> Option<usize> {
        match *self {
            Invalid::Length { .. } | Invalid::Unwritable(_) => None,
            Invalid::First => Some(0),
            Invalid::Symbol { at, .. }
            | Invalid::Last { at }
            | Invalid::Unwritten { at }
            | Invalid::Read { at, .. } => Some(at),
        }
    }
}

impl Alphabet {
    /// Checks a whole string.
    ///
    /// # Errors
    /// The first thing that is wrong with it. That it is too short comes before all else, that it ends
    /// within an instruction after.
    pub fn validate(&self, ids: &[u32]) -> Result<(), Invalid> {
        let (group, datum) = (self.group(), self.datum());
        let least = 2 * group;
        if ids.len() < least {
            return Err(Invalid::Length { found: ids.len(), least, group });
        }
        let last = (ids.len() - 1) / group * group;
        // Where the datum of each register was written last.
        let mut written: Vec<Option<usize>> = vec![None; self.registers()];
        for (at, &symbol) in ids.iter().enumerate() {
            let n = symbol.checked_sub(self.first_id(at)).map(|n| n as usize);
            let kind = self.kind(at);
            let limit = match kind {
                Kind::Instruction => 3,
                Kind::Register => self.registers(),
                Kind::Datum => self.symbols(),
            };
            if n.is_none_or(|n| n >= limit) {
                return Err(self.wrong_id(at, symbol));
            }
            if at == 0 && symbol != id::WRITE {
                return Err(Invalid::First);
            }
            if at == last && symbol != id::READ {
                return Err(Invalid::Last { at });
            }
            if kind != Kind::Datum {
                continue;
            }
            let start = at / group * group;
            let register = if datum == 2 { (ids[start + 1] - self.first_id(1)) as usize } else { 0 };
            match ids[start] {
                id::WRITE => written[register] = Some(start + datum),
                id::READ => {
                    let Some(place) = written[register] else {
                        return Err(Invalid::Unwritten { at: start });
                    };
                    let of = place + (at - start - datum);
                    if symbol != ids[of] {
                        return Err(Invalid::Read { at, written: of });
                    }
                }
                _ => {}
            }
        }
        if !ids.len().is_multiple_of(group) {
            return Err(Invalid::Length { found: ids.len(), least, group });
        }
        Ok(())
    }
}
