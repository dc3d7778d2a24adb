//! Conditions on measures: `overthinking.gap.low > 0.1 or flipflop.error >= 0.2`.

use std::collections::BTreeMap;

use super::finding::Measure;
use super::metrics::{METRICS, known};

/// A condition that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConditionError {
    /// No `metric < number`.
    #[error(
        "{text:?} is no condition: it must be METRIC, one of < > <= >=, and a number, joined by and / or"
    )]
    Shape {
        /// The part at fault.
        text: String,
    },
    /// No such metric.
    #[error("there is no metric {name}{}", nearest.as_ref().map(|n| format!("; {n} is similar")).unwrap_or_default())]
    Unknown {
        /// As given.
        name: String,
        /// The most similar name, if one is.
        nearest: Option<String>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Of {
    Value,
    Low,
    High,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Sign {
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

#[derive(Clone, Debug, PartialEq)]
struct Test {
    metric: &'static str,
    of: Of,
    sign: Sign,
    bound: f64,
}

/// `or` of `and`s of comparisons.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    any: Vec<Vec<Test>>,
}

impl Condition {
    /// Reads a condition. `and` binds closer than `or`.
    ///
    /// # Errors
    /// No condition, or one that names nothing.
    pub fn parse(text: &str) -> Result<Self, ConditionError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let mut any = Vec::new();
        for part in words.split(|w| w.eq_ignore_ascii_case("or")) {
            let tests = part.split(|w| w.eq_ignore_ascii_case("and")).map(|t| Test::parse(&t.concat(), text));
            any.push(tests.collect::<Result<_, _>>()?);
        }
        Ok(Self { any })
    }

    /// Whether it is met; `None` where that depends on a measure that is not there.
    pub fn met(&self, measures: &BTreeMap<String, Measure>) -> Option<bool> {
        let all = |tests: &[Test]| {
            let each: Vec<Option<bool>> = tests.iter().map(|t| t.met(measures)).collect();
            if each.contains(&Some(false)) {
                Some(false)
            } else if each.contains(&None) {
                None
            } else {
                Some(true)
            }
        };
        let each: Vec<Option<bool>> = self.any.iter().map(|tests| all(tests)).collect();
        if each.contains(&Some(true)) {
            Some(true)
        } else if each.contains(&None) {
            None
        } else {
            Some(false)
        }
    }

    /// Metrics that it names and that are not there.
    pub fn missing(&self, measures: &BTreeMap<String, Measure>) -> Vec<&'static str> {
        let mut out: Vec<&'static str> = Vec::new();
        for t in self.any.iter().flatten() {
            if t.met(measures).is_none() && !out.contains(&t.metric) {
                out.push(t.metric);
            }
        }
        out
    }
}

impl Test {
    fn parse(text: &str, whole: &str) -> Result<Self, ConditionError> {
        let shape = || ConditionError::Shape { text: if text.is_empty() { whole } else { text }.to_owned() };
        let at = text.find(['<', '>']).ok_or_else(shape)?;
        let (name, rest) = text.split_at(at);
        let (sign, number) = match rest.as_bytes() {
            [b'<', b'=', ..] => (Sign::LessEqual, &rest[2..]),
            [b'>', b'=', ..] => (Sign::GreaterEqual, &rest[2..]),
            [b'<', ..] => (Sign::Less, &rest[1..]),
            _ => (Sign::Greater, &rest[1..]),
        };
        let bound: f64 = number.parse().ok().filter(|x: &f64| x.is_finite()).ok_or_else(shape)?;
        let (stem, of) = match name.rsplit_once('.') {
            Some((stem, "low")) => (stem, Of::Low),
            Some((stem, "high")) => (stem, Of::High),
            _ => (name, Of::Value),
        };
        let Some(metric) = known(stem) else {
            let alike = |m: &&str| m.split('.').next_back() == stem.split('.').next_back();
            let start = |m: &&str| m.starts_with(stem) && !stem.is_empty();
            let names = || METRICS.iter().map(|m| m.name);
            let nearest = names().find(start).or_else(|| names().find(alike)).map(str::to_owned);
            return Err(ConditionError::Unknown { name: stem.to_owned(), nearest });
        };
        Ok(Self { metric: metric.name, of, sign, bound })
    }

    fn met(&self, measures: &BTreeMap<String, Measure>) -> Option<bool> {
        let m = measures.get(self.metric)?;
        let x = match self.of {
            Of::Value => m.value,
            Of::Low => m.low?,
            Of::High => m.high?,
        };
        Some(match self.sign {
            Sign::Less => x < self.bound,
            Sign::LessEqual => x <= self.bound,
            Sign::Greater => x > self.bound,
            Sign::GreaterEqual => x >= self.bound,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measures() -> BTreeMap<String, Measure> {
        BTreeMap::from([
            ("overthinking.gap".to_owned(), Measure::within(0.3, 0.1, 0.5, 40)),
            ("flipflop.error".to_owned(), Measure::plain(0.2, 10)),
        ])
    }

    fn met(text: &str) -> Option<bool> {
        Condition::parse(text).expect("a condition").met(&measures())
    }

    #[test]
    fn conditions_read_values_and_bounds() {
        assert_eq!(met("overthinking.gap > 0.29"), Some(true));
        assert_eq!(met("overthinking.gap.low>0.1"), Some(false));
        assert_eq!(met("overthinking.gap.low >= 0.1"), Some(true));
        assert_eq!(met("overthinking.gap.high<=0.5 and flipflop.error<0.2"), Some(false));
        assert_eq!(met("flipflop.error < 0.2 OR overthinking.gap.high >= 0.5"), Some(true));
        assert_eq!(met("flipflop.error > 1 or overthinking.gap > 0 and flipflop.error < 1"), Some(true));
    }

    #[test]
    fn what_was_not_measured_decides_nothing() {
        assert_eq!(met("recall.fall > 0.1"), None);
        assert_eq!(met("recall.fall > 0.1 or flipflop.error > 0.1"), Some(true));
        assert_eq!(met("recall.fall > 0.1 and flipflop.error > 0.5"), Some(false));
        // A number without an interval has no bound.
        assert_eq!(met("flipflop.error.low > 0"), None);
        let c = Condition::parse("recall.fall > 0 or recall.fall < 1").expect("a condition");
        assert_eq!(c.missing(&measures()), ["recall.fall"]);
    }

    #[test]
    fn what_is_no_condition_is_told() {
        let told = |text: &str| Condition::parse(text).expect_err("refused").to_string();
        assert!(told("flipflop.error").contains("is no condition"));
        assert!(told("flipflop.error > much").contains("is no condition"));
        assert!(told("flipflop.error > 0 and").contains("is no condition"));
        assert!(told("").contains("is no condition"));
        assert_eq!(told("gap > 0"), "there is no metric gap; overthinking.gap is similar");
        assert_eq!(told("recall.colour > 0"), "there is no metric recall.colour");
    }
}
