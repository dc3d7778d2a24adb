//! Drawing one string.
//!
//! Instruction `k` takes one word: its upper 31 bits choose the instruction, its lowest bit is the fair
//! datum. Words come in tiles of 64, which the compiler draws in vector registers; word `j` of tile `t`
//! is word `j / 16` of position `16 t + j % 16`. Whatever more an instruction of a wider family needs is
//! in the four words of position `2^31 + k`.

use refocus_compute::{Philox, TILE};

use super::probability::{Threshold, Thresholds, below};
use super::{Alphabet, Family, FlipFlop, MAX_REGISTERS, id};

/// Words of a tile, so instructions drawn at once.
const WORDS: usize = 4 * TILE;
/// Positions from here on hold what wider families need.
const MORE: u32 = 1 << 31;
/// The position whose first word chooses a mixture's part.
const PART: u32 = u32::MAX;

/// The random numbers of one string.
#[derive(Clone, Copy)]
pub(super) struct Draw {
    pub(super) rng: Philox,
    pub(super) step: u32,
    pub(super) sequence: u32,
}

impl Draw {
    fn tile(&self, tile: usize) -> [[u32; TILE]; 4] {
        self.rng.tile(self.step, self.sequence, (tile * TILE) as u32)
    }

    fn more(&self, k: usize) -> More {
        let [value, coin, register, _] = self.rng.at(self.step, self.sequence, MORE + k as u32);
        More { value, coin, register }
    }
}

/// Further random words of an instruction, one for each purpose.
#[derive(Clone, Copy)]
struct More {
    value: u32,
    coin: u32,
    register: u32,
}

/// How symbols are written down.
pub(super) trait Spelling {
    /// One symbol.
    type Symbol: Copy;
    /// Of an instruction: write, read, ignore.
    fn instruction(&self, instruction: u32) -> Self::Symbol;
    /// Of a part of a datum.
    fn datum(&self, symbol: u32) -> Self::Symbol;
    /// Of the name of a register.
    fn register(&self, register: u32) -> Self::Symbol;
}

/// As ids.
pub(super) struct Ids(pub(super) Alphabet);

impl Spelling for Ids {
    type Symbol = u32;

    #[inline]
    fn instruction(&self, instruction: u32) -> u32 {
        instruction
    }

    #[inline]
    fn datum(&self, symbol: u32) -> u32 {
        id::ZERO + symbol
    }

    fn register(&self, register: u32) -> u32 {
        self.0.register_id(register)
    }
}

impl FlipFlop {
    /// Writes one string to `out`, which has its length.
    pub(super) fn fill<S: Spelling>(&self, draw: Draw, spelling: &S, out: &mut [S::Symbol]) {
        let thresholds = match &self.family {
            Family::Mixture { parts } => {
                let [word, ..] = draw.rng.at(draw.step, draw.sequence, PART);
                parts[below(parts.len() as u32, word) as usize].thresholds()
            }
            _ => self.probabilities.thresholds(),
        };
        match &self.family {
            Family::Plain | Family::Mixture { .. } if self.alphabet == Alphabet::BINARY => {
                plain(thresholds, draw, spelling, out);
            }
            _ => self.walk(thresholds, draw, spelling, out),
        }
    }

    /// Any language.
    fn walk<S: Spelling>(&self, thresholds: Thresholds, draw: Draw, spelling: &S, out: &mut [S::Symbol]) {
        let mut writer = Writer::new(self, thresholds, draw);
        let (alphabet, mut tile) = (&self.alphabet, [[0; TILE]; 4]);
        for (k, group) in out.chunks_exact_mut(alphabet.group()).enumerate() {
            if k % WORDS == 0 {
                tile = draw.tile(k / WORDS);
            }
            let (instruction, register, mut value) = writer.next(k, tile.as_flattened()[k % WORDS]);
            group[0] = spelling.instruction(instruction);
            if alphabet.registers() > 1 {
                group[1] = spelling.register(register);
            }
            // The first symbol is the most significant.
            let symbols = alphabet.symbols() as u32;
            for symbol in group[alphabet.datum() + 1..].iter_mut().rev() {
                *symbol = spelling.datum(value % symbols);
                value /= symbols;
            }
            group[alphabet.datum()] = spelling.datum(value);
        }
    }
}

/// `FFL(T, p)`: what most strings are, so without anything they do not need.
fn plain<S: Spelling>(thresholds: Thresholds, draw: Draw, spelling: &S, out: &mut [S::Symbol]) {
    let (groups, _) = out.as_chunks_mut::<2>();
    let Some((last, inner)) = groups.split_last_mut() else { return };
    let mut stored = 0;
    for (t, groups) in inner.chunks_mut(WORDS).enumerate() {
        let tile = draw.tile(t);
        let words = tile.as_flattened();
        if t == 0 {
            stored = words[0] & 1;
        }
        for (group, &word) in groups.iter_mut().zip(words) {
            let ([unwritten, ignored], fair) = (thresholds.masks(word), word & 1);
            stored = (stored & unwritten) | (fair & !unwritten);
            let datum = (stored & !ignored) | (fair & ignored);
            let instruction = (unwritten & 1) + (ignored & 1);
            *group = [spelling.instruction(instruction), spelling.datum(datum)];
        }
        if t == 0 {
            groups[0] = [spelling.instruction(id::WRITE), spelling.datum(words[0] & 1)];
        }
    }
    *last = [spelling.instruction(id::READ), spelling.datum(stored)];
}

/// What wider families have to remember.
struct Writer<'a> {
    language: &'a FlipFlop,
    draw: Draw,
    head: Thresholds,
    tail: Thresholds,
    /// The probability that the family's name stands for; not that of every family.
    rate: Threshold,
    last: usize,
    /// First instruction with other rules.
    turn: usize,
    stored: [u32; MAX_REGISTERS],
    /// Datum of the instruction before.
    before: u32,
    /// Reads or changes still to come.
    pending: usize,
    /// The register that a decoy string reads at last, and its datum.
    end: (u32, u32),
    /// Whether more than one word is needed for an instruction, and those of sixteen instructions.
    wants_more: bool,
    more: [[u32; TILE]; 4],
}

impl<'a> Writer<'a> {
    fn new(language: &'a FlipFlop, head: Thresholds, draw: Draw) -> Self {
        let last = language.tokens / language.alphabet.group() - 1;
        let mut writer = Self {
            language,
            draw,
            head,
            tail: head,
            rate: Threshold::new(0.0),
            last,
            turn: last,
            stored: [0; MAX_REGISTERS],
            before: 0,
            pending: 0,
            end: (0, 0),
            wants_more: language.alphabet != Alphabet::BINARY
                || matches!(
                    language.family,
                    Family::Churn { .. }
                        | Family::WriteFlip { .. }
                        | Family::AntiCorrelated { .. }
                        | Family::Markov { .. }
                ),
            more: [[0; TILE]; 4],
        };
        match &language.family {
            Family::Piecewise { from, tail } => {
                writer.tail = tail.thresholds();
                writer.turn = Family::turn(*from, last);
            }
            &Family::Decoy { burst, gap } => {
                writer.turn = last - (burst + 1 + gap);
                let more = draw.more(last);
                writer.end = (
                    below(language.alphabet.registers() as u32, more.register),
                    writer.fair(more.coin, more),
                );
            }
            &Family::Churn { writes } => writer.pending = writes,
            &(Family::WriteFlip { rate } | Family::AntiCorrelated { rate } | Family::Markov { rate }) => {
                writer.rate = Threshold::new(rate);
            }
            _ => {}
        }
        writer
    }

    /// Any datum; one of two takes the word's lowest bit.
    fn fair(&self, word: u32, more: More) -> u32 {
        match self.language.alphabet.values() {
            2 => word & 1,
            values => below(values as u32, more.value),
        }
    }

    /// Any datum but this.
    fn other(&self, than: u32, more: More) -> u32 {
        let values = self.language.alphabet.values() as u32;
        (than + 1 + below(values - 1, more.value)) % values
    }

    /// Instruction, register and datum. Instructions come in order.
    fn next(&mut self, k: usize, word: u32) -> (u32, u32, u32) {
        if self.wants_more && k.is_multiple_of(TILE) {
            let Draw { rng, step, sequence } = self.draw;
            self.more = rng.tile(step, sequence, MORE + k as u32);
        }
        let [value, coin, register] = [0, 1, 2].map(|word| self.more[word][k % TILE]);
        let more = More { value, coin, register };
        let registers = self.language.alphabet.registers() as u32;
        let decoy = matches!(self.language.family, Family::Decoy { .. }) && k >= self.turn;
        let register = match k {
            _ if decoy => self.end.0,
            // Every register is written before any is read.
            _ if k < registers as usize => k as u32,
            _ => below(registers, more.register),
        };
        let instruction = match k {
            _ if k < registers as usize => id::WRITE,
            _ if k == self.last => id::READ,
            _ => self.instruction(k, word, more),
        };
        let stored = self.stored[register as usize];
        let datum = match instruction {
            id::READ => stored,
            _ if k < registers as usize => self.fair(word, more),
            _ => self.datum(instruction, k, stored, word, more),
        };
        if instruction == id::WRITE {
            self.stored[register as usize] = datum;
        }
        self.before = datum;
        (instruction, register, datum)
    }

    /// Of an instruction that is neither among the first writes nor the last read.
    fn instruction(&mut self, k: usize, word: u32, more: More) -> u32 {
        match self.language.family {
            Family::Piecewise { .. } if k >= self.turn => self.tail.instruction(word),
            Family::Decoy { burst, .. } if k >= self.turn => {
                if k <= self.turn + burst {
                    id::WRITE
                } else {
                    id::IGNORE
                }
            }
            Family::ReadRun { length } => {
                if self.pending > 0 {
                    self.pending -= 1;
                    return id::READ;
                }
                let instruction = self.head.instruction(word);
                if instruction == id::READ {
                    self.pending = length - 1;
                }
                instruction
            }
            Family::Churn { .. } => {
                // Selection sampling: each set of places is equally likely.
                if (below((self.last - k) as u32, word) as usize) < self.pending {
                    self.pending -= 1;
                    return id::WRITE;
                }
                let p = self.language.probabilities;
                let read = if p.read() == 0.0 { 0.0 } else { p.read() / (p.read() + p.ignore()) };
                if Threshold::new(read).hit(more.coin) { id::READ } else { id::IGNORE }
            }
            _ => self.head.instruction(word),
        }
    }

    /// Of a write or ignore.
    fn datum(&self, instruction: u32, k: usize, stored: u32, word: u32, more: More) -> u32 {
        let rated = |from| if self.rate.hit(more.coin) { self.other(from, more) } else { from };
        match (&self.language.family, instruction) {
            (Family::Decoy { burst, .. }, id::WRITE) if k >= self.turn => {
                if k < self.turn + burst {
                    self.other(self.end.1, more)
                } else {
                    self.end.1
                }
            }
            (Family::Churn { .. }, id::WRITE) => self.other(stored, more),
            (Family::WriteFlip { .. }, id::WRITE) | (Family::AntiCorrelated { .. }, id::IGNORE) => {
                rated(stored)
            }
            (Family::Markov { .. }, _) => rated(self.before),
            _ => self.fair(word, more),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Probabilities, Split};
    use super::*;
    use refocus_compute::Purpose;

    /// The short way and the general one draw the same strings.
    #[test]
    fn the_two_ways_agree() {
        for (ignore, tokens) in [(0.0, 4), (0.1, 130), (0.8, 512), (0.98, 514), (1.0, 128)] {
            let language = FlipFlop::ignoring(tokens, ignore).expect("a language");
            let rng = Philox::new(3, Purpose::new("test"));
            for sequence in 0..50 {
                let draw = Draw { rng, step: 2, sequence };
                let (mut short, mut general) = (vec![9; tokens], vec![9; tokens]);
                let spelling = Ids(Alphabet::BINARY);
                let thresholds = language.probabilities.thresholds();
                plain(thresholds, draw, &spelling, &mut short);
                language.walk(thresholds, draw, &spelling, &mut general);
                assert_eq!(short, general, "FFL({tokens}, {ignore})");
            }
        }
    }

    /// Two symbols in one place and one register are the paper's language, however they are asked for.
    #[test]
    fn families_that_change_nothing_draw_the_plain_strings() {
        let p = Probabilities::ignoring(0.7).expect("probabilities");
        let strings = |family| {
            let language = FlipFlop::of(Alphabet::BINARY, 200, p, family).expect("a language");
            language.strings(1, Split::Test, 0).take(20).collect::<Vec<_>>()
        };
        let want = strings(Family::Plain);
        assert_eq!(strings(Family::Mixture { parts: vec![p] }), want);
        assert_eq!(strings(Family::Piecewise { from: 0.5, tail: p }), want);
        assert_eq!(strings(Family::ReadRun { length: 1 }), want);
    }
}
