//! Where a model is asked: from the bytes of a label in a prompt to the token before it.

use std::ops::Range;

/// Tokens that do not part where a label begins.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// One token holds the label's first byte and the byte before it.
    #[error("label {label} begins at byte {byte}, inside the token of bytes {}..{}", token.start, token.end)]
    Merged {
        /// Number of the label.
        label: usize,
        /// Its first byte.
        byte: usize,
        /// Bytes of the token.
        token: Range<usize>,
    },
    /// Nothing stands before the label.
    #[error("no token ends where label {label} begins, at byte {byte}")]
    Nothing {
        /// Number of the label.
        label: usize,
        /// Its first byte.
        byte: usize,
    },
}

/// For each label the index of the token that ends where it begins: the position whose next-token
/// distribution is read. `offsets` are the bytes of each token in order (empty for tokens that stand for
/// no text, such as a beginning-of-sequence token); `labels` in order, each with the space before it.
///
/// # Errors
/// A token reaches over the place where a label begins, or none ends there.
pub fn slots(offsets: &[Range<usize>], labels: &[Range<usize>]) -> Result<Vec<usize>, SlotError> {
    let mut out = Vec::with_capacity(labels.len());
    let mut at = 0;
    for (label, bytes) in labels.iter().enumerate() {
        let byte = bytes.start;
        // The first token that holds the label's first byte.
        while at < offsets.len() && offsets[at].end <= byte {
            at += 1;
        }
        let token = offsets.get(at).ok_or(SlotError::Nothing { label, byte })?;
        if token.start < byte {
            return Err(SlotError::Merged { label, byte, token: token.clone() });
        }
        let before = offsets[..at].iter().rposition(|t| !t.is_empty());
        match before.filter(|&b| offsets[b].end == byte && token.start == byte) {
            Some(b) => out.push(b),
            None => return Err(SlotError::Nothing { label, byte }),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::single_range_in_vec_init, reason = "lists of one range are meant")]

    use super::*;

    #[test]
    fn the_token_before_each_label() {
        // "a: x.\n\nb: y." as <bos> "a" ":" " x" "." "\n\n" "b" ":" " y" "."
        let offsets = [0..0, 0..1, 1..2, 2..4, 4..5, 5..7, 7..8, 8..9, 9..11, 11..12];
        assert_eq!(slots(&offsets, &[2..4, 9..11]), Ok(vec![2, 7]));
    }

    #[test]
    fn a_label_of_several_tokens_is_asked_for_once() {
        assert_eq!(slots(&[0..3, 3..7, 7..8, 8..12], &[3..12]), Ok(vec![0]));
    }

    #[test]
    fn tokens_that_merge_over_the_border_are_refused() {
        let e = slots(&[0..1, 1..5], &[2..5]).expect_err("a label inside a token");
        assert_eq!(e.to_string(), "label 0 begins at byte 2, inside the token of bytes 1..5");
        assert_eq!(slots(&[0..0, 0..4], &[0..4]), Err(SlotError::Nothing { label: 0, byte: 0 }));
        assert_eq!(slots(&[0..2], &[2..4]), Err(SlotError::Nothing { label: 0, byte: 2 }));
        // A gap in the offsets is no border.
        assert_eq!(slots(&[0..1, 3..5], &[2..5]), Err(SlotError::Nothing { label: 0, byte: 2 }));
    }
}
