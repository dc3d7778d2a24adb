//! The symbols of a string and where each kind stands.

use super::{LanguageError, id};

/// Symbols of the longest string.
pub const MAX_TOKENS: usize = 1 << 20;
/// Values that a datum can have at most.
pub const MAX_VALUES: usize = 256;
/// Registers at most.
pub const MAX_REGISTERS: usize = 64;

/// What strings are made of. With one register, an instruction is its letter and a datum; with several,
/// the name of a register stands between the two. A datum is `width` symbols out of `symbols`: the
/// paper's larger registers are 4 to 256 symbols, and "2*2", two bits (appendix B.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Alphabet {
    registers: u32,
    symbols: u32,
    width: u32,
}

impl Alphabet {
    /// The paper's main language: one register, one bit.
    pub const BINARY: Self = Self { registers: 1, symbols: 2, width: 1 };

    /// Several registers, or data of more than one bit.
    ///
    /// # Errors
    /// There are no registers or too many, or a datum has less than 2 or more than [`MAX_VALUES`] values.
    pub fn new(registers: usize, symbols: usize, width: usize) -> Result<Self, LanguageError> {
        if !(1..=MAX_REGISTERS).contains(&registers) {
            return Err(LanguageError::Registers(registers));
        }
        let values = u32::try_from(width).ok().and_then(|w| symbols.checked_pow(w));
        if symbols < 2 || width < 1 || values.is_none_or(|v| v > MAX_VALUES) {
            return Err(LanguageError::Symbols { symbols, width });
        }
        Ok(Self { registers: registers as u32, symbols: symbols as u32, width: width as u32 })
    }

    /// How many registers there are.
    pub fn registers(&self) -> usize {
        self.registers as usize
    }

    /// Symbols that data are made of.
    pub fn symbols(&self) -> usize {
        self.symbols as usize
    }

    /// Symbols of one datum.
    pub fn width(&self) -> usize {
        self.width as usize
    }

    /// Values of a datum: `symbols` to the power of `width`.
    pub fn values(&self) -> usize {
        self.symbols.pow(self.width) as usize
    }

    /// Ids: instructions, data, and names of registers where there are several.
    pub fn vocab(&self) -> usize {
        3 + self.symbols() + if self.registers > 1 { self.registers() } else { 0 }
    }

    /// Symbols of an instruction with its datum.
    pub fn group(&self) -> usize {
        self.datum() + self.width()
    }

    /// Where in an instruction its datum begins.
    pub fn datum(&self) -> usize {
        if self.registers > 1 { 2 } else { 1 }
    }

    /// The id of a register's name.
    pub(super) fn register_id(&self, register: u32) -> u32 {
        id::ZERO + self.symbols + register
    }

    /// Refuses lengths that no string has. The first instructions write each register once.
    pub(super) fn check_length(&self, tokens: usize) -> Result<(), LanguageError> {
        let (group, least) = (self.group(), self.group() * (self.registers() + 1));
        if !(least..=MAX_TOKENS).contains(&tokens) || !tokens.is_multiple_of(group) {
            return Err(LanguageError::Length { tokens, group, least });
        }
        Ok(())
    }
}

impl Default for Alphabet {
    fn default() -> Self {
        Self::BINARY
    }
}
