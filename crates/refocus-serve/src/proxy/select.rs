//! Which requests System 2 Attention selects, and which bytes of them it may touch.

use std::ops::Range;

use axum::http::HeaderMap;
use refocus_system2::{Part, Variant};
use sha2::{Digest, Sha256};

use super::config::{Mode, System2Config};
use super::json::{self, Member, Splice};
use crate::error::ApiError;

/// Chooses the mode of one request.
pub(crate) const MODE: &str = "x-refocus-s2a";
/// Chooses the variant of one request.
pub(crate) const VARIANT: &str = "x-refocus-variant";
/// Marks contents that are documents: they are rewritten then, and not the newest words of the user.
pub(crate) const DOCUMENTS: &str = "x-refocus-documents";
/// Most documents of one request.
const MOST_DOCUMENTS: usize = 64;

/// Why a request that was selected goes on as it is, as far as the request itself tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Skip {
    /// The client or the configuration says so.
    Off,
    /// It is not in the share of a canary.
    Canary,
    /// The body is compressed.
    Encoded,
    /// The body is larger than what is looked into.
    Large,
    /// The body is no JSON object with messages.
    NotChat,
    /// A key occurs twice, so that nobody knows which one counts.
    Twice,
    /// It holds images, audio or files.
    Media,
    /// Its answer has to meet a format.
    Schema,
    /// The newest message is a tool's.
    ToolTurn,
    /// The newest message is not the user's.
    NotUser,
    /// There is no text, or it is no valid text.
    NoText,
    /// The newest message has several texts, and none is marked.
    SeveralTexts,
    /// What is marked is not there.
    NoDocument,
    /// Documents are only cut, never written anew.
    DocumentVariant,
    /// The text is short.
    Short,
    /// The text has nothing beside its question.
    Clean,
    /// As many rewritings as may be are under way.
    Busy,
    /// Rewritings failed again and again; for a while none is tried.
    Down,
    /// The deadline passed.
    TimedOut,
    /// The rewriting broke.
    Failed,
}

impl Skip {
    /// Its name in headers and metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Skip::Off => "off",
            Skip::Canary => "canary",
            Skip::Encoded => "encoded_body",
            Skip::Large => "large_body",
            Skip::NotChat => "not_chat",
            Skip::Twice => "key_twice",
            Skip::Media => "media",
            Skip::Schema => "schema",
            Skip::ToolTurn => "tool_turn",
            Skip::NotUser => "not_user",
            Skip::NoText => "no_text",
            Skip::SeveralTexts => "several_texts",
            Skip::NoDocument => "no_such_document",
            Skip::DocumentVariant => "document_variant",
            Skip::Short => "short",
            Skip::Clean => "nothing_to_remove",
            Skip::Busy => "busy",
            Skip::Down => "down",
            Skip::TimedOut => "timed_out",
            Skip::Failed => "failed",
        }
    }
}

/// What a client asks of refocus in its headers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Wish {
    pub(crate) mode: Option<Mode>,
    pub(crate) variant: Option<Variant>,
    pub(crate) documents: Vec<Mark>,
}

/// A content: of a message, or of a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    message: usize,
    part: Option<usize>,
}

/// A variant by its name in files and on the command line.
pub(crate) fn variant(name: &str) -> Option<Variant> {
    let name = name.trim().replace('-', "_");
    Variant::ALL.into_iter().find(|variant| variant.name() == name)
}

impl Wish {
    /// # Errors
    /// A header has a value that means nothing.
    pub(crate) fn read(headers: &HeaderMap) -> Result<Self, ApiError> {
        let value =
            |name: &'static str| headers.get(name).map(|v| v.to_str().unwrap_or("?").trim().to_owned());
        let wrong = |name: &'static str, known: &str| {
            Err(ApiError::invalid(name, format!("the header {name} takes {known}")))
        };
        let mode = match value(MODE).as_deref() {
            None => None,
            Some("on") => Some(Mode::On),
            Some("off") => Some(Mode::Off),
            Some("audit") => Some(Mode::Audit),
            Some(_) => return wrong(MODE, "on, off or audit"),
        };
        let mut wish = Self { mode, ..Self::default() };
        if let Some(name) = value(VARIANT) {
            wish.variant = variant(&name);
            if wish.variant.is_none() {
                return wrong(VARIANT, &Variant::ALL.map(Variant::name).join(", "));
            }
        }
        for item in value(DOCUMENTS).iter().flat_map(|all| all.split(',')) {
            let (message, part) = match item.trim().split_once('.') {
                None => (item.trim().parse().ok(), Some(None)),
                Some((message, part)) => (message.parse().ok(), part.parse().ok().map(Some)),
            };
            let (Some(message), Some(part)) = (message, part) else {
                return wrong(
                    DOCUMENTS,
                    "numbers of messages from 0, each with .PART for a part, such as 1,2.0",
                );
            };
            wish.documents.push(Mark { message, part });
        }
        if wish.documents.len() > MOST_DOCUMENTS {
            return wrong(DOCUMENTS, &format!("at most {MOST_DOCUMENTS} of them"));
        }
        Ok(wish)
    }
}

/// A text that may be rewritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The JSON string in the body, quotes included.
    pub(crate) at: Range<usize>,
    /// What it stands for.
    pub(crate) text: String,
    /// The question that a document is read for, where it is one.
    pub(crate) question: Option<String>,
}

/// What is done with a request that was selected.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    /// `Audit` or `On`; `Off` where only the name of the model changes.
    pub(crate) mode: Mode,
    /// Replacements that come whatever becomes of the rewriting.
    pub(crate) splices: Vec<Splice>,
    /// What may be rewritten, or why nothing is.
    pub(crate) targets: Result<Vec<Target>, Skip>,
    /// Name of the model, as the upstream sees it.
    pub(crate) model: String,
    pub(crate) variant: Variant,
    /// The client wants a stream.
    pub(crate) stream: bool,
}

/// What becomes of a request with this body; nothing where System 2 Attention does not select it.
pub(crate) fn plan(
    config: &System2Config,
    usual: Variant,
    path: &str,
    wish: &Wish,
    body: &str,
) -> Option<Plan> {
    let all = json::members(body)?;
    let models: Vec<&str> = all.iter().filter(|(key, _)| key == "model").map(|(_, value)| *value).collect();
    let mut splices = Vec::new();
    for model in &models {
        if !config.prefix.is_empty()
            && let Some(length) = json::prefix_length(model, &config.prefix)
        {
            let start = json::place(body, model).start + 1;
            splices.push(Splice { at: start..start + length, with: String::new() });
        }
    }
    let named = models.last().and_then(|model| json::string(model)).unwrap_or_default().into_owned();
    let prefixed = !splices.is_empty();
    let model =
        if prefixed { named.strip_prefix(&config.prefix).unwrap_or(&named).to_owned() } else { named };
    let by_route = || config.route.iter().find(|route| route.fits(path, &model)).map(|route| route.mode);
    let mode = wish
        .mode
        .filter(|_| config.header)
        .or(prefixed.then_some(Mode::On))
        .or_else(by_route)
        .unwrap_or(config.mode);
    if mode == Mode::Off && !prefixed {
        return None;
    }
    let stream = json::only(&all, "stream").ok().flatten() == Some("true");
    let variant = wish.variant.filter(|_| config.header).unwrap_or(usual);
    let targets = match (mode, models.len()) {
        (Mode::Off, _) => Err(Skip::Off),
        (_, 2..) => Err(Skip::Twice),
        _ => targets(config, variant, wish, body, &all),
    };
    let targets = targets.and_then(|targets| match mode {
        Mode::Canary if !in_share(config.canary_percent, &targets) => Err(Skip::Canary),
        _ => Ok(targets),
    });
    let mode = if mode == Mode::Canary { Mode::On } else { mode };
    Some(Plan { mode, splices, targets, model, variant, stream })
}

/// Whether a content is in a canary's share: by its hash, so that the same content is always on the same side.
fn in_share(percent: f64, targets: &[Target]) -> bool {
    let mut hash = Sha256::new();
    targets.iter().for_each(|target| hash.update(&target.text));
    let hash = hash.finalize();
    let mut first = [0; 4];
    first.copy_from_slice(&hash[..4]);
    f64::from(u32::from_be_bytes(first)) / 2f64.powi(32) * 100.0 < percent
}

fn targets(
    config: &System2Config,
    variant: Variant,
    wish: &Wish,
    body: &str,
    all: &[Member<'_>],
) -> Result<Vec<Target>, Skip> {
    let once = |all: &[Member<'_>], name: &str| -> Result<Option<Range<usize>>, Skip> {
        Ok(json::only(all, name).map_err(|_| Skip::Twice)?.map(|value| json::place(body, value)))
    };
    if let Some(format) = once(all, "response_format")?
        && !config.touch.schemas
    {
        let format = json::members(&body[format]).unwrap_or_default();
        let kind = json::only(&format, "type").map_err(|_| Skip::Twice)?.and_then(json::string);
        if kind.is_none_or(|kind| kind != "text") {
            return Err(Skip::Schema);
        }
    }
    if once(all, "audio")?.is_some() && !config.touch.media {
        return Err(Skip::Media);
    }
    let messages = once(all, "messages")?.ok_or(Skip::NotChat)?;
    let messages = json::elements(&body[messages]).ok_or(Skip::NotChat)?;
    let messages: Vec<Said<'_>> =
        messages.into_iter().map(|text| Said::read(body, text)).collect::<Result<_, _>>()?;
    if messages.iter().any(Said::has_media) && !config.touch.media {
        return Err(Skip::Media);
    }
    let last = messages.last().ok_or(Skip::NotChat)?;
    let tool = matches!(last.role.as_str(), "tool" | "function");
    if tool && !config.touch.tool_turns {
        return Err(Skip::ToolTurn);
    }
    if !tool && last.role != "user" {
        return Err(Skip::NotUser);
    }
    let newest = messages.iter().rev().find(|said| said.role == "user").ok_or(Skip::NotUser)?;
    let texts = newest.texts()?;
    if wish.documents.is_empty() {
        let [(at, text)] = texts.as_slice() else {
            return Err(if texts.is_empty() { Skip::NoText } else { Skip::SeveralTexts });
        };
        let target = Target { at: at.clone(), text: text.clone(), question: None };
        if text.len() < config.short_bytes {
            return Err(Skip::Short);
        }
        return if has_context(text) { Ok(vec![target]) } else { Err(Skip::Clean) };
    }
    if !matches!(variant, Variant::Extractive | Variant::Scored) {
        return Err(Skip::DocumentVariant);
    }
    let mut documents = Vec::new();
    for mark in &wish.documents {
        let texts = messages.get(mark.message).ok_or(Skip::NoDocument)?.texts()?;
        let (at, text) = match mark.part {
            Some(part) => texts.get(part).ok_or(Skip::NoDocument)?,
            None if texts.len() == 1 => &texts[0],
            None => return Err(Skip::NoDocument),
        };
        if !documents.iter().any(|known: &Target| known.at == *at) {
            documents.push(Target { at: at.clone(), text: text.clone(), question: None });
        }
    }
    // What the user says besides the documents is what they are read for.
    let rest =
        texts.iter().filter(|(at, _)| !documents.iter().any(|d| d.at == *at)).map(|(_, text)| text.as_str());
    let question = rest.collect::<Vec<_>>().join("\n");
    if question.trim().is_empty() {
        return Err(Skip::NoText);
    }
    documents.iter_mut().for_each(|document| document.question = Some(question.clone()));
    Ok(documents)
}

/// Whether a text has anything beside its question.
fn has_context(text: &str) -> bool {
    let pieces = refocus_system2::split(text, None);
    let words =
        |range: &Range<usize>| text.get(range.clone()).is_some_and(|t| t.chars().any(char::is_alphanumeric));
    pieces.iter().any(|piece| piece.part == Part::Context && words(&piece.range))
}

/// A message, as far as it matters here.
struct Said<'a> {
    body: &'a str,
    role: String,
    /// A string or an array, where there is one.
    content: Option<&'a str>,
    /// Kinds and texts of its parts, where it has parts.
    parts: Vec<(String, Option<&'a str>)>,
}

impl<'a> Said<'a> {
    fn read(body: &'a str, text: &'a str) -> Result<Self, Skip> {
        let all = json::members(text).ok_or(Skip::NotChat)?;
        let only = |all: &[Member<'a>], name| json::only(all, name).map_err(|_| Skip::Twice);
        let role = only(&all, "role")?.and_then(json::string).ok_or(Skip::NotChat)?.into_owned();
        let content = only(&all, "content")?.filter(|content| *content != "null");
        let mut parts = Vec::new();
        for part in content.and_then(json::elements).unwrap_or_default() {
            let all = json::members(part).ok_or(Skip::NotChat)?;
            let kind = only(&all, "type")?.and_then(json::string).ok_or(Skip::NotChat)?.into_owned();
            parts.push((kind, only(&all, "text")?));
        }
        Ok(Self { body, role, content, parts })
    }

    fn has_media(&self) -> bool {
        self.parts.iter().any(|(kind, _)| !matches!(kind.as_str(), "text" | "refusal"))
    }

    /// Where its texts are, and what they say.
    fn texts(&self) -> Result<Vec<(Range<usize>, String)>, Skip> {
        let strings = match self.content {
            Some(content) if content.starts_with('"') => vec![content],
            Some(_) => {
                self.parts.iter().filter(|(kind, _)| kind == "text").filter_map(|(_, text)| *text).collect()
            }
            None => Vec::new(),
        };
        let text = |string: &'a str| {
            json::string(string).map(|text| (json::place(self.body, string), text.into_owned()))
        };
        strings.into_iter().map(|string| text(string).ok_or(Skip::NoText)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASK: &str = "I think the answer is Paris but I am not sure. What is the capital of Australia?";

    fn on() -> System2Config {
        System2Config { mode: Mode::On, ..System2Config::default() }
    }

    fn planned(config: &System2Config, wish: &Wish, body: &str) -> Option<Plan> {
        plan(config, Variant::Extractive, "/v1/chat/completions", wish, body)
    }

    fn skip(config: &System2Config, body: &str) -> Skip {
        planned(config, &Wish::default(), body).expect("selected").targets.expect_err(body)
    }

    fn chat(more: &str, messages: &str) -> String {
        format!("{{\"model\":\"m\"{more},\"messages\":[{messages}]}}")
    }

    #[test]
    fn only_what_is_selected_is_planned() {
        let off = System2Config::default();
        let user = format!("{{\"role\":\"user\",\"content\":{}}}", json::quoted(ASK));
        assert_eq!(planned(&off, &Wish::default(), &chat("", &user)), None);
        assert_eq!(planned(&on(), &Wish::default(), "no JSON"), None);
        let prefixed = chat("", &user).replace("\"m\"", "\"s2a\\/m\"");
        let plan = planned(&off, &Wish::default(), &prefixed).expect("selected");
        assert_eq!((plan.mode, plan.model.as_str()), (Mode::On, "m"));
        assert_eq!(json::spliced(&prefixed, &plan.splices), chat("", &user), "the name alone changes");
        let targets = plan.targets.expect("a text");
        assert_eq!(
            (targets[0].text.as_str(), &prefixed[targets[0].at.clone()]),
            (ASK, json::quoted(ASK).as_str())
        );

        let wish = Wish { mode: Some(Mode::Off), ..Wish::default() };
        let plan = planned(&off, &wish, &prefixed).expect("its name has to change");
        assert_eq!((plan.targets, plan.splices.len()), (Err(Skip::Off), 1));
        assert_eq!(planned(&on(), &wish, &chat("", &user)), None);
        let closed = System2Config { header: false, ..on() };
        assert_eq!(planned(&closed, &wish, &chat("", &user)).expect("headers do not count").mode, Mode::On);
    }

    #[test]
    fn routes_choose_by_model() {
        let config: System2Config =
            toml::from_str("[[route]]\nmodel = \"m\"\nmode = \"audit\"\n[[route]]\nmode = \"on\"")
                .expect("settings");
        let user = format!("{{\"role\":\"user\",\"content\":{}}}", json::quoted(ASK));
        assert_eq!(planned(&config, &Wish::default(), &chat("", &user)).expect("selected").mode, Mode::Audit);
        let other = chat("", &user).replace("\"m\"", "\"other\"");
        assert_eq!(planned(&config, &Wish::default(), &other).expect("selected").mode, Mode::On);
    }

    #[test]
    fn what_must_not_be_touched_is_named() {
        let user = format!("{{\"role\":\"user\",\"content\":{}}}", json::quoted(ASK));
        let image =
            "{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:\"}}]}";
        let schema = ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{}}";
        for (body, reason) in [
            (chat("", ""), Skip::NotChat),
            ("{\"model\":\"m\"}".to_owned(), Skip::NotChat),
            (chat(schema, &user), Skip::Schema),
            (chat("", &format!("{image},{user}")), Skip::Media),
            (chat(",\"audio\":{}", &user), Skip::Media),
            (chat("", &format!("{user},{{\"role\":\"tool\",\"content\":\"x\"}}")), Skip::ToolTurn),
            (chat("", &format!("{user},{{\"role\":\"assistant\",\"content\":\"x\"}}")), Skip::NotUser),
            (chat("", "{\"role\":\"user\",\"content\":null}"), Skip::NoText),
            (chat("", "{\"role\":\"user\",\"content\":\"\\ud83d\"}"), Skip::NoText),
            (chat("", "{\"role\":\"user\",\"content\":\"Hello?\"}"), Skip::Short),
            (
                chat(
                    "",
                    "{\"role\":\"user\",\"content\":\"What is the capital of the state of New South Wales in Australia?\"}",
                ),
                Skip::Clean,
            ),
            (chat(",\"model\":\"n\"", &user), Skip::Twice),
            (chat(",\"messages\":[]", &user), Skip::Twice),
            (chat("", "{\"role\":\"user\",\"role\":\"user\",\"content\":\"x\"}"), Skip::Twice),
        ] {
            assert_eq!(skip(&on(), &body), reason, "{body}");
        }
        let text = json::quoted(ASK);
        let parts = format!(
            "{{\"role\":\"user\",\"content\":[{{\"type\":\"text\",\"text\":{text}}},{{\"type\":\"text\",\"text\":{text}}}]}}"
        );
        assert_eq!(skip(&on(), &chat("", &parts)), Skip::SeveralTexts);
        let free = System2Config {
            touch: super::super::config::Touch { media: true, tool_turns: true, schemas: true },
            ..on()
        };
        let body = chat(schema, &format!("{image},{user},{{\"role\":\"tool\",\"content\":\"x\"}}"));
        assert!(planned(&free, &Wish::default(), &body).expect("selected").targets.is_ok());
    }

    #[test]
    fn marked_documents_are_targets_and_the_user_s_words_their_question() {
        let body = chat(
            "",
            "{\"role\":\"system\",\"content\":\"Documents.\"},{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"First document.\"},{\"type\":\"text\",\"text\":\"Why?\"}]}",
        );
        let wish = |marks: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(DOCUMENTS, marks.parse().expect("a value"));
            Wish::read(&headers).expect("marks")
        };
        let plan = planned(&on(), &wish("0, 1.0"), &body).expect("selected");
        let targets = plan.targets.expect("documents");
        let texts: Vec<_> = targets.iter().map(|t| (t.text.as_str(), t.question.as_deref())).collect();
        assert_eq!(texts, [("Documents.", Some("Why?")), ("First document.", Some("Why?"))]);
        for (marks, reason) in [("7", Skip::NoDocument), ("1", Skip::NoDocument), ("1.0,1.1", Skip::NoText)] {
            assert_eq!(
                planned(&on(), &wish(marks), &body).expect("selected").targets,
                Err(reason),
                "{marks}"
            );
        }
        let anew = Wish { variant: Some(Variant::Objectivity), ..wish("0") };
        assert_eq!(planned(&on(), &anew, &body).expect("selected").targets, Err(Skip::DocumentVariant));
    }

    #[test]
    fn headers_that_mean_nothing_are_refused() {
        for (name, value) in
            [(MODE, "yes"), (VARIANT, "best"), (DOCUMENTS, "first"), (DOCUMENTS, "1.x"), (MODE, "on, off")]
        {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().expect("a value"));
            let error = Wish::read(&headers).expect_err(value);
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn a_canary_takes_its_share_and_always_the_same() {
        let target = |i: usize| [Target { at: 0..0, text: format!("text {i}"), question: None }];
        let taken = |percent| (0..2000).filter(|i| in_share(percent, &target(*i))).count();
        assert_eq!((taken(0.0), taken(100.0)), (0, 2000));
        assert!((150..=250).contains(&taken(10.0)), "{}", taken(10.0));
        assert!(
            (0..2000).all(|i| !in_share(10.0, &target(i)) || in_share(20.0, &target(i))),
            "a share only grows"
        );
    }
}
