use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::checkpoint::Checkpoint;

fn spec(fixture: &str) -> ModelSpec {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(fixture);
    Checkpoint::open(path).expect("fixture").spec().clone()
}

fn parse(text: &str) -> Result<Patch, String> {
    Patch::parse(text, Path::new("p.toml"), &spec("gpt2")).map_err(|e| e.to_string())
}

fn why(text: &str) -> String {
    parse(text).expect_err("the patch should be refused")
}

/// A folder with vectors, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, tensors: &[(&str, &[usize])]) -> Self {
        let dir = std::env::temp_dir().join(format!("refocus-patch-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("folder");
        let all: Vec<_> = tensors
            .iter()
            .map(|(name, shape)| {
                let n: usize = shape.iter().product();
                let bytes: Vec<u8> = (0..n).flat_map(|i| (i as f32).to_le_bytes()).collect();
                (*name, shape.to_vec(), bytes)
            })
            .collect();
        let views = all.iter().map(|(name, shape, bytes)| {
            let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
            (*name, view.expect("view"))
        });
        let bytes = safetensors::serialize(views, None).expect("serialize");
        std::fs::write(dir.join("v.safetensors"), bytes).expect("write");
        Self(dir)
    }

    fn parse(&self, text: &str) -> Result<Patch, String> {
        let path = self.0.join("p.toml");
        Patch::parse(text, &path, &spec("gpt2"))
            .map_err(|e| e.to_string().replace(&self.0.display().to_string(), "DIR"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const EVERYTHING: &str = r#"
[model]
fingerprint = "sha256:00000000000000000000000000000000000000000000000000000000000000ff"

[[intervention]]
at = "blocks.1.attn.hook_z"
head = 2
position = "last"
do = "zero"
when = { top1_prob_above = 0.6, lens_layer = 0 }

[[intervention]]
at = "blocks.*.attn.hook_pattern"
position = "-2"
do = "block_edge"
key = "first"

[[intervention]]
at = "blocks.0.attn.hook_attn_scores"
head = 1
position = 5
do = "sharpen"
factor = 0.5

[[intervention]]
do = "exit"
layer = 2

[[decode]]
do = "temperature"
factor = 2

[[decode]]
do = "contrast_layer"
layer = 1
alpha = -0.5

[rewrite]
variant = "extractive"
"#;

#[test]
fn every_part_of_a_patch_is_read() {
    let p = parse(EVERYTHING).expect("a good patch");
    let sites: Vec<_> = p.interventions.iter().map(|i| i.site.to_string()).collect();
    assert_eq!(
        sites,
        [
            "blocks.1.attn.hook_z",
            "blocks.0.attn.hook_pattern",
            "blocks.1.attn.hook_pattern",
            "blocks.0.attn.hook_attn_scores",
            "blocks.1.hook_resid_post",
        ]
    );
    assert_eq!(p.interventions[0].head, Some(2));
    assert_eq!(p.interventions[0].position, Position::Last);
    assert_eq!(p.interventions[0].when, Some(Gate { top1_prob_above: 0.6, lens_layer: 0 }));
    assert_eq!(p.interventions[1].position, Position::FromEnd(2));
    assert_eq!(p.interventions[1].action, Action::BlockEdge(0..1));
    assert_eq!(p.interventions[3].position, Position::At(5));
    assert_eq!(p.interventions[3].action, Action::Sharpen(0.5));
    assert_eq!(p.decode, [Decode::Temperature(2.0), Decode::ContrastLayer { layer: 1, alpha: -0.5 }]);
    assert_eq!(p.rewrite, Some(Rewrite { variant: Variant::Extractive, threshold: None }));
    assert!(p.check_guard(p.guard.as_deref().expect("guard")).is_ok());
    let other = p.check_guard("sha256:1").expect_err("another model").to_string();
    assert_eq!(other, "p.toml:3: the patch was made for another model");
}

#[test]
fn a_rewriting_is_served_and_nothing_else() {
    let p = parse("[rewrite]\nvariant = \"scored\"\nthreshold = -2.4\n").expect("a good patch");
    assert_eq!(p.rewrite, Some(Rewrite { variant: Variant::Scored, threshold: Some(-2.4) }));
    let all = p.support(&spec("gpt2"));
    assert_eq!(all[0].says, "rewrite the newest message (scored, threshold -2.4)");
    let works = Job::ALL.map(|job| p.require(job, &spec("gpt2")).is_ok());
    assert_eq!(works, [false, false, true, false]);
}

#[test]
fn slips_are_named_with_their_line() {
    let cases = [
        (
            "[[intervention]]\nat = \"blocks.0.attn.hook_z\"\ndo = \"zero\"\nhed = 1\n",
            "p.toml:4: unknown key 'hed' in [[intervention]]; did you mean 'head'?",
        ),
        (
            "[[interventions]]\n",
            "p.toml:1: unknown key 'interventions' in a patch; did you mean 'intervention'?",
        ),
        (
            "[[intervention]]\nat = \"blocks.0.attn.hook_z\"\ndo = \"zeor\"\n",
            "p.toml:3: there is no action 'zeor'; did you mean 'zero'?",
        ),
        (
            "[[intervention]]\nat = \"blocks.0.atn.hook_z\"\ndo = \"zero\"\n",
            "p.toml:2: 'blocks.0.atn.hook_z' is not a site; did you mean 'blocks.0.attn.hook_z'?",
        ),
        (
            "[[intervention]]\nat = \"blocks.7.attn.hook_z\"\ndo = \"zero\"\n",
            "p.toml:2: there is no 'blocks.7.attn.hook_z': the model has blocks 0 to 1",
        ),
        (
            "[[intervention]]\nat = \"blocks.*.hook_qq\"\ndo = \"zero\"\n",
            "p.toml:2: no site of this model matches 'blocks.*.hook_qq'",
        ),
        ("[[intervention]]\ndo = \"zero\"\n", "p.toml:1: 'zero' needs the key 'at'"),
        (
            "\n[[intervention]]\nat = \"blocks.0.hook_mlp_out\"\ndo = \"scale\"\n",
            "p.toml:2: 'scale' needs the key 'factor'",
        ),
        (
            "[[intervention]]\nat = \"blocks.0.hook_mlp_out\"\ndo = \"zero\"\nfactor = 2\n",
            "p.toml:4: 'zero' takes no key 'factor' in [[intervention]]",
        ),
        (
            "[[intervention]]\ndo = \"exit\"\nlayer = 1\nhead = 0\n",
            "p.toml:4: 'exit' takes no key 'head' in [[intervention]]",
        ),
        (
            "[[intervention]]\nat = \"blocks.0.hook_resid_pre\"\ndo = \"exit\"\nlayer = 1\n",
            "p.toml:2: 'exit' at layer 1 happens at blocks.1.hook_resid_pre; leave 'at' out or give that, not \
          'blocks.0.hook_resid_pre'",
        ),
        (
            "[[intervention]]\ndo = \"exit\"\nlayer = 9\n",
            "p.toml:1: 'exit' at blocks.8.hook_resid_post: layer 9 is not among 1 to 2",
        ),
        (
            "[[intervention]]\nat = \"blocks.0.attn.hook_z\"\nhead = 3\ndo = \"zero\"\n",
            "p.toml:1: blocks.0.attn.hook_z: there is no head 3, only 0 to 2",
        ),
        (
            "[[intervention]]\nat = \"blocks.0.hook_mlp_out\"\nhead = 0\ndo = \"zero\"\n",
            "p.toml:1: blocks.0.hook_mlp_out has no heads",
        ),
        (
            "[[intervention]]\nat = \"blocks.0.attn.hook_z\"\ndo = \"sharpen\"\nfactor = 0.5\n",
            "p.toml:1: 'sharpen' cannot be done at blocks.0.attn.hook_z: it changes attention: use hook_pattern or \
          hook_attn_scores",
        ),
        (
            "[[intervention]]\nat = \"blocks.0.attn.hook_pattern\"\ndo = \"sharpen\"\nfactor = 0\n",
            "p.toml:1: 'sharpen' at blocks.0.attn.hook_pattern: the temperature is 0, it must be above 0",
        ),
        (
            "[[intervention]]\nat = \"blocks.0.attn.hook_z\"\nposition = \"24\"\ndo = \"zero\"\n",
            "p.toml:1: the position is beyond the model's context of 24 tokens",
        ),
        (
            "[[intervention]]\nat = \"blocks.0.attn.hook_z\"\nposition = -25\ndo = \"zero\"\n",
            "p.toml:1: the position is beyond the model's context of 24 tokens",
        ),
        (
            "[[intervention]]\nat = \"blocks.0.attn.hook_z\"\nposition = \"slots\"\ndo = \"zero\"\n",
            "p.toml:3: position \"slots\" means the tokens just before the labels of a prompt, so it exists inside a \
          study only; here give \"last\" or a number",
        ),
        (
            "[[intervention]]\nat = \"blocks.0.attn.hook_z\"\nposition = \"first\"\ndo = \"zero\"\n",
            "p.toml:3: position = \"first\": a position is \"all\", \"last\", a position from the start such as 5, or \
          one from the end such as -2",
        ),
        (
            "[[intervention]]\nat = \"blocks.0.attn.hook_z\"\ndo = \"zero\"\nwhen = { lens_layer = 0 }\n",
            "p.toml:4: 'when' needs the key 'top1_prob_above'",
        ),
        (
            "[[intervention]]\nat = \"blocks.0.attn.hook_z\"\ndo = \"zero\"\nwhen = { lens_layer = 0, \
          top1_prob_above = 0.5 }\n",
            "p.toml:1: 'zero' at blocks.0.attn.hook_z: the gate reads block 0, which comes after it",
        ),
        (
            "[[intervention]]\nat = \"blocks.0.attn.hook_pattern\"\ndo = \"block_edge\"\nkey = [4, 4]\n",
            "p.toml:4: key = a list: the keys to hide are \"first\" or [from, to], positions from 0, `to` not included",
        ),
        (
            "[[intervention]]\nat = \"blocks.0.attn.hook_z\"\ndo = \"set\"\n",
            "p.toml:3: 'set' replaces an activation by a captured one, which exists in memory only; a fixed vector is \
          set with 'mean'",
        ),
        (
            "[intervention]\nat = \"x\"\n",
            "p.toml:1: [intervention] can be given several times: write [[intervention]]",
        ),
        ("[[decode]]\ndo = \"temperature\"\nfactor = 0\n", "p.toml:3: factor = 0: a temperature is above 0"),
        (
            "[[decode]]\ndo = \"contrast_layer\"\nlayer = 2\nalpha = 1\n",
            "p.toml:1: 'contrast_layer': layer 2 is not among 0 to 1",
        ),
        (
            "[rewrite]\nvariant = \"extract\"\n",
            "p.toml:2: there is no variant 'extract'; did you mean 'extractive'?",
        ),
        (
            "[rewrite]\nvariant = \"extractive\"\nthreshold = 0\n",
            "p.toml:3: 'extractive' takes no key 'threshold' in [rewrite]",
        ),
        (
            "[rewrite]\nvariant = \"scored\"\nthreshold = nan\n",
            "p.toml:3: threshold = nan: a finite number is needed",
        ),
        (
            "[model]\nfingerprint = \"sha256:12\"\n[rewrite]\nvariant = \"single\"",
            "p.toml:2: fingerprint = sha256:12: it must be 'sha256:' and 64 hexadecimal digits, as `refocus model \
          inspect` prints it",
        ),
        ("", "p.toml:1: the patch changes nothing: it has no [[intervention]], [[decode]] or [rewrite]"),
    ];
    for (text, wanted) in cases {
        assert_eq!(why(text), wanted, "{text}");
    }
    assert!(why("[[intervention]\n").starts_with("p.toml:1: not valid TOML: "));
}

#[test]
fn vectors_come_from_a_file_beside_the_patch() {
    let f = Folder::new("beside", &[("head", &[7]), ("wide", &[21]), ("heads", &[3, 7]), ("flat", &[7, 3])]);
    let at = |line: &str, vector: &str| {
        format!(
            "[[intervention]]\nat = \"blocks.1.attn.hook_z\"\n{line}do = \"mean\"\nvector = \"{vector}\"\n"
        )
    };
    let p = f.parse(&at("head = 1\n", "v.safetensors#head")).expect("a head's mean");
    assert_eq!(p.interventions[0].action, Action::Mean((0..7).map(|i| i as f32).collect()));
    assert!(f.parse(&at("", "v.safetensors#wide")).is_ok());
    assert!(f.parse(&at("", "v.safetensors#heads")).is_ok());
    let refused = [
        (
            at("", "v.safetensors#head"),
            "DIR/p.toml:4: blocks.1.attn.hook_z: the vector for 'mean' has 7 numbers, 21 are needed \
          (v.safetensors#head)",
        ),
        (
            at("", "v.safetensors#flat"),
            "DIR/p.toml:4: tensor 'flat' of DIR/v.safetensors has the shape [7, 3]; a vector with one dimension is \
          needed",
        ),
        (
            at("", "v.safetensors#hed"),
            "DIR/p.toml:4: DIR/v.safetensors has no tensor 'hed'; did you mean 'head'?",
        ),
        (at("", "w.safetensors#head"), "DIR/p.toml:4: DIR/w.safetensors cannot be read"),
        (
            at("", "v.safetensors"),
            "DIR/p.toml:4: vector = \"v.safetensors\": a vector is named by file and tensor, such as \
          \"means.safetensors#b\"; the file is looked for beside the patch",
        ),
        (at("", ".#b"), "DIR/p.toml:4: DIR/. is no file"),
    ];
    for (text, wanted) in refused {
        assert_eq!(f.parse(&text).expect_err("refused"), wanted, "{text}");
    }
    let prior = "[[decode]]\ndo = \"unigram_prior\"\nalpha = 0.5\nvector = \"v.safetensors#head\"\n";
    assert_eq!(
        f.parse(prior).expect_err("too short"),
        "DIR/p.toml:4: 'unigram_prior': v.safetensors#head has 7 numbers, one for each of the 101 tokens is needed"
    );
}

#[test]
fn only_plain_algebra_can_be_baked() {
    let export = |fixture: &str, text: &str| {
        let spec = spec(fixture);
        let p = Patch::parse(text, Path::new("p.toml"), &spec).expect("a good patch");
        p.support(&spec)[0].jobs[Job::Export as usize].clone()
    };
    let entry = |at: &str, rest: &str| format!("[[intervention]]\nat = \"{at}\"\n{rest}\n");
    let no = |why: &str| Support::No(why.to_owned());
    let can = |s: Support| matches!(s, Support::Yes | Support::NotYet(_));
    assert!(can(export("gpt2", &entry("blocks.0.attn.hook_z", "head = 1\ndo = \"zero\""))));
    assert!(can(export("gpt2", "[[intervention]]\ndo = \"exit\"\nlayer = 1\n")));
    let sharpen = entry("blocks.0.attn.hook_pattern", "head = 1\ndo = \"sharpen\"\nfactor = 0.5");
    assert!(can(export("gpt2", &sharpen)));
    assert_eq!(export("qwen3", &sharpen), no("one gain of the query norm serves all heads of a layer"));
    let all = entry("blocks.0.attn.hook_pattern", "do = \"sharpen\"\nfactor = 0.5");
    assert!(can(export("qwen3", &all)));
    let last = entry("blocks.*.attn.hook_z", "do = \"zero\"\nposition = \"last\"");
    assert_eq!(export("gpt2", &last), no("blocks.0.attn.hook_z: weights act at every position"));
    let gated =
        entry("blocks.1.attn.hook_z", "do = \"zero\"\nwhen = { top1_prob_above = 0.5, lens_layer = 0 }");
    assert_eq!(export("gpt2", &gated), no("weights have no gate"));
    let edge = entry("blocks.0.attn.hook_pattern", "do = \"block_edge\"\nkey = \"first\"");
    assert_eq!(export("gpt2", &edge), no("weights have no key mask"));
}

#[test]
fn a_command_refuses_what_it_cannot_do() {
    let p = parse("[[decode]]\ndo = \"contrast_context\"\nalpha = 0.5\n").expect("valid data");
    let e = p.require(Job::Forward, &spec("gpt2")).expect_err("not yet").to_string();
    assert_eq!(
        e,
        "p.toml:1: 'contrast_context' does not work in forward: it needs a second row of logits, which nothing \
         computes yet"
    );
    let p = parse("[[decode]]\ndo = \"temperature\"\nfactor = 2\n").expect("valid data");
    assert!(p.require(Job::Forward, &spec("gpt2")).is_ok());
    let mut row = [2.0; 101];
    p.adjust(&mut row);
    assert_eq!(row, [1.0; 101]);
}

#[test]
fn positions_far_out_cost_no_memory() {
    // Dynamic rotary scaling has no end of context.
    let s = spec("llama-dynamic");
    let text = "[[intervention]]\nat = \"blocks.0.attn.hook_z\"\nposition = 4294967295\ndo = \"zero\"\n";
    assert!(Patch::parse(text, Path::new("p.toml"), &s).is_err());
    let text = text.replace("4294967295", "1000000");
    assert!(Patch::parse(&text, Path::new("p.toml"), &s).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Any text is a patch or an error.
    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}") {
        let _ = parse_cached(&text);
    }

    /// Any bytes are a patch or an error, as TOML or as a vector file.
    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_cached(&String::from_utf8_lossy(&bytes));
    }

    /// A good patch with some bytes changed, dropped or doubled is a patch or an error.
    #[test]
    fn a_damaged_patch_is_answered(
        changes in proptest::collection::vec((0..EVERYTHING.len(), any::<u8>(), 0..3u8), 1..6)
    ) {
        let mut bytes = EVERYTHING.as_bytes().to_vec();
        for (at, byte, how) in changes {
            let at = at.min(bytes.len() - 1);
            match how {
                0 => bytes[at] = byte,
                1 => { bytes.remove(at); }
                _ => { let tail = bytes[at..].to_vec(); bytes.splice(at..at, tail); bytes.truncate(4000); }
            }
        }
        let _ = parse_cached(&String::from_utf8_lossy(&bytes));
    }

    /// Lines of good patches in any order are a patch or an error.
    #[test]
    fn shuffled_lines_are_answered(
        order in proptest::collection::vec(0..EVERYTHING.lines().count(), 0..20)
    ) {
        let lines: Vec<_> = EVERYTHING.lines().collect();
        let text: Vec<_> = order.iter().map(|&i| lines[i]).collect();
        let _ = parse_cached(&text.join("\n"));
    }
}

/// As [`parse`], with the specification read once; support is asked for too.
fn parse_cached(text: &str) -> Result<Patch, PatchError> {
    static SPEC: std::sync::OnceLock<ModelSpec> = std::sync::OnceLock::new();
    let spec = SPEC.get_or_init(|| spec("gpt2"));
    let patch = Patch::parse(text, Path::new("p.toml"), spec)?;
    let _ = patch.support(spec);
    Ok(patch)
}
