//! The tokenizer of a folder.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use tokenizers::models::bpe::Vocab;
use tokenizers::{AddedToken, ModelWrapper, PostProcessorWrapper, Tokenizer as Inner};

use super::class::{Class, Options};
use super::settings::{Settings, object};
use super::{Described, failed, merges, precheck};
use crate::error::{LoadError, LoadResult, shorten};

/// Builds it; the path is that of the file with the vocabulary.
pub(super) fn build(folder: &Path) -> LoadResult<(PathBuf, Described)> {
    let settings = Settings::read(folder)?;
    let (whole, vocab) = (folder.join("tokenizer.json"), folder.join("vocab.json"));
    if whole.is_file() {
        let described = from_json(&whole, settings)?;
        return Ok((whole, described));
    }
    if vocab.is_file() {
        let described = from_vocab(&vocab, &folder.join("merges.txt"), settings)?;
        return Ok((vocab, described));
    }
    let why = if folder.join("tokenizer.model").is_file() {
        "tokenizer.model alone is not read; AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) of \
         the Python package transformers writes the tokenizer.json that is needed beside it"
    } else {
        "there is no tokenizer.json, and no vocab.json with merges.txt"
    };
    Err(LoadError::tokenizer(folder, why))
}

/// `tokenizer.json`. What it puts around a text stands, whatever `add_bos_token` says elsewhere.
fn from_json(path: &Path, mut settings: Settings) -> LoadResult<Described> {
    let bytes = std::fs::read(path).map_err(LoadError::io(path))?;
    precheck::check(path, &bytes)?;
    let mut inner = Inner::from_bytes(&bytes).map_err(failed(path, "tokenizer.json cannot be used"))?;
    let around = inner.get_post_processor().cloned().map(untrimmed);
    let byte_level = bytes.windows(11).any(|w| w == b"\"ByteLevel\"");
    let class = Class::of(settings.class.as_deref(), settings.model_type.as_deref(), byte_level)
        .filter(|_| matches!(inner.get_model(), ModelWrapper::BPE(_)));
    match class {
        Some(class) => {
            let file: File = serde_json::from_slice(&bytes)
                .map_err(|source| LoadError::Json { path: path.to_owned(), source })?;
            if settings.added.is_none() {
                let listed = file.added_tokens.into_iter().map(|t| (t.id, t.token));
                settings.added = Some(listed.collect());
            }
            let halves = file.model.merges.into_iter().map(Merge::halves).collect::<Option<_>>();
            let halves = halves.ok_or_else(|| LoadError::tokenizer(path, "a merge has not two halves"))?;
            let vocab: Vocab = file.model.vocab.into_iter().collect();
            inner =
                class.build(vocab, halves, options(&settings)).map_err(failed(path, "it cannot be built"))?;
            if class != Class::GptNeoX {
                inner.with_post_processor(around);
            }
        }
        None => {
            inner.with_post_processor(around);
            // Batches are ragged here, and a text that is too long is an error, not cut.
            inner.with_padding(None);
            inner.with_truncation(None).map_err(failed(path, "its truncation cannot be switched off"))?;
        }
    }
    (settings.add_bos, settings.add_eos) = (false, false);
    finish(path, inner, class, settings)
}

/// `vocab.json` and `merges.txt`.
fn from_vocab(path: &Path, merges_path: &Path, settings: Settings) -> LoadResult<Described> {
    // Without a model beside it, a vocabulary of this kind is GPT-2's.
    let class = match (&settings.class, &settings.model_type) {
        (None, None) => Some(Class::Gpt2),
        (class, model) => Class::of(class.as_deref(), model.as_deref(), false),
    };
    let Some(class) = class.filter(|c| *c != Class::Llama) else {
        let name = settings.class.as_deref().or(settings.model_type.as_deref()).unwrap_or_default();
        let why = format!(
            "{} is not built from vocab.json and merges.txt; tokenizer.json is needed",
            shorten(name)
        );
        return Err(LoadError::tokenizer(path, why));
    };
    let mut vocab = Vocab::new();
    let mut seen: HashMap<u32, String> = HashMap::new();
    for (token, id) in object(path)? {
        let Some(id) = id.as_u64().and_then(|id| u32::try_from(id).ok()) else {
            return Err(LoadError::key(path, &token, id, "an id is needed"));
        };
        if let Some(other) = seen.insert(id, token.clone()) {
            return Err(LoadError::key(path, &token, id, format!("{:?} has this id too", shorten(&other))));
        }
        vocab.insert(token, id);
    }
    let text = std::fs::read_to_string(merges_path).map_err(LoadError::io(merges_path))?;
    let lines = text.lines().filter(|line| !line.starts_with("#version"));
    let halves = merges::halves(&vocab, lines).map_err(|why| LoadError::tokenizer(merges_path, why))?;
    let inner = class.build(vocab, halves, options(&settings)).map_err(failed(path, "it cannot be built"))?;
    finish(path, inner, Some(class), settings)
}

fn options(settings: &Settings) -> Options {
    Options { add_prefix_space: settings.add_prefix_space, legacy: settings.legacy }
}

/// Adds the tokens that the settings name, in the order in which `transformers` does.
fn finish(
    path: &Path,
    mut inner: Inner,
    class: Option<Class>,
    mut settings: Settings,
) -> LoadResult<Described> {
    for (role, text) in class.map(Class::roles).unwrap_or_default() {
        if !settings.named.iter().any(|(name, _)| name == role) {
            settings.named.push(((*role).to_owned(), Some(AddedToken::from(*text, true))));
        }
    }
    let named: Vec<(String, AddedToken)> =
        settings.named.into_iter().filter_map(|(name, token)| Some((name, token?))).collect();
    let mut tokens: Vec<AddedToken> = settings.added.into_iter().flatten().map(|(_, t)| t).collect();
    {
        let present = inner.get_added_vocabulary();
        let same = |t: &AddedToken| present.get_added_tokens_decoder().values().any(|p| p == t);
        tokens.retain(|t| !same(t));
        for token in named.iter().map(|(_, t)| t).chain(&settings.extra) {
            let known = present.get_vocab().contains_key(&token.content);
            if !known && tokens.iter().all(|t| t.content != token.content) {
                tokens.push(token.clone());
            }
        }
    }
    for token in &mut tokens {
        token.special |= named.iter().any(|(_, t)| t.content == token.content);
    }
    // A token that is not in the vocabulary gets the next id after it.
    let new: Vec<String> = tokens
        .iter()
        .filter(|t| !t.content.is_empty() && inner.token_to_id(&t.content).is_none())
        .map(|t| t.content.clone())
        .collect();
    let base: HashMap<u32, String> = if new.is_empty() {
        HashMap::new()
    } else {
        inner.get_vocab(false).into_iter().map(|(token, id)| (id, token)).collect()
    };
    inner.add_tokens(tokens).map_err(failed(path, "its added tokens cannot be used"))?;
    for token in new {
        if let Some((id, other)) = inner.token_to_id(&token).and_then(|id| base.get_key_value(&id)) {
            let why = format!(
                "added token {:?} gets id {id}, which {:?} has: the vocabulary has holes",
                shorten(&token),
                shorten(other)
            );
            return Err(LoadError::tokenizer(path, why));
        }
    }
    inner.set_encode_special_tokens(settings.split_special);
    let put = |on: bool, role: &str| -> Vec<u32> {
        let token = named.iter().find(|(name, _)| name == role).filter(|_| on);
        token.and_then(|(_, t)| inner.token_to_id(&t.content)).into_iter().collect()
    };
    let (before, after) = (put(settings.add_bos, "bos_token"), put(settings.add_eos, "eos_token"));
    let named = named.into_iter().map(|(name, t)| (name, t.content)).collect();
    Ok(Described { inner, before, after, named, clean_up: settings.clean_up })
}

/// Without the wish to leave spaces out of a token's range. Ids do not depend on it.
fn untrimmed(mut around: PostProcessorWrapper) -> PostProcessorWrapper {
    match &mut around {
        PostProcessorWrapper::ByteLevel(p) => p.trim_offsets = false,
        PostProcessorWrapper::Roberta(p) => p.trim_offsets = false,
        PostProcessorWrapper::Sequence(list) => {
            for p in list.as_mut() {
                *p = untrimmed(p.clone());
            }
        }
        PostProcessorWrapper::Bert(_) | PostProcessorWrapper::Template(_) => {}
    }
    around
}

/// The parts of `tokenizer.json` that a class of its own takes.
#[derive(Deserialize)]
struct File {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Listed>,
}

#[derive(Deserialize)]
struct Model {
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

#[derive(Deserialize)]
struct Listed {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Line(String),
    Pair(Vec<Value>),
}

impl Merge {
    fn halves(self) -> Option<(String, String)> {
        match self {
            Self::Line(line) => line.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())),
            Self::Pair(pair) => match &pair[..] {
                [Value::String(a), Value::String(b)] => Some((a.clone(), b.clone())),
                _ => None,
            },
        }
    }
}
