//! Chats are rendered as `transformers` renders them. `fixtures/chat_templates.py` wrote what is expected.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use refocus_model::{Chat, ChatTemplate, TemplateError, Tokenizer};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::strings::Temp;
use crate::token_ids::{fixtures, found, hex, packed, read};

#[derive(Deserialize)]
struct Expected {
    now: i64,
    chats: BTreeMap<String, Given>,
    templates: BTreeMap<String, Case>,
    models: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Given {
    messages: Vec<Value>,
    tools: Option<Vec<Value>>,
    #[serde(default)]
    add_generation_prompt: bool,
    #[serde(default)]
    continue_final_message: bool,
    #[serde(default)]
    variables: Map<String, Value>,
}

#[derive(Deserialize)]
struct Case {
    template: Option<String>,
    file: Option<String>,
    rendered: BTreeMap<String, Rendered>,
}

#[derive(Deserialize)]
struct Rendered {
    text: Option<String>,
    raised: Option<String>,
    /// In place of the text, and of its ids, where the template is a real model's.
    text_hash: Option<String>,
    ids_hash: Option<String>,
}

fn short_hash(bytes: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(bytes);
    hex(hash, 8)
}

fn compare(name: &str, expected: &Expected, case: &Case, template: &ChatTemplate, tokenizer: &Tokenizer) {
    let mut wrong = Vec::new();
    for (chat_name, want) in &case.rendered {
        let given = &expected.chats[chat_name];
        let chat = Chat {
            messages: &given.messages,
            tools: given.tools.as_deref(),
            add_generation_prompt: given.add_generation_prompt,
            continue_final_message: given.continue_final_message,
            variables: given.variables.clone(),
            now: Some(expected.now),
            ..Chat::default()
        };
        match (template.render(&chat), &want.text, &want.raised) {
            (Ok(text), Some(want_text), _) if text == *want_text => {}
            (Ok(text), ..) if want.text_hash.as_ref().is_some_and(|h| *h == short_hash(text.as_bytes())) => {
                let ids = tokenizer.encode(&text, false).expect("encodes");
                assert_eq!(Some(short_hash(&packed(&ids))), want.ids_hash, "{name}: {chat_name}: {ids:?}");
            }
            (Err(TemplateError::Raised { message, .. }), None, Some(words)) if message == *words => {}
            (Err(TemplateError::Template { .. } | TemplateError::Messages(_)), None, None)
                if want.text_hash.is_none() => {}
            (got, text, raised) => {
                wrong.push(format!(
                    "{chat_name}: {got:?}\n  expected {:?}",
                    text.as_ref().or(raised.as_ref())
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{name}: {} of {}\n{}", wrong.len(), case.rendered.len(), wrong.join("\n"));
}

fn sentencepiece() -> Tokenizer {
    Tokenizer::from_gguf(&fixtures().join("sentencepiece.gguf")).expect("tokenizer")
}

/// The templates of a folder that holds these files.
fn of_files(files: &[(&str, &str)]) -> Result<Option<ChatTemplate>, TemplateError> {
    let temp = Temp::new("templates");
    for (name, text) in files {
        fs::create_dir_all(temp.0.join(name).parent().unwrap_or(Path::new(""))).expect("folder");
        temp.write(name, text);
    }
    ChatTemplate::from_folder(&temp.0, &sentencepiece())
}

fn of(text: &str) -> ChatTemplate {
    of_files(&[("chat_template.jinja", text)]).expect("compiles").expect("there is one")
}

#[test]
fn templates_of_every_style_render_as_the_reference_does() {
    let expected: Expected = read("chat-templates.json");
    assert!(expected.chats.len() >= 20 && expected.templates.len() >= 8);
    let tokenizer = sentencepiece();
    for (name, case) in &expected.templates {
        compare(name, &expected, case, &of(case.template.as_deref().expect("template")), &tokenizer);
    }
}

#[test]
fn the_real_models_templates_render_as_the_reference_does() {
    let expected: Expected = read("chat-templates.json");
    for (name, case) in &expected.models {
        let file = case.file.as_deref().expect("file");
        let Some(path) = found("REFOCUS_MODELS", file) else {
            eprintln!("skipped: REFOCUS_MODELS names no folder with {file}");
            continue;
        };
        let tokenizer = Tokenizer::from_gguf(&path).expect("tokenizer");
        let template = ChatTemplate::from_gguf(&path, &tokenizer).expect("compiles").expect("there is one");
        compare(name, &expected, case, &template, &tokenizer);
    }
}

#[test]
fn templates_have_names() {
    let hello = [json!({"role": "user", "content": "x"})];
    let chat = |template, tools| Chat { messages: &hello, template, tools, ..Chat::default() };
    let tools = [json!({})];
    let list =
        r#"{"chat_template": [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]}"#;
    let both = of_files(&[("tokenizer_config.json", list)]).expect("compiles").expect("there are");
    assert_eq!(both.names().collect::<Vec<_>>(), ["default", "tool_use"]);
    assert_eq!(both.render(&chat(None, None)).expect("renders"), "D");
    assert_eq!(both.render(&chat(None, Some(&tools))).expect("renders"), "T");
    assert_eq!(both.render(&chat(Some("default"), Some(&tools))).expect("renders"), "D");
    let e = both.render(&chat(Some("rag"), None)).expect_err("no such").to_string();
    assert!(e.contains("no chat template \"rag\"; there is default, tool_use"), "{e}");
    // Files come before what the configuration says.
    let files = [
        ("tokenizer_config.json", list),
        ("chat_template.jinja", "F"),
        ("additional_chat_templates/rag.jinja", "R"),
    ];
    let files = of_files(&files).expect("compiles").expect("there are");
    assert_eq!(files.names().collect::<Vec<_>>(), ["default", "rag"]);
    assert_eq!(files.render(&chat(Some("rag"), None)).expect("renders"), "R");
    assert_eq!(files.render(&chat(None, Some(&tools))).expect("renders"), "F");
    assert!(of_files(&[("tokenizer_config.json", "{}")]).expect("reads").is_none());
    for bad in [r#"{"chat_template": 3}"#, r#"{"chat_template": [{"name": "x"}]}"#] {
        let e = of_files(&[("tokenizer_config.json", bad)]).expect_err("refused").to_string();
        assert!(e.contains("chat_template = "), "{e}");
    }
}

fn failure(template: &str) -> String {
    let messages = [json!({"role": "user", "content": "x"})];
    let rendered = of_files(&[("chat_template.jinja", template)])
        .and_then(|t| t.expect("there is one").render(&Chat { messages: &messages, ..Chat::default() }));
    rendered.expect_err(template).to_string()
}

#[test]
fn broken_templates_say_where_and_why() {
    let refused = |template: &str, parts: &[&str]| {
        let e = failure(template);
        assert!(parts.iter().all(|p| e.contains(p)), "{e}");
    };
    refused("a\n{% if x %}", &["chat_template.jinja", "line 2"]);
    refused("a\n\n{{ x y }}", &["line 3"]);
    refused("{% frobnicate %}", &["line 1", "frobnicate"]);
    refused("\n{{ messages | frobnicate }}", &["line 2", "frobnicate"]);
    refused("\n{{ messages.frobnicate() }}", &["line 2", "frobnicate"]);
    refused("\n\n{{ missing.attribute.x }}", &["line 3"]);
    refused("{{ 1 / 0 }}", &["line 1"]);
    refused("{{ raise_exception('no ' ~ 'way') }}", &["refuses the messages: no way"]);
    refused("{% include 'x' %}", &["line 1"]);
    refused("{{ strftime_now('%!') }}", &["strftime_now"]);
}

#[test]
fn hostile_templates_end() {
    let steps = |template: &str| {
        let e = failure(template);
        assert!(e.contains("too many steps") || e.contains("recursion") || e.contains("too"), "{e}");
    };
    steps("{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}");
    steps("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}");
    steps(
        "{% set n = namespace(x='xxxxxxxx') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    );
    steps(
        "{% set n = namespace(x='xxxxxxxx') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    );
    steps(
        "{% set n = namespace(x='xxxxxxxx') %}{% for i in range(99) %}{% set n.x = n.x.replace('x', 'xxxxxxxx') %}{% endfor %}",
    );
    steps("{{ 'x' * 999999999999 }}");
    let nested = "{% set n = namespace(x=[]) %}{% for i in range(100000) %}{% set n.x = [n.x] %}{% endfor %}";
    let messages = [json!({"role": "user", "content": "x"})];
    let chat = Chat { messages: &messages, ..Chat::default() };
    assert_eq!(of(nested).render(&chat).expect("renders"), "");
    steps(&format!("{nested}{{{{ n.x | tojson }}}}"));
}

#[test]
fn messages_that_cannot_be_rendered_say_why() {
    let template = of("{% for m in messages %}{{ m.content }}{% endfor %}");
    let refused = |messages: &[Value], add: bool, go_on: bool, what: &str| {
        let chat =
            Chat { messages, add_generation_prompt: add, continue_final_message: go_on, ..Chat::default() };
        let e = template.render(&chat).expect_err(what).to_string();
        assert!(e.contains(what), "{e}");
    };
    refused(&[], false, false, "there is none");
    refused(&[json!("x")], false, false, "message 0 is no object");
    let user = json!({"role": "user", "content": "x"});
    refused(std::slice::from_ref(&user), true, true, "exclude each other");
    refused(&[user, json!({"role": "assistant", "content": null})], false, true, "no text to go on with");
    // Keys of null count as absent, and the clock is a clock.
    let messages = [json!({"role": "user", "content": null})];
    let absent = of("{{ 'content' in messages[0] }} {{ strftime_now('%Y') | length }}");
    assert_eq!(absent.render(&Chat { messages: &messages, ..Chat::default() }).expect("renders"), "False 4");
}

#[test]
fn no_change_of_a_template_panics() {
    let expected: Expected = read("chat-templates.json");
    let given = &expected.chats["calls, results"];
    let mut random = crate::strings::Random::new(5);
    for case in expected.templates.values() {
        let text: Vec<char> = case.template.as_deref().expect("template").chars().collect();
        for _ in 0..25 {
            let mut changed = text.clone();
            for _ in 0..1 + random.below(3) {
                let at = random.below(changed.len() as u32) as usize;
                match random.below(3) {
                    0 => drop(changed.remove(at)),
                    1 => changed[at] = text[random.below(text.len() as u32) as usize],
                    _ => changed
                        .insert(at, ['{', '}', '%', '-', '|', '(', '\'', '9'][random.below(8) as usize]),
                }
            }
            let changed: String = changed.into_iter().collect();
            if let Ok(Some(template)) = of_files(&[("chat_template.jinja", &changed)]) {
                let chat =
                    Chat { messages: &given.messages, tools: given.tools.as_deref(), ..Chat::default() };
                let _ = template.render(&chat);
            }
        }
    }
}
