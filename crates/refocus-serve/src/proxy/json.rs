//! Where things are in a JSON text, so that one string of it can be replaced and every other byte stays.
//!
//! The text is checked and cut by `serde_json`; a member's value is a slice of the text, so its place is known.
//! Keys that occur twice are seen twice.

use std::borrow::Cow;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A member of an object: its key as a text, its value as it stands.
pub(crate) type Member<'a> = (Cow<'a, str>, &'a str);

/// A key that may hold escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

struct Members<'a>(Vec<Member<'a>>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Every;
        impl<'de> Visitor<'de> for Every {
            type Value = Members<'de>;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut all = Vec::new();
                while let Some((Key(key), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    all.push((key, value.get()));
                }
                Ok(Members(all))
            }
        }
        from.deserialize_map(Every)
    }
}

/// All members of an object in their order, or nothing where the text is no whole object.
pub(crate) fn members(text: &str) -> Option<Vec<Member<'_>>> {
    // Most values that are asked are strings or arrays: no need to build an error for them.
    if !text.trim_start().starts_with('{') {
        return None;
    }
    serde_json::from_str::<Members<'_>>(text).ok().map(|members| members.0)
}

/// All elements of an array, or nothing where the text is no whole array.
pub(crate) fn elements(text: &str) -> Option<Vec<&str>> {
    if !text.trim_start().starts_with('[') {
        return None;
    }
    let all: Vec<&RawValue> = serde_json::from_str(text).ok()?;
    Some(all.into_iter().map(RawValue::get).collect())
}

/// What a string stands for, or nothing where it is none (or half a surrogate pair, which is no text).
pub(crate) fn string(text: &str) -> Option<Cow<'_, str>> {
    if !text.starts_with('"') {
        return None;
    }
    serde_json::from_str::<Key<'_>>(text).ok().map(|key| key.0)
}

/// The value of a member, where the object has exactly one of that name.
///
/// # Errors
/// The name occurs more than once: whoever reads it next may take another one than we do.
pub(crate) fn only<'a>(all: &[Member<'a>], name: &str) -> Result<Option<&'a str>, Twice> {
    let mut found = None;
    for (_, value) in all.iter().filter(|(key, _)| key == name) {
        if found.replace(*value).is_some() {
            return Err(Twice);
        }
    }
    Ok(found)
}

/// A name that occurs more than once in an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Twice;

/// Where a slice of a text begins and ends in it; the slice has to come from the text.
pub(crate) fn place(whole: &str, part: &str) -> Range<usize> {
    let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize).min(whole.len());
    start..(start + part.len()).min(whole.len())
}

/// How many bytes at the start of a string's inside stand for `prefix`, which is ASCII: as many as it has, or more
/// where they are escaped. Nothing where the string begins otherwise.
pub(crate) fn prefix_length(string: &str, prefix: &str) -> Option<usize> {
    let inside = string.strip_prefix('"')?.strip_suffix('"')?;
    let mut at = 0;
    for wanted in prefix.chars() {
        let rest = inside.get(at..)?;
        let taken = match rest.as_bytes().first()? {
            b'\\' if rest.as_bytes().get(1) == Some(&b'u') => 6,
            b'\\' => 2,
            _ => rest.chars().next()?.len_utf8(),
        };
        let piece = format!("\"{}\"", rest.get(..taken)?);
        if self::string(&piece)?.chars().eq([wanted]) {
            at += taken;
        } else {
            return None;
        }
    }
    Some(at)
}

/// A place in a text and what comes there instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Splice {
    /// In bytes.
    pub(crate) at: Range<usize>,
    /// Already JSON where it has to be.
    pub(crate) with: String,
}

/// The text with some places replaced; places must not overlap, and one that lies outside is left out.
pub(crate) fn spliced(text: &str, splices: &[Splice]) -> String {
    let mut order: Vec<&Splice> = splices.iter().collect();
    order.sort_by_key(|splice| splice.at.start);
    let mut out = String::with_capacity(text.len() + splices.iter().map(|s| s.with.len()).sum::<usize>());
    let mut done = 0;
    for splice in order {
        let Some(before) = text.get(done..splice.at.start) else { continue };
        if text.get(splice.at.clone()).is_none() {
            continue;
        }
        out.push_str(before);
        out.push_str(&splice.with);
        done = splice.at.end;
    }
    out.push_str(text.get(done..).unwrap_or_default());
    out
}

/// A text as a JSON string.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_slices_of_the_text() {
        let text = "{ \"a\" : 1e999 ,\"a\":\"x\\u0041\", \"m\\u006fdel\": [ {} , 2 ] }";
        let all = members(text).expect("an object");
        assert_eq!(all.iter().map(|(k, _)| k.as_ref()).collect::<Vec<_>>(), ["a", "a", "model"]);
        for (_, value) in &all {
            assert_eq!(&text[place(text, value)], *value);
        }
        assert_eq!(all[0].1, "1e999", "a number that no float holds stays as it stands");
        assert_eq!(elements(all[2].1).expect("an array"), ["{}", "2"]);
        assert_eq!(only(&all, "a"), Err(Twice));
        assert_eq!(only(&all, "model"), Ok(Some("[ {} , 2 ]")));
        assert_eq!(only(&all, "z"), Ok(None));
    }

    #[test]
    fn what_is_no_json_has_no_members() {
        for text in ["", "{", "[]", "{\"a\":1}x", "{\"a\":01}", "{'a':1}", "{\"a\":1,}"] {
            assert!(members(text).is_none(), "{text}");
        }
    }

    #[test]
    fn nesting_does_not_end_the_stack() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        let all = members(&deep).expect("an object");
        assert_eq!(elements(all[0].1).expect("an array").len(), 1);
    }

    #[test]
    fn prefixes_are_found_however_they_are_escaped() {
        for (text, length) in [
            ("\"s2a/gpt\"", Some(4)),
            ("\"s2a\\/gpt\"", Some(5)),
            ("\"\\u0073\\u0032a/gpt\"", Some(14)),
            ("\"s2a/\"", Some(4)),
            ("\"s2a\"", None),
            ("\"gpt\"", None),
            ("\"é2a/\"", None),
            ("12", None),
        ] {
            assert_eq!(prefix_length(text, "s2a/"), length, "{text}");
        }
    }

    #[test]
    fn half_a_surrogate_pair_is_no_text() {
        assert_eq!(string("\"\\ud83d\\ude00\"").as_deref(), Some("😀"));
        assert_eq!(string("\"\\ud83d\""), None);
        assert!(members("{\"a\":\"\\ud83d\"}").is_some(), "but the object around it can be read");
    }

    proptest! {
        #[test]
        fn a_replaced_string_is_the_only_change(before in ".{0,30}", old in any::<String>(), new in any::<String>(), after in ".{0,30}") {
            // Of a key that occurs twice, the reader below sees the last.
            prop_assume!(after != "x");
            let text = format!("{{{}:{} , \"x\" : {}, {}:[1]}}", quoted(&before), 7, quoted(&old), quoted(&after));
            let all = members(&text).expect("an object");
            let at = place(&text, all[1].1);
            let out = spliced(&text, &[Splice { at: at.clone(), with: quoted(&new) }]);
            prop_assert_eq!(&out[..at.start], &text[..at.start]);
            prop_assert_eq!(&out[out.len() - (text.len() - at.end)..], &text[at.end..]);
            let value: serde_json::Value = serde_json::from_str(&out).expect("still JSON");
            prop_assert!(value.as_object().expect("an object").values().any(|v| v.as_str() == Some(&new)));
        }
    }
}
