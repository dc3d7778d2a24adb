use snapbox::str;

use crate::support::{Tmp, refused};

fn json(command: snapbox::cmd::Command) -> serde_json::Value {
    let run = command.assert().success().stderr_eq("");
    serde_json::from_slice(&run.get_output().stdout).expect("JSON")
}

#[test]
fn the_hand_set_model_is_written_and_looked_into() {
    let tmp = Tmp::new("handset");
    tmp.refocus("flipflop handset --out [TMP]/model").assert().success().stderr_eq("").stdout_eq(str![[r#"
model           [TMP]/model
longest string  512 symbols
parameters      210, set by hand

"#]]);
    let again = json(tmp.refocus("flipflop handset --out [TMP]/model --json"));
    assert_eq!(again["schema"], "refocus.flipflop-handset/1");
    refused(tmp.refocus("flipflop handset --out [TMP]/model --length 256")).stderr_eq(str![[r#"
error: [TMP]/model[..]
hint: give another folder, or --replace to replace this one

"#]]);
    let attend = "flipflop attend [TMP]/model --set decoy,piecewise --count 4 --out [TMP]/look";
    let d = json(tmp.refocus(&format!("{attend} --json")));
    assert_eq!(d["schema"], "refocus.flipflop-attend/1");
    for set in d["sets"].as_array().expect("sets") {
        assert!(set["errors"] == 0 && set["reads"].as_u64() > Some(4), "{set}");
        let head = &set["answers"][0]["heads"][1];
        assert!(head["union"].as_f64() > Some(0.999), "{head}");
        assert_eq!(set["counterfactual"]["last_write"]["right_changed"], 4);
        assert_eq!(set["counterfactual"]["stale_write"]["right_changed"], 0);
        assert_eq!(set["temperatures"], serde_json::Value::Null);
    }
    assert_eq!(d["tie_break"][0]["product"], 0.0);
    let kept = std::fs::read(tmp.path("look/attend.json")).expect("a document");
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&kept).expect("JSON"), d);
    let text = tmp.refocus(attend).assert().success();
    let text = String::from_utf8_lossy(&text.get_output().stdout).into_owned();
    assert!(text.starts_with("decoy: 4 strings of 512 symbols, 0 errors in "), "{text}");
}

/// A run that has hardly learned anything has wrong reads, so every part of the document is there.
#[test]
fn a_run_is_looked_into_at_its_checkpoint() {
    let tmp = Tmp::new("attend-run");
    let train = "train flipflop --preset cpu --out [TMP]/run --steps 4 --set task.tokens=32 \
        --set model.d_model=16 --set model.heads=2 --set model.d_mlp=32 --set task.batch=4";
    tmp.refocus(train).assert().success();
    let d = json(tmp.refocus("flipflop attend [TMP]/run --count 6 --json"));
    assert_eq!((&d["step"], d["sets"].as_array().map(Vec::len)), (&4.into(), Some(3)));
    let set = &d["sets"][0];
    assert!(set["errors"].as_u64() > Some(0), "{set}");
    let t = &set["temperatures"];
    assert_eq!(t["wrong"], set["errors"]);
    assert_eq!(t["at"].as_array().map(Vec::len), Some(7));
    for answers in set["answers"].as_array().expect("answers") {
        for head in answers["heads"].as_array().expect("heads") {
            let mass: f64 = head["mass"].as_array().expect("mass").iter().filter_map(|x| x.as_f64()).sum();
            assert!((mass - 1.0).abs() < 1e-5, "{head}");
        }
    }
    for d in set["dilution"].as_array().expect("heads") {
        assert!(d["needed"].as_f64() <= d["reach"].as_f64(), "{d}");
    }
    refused(tmp.refocus("flipflop attend [TMP]/run --set in --count 1")).stderr_eq(str![[r#"
error: [..]
...
"#]]);
}

#[test]
fn models_without_reads_or_attention_are_refused() {
    let tmp = Tmp::new("attend-refused");
    tmp.refocus("train flipflop --preset automaton --out [TMP]/a --steps 1 --set task.tokens=8")
        .assert()
        .success();
    refused(tmp.refocus("flipflop attend [TMP]/a")).stderr_eq(str![[r#"
error: this run learned the automaton, which has no reads
hint: `refocus flipflop figures` looks into such models

"#]]);
    let lstm =
        "train flipflop --preset lstm --out [TMP]/l --steps 1 --set model.hidden=4 --set watch.sets=[]";
    tmp.refocus(lstm).assert().success();
    refused(tmp.refocus("flipflop attend [TMP]/l")).stderr_eq(str![[r#"
error: [TMP]/l: an LSTM has no attention to look at

"#]]);
    refused(tmp.refocus("flipflop attend fixtures/llama2 --set in")).stderr_eq(str![[r#"
error: the model knows [..] ids and the strings have 5

"#]]);
}

#[test]
fn one_evaluation_a_folder() {
    let tmp = Tmp::new("eval-busy");
    tmp.refocus("flipflop handset --out [TMP]/h --length 256 --quiet").assert().success();
    std::fs::create_dir(tmp.path("out")).expect("a folder");
    let lock = refocus_results::Lock::take(&tmp.path("out")).expect("the lock");
    let eval = "flipflop eval [TMP]/h --set in --count 1 --out [TMP]/out";
    refused(tmp.refocus(eval)).stderr_eq(str![[r#"
error: [TMP]/out: another run is writing to this folder

"#]]);
    drop(lock);
    tmp.refocus(eval).assert().success();
}

#[test]
fn figures_are_made_and_nothing_is_trained_twice() {
    let tmp = Tmp::new("figures");
    let command = "flipflop figures --out [TMP]/f --seeds 1 --steps 10 --json";
    let plan = json(tmp.refocus(&format!("{command} --plan")));
    assert_eq!(plan["models"].as_array().map(Vec::len), Some(6));
    assert!(plan["seconds"].as_f64() > Some(0.0) && tmp.list().is_empty(), "{plan}");
    let first = tmp.refocus(command).assert().success();
    let first = first.get_output().stdout.clone();
    let d: serde_json::Value = serde_json::from_slice(&first).expect("JSON");
    assert_eq!(d["figures"].as_array().map(Vec::len), Some(6));
    for (letter, charts) in [("a", 2), ("b", 3), ("c", 2), ("d", 9), ("e", 6), ("f", 2)] {
        let text = std::fs::read(tmp.path(&format!("f/{letter}.json"))).expect("a figure");
        let f: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(f["charts"].as_array().map(Vec::len), Some(charts), "{letter}");
        assert!(f["finding"].as_str().is_some_and(|s| !s.is_empty()), "{letter}");
    }
    let page = std::fs::read_to_string(tmp.path("f/report.html")).expect("a page");
    assert_eq!(page.matches("<svg").count(), 24, "a drawing for each chart");
    let again = tmp.refocus(command).assert().success().stderr_eq("");
    assert!(again.get_output().stdout == first);
    // Other seeds are other models, and other test strings.
    let other = "flipflop figures --out [TMP]/f --seeds 2 --steps 10 --seed 3 --only a,d --json";
    let other = tmp.refocus(other).assert().success();
    let other: serde_json::Value = serde_json::from_slice(&other.get_output().stdout).expect("JSON");
    let finding = other["figures"][0]["finding"].as_str().unwrap_or_default().to_owned();
    assert!(finding.contains("plain-noop0.5-seed3: ") && !finding.contains("seed0"), "{finding}");
    let d: serde_json::Value =
        serde_json::from_slice(&std::fs::read(tmp.path("f/d.json")).expect("a figure")).expect("JSON");
    assert_eq!(d["charts"][0]["series"][0]["x"], serde_json::json!([3.0, 4.0]));
    refused(tmp.refocus("flipflop figures --out [TMP]/f --only g")).stderr_eq(str![[r#"
error: --only g: figures are a to f

"#]]);
}
