//! What `model inspect` shows to people.

use refocus_model::checkpoint::ChatTemplate;

use super::inspect::{Details, Document, Tokens};
use crate::table::{Side, Table, bytes, grouped};

/// The table, and that of the sites where it was asked for.
pub(super) fn text(d: &Document, colour: bool) -> String {
    let mut t = Table::pairs();
    t.pair("model", d.model.as_str());
    let version = d.format_version.map(|v| format!(" v{v}")).unwrap_or_default();
    let family = d.family.as_deref().unwrap_or("unknown");
    t.pair("family", format!("{family} ({}{version})", d.format));
    if let Some(why) = &d.why_not {
        t.pair("cannot be run", why.as_str());
    }
    files(&mut t, d);
    match &d.details {
        Some(details) => known(&mut t, d, details),
        None => guessed(&mut t, d),
    }
    t.pair("parameters", grouped(d.parameters));
    for (i, s) in d.stored.iter().enumerate() {
        let name = if i == 0 { "stored" } else { "" };
        let plural = if s.tensors == 1 { "" } else { "s" };
        t.pair(name, format!("{} {}, {} tensor{plural}", s.dtype, bytes(s.bytes), s.tensors));
    }
    match &d.tokenizer {
        None => t.pair("tokenizer", "none"),
        Some(tokens) => tokenizer(&mut t, tokens),
    }
    match d.chat_templates.as_slice() {
        [] => t.pair("chat template", "none"),
        all => all.iter().enumerate().for_each(|(i, c)| {
            t.pair(if i == 0 { "chat template" } else { "" }, template(c));
        }),
    }
    if let Some(details) = &d.details {
        ends(&mut t, details);
    }
    let mut out = t.render(colour);
    if let Some(list) = d.details.as_ref().and_then(|d| d.site_list.as_ref()) {
        let mut t = Table::new(&[("site", Side::Left), ("shape", Side::Left)]);
        list.iter().for_each(|s| t.row([&s.site, &s.shape].map(String::clone)));
        out.push('\n');
        out.push_str(&t.render(colour));
    }
    out
}

/// One file with its size, several with their number and sum.
fn files(t: &mut Table, d: &Document) {
    let sum: u64 = d.files.iter().map(|f| f.bytes).sum();
    let size = bytes(usize::try_from(sum).unwrap_or(usize::MAX));
    match d.files.as_slice() {
        [one] => t.pair("file", format!("{}, {size}", one.name)),
        several => t.pair("files", format!("{}, {size}", several.len())),
    }
}

/// What the specification says.
fn known(t: &mut Table, d: &Document, details: &Details) {
    let n = |n: Option<usize>| n.unwrap_or_default();
    let Details { wiring, norm, norm_eps, activation, .. } = details;
    t.pair("blocks", format!("{}, {wiring}, {norm} (ε {norm_eps})", n(d.n_layers)));
    let embed = match details.d_embed {
        e if Some(e) == d.d_model => String::new(),
        e => format!(", embedding {e}"),
    };
    t.pair("width", format!("{}{embed}", n(d.d_model)));
    let kv = if d.n_kv_heads == d.n_heads {
        String::new()
    } else {
        format!(", {} for keys and values", n(d.n_kv_heads))
    };
    let normed = if details.qk_norm { ", normed queries and keys" } else { "" };
    t.pair("heads", format!("{} of {}{kv}{normed}", n(d.n_heads), n(d.d_head)));
    let gated = if details.gated_mlp { ", gated" } else { "" };
    t.pair("mlp", format!("{}, {activation}{gated}", n(d.d_mlp)));
    let tied = if details.tied { "tied" } else { "untied" };
    t.pair("vocabulary", format!("{} tokens, unembedding {tied}", grouped(n(d.vocab))));
    t.pair("positions", details.positions.as_str());
    if let Some(w) = &details.windows {
        t.pair("windows", windows(w));
    }
    t.pair("context", format!("{} tokens", grouped(n(d.context))));
}

/// What the configuration of a model that does not run says about sizes.
fn guessed(t: &mut Table, d: &Document) {
    let mut size = |name: &str, n: Option<usize>, unit: &str| {
        if let Some(n) = n {
            t.pair(name, format!("{}{unit}", grouped(n)));
        }
    };
    size("blocks", d.n_layers, "");
    size("width", d.d_model, "");
    let kv = d.n_kv_heads.filter(|_| d.n_kv_heads != d.n_heads);
    let kv = kv.map(|n| format!(", {n} for keys and values")).unwrap_or_default();
    size("heads", d.n_heads, &kv);
    size("mlp", d.d_mlp, "");
    size("vocabulary", d.vocab, " tokens");
    size("context", d.context, " tokens");
}

fn tokenizer(t: &mut Table, d: &Tokens) {
    let plural = if d.special.len() == 1 { "" } else { "s" };
    let special = format!(", {} special one{plural}", d.special.len());
    t.pair("tokenizer", format!("{}, {} tokens{special}", d.kind, grouped(d.tokens)));
    if let Some(why) = &d.why_not {
        t.pair("", format!("cannot be used: {why}"));
    }
    let one = |(role, named): (&&str, &refocus_model::tokenizer::Named)| match named.id {
        Some(id) => format!("{role} {} ({id})", shown(&named.token)),
        None => format!("{role} {}", shown(&named.token)),
    };
    if !d.roles.is_empty() {
        t.pair("", d.roles.iter().map(one).collect::<Vec<_>>().join(", "));
    }
    let list = |tokens: &[String]| tokens.iter().map(|t| shown(t)).collect::<Vec<_>>().join(" ");
    let adds = match (d.before.as_slice(), d.after.as_slice()) {
        ([], []) => "nothing".to_owned(),
        (before, []) => format!("{} before a text", list(before)),
        ([], after) => format!("{} after a text", list(after)),
        (before, after) => format!("{} before and {} after a text", list(before), list(after)),
    };
    t.pair("", format!("adds {adds}"));
}

/// A token without what would steer a terminal.
fn shown(token: &str) -> String {
    token.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

fn template(c: &ChatTemplate) -> String {
    let takes = match (c.system, c.tools) {
        (true, true) => "takes a system message and tools",
        (true, false) => "takes a system message",
        (false, true) => "takes tools, no system message",
        (false, false) => "takes neither a system message nor tools",
    };
    format!("{}, {takes}", shown(&c.name))
}

/// What stands at the end of the table.
fn ends(t: &mut Table, d: &Details) {
    let ids = |ids: &[u32]| match ids {
        [] => "none".to_owned(),
        _ => ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", "),
    };
    t.pair("first, last id", format!("{}; {}", ids(&Vec::from_iter(d.bos)), ids(&d.eos)));
    t.pair("sites", format!("{} (--sites lists them)", grouped(d.sites)));
    for (i, a) in d.absent.iter().enumerate() {
        t.pair(if i == 0 { "absent sites" } else { "" }, format!("{}: {}", a.site, a.why));
    }
    t.pair("fingerprint", d.fingerprint.as_str());
}

/// `5 in layers 1 to 3`.
fn windows(all: &[Option<usize>]) -> String {
    let mut out: Vec<String> = Vec::new();
    let mut at = 0;
    for run in all.chunk_by(|a, b| a == b) {
        let last = at + run.len() - 1;
        let what = run[0].map_or_else(|| "none".to_owned(), |w| w.to_string());
        out.push(match run.len() {
            n if n == all.len() => format!("{what} in every layer"),
            1 => format!("{what} in layer {at}"),
            _ => format!("{what} in layers {at} to {last}"),
        });
        at = last + 1;
    }
    out.join(", ")
}
