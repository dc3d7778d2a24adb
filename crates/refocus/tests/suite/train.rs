use snapbox::str;

use crate::support::{Tmp, refocus, refused};

/// A run of a second.
const SMALL: &str = "train flipflop --preset cpu --out [TMP]/run --seed 3 --set task.tokens=16 \
    --set model.d_model=16 --set model.heads=2 --set model.d_mlp=32 --set task.batch=4 \
    --set watch.every=4 --set watch.save_every=2";

#[test]
fn a_run_goes_on_where_it_was_and_its_model_opens() {
    let tmp = Tmp::new("train");
    let all = format!("{SMALL} --steps 8");
    let first = tmp.refocus(&all).assert().success().stderr_eq("");
    first.stdout_eq(str![[r#"
run          [TMP]/run
parameters   5,360
steps        8
loss         [..] nats
half-in      [..] errors in [..] reads (ignoring 0.6)
half-sparse  [..] errors in [..] reads (ignoring 0.96)
half-dense   [..] errors in [..] reads (ignoring 0.1)
model        [TMP]/run/model

"#]]);
    let curve = std::fs::read(tmp.path("run/curve.csv")).expect("a curve");
    let again = tmp.refocus(&format!("{all} --json --threads 1")).assert().success().stderr_eq("");
    let d: serde_json::Value = serde_json::from_slice(&again.get_output().stdout).expect("JSON");
    assert_eq!(
        (&d["schema"], &d["steps"], &d["resumed_from"]),
        (&"refocus.train/1".into(), &8.into(), &8.into())
    );
    assert!(d["sets"][1]["reads"].as_u64().is_some_and(|n| n > 0), "{d}");
    assert!(d["config_hash"].as_str().is_some_and(|h| h.starts_with("sha256:")), "{d}");
    assert_eq!(std::fs::read(tmp.path("run/curve.csv")).expect("a curve"), curve);

    tmp.refocus("model inspect [TMP]/run/model").assert().success();
    tmp.write("ids.json", "[[0, 3, 2, 4, 1]]");
    tmp.refocus("model forward [TMP]/run/model --tokens [TMP]/ids.json").assert().success();

    refused(tmp.refocus(&format!("{SMALL} --steps 9"))).stderr_eq(str![[r#"
error: [TMP]/run/config.toml: this is another run, its optimizer.steps is 8 and not 9
hint: give another folder, or the flags that the run was begun with

"#]]);
}

#[test]
fn a_rate_that_is_too_high_is_told_with_its_step() {
    let tmp = Tmp::new("train-nan");
    let high =
        format!("{SMALL} --steps 8 --set optimizer.lr=1e30 --set optimizer.warmup=0 --set model.norm=layer");
    refused(tmp.refocus(&high)).stderr_eq(str![[r#"
error: step 2: the parameters cannot be used
cause: (parameters in memory)
cause: tensor Embed Weight: row 0 holds a value that is NaN or infinite

"#]]);
    let high = high.replace("save_every=2", "save_every=1");
    let tmp = Tmp::new("train-nan-saved");
    refused(tmp.refocus(&high)).stderr_eq(str![[r#"
error: step 2: the parameters cannot be used
cause: (parameters in memory)
cause: tensor Embed Weight: row 0 holds a value that is NaN or infinite
hint: the checkpoint of step 1 is as it was

"#]]);
}

#[test]
fn fields_are_listed_and_checked() {
    refocus("train flipflop --preset lstm --show").assert().success().stdout_eq(str![[r#"
seed = 0
data_seed = 0

[task]
tokens = 512
ignore = [0.8]
mode = "clean"
batch = 16

[model]
kind = "lstm"
hidden = 128
...
"#]]);
    let tmp = Tmp::new("train-fields");
    let wrong =
        |flags: &str| refused(tmp.refocus(&format!("train flipflop --preset cpu --out [TMP]/x {flags}")));
    wrong("--set optimizer.rate=1").stderr_eq(str![[r#"
error: --set optimizer.rate=1 cannot be used
cause: the configuration cannot be read: unknown field `rate`, expected one of `steps`, `lr`, `warmup`, `beta1`, `beta2`, `eps`, `weight_decay`, `clip` in `optimizer`
hint: `refocus train flipflop --preset NAME --show` lists the fields

"#]]);
    wrong("--set task.tokens=17").stderr_eq(str![[r#"
error: flip-flop: a string has from 4 to 1048576 symbols, 2 for each instruction: not 17

"#]]);
    wrong("--set dropout.mlp=1.5").stderr_eq(str![[r#"
error: dropout.mlp = 1.5: it must lie in [0, 1)

"#]]);
    wrong("--set task.ignore=[0.5,1.2]").stderr_eq(str![[r#"
error: flip-flop: the probability to ignore is 1.2, not a number from 0 to 1

"#]]);
    assert!(tmp.list().is_empty());
    tmp.write("file", "");
    refused(tmp.refocus("train flipflop --preset cpu --out [TMP]/file/run")).stderr_eq(str![[r#"
error: [TMP]/file/run: cannot be written at step 0; what was saved before is as it was
cause: [..]

"#]]);
}

#[test]
fn a_run_can_be_estimated() {
    let tmp = Tmp::new("train-estimate");
    let small = SMALL.replace("--out [TMP]/run", "--estimate");
    tmp.refocus(&small).assert().success().stderr_eq("").stdout_eq(str![[r#"
steps       2,000
symbols     128,000
operations  4.39e9
a step      [..] s (mean of 3)
in all      [..], tests aside

"#]]);
    let json = tmp.refocus(&format!("{small} --json")).assert().success();
    let d: serde_json::Value = serde_json::from_slice(&json.get_output().stdout).expect("JSON");
    let per_step = d["seconds_per_step"].as_f64().expect("a number");
    assert_eq!(d["schema"], "refocus.train-estimate/1");
    assert!(per_step > 0.0 && d["hours"].as_f64() == Some(2000.0 * per_step / 3600.0), "{d}");
    assert!(tmp.list().is_empty());
}

/// The true model at the true length; one string a step instead of sixteen, so that this takes no minutes.
#[test]
fn the_papers_model_takes_twenty_steps() {
    let tmp = Tmp::new("train-paper");
    let paper = "train flipflop --preset paper --out [TMP]/run --steps 20 --set task.batch=1 \
        --set watch.sets=[] --set watch.save_every=20 --json";
    let run = tmp.refocus(paper).assert().success().stderr_eq("");
    let d: serde_json::Value = serde_json::from_slice(&run.get_output().stdout).expect("JSON");
    assert_eq!((d["parameters"].as_u64(), d["steps"].as_u64()), (Some(19_170_309), Some(20)));
    let curve = std::fs::read_to_string(tmp.path("run/curve.csv")).expect("a curve");
    let losses: Vec<f64> =
        curve.lines().skip(1).filter_map(|row| row.split(',').nth(1)?.parse().ok()).collect();
    assert_eq!(losses.len(), 20, "{curve}");
    // From five symbols to two bits.
    assert!(losses[0] > 1.2 && losses[19] < 1.1, "{curve}");
}

#[test]
fn other_alphabets_families_and_the_automaton_are_trained() {
    let tmp = Tmp::new("train-tasks");
    let small = "--steps 4 --set model.d_model=16 --set model.heads=2 --set model.d_mlp=32 \
        --set task.batch=2 --set watch.every=4 --json";
    let cases = [
        ("cpu", "--set task.tokens=40 --set task.symbols=16", 19),
        ("cpu", "--set task.tokens=45 --set task.symbols=2*2", 5),
        ("cpu", "--set task.tokens=45 --set task.registers=4 --set task.mode=generative", 9),
        ("cpu", "--set task.tokens=60 --set task.family=decoy --set task.family.burst=4", 5),
        ("cpu", "--set task.tokens=60 --set task.family=piecewise", 5),
        ("automaton", "--set task.tokens=17 --set model.positions=linear --set model.norm=none", 3),
    ];
    for (i, (preset, fields, vocab)) in cases.into_iter().enumerate() {
        let command = format!("train flipflop --preset {preset} --out [TMP]/{i} {fields} {small}");
        let run = tmp.refocus(&command).assert().success().stderr_eq("");
        let d: serde_json::Value = serde_json::from_slice(&run.get_output().stdout).expect("JSON");
        assert!(d["sets"][0]["reads"].as_u64().is_some_and(|n| n > 0), "{fields}: {d}");
        let config = std::fs::read_to_string(tmp.path(&format!("{i}/model/config.json"))).expect("a model");
        let config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
        assert_eq!(config["vocab_size"], vocab, "{fields}");
    }
    let wrong =
        |flags: &str| refused(tmp.refocus(&format!("train flipflop --preset cpu --out [TMP]/x {flags}")));
    wrong("--set task.family=decoys").stderr_eq(str![[r#"
error: --set task.family=decoys cannot be used
cause: the configuration cannot be read: unknown variant `decoys`, expected one of `piecewise`, `decoy`, `read-run`, `churn`, `write-flip`, `anti-correlated`, `markov` in `task.family.kind`
hint: `refocus train flipflop --preset NAME --show` lists the fields

"#]]);
    wrong("--set task.family=decoy --set task.ignore=[0.1,0.9]").stderr_eq(str![[r#"
error: task.ignore = 2: a family takes one probability to ignore

"#]]);
    wrong("--set task.mode=automaton --set task.registers=2").stderr_eq(str![[r#"
error: task.registers = 2: the automaton has one bit and no families

"#]]);
}

#[test]
fn a_seed_that_no_configuration_holds_is_named() {
    refused(refocus("train flipflop --preset cpu --show --seed 9223372036854775808 --set task.tokens=16"))
        .stderr_eq(str![[r#"
error: seed = 9223372036854775808: the largest seed is 9223372036854775807

"#]]);
}
