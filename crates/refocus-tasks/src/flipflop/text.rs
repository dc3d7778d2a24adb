//! The written form: one ASCII character a symbol, `w0i1r0`. Data are `0` to `9`, `A` to `Z`, `a` to `z`,
//! `+` and `/`; registers are `a` to `z`, `A` to `Z`, `0` to `9`, `+` and `/`. Where a character stands
//! says which of them it is.

use super::draw::Spelling;
use super::{Alphabet, Invalid, id};

const INSTRUCTIONS: &[u8; 3] = b"wri";
const DATA: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz+/";
const REGISTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/";

/// As characters.
pub(super) struct Characters(());

impl Characters {
    pub(super) fn of(alphabet: &Alphabet) -> Result<Self, Invalid> {
        match alphabet.symbols() <= DATA.len() {
            true => Ok(Self(())),
            false => Err(Invalid::Unwritable(alphabet.symbols())),
        }
    }
}

impl Spelling for Characters {
    type Symbol = u8;

    #[inline]
    fn instruction(&self, instruction: u32) -> u8 {
        INSTRUCTIONS[instruction as usize]
    }

    #[inline]
    fn datum(&self, symbol: u32) -> u8 {
        DATA[symbol as usize]
    }

    fn register(&self, register: u32) -> u8 {
        REGISTERS[register as usize]
    }
}

impl Alphabet {
    /// What kind of symbol stands at a position.
    pub(super) fn kind(&self, at: usize) -> Kind {
        match at % self.group() {
            0 => Kind::Instruction,
            1 if self.datum() == 2 => Kind::Register,
            _ => Kind::Datum,
        }
    }

    /// The characters of this alphabet that can stand at a position.
    fn characters(&self, at: usize) -> &'static [u8] {
        match self.kind(at) {
            Kind::Instruction => INSTRUCTIONS,
            Kind::Register => &REGISTERS[..self.registers()],
            Kind::Datum => &DATA[..self.symbols()],
        }
    }

    /// The first id of what can stand at a position.
    pub(super) fn first_id(&self, at: usize) -> u32 {
        match self.kind(at) {
            Kind::Instruction => id::WRITE,
            Kind::Register => self.register_id(0),
            Kind::Datum => id::ZERO,
        }
    }

    /// Ids as characters.
    ///
    /// # Errors
    /// An id that cannot stand where it does, or more symbols than characters.
    pub fn to_text(&self, ids: &[u32]) -> Result<String, Invalid> {
        Characters::of(self)?;
        let character = |(at, &id): (usize, &u32)| {
            let n = id.checked_sub(self.first_id(at)).map(|n| n as usize);
            let c = n.and_then(|n| self.characters(at).get(n)).map(|&c| char::from(c));
            c.ok_or_else(|| self.wrong_id(at, id))
        };
        ids.iter().enumerate().map(character).collect()
    }

    /// Characters as ids. Whether they make a valid string is for [`Alphabet::validate`] to say.
    ///
    /// # Errors
    /// A character that cannot stand where it does, or more symbols than characters.
    pub fn from_text(&self, text: &str) -> Result<Vec<u32>, Invalid> {
        Characters::of(self)?;
        let id = |(at, c): (usize, char)| {
            let n = self.characters(at).iter().position(|&x| char::from(x) == c);
            let found = || Invalid::Symbol { at, found: format!("{c:?}"), needed: self.needed(at) };
            n.map(|n| self.first_id(at) + n as u32).ok_or_else(found)
        };
        text.chars().enumerate().map(id).collect()
    }

    pub(super) fn wrong_id(&self, at: usize, id: u32) -> Invalid {
        Invalid::Symbol { at, found: format!("id {id}"), needed: self.needed(at) }
    }

    /// What stands at a position, in words.
    fn needed(&self, at: usize) -> String {
        let span = |characters: &[u8]| match characters {
            [only] => char::from(*only).to_string(),
            [a, b] => format!("{} or {}", char::from(*a), char::from(*b)),
            [a, .., b] => format!("{} to {}", char::from(*a), char::from(*b)),
            [] => String::new(),
        };
        match self.kind(at) {
            Kind::Instruction => "an instruction (w, r or i)".to_owned(),
            Kind::Register => format!("a register ({})", span(&REGISTERS[..self.registers()])),
            Kind::Datum if self.symbols() > DATA.len() => format!("one of {} data", self.symbols()),
            Kind::Datum => format!("a datum ({})", span(&DATA[..self.symbols()])),
        }
    }
}

/// Kinds of symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `w`, `r`, `i`.
    Instruction,
    /// Which register an instruction means.
    Register,
    /// A symbol of a datum.
    Datum,
}
