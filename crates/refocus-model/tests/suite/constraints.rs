//! What is generated within a constraint meets it, however unlikely the model finds it.

use std::ops::ControlFlow;

use proptest::prelude::*;
use proptest::strategy::{Union, ValueTree};
use proptest::test_runner::{Config, TestRunner};
use refocus_compute::{Cpu, Eager};
use refocus_model::generate::{
    Constraint, Engine, Finish, Grammars, Limits, Output, Request, Sampling, complete,
};
use refocus_model::{Checkpoint, Model, Tokenizer};
use serde_json::{Map, Value, json};

use crate::expected::{fixtures, isa};

/// A model with a vocabulary of text.
struct Speaker {
    m: Model<Cpu>,
    o: Eager<Cpu>,
    tokenizer: Tokenizer,
    grammars: Grammars,
}

impl Speaker {
    fn open(path: &std::path::Path) -> Self {
        let checkpoint = Checkpoint::open(path).expect("opens");
        let mut cpu = Cpu::new(isa(), 2);
        let m = Model::load(&checkpoint, &mut cpu).expect("loads");
        let tokenizer = checkpoint.tokenizer().expect("a tokenizer");
        let grammars = Grammars::new(&tokenizer, &m.spec).expect("a vocabulary");
        Self { m, o: Eager::new(cpu), tokenizer, grammars }
    }

    /// Printable ASCII, tab and newline.
    fn fixture() -> Self {
        Self::open(&fixtures().join("gguf-llama-q4_1/model.gguf"))
    }

    /// Samples at temperature 5.
    fn say(&mut self, constraint: &Constraint, n: u32, max_new: usize) -> Vec<Output> {
        let prompt = self.tokenizer.encode("one", true).expect("encodes");
        let request = Request {
            n,
            sampling: Sampling { temperature: 5.0, seed: 9, ..Sampling::default() },
            stop: self.m.spec.eos.clone(),
            constraint: Some(constraint.clone()),
            ..Request::new(prompt, max_new)
        };
        let mut engine = Engine::new(&mut self.o, &self.m, Some(&self.tokenizer), Limits::default());
        complete(&mut engine, vec![request], |_| ControlFlow::Continue(())).expect("fits").remove(0)
    }

    fn texts(&mut self, constraint: &Constraint, n: u32, max_new: usize) -> Vec<String> {
        let whole = |o: Output| {
            let finish = o.finish.expect("no dead end");
            assert!(o.whole == Some(true) && finish != Finish::Length, "{finish:?}: {:?}", o.text);
            o.text
        };
        self.say(constraint, n, max_new).into_iter().map(whole).collect()
    }
}

/// A fixed seed: the same cases on every machine.
fn runner(cases: u32) -> TestRunner {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let rng = proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(config, rng)
}

fn check<T: std::fmt::Debug>(cases: u32, of: impl Strategy<Value = T>, mut test: impl FnMut(T)) {
    let mut runner = runner(cases);
    for _ in 0..cases {
        test(of.new_tree(&mut runner).expect("a case").current());
    }
}

#[test]
fn one_of_the_choices() {
    let mut s = Speaker::fixture();
    check(24, proptest::collection::btree_set("[ -~]{1,9}", 1..6), |choices| {
        let choices: Vec<String> = choices.into_iter().collect();
        let constraint = s.grammars.choices(&choices).expect("choices");
        for text in s.texts(&constraint, 4, 40) {
            assert!(choices.contains(&text), "{text:?} of {choices:?}");
        }
    });
}

/// Regular expressions whose texts are short.
fn regexes() -> impl Strategy<Value = String> {
    let leaf = Union::new([
        "[a-z]{1,3}".boxed(),
        Just("[a-f]".to_owned()).boxed(),
        Just(r"\d".to_owned()).boxed(),
        Just("[^a-m]".to_owned()).boxed(),
        Just(r"\.".to_owned()).boxed(),
        Just(" ".to_owned()).boxed(),
        Just(r"\{x\}".to_owned()).boxed(),
        Just("/".to_owned()).boxed(),
    ]);
    leaf.prop_recursive(3, 12, 3, |inner| {
        let inner = inner.boxed();
        Union::new([
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}{b}")).boxed(),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("(?:{a}|{b})")).boxed(),
            (inner.clone(), 0u8..2, 1u8..4).prop_map(|(a, n, m)| format!("(?:{a}){{{n},{}}}", n + m)).boxed(),
            inner.prop_map(|a| format!("(?:{a})?z")).boxed(),
        ])
    })
}

#[test]
fn a_text_that_matches() {
    let mut s = Speaker::fixture();
    check(40, regexes(), |regex| {
        let constraint = s.grammars.regex(&regex).unwrap_or_else(|e| panic!("{regex}: {e}"));
        let matches = fancy_regex::Regex::new(&format!("^(?:{regex})$")).expect("a regex");
        for text in s.texts(&constraint, 4, 400) {
            assert!(matches.is_match(&text).expect("decides"), "{text:?} beside {regex}");
        }
    });
}

/// Schemas whose texts are short.
fn schemas() -> impl Strategy<Value = Value> {
    let leaf = Union::new([
        Just(json!({"type": "boolean"})).boxed(),
        Just(json!({"type": "null"})).boxed(),
        (-50i32..50, 0i32..300)
            .prop_map(|(a, n)| json!({"type": "integer", "minimum": a, "maximum": a + n}))
            .boxed(),
        (0u8..3, 0u8..6)
            .prop_map(|(a, n)| json!({"type": "string", "minLength": a, "maxLength": a + n}))
            .boxed(),
        Just(json!({"type": "string", "pattern": "^[a-c]{2}-[0-9]$"})).boxed(),
        Just(json!({"enum": ["red", 7, null, "a \"quoted\" word"]})).boxed(),
        Just(json!({"const": [1, "x"]})).boxed(),
    ]);
    leaf.prop_recursive(3, 10, 3, |inner| {
        let inner = inner.boxed();
        Union::new([
            proptest::collection::btree_map("[a-z]{1,4}", (inner.clone(), any::<bool>()), 1..4)
                .prop_map(|properties| {
                    let required: Vec<_> = properties.iter().filter(|p| p.1.1).map(|p| p.0.clone()).collect();
                    let properties: Map<_, _> = properties.into_iter().map(|(k, v)| (k, v.0)).collect();
                    json!({
                        "type": "object",
                        "properties": properties,
                        "required": required,
                        "additionalProperties": false,
                    })
                })
                .boxed(),
            (inner.clone(), 0u8..2, 1u8..3)
                .prop_map(
                    |(of, a, n)| json!({"type": "array", "items": of, "minItems": a, "maxItems": a + n}),
                )
                .boxed(),
            (inner.clone(), inner).prop_map(|(a, b)| json!({"anyOf": [a, b]})).boxed(),
        ])
    })
}

/// Whether a value meets a schema of [`schemas`].
fn meets(v: &Value, schema: &Value) -> bool {
    let number = |key: &str| schema[key].as_i64();
    if let Some(all) = schema["enum"].as_array() {
        return all.contains(v);
    }
    if let Some(c) = schema.get("const") {
        return c == v;
    }
    if let Some(any) = schema["anyOf"].as_array() {
        return any.iter().any(|s| meets(v, s));
    }
    match (schema["type"].as_str(), v) {
        (Some("boolean"), Value::Bool(_)) | (Some("null"), Value::Null) => true,
        (Some("integer"), Value::Number(n)) => {
            n.as_i64().is_some_and(|n| number("minimum") <= Some(n) && Some(n) <= number("maximum"))
        }
        (Some("string"), Value::String(s)) => match schema["pattern"].as_str() {
            Some(p) => fancy_regex::Regex::new(p).expect("a regex").is_match(s).expect("decides"),
            None => {
                let n = Some(s.chars().count() as i64);
                number("minLength") <= n && n <= number("maxLength")
            }
        },
        (Some("array"), Value::Array(list)) => {
            let n = Some(list.len() as i64);
            number("minItems") <= n
                && n <= number("maxItems")
                && list.iter().all(|v| meets(v, &schema["items"]))
        }
        (Some("object"), Value::Object(object)) => {
            let required = schema["required"].as_array().expect("a list");
            required.iter().all(|k| object.contains_key(k.as_str().expect("a key")))
                && object.iter().all(|(k, v)| schema["properties"].get(k).is_some_and(|s| meets(v, s)))
        }
        _ => false,
    }
}

#[test]
fn json_of_a_schema() {
    let mut s = Speaker::fixture();
    check(40, schemas(), |schema| {
        let constraint = s.grammars.json_schema(&schema).unwrap_or_else(|e| panic!("{schema}: {e}"));
        for text in s.texts(&constraint, 3, 1000) {
            let value: Value =
                serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text:?} beside {schema}: {e}"));
            assert!(meets(&value, &schema), "{text} beside {schema}");
        }
    });
}

#[test]
fn what_cannot_be_a_constraint_is_named() {
    let s = Speaker::fixture();
    let regex = |r: &str| s.grammars.regex(r).expect_err("refused").to_string();
    assert!(regex("a(b").contains("unclosed group"), "{}", regex("a(b"));
    assert!(regex(r"a(?=b)").contains("look-around"), "{}", regex(r"a(?=b)"));
    assert!(regex(r"[a&&b]").contains("cannot be used"), "{}", regex(r"[a&&b]"));
    // Nothing in this vocabulary has an accent.
    assert!(regex("é").contains("no text meets it"), "{}", regex("é"));

    let schema = |s: &Grammars, v: Value| s.json_schema(&v).expect_err("refused").to_string();
    let g = &s.grammars;
    let unique = json!({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true}}});
    let told = schema(g, unique);
    assert!(told.contains("uniqueItems") && told.ends_with("(at /properties/a)"), "{told}");
    let both = json!({"type": "array", "items": {"oneOf": [{"type": "string"}, {"maxLength": 3}]}});
    let told = schema(g, both);
    assert!(told.contains("oneOf"), "{told}");
    let told = schema(g, json!({"type": "strin"}));
    assert!(told.contains("strin"), "{told}");
    let told = schema(g, json!({"type": "string", "pattern": "a(b"}));
    assert!(told.contains("unclosed group"), "{told}");
    let told = schema(g, json!([1]));
    assert_eq!(told, "the JSON schema cannot be used: a schema is an object (at its root)");
    let told = schema(g, json!({"type": "integer", "minimum": 3, "maximum": 2}));
    assert!(told.contains("cannot be used"), "{told}");
    let told = schema(g, json!({"$ref": "#/nowhere"}));
    assert!(told.contains("nowhere"), "{told}");

    let choices = |c: &[&str]| {
        let c: Vec<String> = c.iter().map(|&c| c.to_owned()).collect();
        s.grammars.choices(&c).expect_err("refused").to_string()
    };
    assert_eq!(choices(&[]), "there are no choices");
    assert_eq!(choices(&["a", ""]), "a choice is empty");
    assert_eq!(choices(&["a", "b", "a"]), "the choice \"a\" is there twice");
}

#[test]
fn a_dead_end_is_an_error_of_its_sequence() {
    let mut s = Speaker::fixture();
    let constraint = s.grammars.regex("aé|a€").expect("it begins well");
    let out = s.say(&constraint, 1, 10);
    let e = out[0].finish.as_ref().expect_err("a dead end").to_string();
    assert!(e.contains("no token of the vocabulary"), "{e}");
}

#[test]
fn the_end_of_the_length_is_said() {
    let mut s = Speaker::fixture();
    let constraint = s.grammars.regex("[xyz]{30}").expect("a regex");
    let out = s.say(&constraint, 1, 10);
    assert_eq!((out[0].finish.as_ref().ok(), out[0].whole), (Some(&Finish::Length), Some(false)));
    let constraint = s.grammars.regex("[xyz]{3,30}").expect("a regex");
    let out = s.say(&constraint, 1, 3);
    assert_eq!((out[0].finish.as_ref().ok(), out[0].whole), (Some(&Finish::Length), Some(true)));
}

#[test]
fn what_is_forced_comes_at_once_and_is_the_same() {
    let s = &mut Speaker::fixture();
    // No token of this vocabulary has two of these characters, so each is forced.
    let constraint = s.grammars.regex("Q(ZXJW#[ab]ZQ)").expect("a regex");
    let mut run = |logprobs| {
        let request = Request {
            logprobs,
            sampling: Sampling { temperature: 5.0, ..Sampling::default() },
            constraint: Some(constraint.clone()),
            ..Request::new(vec![5, 6], 20)
        };
        let mut engine = Engine::new(&mut s.o, &s.m, Some(&s.tokenizer), Limits::default());
        engine.submit(request).expect("fits");
        let (mut ids, mut steps) = (Vec::new(), 0);
        while !engine.is_idle() {
            steps += 1;
            for e in engine.step() {
                if let refocus_model::generate::What::Token(t) = e.what {
                    ids.push(t.id);
                }
            }
        }
        (ids, steps)
    };
    let (forced, steps) = run(None);
    assert_eq!((forced.len(), steps), (9, 2));
    assert_eq!(run(Some(0)), (forced, 9));
}

#[test]
fn a_real_model_keeps_to_a_constraint() {
    let name = "smollm2-135m-instruct.gguf";
    let folders = std::env::var_os("REFOCUS_MODELS").unwrap_or_default();
    let Some(path) = std::env::split_paths(&folders).map(|f| f.join(name)).find(|p| p.is_file()) else {
        eprintln!("skipped: {name} is not in a folder of REFOCUS_MODELS");
        return;
    };
    let mut s = Speaker::open(&path);
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["old", "new"]}, "maxItems": 2},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": false,
    });
    let json = s.grammars.json_schema(&schema).expect("a schema");
    for text in s.texts(&json, 4, 400) {
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text:?}: {e}"));
        assert!(value["age"].as_i64().is_some_and(|a| (0..=150).contains(&a)), "{text}");
        assert!(value["name"].as_str().is_some_and(|n| n.chars().count() <= 12), "{text}");
    }
    let choices = [" yes".to_owned(), " no".to_owned(), " 可能".to_owned()];
    let constraint = s.grammars.choices(&choices).expect("choices");
    for text in s.texts(&constraint, 8, 20) {
        assert!(choices.contains(&text), "{text:?}");
    }
    let constraint = s.grammars.regex(r"\p{Han}{2,5}[é🙂]").expect("a regex");
    let matches = fancy_regex::Regex::new(r"^\p{Han}{2,5}[é🙂]$").expect("a regex");
    for text in s.texts(&constraint, 4, 60) {
        assert!(matches.is_match(&text).expect("decides"), "{text:?}");
    }
}
