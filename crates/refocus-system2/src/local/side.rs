//! Sequences side by side in one pass.

use refocus_compute::{Batch, Seg};

/// Items in order, as many at a time as fit into `most` rows, one at least.
pub(super) fn fitting<T>(items: &[T], most: usize, rows: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
    let mut left = items;
    std::iter::from_fn(move || {
        left.first()?;
        let mut sum = 0;
        let n = left.iter().take_while(|item| {
            sum += rows(item);
            sum <= most
        });
        let (some, others) = left.split_at(n.count().max(1));
        left = others;
        Some(some)
    })
}

/// Tokens of sequences end to end, and the rows that something is asked of.
#[derive(Default)]
pub(super) struct Side {
    pub batch: Batch,
    pub ids: Vec<u32>,
    pub asked: Vec<u32>,
}

impl Side {
    /// One more sequence, from position `pos0` on; its last `asked` rows are asked.
    pub(super) fn push(&mut self, ids: &[u32], pos0: usize, asked: usize) {
        debug_assert!(asked <= ids.len(), "rows of another sequence");
        let start = self.ids.len() as u32;
        self.ids.extend_from_slice(ids);
        let end = self.ids.len() as u32;
        self.batch.segs.push(Seg { rows: start..end, pos0: pos0 as u32 });
        self.asked.extend(end.saturating_sub(asked as u32)..end);
    }
}
