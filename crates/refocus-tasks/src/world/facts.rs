//! Documents that state facts: capitals and languages, in sentences after which a name has to follow, and in
//! sentences that may as well go on with something else.

use super::World;
use super::draw::Draw;
use crate::recall::{Form, Relation};

/// How a sentence may go on that could have named a capital, by its last word.
const CAPITAL_IS: [&str; 16] = [
    "a city on a river",
    "known for its old bridges",
    "not far from the sea",
    "where the government sits",
    "the largest city of the country",
    "full of people in summer",
    "one of the oldest cities of the region",
    "home to many museums",
    "built on seven hills",
    "older than the country itself",
    "also its main harbour",
    "famous for bread and cheese",
    "smaller than most visitors expect",
    "at the end of the railway line",
    "hard to reach in winter",
    "worth a long visit",
];
const CAPITAL_CALLED: [&str; 10] = [
    "the heart of the country",
    "by some the city of bridges",
    "simply the city by those who live there",
    "many things by many people",
    "after an old king",
    "home by every tenth person of the country",
    "beautiful by all who have seen it",
    "old by the young and young by the old",
    "what its founders wanted it to be",
    "loud by those who come from the villages",
];
const LANGUAGE_IS: [&str; 8] = [
    "spoken in schools and in shops",
    "older than its alphabet",
    "known for its many words for rain",
    "taught from the first year of school",
    "also heard across the border",
    "hard to learn as an adult",
    "full of words from other languages",
    "one of the oldest of the region",
];
const LANGUAGE_SPEAK: [&str; 8] = [
    "more than one language",
    "slowly and with their hands",
    "with an accent that travellers like",
    "of the weather first",
    "the language of their parents at home",
    "quietly in the train",
    "about music after dinner",
    "as their grandparents did",
];

fn other_ends(relation: &Relation, template: &str) -> &'static [&'static str] {
    match (relation.key == "capital", template.rsplit(' ').next()) {
        (true, Some("called")) => &CAPITAL_CALLED,
        (true, _) => &CAPITAL_IS,
        (false, Some("speak")) => &LANGUAGE_SPEAK,
        (false, _) => &LANGUAGE_IS,
    }
}

impl World {
    /// One to five sentences about countries.
    pub(super) fn facts(&self, draw: &mut Draw) -> String {
        let mut text = String::new();
        for i in 0..draw.between(1, 5) {
            if i > 0 {
                text.push(' ');
            }
            let relation = if draw.chance(0.7) { &self.capital } else { &self.language };
            let country = self.country(draw);
            text.push_str(&self.statement(draw, relation, country, i == 0));
        }
        text
    }

    /// A sentence about a country; `first` in its document.
    fn statement(&self, draw: &mut Draw, relation: &Relation, country: usize, first: bool) -> String {
        let fact = &relation.facts[country];
        let (argument, answer) = (&fact.argument, &fact.answer);
        if draw.chance(self.mixture.forced) {
            return match draw.below(4) {
                0 => format!("{} {answer}.", relation.ask(argument)),
                1 if relation.key == "capital" => format!("{answer} is the capital of {argument}."),
                _ => format!("{} {answer}.", self.worded(draw, relation, Form::Forced, argument)),
            };
        }
        let start = if draw.chance(0.6) {
            draw.pick(&relation.open).replace("{}", argument)
        } else {
            self.worded(draw, relation, Form::Open, argument)
        };
        let named = if first { self.mixture.named_first } else { self.mixture.named_later };
        let end = if draw.chance(named) { answer } else { *draw.pick(other_ends(relation, &start)) };
        format!("{start} {end}.")
    }

    /// The clause of a form, after a lead-in or as a sentence of its own.
    fn worded(&self, draw: &mut Draw, relation: &Relation, form: Form, argument: &str) -> String {
        let of_form = relation.worded(form);
        let wording = &relation.wordings[*draw.pick(&of_form)];
        let template = if draw.chance(0.5) { &wording.ask } else { &wording.state };
        template.replace("{}", argument)
    }
}
