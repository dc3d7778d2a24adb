//! What diagnostics must know about a string (`spec/flip-flop.md` 4.3): where each read looks if it is
//! right, and where it may look if it is wrong.

use super::{Alphabet, Invalid, id};

/// One write of a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Position of its datum's first symbol.
    pub at: usize,
    /// Register written.
    pub register: u32,
    /// The datum, its first symbol the most significant.
    pub value: u32,
}

/// One read of a string. Distances count instructions; 1 is adjacent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// Position just before the datum, where the model is asked: the `r`, or the register after it.
    pub at: usize,
    /// The id that follows, the datum's first symbol.
    pub answer: u32,
    /// Register read.
    pub register: u32,
    /// The datum, its first symbol the most significant.
    pub value: u32,
    /// Instructions since the most recent write of the register.
    pub since_write: usize,
    /// Instructions since the most recent write or read of the register. To copy that datum is right as
    /// well, since the data of reads are true; diagnostics must count both as the right place to look.
    pub since_either: usize,
    /// The most recent write of the register, an index into [`Facts::writes`].
    pub write: usize,
    /// Position of the datum of that write.
    pub write_at: usize,
    /// Position of the datum of the register's most recent read, which may be older than the write.
    pub read_at: Option<usize>,
    /// Older writes of the register that wrote the same datum.
    pub stale_same: usize,
    /// Older writes of the register that wrote another datum.
    pub stale_other: usize,
}

/// A write that a later one made stale before a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Older {
    /// Position of its datum's first symbol.
    pub at: usize,
    /// Whether it wrote what the read gives.
    pub same: bool,
}

/// The writes and reads of a string, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Writes.
    pub writes: Vec<Write>,
    /// Reads.
    pub reads: Vec<Read>,
}

/// What is known of a register on the way through a string.
#[derive(Clone, Default)]
struct Register {
    /// Writes by their datum, all writes.
    count: Vec<usize>,
    writes: usize,
    /// Instruction and index of the last write.
    write: Option<(usize, usize)>,
    /// Instruction of the last read.
    read: Option<usize>,
}

impl Facts {
    /// Goes once through a valid string.
    ///
    /// # Errors
    /// The string is not valid.
    pub fn of(alphabet: &Alphabet, ids: &[u32]) -> Result<Self, Invalid> {
        alphabet.validate(ids)?;
        Ok(Self::trusting(alphabet, ids))
    }

    /// As [`Facts::of`] of a string that is valid for sure.
    pub(super) fn trusting(alphabet: &Alphabet, ids: &[u32]) -> Self {
        let (group, datum) = (alphabet.group(), alphabet.datum());
        let empty = Register { count: vec![0; alphabet.values()], ..Register::default() };
        let mut registers = vec![empty; alphabet.registers()];
        let mut facts = Self::default();
        for (k, symbols) in ids.chunks_exact(group).enumerate() {
            if symbols[0] == id::IGNORE {
                continue;
            }
            let register = if datum == 2 { symbols[1] - alphabet.register_id(0) } else { 0 };
            let digits = symbols[datum..].iter().map(|s| s - id::ZERO);
            let value = digits.fold(0, |v, s| v * alphabet.symbols() as u32 + s);
            let at = k * group + datum;
            let r = &mut registers[register as usize];
            match (symbols[0], r.write) {
                (id::READ, Some((written, write))) => {
                    let same = r.count[value as usize];
                    facts.reads.push(Read {
                        at: at - 1,
                        answer: symbols[datum],
                        register,
                        value,
                        since_write: k - written,
                        since_either: k - r.read.map_or(written, |read| read.max(written)),
                        write,
                        write_at: facts.writes[write].at,
                        read_at: r.read.map(|read| read * group + datum),
                        stale_same: same.saturating_sub(1),
                        stale_other: r.writes - same,
                    });
                    r.read = Some(k);
                }
                (id::WRITE, _) => {
                    r.count[value as usize] += 1;
                    r.writes += 1;
                    r.write = Some((k, facts.writes.len()));
                    facts.writes.push(Write { at, register, value });
                }
                _ => {}
            }
        }
        facts
    }

    /// The stale writes of a read: all writes of its register before the one that counts.
    pub fn older<'a>(&'a self, read: &Read) -> impl Iterator<Item = Older> + 'a {
        let (register, value) = (read.register, read.value);
        let before = self.writes.get(..read.write).unwrap_or_default().iter();
        before
            .filter(move |w| w.register == register)
            .map(move |w| Older { at: w.at, same: w.value == value })
    }
}

/// The reads of a valid string of the paper's language in order; of another string, those that a datum
/// follows and a write precedes.
pub fn reads(ids: &[u32]) -> impl Iterator<Item = Read> {
    let bits = ids.chunks_exact(2).all(|pair| matches!(pair[1], id::ZERO | id::ONE));
    let ids = if bits { ids } else { &[] };
    Facts::trusting(&Alphabet::BINARY, ids).reads.into_iter()
}

/// Where a model is asked, and the id that follows: one question for each symbol of the datum of each read.
/// The part of an instruction at the end of a string that is not whole asks nothing.
pub fn asked<'a>(alphabet: &Alphabet, ids: &'a [u32]) -> impl Iterator<Item = (usize, u32)> + 'a {
    let (group, datum) = (alphabet.group(), alphabet.datum());
    let reads = ids.chunks_exact(group).enumerate().filter(|(_, symbols)| symbols[0] == id::READ);
    reads.flat_map(move |(k, symbols)| (datum..group).map(move |i| (k * group + i - 1, symbols[i])))
}
