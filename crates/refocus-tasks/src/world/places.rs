//! Sentences that mention something in passing, and what they mention.

use super::draw::Draw;

/// `{}` is a place or anything else.
pub(super) const MENTIONS: [&str; 16] = [
    "We saw a film about {}.",
    "There is a picture of {} on the wall.",
    "The teacher talked of {} and then of the weather.",
    "In the book there is a chapter on {}.",
    "Every evening she tells a story about {}.",
    "My brother has a map of {} in his room.",
    "Her sister sends her love and a drawing of {}.",
    "The song is about {}, or so they say.",
    "I once read a poem about {}.",
    "An old postcard of {} lies on the table.",
    "They showed {} on the news.",
    "My aunt would like to know more of {}.",
    "For a good hour the radio told of {}.",
    "The paper has an article of two pages on {}.",
    "Yesterday there was a long letter about {} for my father.",
    "He dreams of {} when it rains.",
];
/// Things that are no places.
const THINGS: [&str; 20] = [
    "history",
    "bread",
    "trains",
    "the weather",
    "birds",
    "glass",
    "poems",
    "maps",
    "bees",
    "clocks",
    "rain",
    "the theatre",
    "horses",
    "old ships",
    "tea",
    "the moon",
    "snow",
    "islands",
    "dancing",
    "gold",
];
/// Syllables of words that nobody knows.
const SYLLABLES: [&str; 24] = [
    "ba", "che", "do", "fi", "gar", "ho", "jun", "ke", "lo", "mi", "nu", "pe", "qua", "ri", "so", "ta", "ul",
    "ve", "wo", "xi", "yan", "zo", "st", "th",
];
pub(super) const PEOPLE: [&str; 24] = [
    "Anna", "Tom", "Maria", "Peter", "Lena", "Paul", "Sara", "David", "Nora", "Felix", "Clara", "Hugo",
    "Ida", "Max", "Emma", "Leo", "Julia", "Oscar", "Rosa", "Victor", "Lucy", "Simon", "Eva", "Martin",
];

/// A word for a thing that is no place; one in four is new to every reader.
pub(super) fn thing(draw: &mut Draw) -> String {
    if draw.chance(0.75) {
        return (*draw.pick(&THINGS)).to_owned();
    }
    (0..draw.between(2, 4)).map(|_| *draw.pick(&SYLLABLES)).collect()
}

/// A sentence that mentions it.
pub(super) fn mention(draw: &mut Draw, what: &str) -> String {
    draw.pick(&MENTIONS).replace("{}", what)
}
