//! The scored rewriting of System 2 Attention as a patch: sentences that the model judges as not needed go before it
//! is asked.
//!
//! The model judges as it is, once a text, whatever else the patch says; a server does the same. What is judged is
//! the text as a user would write it, so that a threshold means the same there.

use refocus_compute::Ops;
use refocus_measure::MeasureError;
use refocus_measure::probe::{NoQuestion, Question};
use refocus_model::patch::Rewrite;
use refocus_model::{ChatTemplate, Model, Tokenizer};
use refocus_system2::{
    Ask, Chat, ChatError, Local, Message, Options, Outcome, Reply, Request, Scores, Usage, Variant, rewrite,
};

use super::super::DiagnoseError;
use super::candidates::Candidate;
use super::cases::{Prompt, mean};

/// A text of a user, and how the model is asked for the answer to it.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) struct Text {
    /// Sentences before the question.
    pub(in super::super) context: String,
    /// As a user would put it.
    pub(in super::super) question: String,
    /// What stands before and after it in a raw prompt.
    pub(in super::super) around: [String; 2],
    /// The sentence that tells the answer, where one does.
    pub(in super::super) needed: Option<String>,
    /// The right answer.
    pub(in super::super) right: String,
    /// Another one.
    pub(in super::super) wrong: String,
}

impl Text {
    fn message(&self) -> String {
        format!("{} {}", self.context, self.question)
    }

    /// The prompt with what is left of the context.
    fn prompt(&self, left: &str, tokenizer: &Tokenizer) -> Result<Prompt, DiagnoseError> {
        let [before, after] = &self.around;
        let space = if left.is_empty() { "" } else { " " };
        let text = format!("{left}{space}{before}{}{after}", self.question);
        let q = Question::of_text(tokenizer, &text, &self.right, &self.wrong, 0..1)?;
        Ok(Prompt::of(&q).ok_or(MeasureError::from(NoQuestion(0)))?)
    }
}

/// A sentence's score, and whether the question needs it.
type Piece = (f64, bool);

/// A text and what the model thinks of its sentences.
struct Judged {
    text: Text,
    /// In order; none where the text could not be judged.
    pieces: Vec<Piece>,
    /// Tokens that were read for it.
    tokens: u64,
}

/// An item's texts: after sentences that name nothing, after sentences that name another answer, and after some of
/// which one tells the answer.
pub(in super::super) type Item = [Text; 3];

/// Texts of some items.
pub(super) struct Texts<'a> {
    tokenizer: &'a Tokenizer,
    items: Vec<[Judged; 3]>,
}

/// What the model is asked.
pub(super) struct Asked {
    /// Two prompts an item, as [`Rule::Against`](super::Rule::Against) takes them.
    pub(super) against: Vec<Prompt>,
    /// One prompt an item, after sentences of which one tells the answer.
    pub(super) told: Vec<Prompt>,
    /// Texts that were rewritten; the others went through as they are.
    pub(super) applied: usize,
}

impl<'a> Texts<'a> {
    /// Has a model judge all sentences.
    pub(super) fn judge<O: Ops>(
        o: &mut O,
        m: &Model<O::K>,
        tokenizer: &'a Tokenizer,
        template: &ChatTemplate,
        items: Vec<Item>,
    ) -> Self {
        let mut chat = Local::new("the model", o, m, tokenizer, Some(template));
        // Nothing is below it: every sentence gets its score, and none goes.
        let options = Options { threshold: Some(f64::NEG_INFINITY), ..Options::new(Variant::Scored) };
        let mut judged = |text: Text| {
            let message = text.message();
            let made = rewrite(&mut chat, &Request::new(message.as_str()), &options);
            // A name with a full stop in it makes several pieces of one sentence.
            let needed = |piece: &str| text.needed.as_deref().is_some_and(|n| n.contains(piece.trim()));
            let piece = |j: &refocus_system2::Judged| (j.score, needed(&message[j.range.clone()]));
            let pieces = made.judged.iter().map(piece).collect();
            Judged { text, pieces, tokens: made.usage.prompt }
        };
        Self { tokenizer, items: items.into_iter().map(|item| item.map(&mut judged)).collect() }
    }

    /// Even items and odd ones.
    pub(super) fn halves(self) -> [Self; 2] {
        let mut halves = [Vec::new(), Vec::new()];
        for (i, item) in self.items.into_iter().enumerate() {
            halves[i % 2].push(item);
        }
        halves.map(|items| Self { tokenizer: self.tokenizer, items })
    }

    /// Texts of all items.
    pub(super) fn len(&self) -> usize {
        3 * self.items.len()
    }

    /// Tokens that are read to judge a text, on average.
    pub(super) fn tokens(&self) -> f64 {
        mean(&self.items.iter().flatten().map(|j| j.tokens as f64).collect::<Vec<_>>())
    }

    /// Rewritings with the threshold that ships, and with the one that fits these items.
    pub(super) fn candidates(&self) -> Vec<Candidate> {
        let pieces: Vec<Piece> = self.items.iter().flatten().flat_map(|j| j.pieces.iter().copied()).collect();
        let shipped = Options::new(Variant::Scored).threshold();
        let candidate = |threshold: f64, key: String| Candidate {
            name: format!("rewritten without sentences below {threshold} nats of being needed"),
            body: format!("[rewrite]\nvariant = \"{}\"\n{key}", Variant::Scored.name()),
        };
        let mut out = vec![candidate(shipped, String::new())];
        if let Some(t) = fitted(&pieces).filter(|t| *t != shipped) {
            out.push(candidate(t, format!("threshold = {t}\n")));
        }
        out
    }

    /// The prompts, rewritten or as they are.
    ///
    /// # Errors
    /// The tokenizer's.
    pub(super) fn asked(&self, how: Option<Rewrite>) -> Result<Asked, DiagnoseError> {
        let mut out = Asked { against: Vec::new(), told: Vec::new(), applied: 0 };
        for item in &self.items {
            let mut prompts = Vec::with_capacity(item.len());
            for judged in item {
                let left = how.and_then(|how| left(judged, how));
                out.applied += usize::from(left.is_some());
                let left = left.as_deref().unwrap_or(&judged.text.context);
                prompts.push(judged.text.prompt(left, self.tokenizer)?);
            }
            out.told.extend(prompts.pop());
            out.against.extend(prompts);
        }
        Ok(out)
    }
}

/// What a rewriting leaves of a context; none where the text goes through as it is.
fn left(judged: &Judged, how: Rewrite) -> Option<String> {
    let options = Options { threshold: how.threshold.map(f64::from), ..Options::new(how.variant) };
    let text = &judged.text;
    let made = rewrite(&mut Known(&judged.pieces), &Request::new(text.message()), &options);
    let rest = made.text.strip_suffix(&text.question)?;
    (made.outcome == Outcome::Applied).then(|| rest.trim().to_owned())
}

/// Tells scores that are known, so that another threshold asks nothing.
struct Known<'p>(&'p [Piece]);

impl Known<'_> {
    fn cannot<T>(what: &'static str) -> Result<T, ChatError> {
        Err(ChatError::Cannot { model: "a list of scores".to_owned(), what })
    }
}

impl Chat for Known<'_> {
    fn name(&self) -> &str {
        "a list of scores"
    }

    fn complete(&mut self, _: &Ask<'_>) -> Result<Reply, ChatError> {
        Self::cannot("write")
    }

    fn score(&mut self, _: &[Message], _: &[&str]) -> Result<(Vec<f64>, Usage), ChatError> {
        Self::cannot("score a single sentence")
    }

    fn score_each(&mut self, asked: &[Vec<Message>], _: &[&str]) -> Result<Scores, ChatError> {
        if asked.len() != self.0.len() {
            return Self::cannot("score other sentences");
        }
        Ok((self.0.iter().map(|(score, _)| vec![*score, 0.0]).collect(), Usage::default()))
    }
}

/// The threshold that parts needed sentences from the others best: the share of the others below it, less the share
/// of the needed, is greatest. In steps of a hundredth of a nat, so that a server, whose scores have fewer digits,
/// decides alike. None where no threshold parts them.
fn fitted(pieces: &[Piece]) -> Option<f64> {
    let mut scores: Vec<f64> = pieces.iter().map(|p| p.0).collect();
    scores.sort_by(f64::total_cmp);
    let share = |needed: bool, t: f64| {
        let all = pieces.iter().filter(|p| p.1 == needed);
        let below = all.clone().filter(|p| p.0 < t).count();
        below as f64 / all.count().max(1) as f64
    };
    let mut best: Option<(f64, f64)> = None;
    for pair in scores.windows(2) {
        // Without the sign of a zero, which a file would show.
        let t = ((pair[0] + pair[1]) * 50.0).round() / 100.0 + 0.0;
        let parts = share(false, t) - share(true, t);
        if parts > best.map_or(0.0, |b| b.0) {
            best = Some((parts, t));
        }
    }
    best.map(|b| b.1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::super::{Toy, distractors};
    use super::*;

    fn text(sentences: &[&str], needed: Option<&str>) -> Text {
        Text {
            context: sentences.join(" "),
            question: "What is the capital of Chad?".to_owned(),
            around: ["Q: ".to_owned(), " A: The capital of Chad is the city of".to_owned()],
            needed: needed.map(str::to_owned),
            right: " Rome".to_owned(),
            wrong: " Oslo".to_owned(),
        }
    }

    fn how(threshold: f32) -> Rewrite {
        Rewrite { variant: Variant::Scored, threshold: Some(threshold) }
    }

    #[test]
    fn sentences_below_the_threshold_go_and_the_question_stays() {
        let text = text(&["I like chess.", "We talked about Oslo.", "It moved to Rome."], None);
        let judged = |pieces: Vec<Piece>| Judged { text: text.clone(), pieces, tokens: 0 };
        let three = judged(vec![(-3.0, false), (-2.0, false), (1.0, true)]);
        assert_eq!(left(&three, how(-2.0)).as_deref(), Some("We talked about Oslo. It moved to Rome."));
        assert_eq!(left(&three, how(0.0)).as_deref(), Some("It moved to Rome."));
        assert_eq!(left(&three, how(2.0)).as_deref(), Some(""));
        assert_eq!(left(&three, how(-9.0)), None, "nothing to remove");
        let unknown = judged(Vec::new());
        assert_eq!(left(&unknown, how(2.0)), None, "what was not judged goes through");
    }

    #[test]
    fn texts_are_the_probe_s_questions_and_lose_sentences_alone() {
        let toy = Toy::new();
        let subject = toy.subject();
        let cases = distractors::cases(subject, 40).expect("cases");
        let items = distractors::texts(subject, 40).expect("texts");
        let places = items.iter().map(|[_, _, told]| {
            let needed = told.needed.as_deref().expect("a sentence that tells");
            told.context.find(needed).expect("it is there")
        });
        let places: BTreeSet<bool> = places.map(|at| at == 0).collect();
        assert_eq!(places.len(), 2, "it stands at the beginning and elsewhere");
        let pieces: Vec<Piece> = (0..4).map(|i| (f64::from(i), false)).collect();
        let judged = |text: Text| Judged { text, pieces: pieces.clone(), tokens: 7 };
        let texts =
            Texts { tokenizer: &toy.tokenizer, items: items.into_iter().map(|i| i.map(judged)).collect() };
        let asked = texts.asked(None).expect("prompts");
        assert_eq!(asked.against, cases.prompts);
        assert_eq!((asked.told.len(), asked.applied, texts.len(), texts.tokens()), (40, 0, 120, 7.0));
        // Without its sentences every text of an item is the bare question.
        let bare = texts.asked(Some(how(9.0))).expect("prompts");
        assert_eq!(bare.applied, 120);
        for (pair, told) in bare.against.chunks(2).zip(&bare.told) {
            assert_eq!(pair[0], pair[1]);
            assert_eq!((&told.ids, told.wanted[0]), (&pair[0].ids, pair[0].wanted[1]));
        }
        let [even, odd] = texts.halves();
        assert_eq!((even.len(), odd.len()), (60, 60));
    }

    #[test]
    fn the_threshold_parts_needed_sentences_from_the_others() {
        let pieces = [(-3.0, false), (-2.5, false), (-1.204, true), (-1.0, false), (0.5, true)];
        assert_eq!(fitted(&pieces), Some(-1.85));
        assert_eq!(fitted(&[(-3.0, true), (-2.0, false)]), None, "the wrong way round");
        assert_eq!(fitted(&[]), None);
        let zero = fitted(&[(-1.0, false), (0.996, true)]).expect("a threshold");
        assert_eq!(zero.to_string(), "0");
    }
}
