//! Which texts a pair of prompts shows, and which labels (the study's sampling, from its released code).
//!
//! Everything is a pure function of (seed, task, pair): the settings share the texts of a pair and its
//! true labels, so one true run serves them all.

use refocus_compute::{Philox, Purpose, unit_f64};

use super::data::Dataset;
use super::error::TaskError;
use super::task::Task;

/// How the false prompt of a pair is labelled. The classes of a prompt are shifted by one cyclic
/// permutation `σ(c) = c + s mod C`, the same for all its slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Setting {
    /// Every label is `σ(c)`.
    Permuted,
    /// Each label by itself: true with probability one half, else `σ(c)`.
    Half,
    /// Each label by itself: any class, perhaps the true one.
    Random,
    /// `σ(c)` for this percentage of the slots, rounded, else true: 20, 40, 60, 80.
    PermutedShare(u8),
}

impl Setting {
    /// All of them.
    pub const ALL: [Setting; 7] = [
        Setting::Permuted,
        Setting::Half,
        Setting::Random,
        Setting::PermutedShare(20),
        Setting::PermutedShare(40),
        Setting::PermutedShare(60),
        Setting::PermutedShare(80),
    ];

    /// As written on the command line.
    pub fn name(self) -> String {
        match self {
            Setting::Permuted => "permuted".to_owned(),
            Setting::Half => "half".to_owned(),
            Setting::Random => "random".to_owned(),
            Setting::PermutedShare(n) => format!("permuted_{n}"),
        }
    }

    /// The setting of a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }
}

/// One demonstration of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Row of the data.
    pub row: usize,
    /// Its class.
    pub class: usize,
}

/// The draws of a pair of prompts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Number of the pair.
    pub pair: u32,
    /// `s` of the permutation, from 1 to C − 1.
    pub shift: usize,
    /// The demonstrations in the order they are shown.
    pub slots: Vec<Slot>,
}

/// How much room texts have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Demonstrations.
    pub demos: usize,
    /// Tokens that texts may have in the mean: context over demonstrations, less what is around a text.
    pub mean_text_tokens: usize,
}

/// Tokens of each row's texts together, in the order of the data.
pub type Fit<'a> = &'a [usize];

/// A stream of numbers below bounds: rejection keeps them exactly uniform.
struct Numbers {
    rng: Philox,
    pair: u32,
    stream: u32,
    next: u32,
}

impl Numbers {
    fn word(&mut self) -> u32 {
        let w = self.rng.at(self.stream, self.pair, self.next / 4)[(self.next % 4) as usize];
        self.next += 1;
        w
    }

    fn below(&mut self, n: usize) -> usize {
        let n = n as u64;
        let limit = (1u64 << 32) / n * n;
        loop {
            let w = u64::from(self.word());
            if w < limit {
                return (w % n) as usize;
            }
        }
    }
}

const TEXTS: Purpose = Purpose::new("overthinking: texts");
const LABELS: Purpose = Purpose::new("overthinking: labels");

/// Draws the texts of a pair: for each slot a class, uniformly, and a text of it that the prompt does not
/// show yet. A text is drawn again while the mean length of the texts so far would pass the budget; after
/// that the slots are shuffled, so that short texts do not gather at the end.
///
/// # Errors
/// A class has too few rows, or none short enough.
pub fn draw(
    task: &Task,
    data: &Dataset,
    tokens: Fit<'_>,
    budget: Budget,
    seed: u64,
    pair: u32,
) -> Result<Draw, TaskError> {
    /// Draws of one slot before the rows are looked through one by one.
    const TRIES: usize = 200;
    if budget.demos == 0 {
        return Err(TaskError::NoDemos);
    }
    let mut n = Numbers { rng: Philox::new(seed, TEXTS), pair, stream: 0, next: 0 };
    let shift = 1 + n.below(task.n_classes() - 1);
    let mut slots: Vec<Slot> = Vec::with_capacity(budget.demos);
    let mut used = vec![false; data.examples.len()];
    let mut sum = 0;
    for i in 0..budget.demos {
        let class = n.below(task.n_classes());
        let rows = &data.by_class[class];
        let name = || task.classes[class].name.clone();
        let fits = |row: usize, sum: usize| sum + tokens[row] <= budget.mean_text_tokens * (i + 1);
        let mut found = None;
        for _ in 0..TRIES {
            let row = rows[n.below(rows.len())];
            if !used[row] && fits(row, sum) {
                found = Some(row);
                break;
            }
        }
        // Few rows are left that fit: choose among them all.
        let row = match found {
            Some(row) => row,
            None => {
                let free: Vec<usize> = rows.iter().copied().filter(|&r| !used[r]).collect();
                let few = || TaskError::Few {
                    task: task.key.clone(),
                    class: name(),
                    rows: rows.len(),
                    demos: budget.demos,
                };
                let shortest = free.iter().map(|&r| tokens[r]).min().ok_or_else(few)?;
                let good: Vec<usize> = free.into_iter().filter(|&r| fits(r, sum)).collect();
                if good.is_empty() {
                    return Err(TaskError::Room {
                        task: task.key.clone(),
                        class: name(),
                        demos: budget.demos,
                        room: budget.mean_text_tokens,
                        shortest,
                    });
                }
                good[n.below(good.len())]
            }
        };
        used[row] = true;
        sum += tokens[row];
        slots.push(Slot { row, class });
    }
    for i in (1..slots.len()).rev() {
        slots.swap(i, n.below(i + 1));
    }
    Ok(Draw { pair, shift, slots })
}

/// The classes whose words the false prompt of a pair shows, one a slot.
pub fn shown(draw: &Draw, setting: Setting, n_classes: usize, seed: u64) -> Vec<usize> {
    let wrong = |c: usize| (c + draw.shift) % n_classes;
    let stream = Setting::ALL.iter().position(|&s| s == setting).unwrap_or(0) as u32;
    let mut n = Numbers { rng: Philox::new(seed, LABELS), pair: draw.pair, stream, next: 0 };
    let classes = draw.slots.iter().map(|s| s.class);
    match setting {
        Setting::Permuted => classes.map(wrong).collect(),
        Setting::Half => {
            let fair = |n: &mut Numbers| unit_f64(n.word(), n.word()) < 0.5;
            classes.map(|c| if fair(&mut n) { c } else { wrong(c) }).collect()
        }
        Setting::Random => classes.map(|_| n.below(n_classes)).collect(),
        Setting::PermutedShare(percent) => {
            // Exactly this many slots, chosen by a shuffle.
            let k = draw.slots.len();
            let many = (k * usize::from(percent) + 50) / 100;
            let mut order: Vec<usize> = (0..k).collect();
            for i in (1..k).rev() {
                order.swap(i, n.below(i + 1));
            }
            let mut out: Vec<usize> = classes.collect();
            for &i in &order[..many.min(k)] {
                out[i] = wrong(out[i]);
            }
            out
        }
    }
}
