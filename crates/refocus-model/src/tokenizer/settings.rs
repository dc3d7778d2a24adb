//! What the small files of a folder say about its tokenizer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::checkpoint::read_json;
use crate::error::{LoadError, LoadResult};

/// The roles that a token can have, in the order in which they are added.
const ROLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// `config.json`, `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`, merged as
/// `transformers` does.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// Tokens with a role; `None` where a file says that there is none.
    pub(super) named: Vec<(String, Option<AddedToken>)>,
    /// Special tokens without a role.
    pub(super) extra: Vec<AddedToken>,
    /// Added tokens by the id that a file gives them, `None` where no file lists them.
    pub(super) added: Option<BTreeMap<u32, AddedToken>>,
    pub(super) add_bos: bool,
    pub(super) add_eos: bool,
    pub(super) add_prefix_space: Option<bool>,
    /// SentencePiece: a space is put before every piece between special tokens, not only before the text.
    pub(super) legacy: bool,
    /// Special tokens written out in a text are text.
    pub(super) split_special: bool,
    pub(super) clean_up: bool,
    /// Name of the class that `transformers` is to use.
    pub(super) class: Option<String>,
    pub(super) model_type: Option<String>,
}

impl Settings {
    /// Reads those of the files that exist.
    pub(super) fn read(folder: &Path) -> LoadResult<Self> {
        let file = |name: &str| -> LoadResult<Option<(PathBuf, Map<String, Value>)>> {
            let path = folder.join(name);
            if !path.is_file() {
                return Ok(None);
            }
            let map = object(&path)?;
            Ok(Some((path, map)))
        };
        let mut out = Self::default();
        let config = file("config.json")?;
        let path = folder.join("tokenizer_config.json");
        let mut settings = file("tokenizer_config.json")?.map(|(_, map)| map).unwrap_or_default();
        let text =
            |map: &Map<String, Value>, key: &str| map.get(key).and_then(Value::as_str).map(str::to_owned);
        out.model_type = config.as_ref().and_then(|(_, map)| text(map, "model_type"));
        out.class = text(&settings, "tokenizer_class")
            .or_else(|| config.as_ref().and_then(|(_, map)| text(map, "tokenizer_class")));

        if let Some(list) = settings.get("added_tokens_decoder") {
            let map = list.as_object().ok_or_else(|| {
                LoadError::key(&path, "added_tokens_decoder", list, "ids with tokens are needed")
            })?;
            let mut added = BTreeMap::new();
            for (id, value) in map {
                let key = format!("added_tokens_decoder.{id}");
                let id: u32 = id
                    .parse()
                    .map_err(|_| LoadError::key(&path, "added_tokens_decoder", id, "an id is needed"))?;
                added.insert(id, token(&path, &key, value, false)?);
            }
            out.added = Some(added);
        } else if let Some((path, map)) = file("special_tokens_map.json")? {
            for (key, value) in map {
                let value = match value {
                    Value::Object(_) if key != "extra_special_tokens" => {
                        let mut value = value;
                        value["special"] = Value::Bool(true);
                        token(&path, &key, &value, true)?;
                        value
                    }
                    other => other,
                };
                settings.insert(key, value);
            }
        }
        out.flags(&path, &settings)?;
        out.tokens(&path, &settings)?;
        if out.added.is_none()
            && let Some((path, map)) = file("added_tokens.json")?
        {
            out.added = Some(out.listed(&path, &map)?);
        }
        out.share_flags();
        Ok(out)
    }

    fn flags(&mut self, path: &Path, settings: &Map<String, Value>) -> LoadResult<()> {
        let flag = |key: &str| match settings.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(v) => {
                v.as_bool().map(Some).ok_or_else(|| LoadError::key(path, key, v, "true or false is needed"))
            }
        };
        self.add_bos = flag("add_bos_token")?.unwrap_or(false);
        self.add_eos = flag("add_eos_token")?.unwrap_or(false);
        self.add_prefix_space = flag("add_prefix_space")?;
        self.legacy = flag("legacy")?.unwrap_or(false);
        self.split_special = flag("split_special_tokens")?.unwrap_or(false);
        self.clean_up = flag("clean_up_tokenization_spaces")?.unwrap_or(false);
        Ok(())
    }

    fn tokens(&mut self, path: &Path, settings: &Map<String, Value>) -> LoadResult<()> {
        for role in ROLES {
            match settings.get(role) {
                None => {}
                Some(Value::Null) => self.named.push((role.to_owned(), None)),
                Some(value) => self.named.push((role.to_owned(), Some(token(path, role, value, true)?))),
            }
        }
        let other = |key: &str| key.ends_with("_token") && !ROLES.contains(&key);
        for (key, value) in settings.iter().filter(|(key, value)| other(key) && !value.is_boolean()) {
            if value.is_string() || value.get("__type").is_some() {
                self.named.push((key.clone(), Some(token(path, key, value, true)?)));
            }
        }
        let filled = |key: &str| {
            settings.get(key).filter(|v| {
                !v.is_null()
                    && v.as_array().is_none_or(|a| !a.is_empty())
                    && v.as_object().is_none_or(|o| !o.is_empty())
            })
        };
        let (key, extra) = match (filled("extra_special_tokens"), filled("additional_special_tokens")) {
            (Some(extra), _) => ("extra_special_tokens", extra),
            (None, Some(extra)) => ("additional_special_tokens", extra),
            (None, None) => return Ok(()),
        };
        match extra {
            Value::Array(list) => {
                for value in list {
                    self.extra.push(token(path, key, value, true)?);
                }
            }
            Value::Object(map) => {
                for (name, value) in map {
                    self.named.push((name.clone(), Some(token(path, key, value, true)?)));
                }
            }
            other => return Err(LoadError::key(path, key, other, "a list of tokens is needed")),
        }
        Ok(())
    }

    /// The tokens of `added_tokens.json`; those with a role are special.
    fn listed(&self, path: &Path, map: &Map<String, Value>) -> LoadResult<BTreeMap<u32, AddedToken>> {
        let mut out = BTreeMap::new();
        for (content, id) in map {
            let Some(id) = id.as_u64().and_then(|id| u32::try_from(id).ok()) else {
                return Err(LoadError::key(path, content, id, "an id is needed"));
            };
            if let Some(AddedToken { content: other, .. }) =
                out.insert(id, AddedToken::from(content, self.is_named(content)))
            {
                return Err(LoadError::key(path, content, id, format!("{other:?} has this id too")));
            }
        }
        Ok(out)
    }

    fn is_named(&self, content: &str) -> bool {
        self.named.iter().filter_map(|(_, t)| t.as_ref()).chain(&self.extra).any(|t| t.content == content)
    }

    /// A token that is listed with flags keeps them in its role.
    fn share_flags(&mut self) {
        let Some(added) = &self.added else { return };
        for token in self.named.iter_mut().filter_map(|(_, token)| token.as_mut()) {
            if let Some(listed) = added.values().find(|t| t.content == token.content) {
                *token = listed.clone();
            }
        }
    }
}

/// A file that holds one object.
pub(super) fn object(path: &Path) -> LoadResult<Map<String, Value>> {
    match read_json(path)? {
        Value::Object(map) => Ok(map),
        _ => Err(LoadError::format(path, 0, "an object is needed")),
    }
}

/// A token, written as a text or with its flags. `special` where nothing is said.
fn token(path: &Path, key: &str, value: &Value, special: bool) -> LoadResult<AddedToken> {
    let refuse = || LoadError::key(path, key, value, "a token is needed");
    if let Some(text) = value.as_str() {
        return Ok(AddedToken::from(text, special));
    }
    let content = value.get("content").and_then(Value::as_str).ok_or_else(refuse)?;
    let flag = |name: &str, otherwise: bool| match value.get(name) {
        None | Some(Value::Null) => Ok(otherwise),
        Some(v) => v.as_bool().ok_or_else(refuse),
    };
    let special = flag("special", special)?;
    Ok(AddedToken {
        content: content.to_owned(),
        single_word: flag("single_word", false)?,
        lstrip: flag("lstrip", false)?,
        rstrip: flag("rstrip", false)?,
        normalized: flag("normalized", !special)?,
        special,
    })
}
