//! `refocus flipflop eval` and `refocus flipflop study`.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use snapbox::str;

use crate::support::{Tmp, refocus, refused};

/// A transformer and an LSTM that are trained in a second.
const ROWS: &str = r#"
name = "tiny"
version = 1
preset = "cpu"
base = [
    "task.tokens=16", "task.batch=4", "model.d_model=16", "model.heads=2", "model.d_mlp=32",
    "optimizer.steps=300", "watch.every=100", "watch.save_every=20",
]
sets = ["in", "sparse", "dense"]
strings = 20

[[row]]
name = "baseline"
group = "baseline"
title = "as it is"
seeds = 2
claims = ["R1", "R7"]

[[row]]
name = "lstm"
group = "recurrence"
title = "an LSTM"
set = ["model={kind=\"lstm\",hidden=8}"]
seeds = 1
claims = ["R2"]
"#;

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("JSON")
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Without what a clock said.
fn untimed(path: &Path) -> Value {
    let mut row = json(&read(path));
    for key in ["training_seconds", "testing_seconds"] {
        assert!(row[key].is_f64(), "{row}");
        row[key] = Value::Null;
    }
    row
}

#[test]
fn a_study_that_is_killed_ends_the_same() {
    let tmp = Tmp::new("study");
    tmp.write("rows.toml", ROWS);
    let study = |out: &str| format!("flipflop study --grid [TMP]/rows.toml --out [TMP]/{out} --threads 1");
    tmp.refocus(&format!("{} --table [TMP]/page.md", study("whole"))).assert().success();

    let killed = tmp.path("killed");
    let mut child = std::process::Command::new(snapbox::cmd::cargo_bin!("refocus"))
        .args(["flipflop", "study", "--threads", "1", "-q", "--grid"])
        .arg(tmp.path("rows.toml"))
        .arg("--out")
        .arg(&killed)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("a process");
    // Wherever it is by then.
    std::thread::sleep(Duration::from_millis(150));
    child.kill().expect("killed");
    child.wait().expect("ended");
    // In no time: nothing is begun.
    let d = tmp.refocus(&format!("{} --max-hours 1e-9 --json", study("killed"))).assert().success();
    assert!(json(&d.get_output().stdout)["unfinished"].is_array());
    tmp.refocus(&study("killed")).assert().success();

    let names = ["baseline-seed0", "baseline-seed1", "lstm-seed0"];
    for name in names {
        let row = |out: &str| untimed(&tmp.path(out).join("rows").join(format!("{name}.json")));
        assert_eq!(row("killed"), row("whole"), "{name}");
        let run = |out: &str| tmp.path(out).join("runs").join(name);
        for file in ["curve.csv", "config.toml", "checkpoint.safetensors", "tests/half-sparse.wrong.json"] {
            assert_eq!(read(&run("killed").join(file)), read(&run("whole").join(file)), "{name}/{file}");
        }
    }

    // Nothing is left to do; another order of rows, or one row, reads what is there.
    let again = tmp.refocus(&format!("{} --json", study("whole"))).assert().success().stderr_eq("");
    let d = json(&again.get_output().stdout);
    assert_eq!((&d["schema"], &d["unfinished"]), (&"refocus.flipflop-study/1".into(), &Value::Array(vec![])));
    assert_eq!(d["rows"][0]["sets"][1]["seeds"].as_array().map(Vec::len), Some(2));
    assert_eq!(d["claims"].as_array().map(Vec::len), Some(8));
    assert_eq!(d["claims"][1]["why"], "lstm has 1 of 5 seeds");
    assert_eq!(d["series"][0]["steps"], serde_json::json!([100, 200, 300]));
    let page = String::from_utf8(read(&tmp.path("page.md"))).expect("text");
    assert!(page.contains("--grid rows.toml") && page.contains("| lstm | 0 | "), "{page}");
    let csv = String::from_utf8(read(&tmp.path("whole/study.csv"))).expect("text");
    assert_eq!(csv.lines().count(), 1 + 3 * 3, "{csv}");
    let report = tmp.refocus("report [TMP]/killed --json").assert().success();
    let d = json(&report.get_output().stdout);
    let tables = d["runs"][0]["tables"].as_array().expect("a list");
    let of = |name: &str| tables.iter().find(|t| t["name"] == name).and_then(|t| t["rows"].as_u64());
    assert_eq!((of("rows"), of("claims")), (Some(3 * 3), Some(8)), "{d}");
    assert!(of("curve") > Some(0) && of("distance") > Some(0), "{d}");
    let html = String::from_utf8(read(&tmp.path("killed/report.html"))).expect("text");
    assert!(html.contains("R2: the one-layer LSTM makes no error"), "{html}");

    // A row that changed is another study.
    tmp.write("rows.toml", &ROWS.replace("hidden=8", "hidden=4"));
    refused(tmp.refocus(&study("whole"))).stderr_eq(str![[r#"
error: [TMP]/whole/rows/lstm-seed0.json: made with another configuration: sha256:[..], not sha256:[..]
hint: give another --out, or the flags and rows of that study

"#]]);
}

#[test]
fn a_run_is_tested_and_goes_on() {
    let tmp = Tmp::new("eval");
    tmp.refocus(
        "train flipflop --preset cpu --out [TMP]/run --steps 8 --set task.tokens=16 --set model.d_model=16 \
         --set model.heads=2 --set model.d_mlp=32 --set task.batch=4",
    )
    .assert()
    .success();
    let eval = "flipflop eval [TMP]/run --set in,sparse,long-64 --count 20 --out [TMP]/tests";
    let shown = tmp.refocus(&format!("{eval} -q")).assert().success().stderr_eq("");
    shown.stdout_eq(str![[r#"
set           T  strings  reads  errors     rate               95 %
half-in      16       20     41  [..]
half-sparse  16       20     24  [..]
long-64      64       20     52  [..]

instructions since the last write  [..]
...
"#]]);
    let kept = tmp.path("tests/half-in.wrong.json");
    let (whole, document) = (read(&kept), read(&tmp.path("tests/eval.json")));
    let mut part = json(&whole);
    part["done"] = 7.into();
    let wrong = part["wrong"].as_array_mut().expect("reads");
    wrong.retain(|w| w[0].as_u64().is_some_and(|string| string < 7));
    tmp.write("tests/half-in.wrong.json", &part.to_string());
    let again = tmp.refocus(&format!("{eval} --json --threads 2")).assert().success();
    assert_eq!(read(&kept), whole);
    assert_eq!(read(&tmp.path("tests/eval.json")), document);
    let d = json(&again.get_output().stdout);
    assert_eq!(d["schema"], "refocus.flipflop-eval/1");
    assert_eq!((&d["sets"][0]["reads"], &d["sets"][0]["strings"]), (&41.into(), &20.into()));
    assert_eq!(d["sets"][0]["errors"], json(&whole)["wrong"].as_array().expect("reads").len());
    assert_eq!(d["speed"]["tokens"], 13 * 16);

    refused(tmp.refocus(&format!("{eval} --seed 1"))).stderr_eq(str![[r#"
error: [TMP]/tests/half-in.wrong.json: made with another seed: 0, not 1
hint: give another --out, or what that folder was made with

"#]]);
    refused(tmp.refocus("flipflop eval [TMP]/run --set sprase")).stderr_eq(str![[r#"
error: there is no set 'sprase': there are all, paper, half, length, in, sparse, dense, [..], long-N

"#]]);
    // Its context is that of its strings.
    refused(tmp.refocus("flipflop eval [TMP]/run/model")).stderr_eq(str![[r#"
error: the model reads 16 tokens at most; the shortest sets have strings of 256
hint: [..]

"#]]);
    refused(refocus("flipflop eval fixtures/gpt2")).stderr_eq(str![[r#"
error: the model has a vocabulary of [..] ids; strings over 2 data symbols have 5
hint: `refocus train flipflop` trains models that read these strings; `refocus flipflop probe` asks language models in words

"#]]);
}

#[test]
fn learned_positions_end() {
    let tmp = Tmp::new("eval-learned");
    tmp.refocus(
        "train flipflop --preset cpu --out [TMP]/run --steps 1 --set model.positions=learned \
         --set model.d_model=16 --set model.heads=2 --set model.d_mlp=32 --set task.batch=1 --set watch.sets=[]",
    )
    .assert()
    .success();
    let all = tmp.refocus("flipflop eval [TMP]/run --set in,length --count 2 --json").assert().success();
    let d = json(&all.get_output().stdout);
    assert_eq!(d["sets"].as_array().map(Vec::len), Some(1));
    assert_eq!(d["sets"][0]["name"], "half-in");
    assert_eq!(d["skipped"].as_array().map(Vec::len), Some(6));
    refused(tmp.refocus("flipflop eval [TMP]/run --set paper")).stderr_eq(str![[r#"
error: set in: strings of 512 symbols, and the model has learned positions up to 256

"#]]);
    // The folder that training wrote gives the same counts as the run.
    let of = |path: &str| {
        let out = tmp.refocus(&format!("flipflop eval [TMP]/{path} --set in,dense --count 3 --json"));
        let d = json(&out.assert().success().get_output().stdout);
        d["sets"].clone()
    };
    assert_eq!(of("run"), of("run/model"));
}

#[test]
fn a_plan_trains_nothing() {
    let tmp = Tmp::new("study-plan");
    tmp.write("rows.toml", ROWS);
    tmp.refocus("flipflop study --grid [TMP]/rows.toml --plan").assert().success().stdout_eq(str![[r#"
row       group       what      steps    left  s a step  training    tests
baseline  baseline    as it is    300  2 of 2  [..]
lstm      recurrence  an LSTM     300  1 of 1  [..]

all that is left, one run after another: about [..]

"#]]);
    assert_eq!(tmp.list(), ["rows.toml"]);
    refused(tmp.refocus("flipflop study --grid [TMP]/rows.toml --out [TMP]/x --rows basline")).stderr_eq(
        str![[r#"
error: row 'basline': the rows are baseline, lstm

"#]],
    );
    refused(tmp.refocus("flipflop study --grid [TMP]/none.toml --plan")).stderr_eq(str![[r#"
error: [TMP]/none.toml: cannot be read
cause: [..]

"#]]);
    refused(tmp.refocus("flipflop study --grid [TMP]/rows.toml --out [TMP]/x --max-hours -1"));
    assert_eq!(tmp.list(), ["rows.toml"]);
}

/// What a run learned is what it is tested on, and its counts are those of its own test.
#[test]
fn a_run_on_more_registers_is_tested_on_them() {
    let tmp = Tmp::new("eval-registers");
    let run = tmp
        .refocus(
            "train flipflop --preset lstm --out [TMP]/run --steps 30 --set task.tokens=32 --set task.registers=2 \
             --set task.symbols=2*2 --set task.ignore=[0.4] --set model.hidden=8 --json \
             --set watch.sets=[{name=\"in\",ignore=0.4,sequences=50}]",
        )
        .assert()
        .success();
    let run = json(&run.get_output().stdout);
    let eval = tmp.refocus("flipflop eval [TMP]/run --set in --count 50 --json").assert().success();
    let set = json(&eval.get_output().stdout)["sets"][0].clone();
    assert_eq!(set["alphabet"], "registers 2, symbols 2*2");
    assert!(set["errors"].as_u64() > Some(0), "{set}");
    for key in ["reads", "errors"] {
        assert_eq!(set[key], run["sets"][0][key], "{key}");
    }
    refused(tmp.refocus("flipflop eval [TMP]/run --set long-0")).stderr_eq(str![[r#"
error: flip-flop: a string has from 12 to 1048576 symbols, 4 for each instruction: not 0

"#]]);
    tmp.refocus("train flipflop --preset automaton --out [TMP]/a --steps 1 --set task.tokens=8")
        .assert()
        .success();
    refused(tmp.refocus("flipflop eval [TMP]/a")).stderr_eq(str![[r#"
error: [TMP]/a: the run learned the automaton, which has no reads
hint: `refocus flipflop figures` looks into such models

"#]]);
}

#[test]
fn rows_that_run_away_leave_the_others() {
    let tmp = Tmp::new("study-runaway");
    let wild = r#"
[[row]]
name = "wild"
group = "baseline"
title = "its numbers run away at once"
set = ["model.norm=layer", "optimizer.lr=1e30", "optimizer.warmup=0"]
seeds = 1

[[row]]
name = "wild-lstm"
group = "recurrence"
title = "an LSTM whose numbers run away"
set = ["model={kind=\"lstm\",hidden=8}", "optimizer.lr=3e38", "optimizer.warmup=0"]
seeds = 1
"#;
    let (head, rows) = ROWS.split_once("\n[[row]]").expect("rows");
    let rows = format!("{head}{wild}\n[[row]]{rows}").replace("steps=300", "steps=20");
    tmp.write("rows.toml", &rows);
    let study = "flipflop study --grid [TMP]/rows.toml --out [TMP]/out --rows wild,wild-lstm,lstm --json";
    let d = tmp.refocus(study).assert().code(1);
    let noted = String::from_utf8_lossy(&d.get_output().stderr).into_owned();
    for row in ["wild", "wild-lstm"] {
        assert!(noted.contains(&format!("{row}: its time is not known: step ")), "{noted}");
        assert!(noted.contains(&format!("{row}-seed0 failed and is left out: step ")), "{noted}");
    }
    let d = json(&d.get_output().stdout);
    assert_eq!(d["unfinished"], serde_json::json!(["wild-seed0", "wild-lstm-seed0"]));
    assert_eq!(d["rows"][0]["name"], "lstm");
}
