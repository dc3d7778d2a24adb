//! Questions in a batch against one plain pass a string.

use refocus_measure::probe::{Answer, Grown, Question, ask, batches};
use refocus_model::Checkpoint;
use refocus_tasks::flipflop::{FlipFlop, Split, WORDINGS};

use crate::{last_logits, open};

fn questions() -> Vec<Question> {
    strings(10, 6)
}

/// The first of the strings of a length.
fn strings(length: usize, n: usize) -> Vec<Question> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/gguf-llama-f32/model.gguf");
    let checkpoint = Checkpoint::open(std::path::Path::new(path)).expect("opens");
    let tokenizer = checkpoint.tokenizer().expect("tokenizer");
    let language = FlipFlop::ignoring(length, 0.3).expect("language");
    let strings = language.strings(5, Split::Test, 0).take(n);
    let ask = |ids: Vec<u32>| {
        let v = WORDINGS[0].verbalise(&ids).expect("words");
        let a = v.reads.last().expect("a read");
        let word = &v.text[a.datum.0..a.datum.1];
        assert_eq!(word, a.answer.trim(), "the last write says the answer");
        Question::of_text(&tokenizer, &v.text[..a.end], a.answer, a.wrong, a.datum.0..a.datum.1)
            .expect("encodes")
    };
    strings.map(ask).collect()
}

#[test]
fn a_batch_answers_as_single_passes_do() {
    let (m, mut o) = open("gguf-llama-f32");
    let mut all = questions();
    // The first continuation that shares its first token is scored whole.
    let mut whole = all[0].clone();
    (whole.right, whole.wrong) = (vec![5, 9], vec![5, 11, 7]);
    all.push(whole);
    let got = ask(&mut o, &m, &all).expect("asks");
    let logprob = |o: &mut _, prompt: &[u32], next: &[u32]| -> f32 {
        let one = |k: usize| {
            let logits = last_logits(o, &m, &[prompt, &next[..k]].concat(), &[]);
            let most = logits.iter().copied().fold(f32::MIN, f32::max);
            let sum: f32 = logits.iter().map(|l| (l - most).exp()).sum();
            logits[next[k] as usize] - most - sum.ln()
        };
        (0..next.len()).map(one).sum()
    };
    for (q, a) in all.iter().zip(&got) {
        let n = |ids: &[u32]| if q.parts_at_once() { 1 } else { ids.len() };
        let right = logprob(&mut o, &q.prompt, &q.right[..n(&q.right)]);
        let wrong = logprob(&mut o, &q.prompt, &q.wrong[..n(&q.wrong)]);
        assert!((a.margin() - (right - wrong)).abs() < 1e-4, "{a:?}: {right} {wrong}");
        assert_eq!(a.mass.len(), m.spec.n_layers * m.spec.n_heads);
        assert!(a.mass.iter().all(|x| *x > 0.0 && *x < 1.0));
        assert_eq!(
            ask(&mut o, &m, std::slice::from_ref(q)).expect("asks").as_slice(),
            std::slice::from_ref(a)
        );
    }
}

#[test]
fn batches_hold_their_tokens_and_questions_are_checked() {
    let all = questions();
    let n = all[0].tokens();
    assert_eq!(batches(&all, 1).len(), all.len());
    let whole = |n: usize| std::iter::once(0..n).collect::<Vec<_>>();
    assert_eq!(batches(&all, usize::MAX), whole(all.len()));
    assert_eq!(batches(&all[..1], n), whole(1));
    let (m, mut o) = open("gguf-llama-f32");
    let mut bad = all[1].clone();
    bad.evidence = 0..9999;
    let e = ask(&mut o, &m, &[all[0].clone(), bad]).expect_err("beyond the prompt");
    assert!(e.to_string().starts_with("question 1 needs"), "{e}");
}

/// Texts that begin alike are run once, and nobody can tell.
#[test]
fn grown_questions_are_answered_as_if_each_were_alone() {
    let (m, mut o) = open("gguf-llama-f32");
    // Not every text has every length, and the middle one is missing for the last.
    let sets = [strings(8, 5), strings(14, 6), strings(20, 3)];
    let whole: Vec<Vec<Answer>> = sets.iter().map(|s| ask(&mut o, &m, s).expect("asks")).collect();
    let slices: Vec<&[Question]> = sets.iter().map(Vec::as_slice).collect();
    let grown = Grown(&slices);
    let all: usize = sets.iter().flatten().map(Question::tokens).sum();
    assert!(grown.tokens() < all as u64 * 3 / 4, "{} of {all}", grown.tokens());
    for budget in [1, 300, usize::MAX] {
        let mut told = 0;
        let got = grown.ask(&mut o, &m, budget, &mut |n| told += n).expect("asks");
        assert_eq!((&got, told), (&whole, grown.tokens()), "budget {budget}");
    }
    // The same text again is a question of one new token; in any order, and where nothing is alike.
    for order in [[0, 0], [2, 0], [1, 2]] {
        let some = order.map(|i| slices[i]);
        let got = Grown(&some).ask(&mut o, &m, 300, &mut |_| ()).expect("asks");
        assert_eq!(got, order.map(|i| whole[i].clone()));
    }
    // Answers that begin alike need both texts whole.
    let mut late = sets[1].clone();
    (late[2].right, late[2].wrong) = (vec![5, 9], vec![5, 11, 7]);
    let some = [slices[0], &late];
    let got = Grown(&some).ask(&mut o, &m, 300, &mut |_| ()).expect("asks");
    assert_eq!(got[1], ask(&mut o, &m, &late).expect("asks"));
    assert_eq!(got[0], whole[0]);
    late[4].evidence = 0..9999;
    let e = Grown(&[slices[0], &late]).ask(&mut o, &m, 300, &mut |_| ()).expect_err("beyond the prompt");
    assert!(e.to_string().starts_with("question 4 needs"), "{e}");
    assert!(Grown(&[]).ask(&mut o, &m, 300, &mut |_| ()).expect("nothing").is_empty());
}
