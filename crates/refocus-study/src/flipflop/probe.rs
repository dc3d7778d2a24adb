//! Flip-flop strings put to a language model as text: the question of the final read, and what simple rules
//! would answer.

use std::ops::Range;

use refocus_measure::probe::Question;
use refocus_model::{LoadError, Tokenizer};
use refocus_tasks::flipflop::{
    Alphabet, DEMONSTRATION, FlipFlop, Invalid, LanguageError, Split, WORDINGS, id, reads,
};

/// How a string is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// In words, after another string in words that shows how it is done.
    Demonstration,
    /// In words.
    Words,
    /// As `w0i1r`.
    Symbols,
}

/// One string as it is asked of a model here.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The question.
    pub question: Question,
    /// What it says.
    pub put: Put,
}

/// One string as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// The text up to the answer.
    pub text: String,
    /// The right answer's words, and the other's.
    pub answers: [String; 2],
    /// Bytes of the text that decide the answer.
    pub evidence: Range<usize>,
    /// The bit that is right.
    pub bit: u32,
    /// Whether the datum of the instruction just before is right.
    pub copy_last: bool,
    /// Whether the datum of the last instruction that is no ignore is right, as it always is.
    pub rule: bool,
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The language of the demonstration.
    #[error(transparent)]
    Language(#[from] LanguageError),
    /// A string that is none.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The tokenizer.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// Strings number 0 to `count` of the test split as questions.
///
/// # Errors
/// The texts cannot be encoded.
pub fn questions(
    tokenizer: &Tokenizer,
    form: Form,
    language: &FlipFlop,
    count: u32,
    seed: u64,
) -> Result<Vec<Asked>, ProbeError> {
    let ask = |put: Put| {
        let [right, wrong] = &put.answers;
        let question = Question::of_text(tokenizer, &put.text, right, wrong, put.evidence.clone())?;
        Ok(Asked { question, put })
    };
    texts(form, language, count, seed)?.into_iter().map(ask).collect()
}

/// Strings number 0 to `count` of the test split as texts.
///
/// # Errors
/// The language of the demonstration cannot be made.
pub fn texts(form: Form, language: &FlipFlop, count: u32, seed: u64) -> Result<Vec<Put>, ProbeError> {
    let shown = FlipFlop::of(
        *language.alphabet(),
        DEMONSTRATION,
        language.probabilities(),
        language.family().clone(),
    )?;
    let mut out = Vec::new();
    for i in 0..count {
        let (mut ids, mut before) = (Vec::new(), Vec::new());
        language.append(seed, Split::Test, 0, i, &mut ids);
        let Some(read) = reads(&ids).last() else { continue };
        let (text, answers, evidence) = match form {
            Form::Symbols => {
                let text = Alphabet::BINARY.to_text(&ids)?;
                let answers = if read.value == 0 { ["0", "1"] } else { ["1", "0"] };
                (text[..=read.at].to_owned(), answers, read.write_at..read.write_at + 1)
            }
            Form::Words | Form::Demonstration => {
                let mut words = if form == Form::Words {
                    WORDINGS[0].verbalise(&ids)?
                } else {
                    shown.append(seed, Split::Demonstration, 0, i, &mut before);
                    WORDINGS[0].demonstrate(&before, &ids)?
                };
                let Some(a) = words.reads.last() else { continue };
                words.text.truncate(a.end);
                (words.text, [a.answer, a.wrong], a.datum.0..a.datum.1)
            }
        };
        let last = ids.len() - 2;
        let told = ids[..last].chunks_exact(2).rev().find(|pair| pair[0] != id::IGNORE);
        out.push(Put {
            text,
            evidence,
            answers: answers.map(str::to_owned),
            bit: read.value,
            copy_last: ids[last - 1] == read.answer,
            rule: told.is_some_and(|pair| pair[1] == read.answer),
        });
    }
    Ok(out)
}
