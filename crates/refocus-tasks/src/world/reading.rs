//! Questions after a few sentences. Some sentences help, most do not matter; who lives where is drawn anew for
//! every document and must be read.

use super::World;
use super::draw::Draw;
use super::places::{PEOPLE, mention, thing};

/// Where somebody is, as a statement, a question and the beginning of its answer.
struct Whereabouts {
    state: &'static str,
    ask: &'static str,
    answer: &'static str,
}

const WHEREABOUTS: [Whereabouts; 3] = [
    Whereabouts { state: "{} lives in ", ask: "Where does {} live?", answer: "{} lives in the city of" },
    Whereabouts { state: "{} was born in ", ask: "Where was {} born?", answer: "{} was born in the city of" },
    Whereabouts { state: "{} works in ", ask: "Where does {} work?", answer: "{} works in the city of" },
];

/// How often one, two or three people are told of.
const PEOPLE_TOLD: [f64; 3] = [0.5, 0.3, 0.2];

/// Sentences of a text and the one that answers the question.
struct Told {
    sentences: Vec<String>,
    needed: String,
    ask: String,
    answer: String,
    city: String,
}

impl World {
    /// Sentences, a question, its answer.
    pub(super) fn reading(&self, draw: &mut Draw) -> String {
        if draw.chance(0.5) {
            let t = self.told(draw);
            return format!("{} Q: {} A: {} {}.", t.sentences.join(" "), t.ask, t.answer, t.city);
        }
        let country = self.country(draw);
        let fact = &self.capital.facts[country];
        let mut sentences: Vec<String> = Vec::new();
        let other = |draw: &mut Draw| loop {
            let city = self.capital_of(draw.below(self.capital.facts.len()));
            if city != fact.answer {
                break city;
            }
        };
        match draw.below(4) {
            // Only things that are no places.
            0 => {}
            // What somebody thinks.
            1 => {
                let right = draw.chance(self.mixture.opinion_right);
                let city = if right { &fact.answer } else { other(draw) };
                let who = draw.pick(&PEOPLE);
                let thinks = *draw.pick(&["thinks", "is sure", "has heard", "would say"]);
                sentences.push(format!("{who} {thinks} that the capital of {} is {city}.", fact.argument));
            }
            _ => {
                let right = draw.chance(self.mixture.named_right);
                let city = if right { &fact.answer } else { other(draw) };
                for _ in 0..draw.between(1, 3) {
                    sentences.push(mention(draw, city));
                }
            }
        }
        for _ in 0..draw.below(4) {
            let what = thing(draw);
            sentences.push(mention(draw, &what));
        }
        draw.shuffle(&mut sentences);
        let question = format!("{} {}.", self.capital.ask(&fact.argument), fact.answer);
        sentences.push(question);
        sentences.join(" ")
    }

    /// A text, a question, what of the text matters to it, and the answer.
    pub(super) fn rewriting(&self, draw: &mut Draw) -> String {
        let t = self.told(draw);
        format!(
            "Text: {}\nQuestion: {}\nWhat matters: {}\nAnswer: {} {}.",
            t.sentences.join(" "),
            t.ask,
            t.needed,
            t.answer,
            t.city
        )
    }

    /// One to three people's whereabouts among sentences that do not matter.
    fn told(&self, draw: &mut Draw) -> Told {
        let kind = draw.pick(&WHEREABOUTS);
        let n = 1 + draw.weighted(&PEOPLE_TOLD);
        let people = draw.some(n, PEOPLE.len());
        let cities = draw.some(n, self.capital.facts.len());
        let mut sentences: Vec<String> = people
            .iter()
            .zip(&cities)
            .map(|(&who, &city)| {
                format!("{}{}.", kind.state.replace("{}", PEOPLE[who]), self.capital_of(city))
            })
            .collect();
        let needed = sentences[0].clone();
        for _ in 0..draw.below(4) {
            let what = if draw.chance(0.15) {
                self.capital_of(draw.below(self.capital.facts.len())).to_owned()
            } else {
                thing(draw)
            };
            sentences.push(mention(draw, &what));
        }
        draw.shuffle(&mut sentences);
        let who = PEOPLE[people[0]];
        Told {
            sentences,
            needed,
            ask: kind.ask.replace("{}", who),
            answer: kind.answer.replace("{}", who),
            city: self.capital_of(cities[0]).to_owned(),
        }
    }
}
