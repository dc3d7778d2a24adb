//! What a command runs: token ids from a text or from a file.

use std::io::Read;
use std::path::Path;

use refocus_model::{Checkpoint, ModelSpec, RunError, Tokenizer};

use crate::cli::Input;
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;

/// Sequences of ids and the tokenizer to show them with, where there is one.
pub(crate) struct Sequences {
    pub(crate) ids: Vec<Vec<u32>>,
    pub(crate) tokenizer: Option<Tokenizer>,
}

/// Reads and checks the input of a command.
pub(crate) fn read(input: &Input, checkpoint: &Checkpoint, printer: &Printer) -> Outcome<Sequences> {
    let sequences = match (&input.text, &input.tokens) {
        (Some(text), _) => {
            let no_tokenizer = |e| Failure::from(e).hint("token ids can be given with --tokens instead");
            let tokenizer = checkpoint.tokenizer().map_err(no_tokenizer)?;
            let ids = tokenizer.encode(text, true)?;
            if ids.is_empty() {
                return Err(Failure::new("the text has no tokens").hint("give a text that is not empty"));
            }
            Sequences { ids: vec![ids], tokenizer: Some(tokenizer) }
        }
        (None, Some(path)) => {
            let ids = tokens(path)?;
            // Ids can be shown as numbers: a missing tokenizer is no reason to stop.
            let tokenizer = match checkpoint.tokenizer() {
                Ok(t) => Some(t),
                Err(e) => {
                    printer.detail(&format!("tokens are shown as ids: {e}"));
                    None
                }
            };
            Sequences { ids, tokenizer }
        }
        (None, None) => return Err(Failure::new("neither --text nor --tokens is given")),
    };
    check(&sequences.ids, checkpoint.spec())?;
    Ok(sequences)
}

/// A JSON list of lists of ids.
pub(crate) fn tokens(path: &Path) -> Outcome<Vec<Vec<u32>>> {
    let (bytes, name) = if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().read_to_end(&mut bytes);
        read.map_err(|e| Failure::because("cannot read standard input", e))?;
        (bytes, "standard input".to_owned())
    } else {
        let name = path.display().to_string();
        let bytes =
            std::fs::read(path).map_err(|e| Failure::because(format!("{name}: cannot be read"), e))?;
        (bytes, name)
    };
    let ids: Vec<Vec<u32>> = serde_json::from_slice(&bytes).map_err(|e| {
        Failure::because(format!("{name}: not a JSON list of lists of token ids"), e)
            .hint("one list for each sequence is needed, such as [[1, 2, 3], [4, 5]]")
    })?;
    if ids.is_empty() {
        return Err(Failure::new(format!("{name}: the list holds no sequence")));
    }
    Ok(ids)
}

/// What can be known to fail before the weights are loaded.
pub(crate) fn check(ids: &[Vec<u32>], spec: &ModelSpec) -> Outcome<()> {
    for (seq, ids) in ids.iter().enumerate() {
        if ids.is_empty() {
            return Err(RunError::Empty { seq }.into());
        }
        if let Some((at, id)) = ids.iter().enumerate().find(|(_, id)| **id as usize >= spec.vocab) {
            let text = format!(
                "sequence {seq} has the token id {id} at position {at}; the vocabulary has {} tokens, 0 to {}",
                spec.vocab,
                spec.vocab.saturating_sub(1)
            );
            return Err(Failure::new(text));
        }
        if ids.len() > spec.n_ctx && !spec.stretches() {
            return Err(RunError::Context { seq, len: ids.len(), n_ctx: spec.n_ctx }.into());
        }
    }
    Ok(())
}
