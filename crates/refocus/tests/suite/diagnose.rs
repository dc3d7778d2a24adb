use refocus_results::overthinking::Claim;
use refocus_results::{RunFolder, RunInfo, StoredRun};
use serde_json::Value;
use snapbox::{file, str};

use crate::support::{Tmp, refocus};

const RUN: &str = "diagnose fixtures/overthinking --out [TMP]/run";

fn findings(tmp: &Tmp) -> Value {
    let text = std::fs::read_to_string(tmp.path("run/findings.json")).expect("findings");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn a_table_for_people_and_the_same_numbers_again() {
    let tmp = Tmp::new("diagnose-table");
    tmp.refocus(&format!("{RUN} -q")).assert().success().stdout_eq(file!["diagnose/table.txt"]);
    let first = std::fs::read(tmp.path("run/findings.json")).expect("findings");
    // Nothing is done twice, and nothing changes.
    tmp.refocus(RUN).assert().success().stdout_eq(file!["diagnose/table.txt"]).stderr_eq(str![[r#"
note: [TMP]/run/findings.json: 4 of 4 probes are there already
note: numbers and texts are in [TMP]/run/findings.json, the page is report.html beside it

"#]]);
    assert_eq!(std::fs::read(tmp.path("run/findings.json")).expect("findings"), first);
    let json = tmp.refocus(&format!("{RUN} --json")).output().expect("run").stdout;
    assert_eq!(json, first);
}

#[test]
fn probes_one_by_one_give_the_file_of_all_together() {
    let tmp = Tmp::new("diagnose-parts");
    tmp.refocus(&format!("{RUN} -q --probes distractors --threads 1")).assert().success();
    assert_eq!(findings(&tmp)["findings"].as_array().map(Vec::len), Some(1));
    tmp.refocus(&format!("{RUN} -q --threads 2")).assert().success();
    let parts = std::fs::read(tmp.path("run/findings.json")).expect("findings");
    let whole = Tmp::new("diagnose-whole");
    whole.refocus(&format!("{RUN} -q")).assert().success();
    assert_eq!(parts, std::fs::read(whole.path("run/findings.json")).expect("findings"));
}

#[test]
fn every_measure_has_a_metric_and_a_verdict_its_words() {
    let tmp = Tmp::new("diagnose-metrics");
    tmp.refocus(&format!("{RUN} -q")).assert().success();
    let list = refocus("diagnose --list-metrics --json").output().expect("run").stdout;
    let list: Value = serde_json::from_slice(&list).expect("JSON");
    let known: Vec<&str> =
        list["metrics"].as_array().expect("a list").iter().filter_map(|m| m["name"].as_str()).collect();
    assert_eq!(known.len(), 16);
    for f in findings(&tmp)["findings"].as_array().expect("a list") {
        assert!(!f["verdict"].as_str().expect("words").is_empty());
        assert!(known.contains(&f["headline"].as_str().expect("a name")));
        for (name, m) in f["measures"].as_object().expect("measures") {
            assert!(known.contains(&name.as_str()), "{name}");
            let x = m["value"].as_f64().expect("a number");
            for (end, right) in [("low", -1.0), ("high", 1.0)] {
                assert!(m[end].as_f64().is_none_or(|e| (e - x) * right >= 0.0), "{name}: {m}");
            }
        }
    }
}

#[test]
fn a_condition_is_a_gate() {
    let tmp = Tmp::new("diagnose-gate");
    let gate = |condition: &str| {
        let args: Vec<String> =
            format!("{RUN} --probes distractors -q --fail-on").split(' ').map(str::to_owned).collect();
        let mut command = tmp.refocus(&args.join(" "));
        command = command.arg(condition);
        command.output().expect("run")
    };
    assert_eq!(gate("distractors.accuracy_neutral >= 0").status.code(), Some(1));
    assert_eq!(gate("distractors.accuracy_neutral.high < 0").status.code(), Some(0));
    let undecided = gate("distractors.drop > 2 or recall.fall > 0");
    assert_eq!(undecided.status.code(), Some(2));
    let told = String::from_utf8(undecided.stderr).expect("UTF-8");
    assert!(told.contains("error: --fail-on cannot be decided: recall.fall was not measured"), "{told}");
}

#[test]
fn bad_use_is_told_before_anything_is_run() {
    let tmp = Tmp::new("diagnose-refusals");
    tmp.refocus(&format!("{RUN} --fail-on gap>0")).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: there is no metric gap; overthinking.gap is similar
hint: `refocus diagnose --list-metrics` lists the metrics; a condition is such as 'overthinking.gap.low > 0.1'

"#]]);
    assert!(!tmp.path("run").exists());
    tmp.refocus(&format!("{RUN} -q --probes recall")).assert().success();
    let before = std::fs::read(tmp.path("run/findings.json")).expect("findings");
    tmp.refocus("report --compare [TMP]/run [TMP]/run").assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: [TMP]/run: a diagnosis; --compare puts two runs of a study side by side
hint: a study is what overthinking, recall and system2 eval write; a diagnosis has a page of its own

"#]]);
    tmp.refocus(&format!("{RUN} --seed 1")).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: [TMP]/run/findings.json: made with seed 0, not 1
hint: give another --out, or the settings of that run

"#]]);
    assert_eq!(std::fs::read(tmp.path("run/findings.json")).expect("findings"), before);
    tmp.refocus("diagnose fixtures/gpt2 --out [TMP]/other").assert().code(2).stdout_eq("");
    assert!(!tmp.path("other").exists());
    // While somebody writes there, and where a study of another kind did.
    let of = |study: &str| RunInfo {
        study: study.to_owned(),
        ..StoredRun::open(&tmp.path("run")).expect("a run").info().clone()
    };
    let writing = RunFolder::renew(&tmp.path("run"), of("diagnosis/1")).expect("nobody");
    tmp.refocus(RUN).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: [TMP]/run: another run is writing to this folder

"#]]);
    drop(writing);
    RunFolder::renew(&tmp.path("recall"), of("recall/1")).expect("new").write::<Claim>(&[]).expect("a table");
    let other = format!("diagnose fixtures/overthinking --out {}", "[TMP]/recall");
    tmp.refocus(&other).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: [..]recall[..]
...
"#]]);
    assert!(!tmp.path("recall/findings.json").exists());
}

#[test]
fn a_patch_is_searched_and_measured() {
    let tmp = Tmp::new("diagnose-mitigate");
    let run = format!("{RUN} -q --mitigate");
    tmp.refocus(&run).assert().success().stdout_eq(file!["diagnose/mitigate.txt"]);
    let first = findings(&tmp);
    let mitigation = &first["mitigation"];
    let tried = mitigation["tried"].as_array().expect("a list");
    assert!(tried.len() >= 4, "{tried:?}");
    // The same command finds it there; more threads change nothing.
    tmp.refocus(&run).assert().success().stdout_eq(file!["diagnose/mitigate.txt"]);
    let again = Tmp::new("diagnose-mitigate-again");
    again.refocus(&format!("{run} --threads 2")).assert().success();
    assert_eq!(findings(&again), first);
    match mitigation["helps"].as_bool() {
        // What is proposed fits the model, and says so.
        Some(true) => {
            let check = "patch check fixtures/overthinking --patch [TMP]/run/patch.toml --json";
            let out = tmp.refocus(check).output().expect("run").stdout;
            let document: Value = serde_json::from_slice(&out).expect("JSON");
            assert_eq!(document["guard"], "same");
            let entries = document["entries"].as_array().expect("a list");
            assert!(entries.iter().all(|e| e["export"]["works"] == "yes"), "{document}");
        }
        _ => assert!(!tmp.path("run/patch.toml").exists()),
    }
    // Its tables hold the same.
    tmp.refocus("report [TMP]/run --csv [TMP]/csv --json").assert().success();
    let lines = |name: &str| {
        let text = std::fs::read_to_string(tmp.path("csv").join(format!("{name}.csv"))).expect(name);
        text.lines().count() - 1
    };
    let changes = mitigation["changes"].as_array().map(Vec::len);
    assert_eq!((lines("findings"), lines("tried"), Some(lines("changes"))), (4, tried.len(), changes));
    assert!(lines("metrics") > 4 && lines("examples") > 1);
    // Probes that were not asked are measured all the same.
    let one = Tmp::new("diagnose-mitigate-one");
    one.refocus(&format!("{run} --probes flipflop")).assert().success();
    let document = findings(&one);
    assert_eq!(document["findings"].as_array().map(Vec::len), Some(1));
    let rows = document["mitigation"]["changes"].as_array().expect("a list");
    assert!(rows.iter().any(|r| r["probe"] == "overthinking"), "{rows:?}");
}

/// Demonstrations of a data set in place of the project's words.
#[test]
fn a_task_with_data_belongs_to_a_diagnosis() {
    let tmp = Tmp::new("diagnose-task");
    let rows = |n: usize| -> String {
        let row = |i: usize| {
            let label = ["positive", "negative"][i % 2];
            format!("{{\"text\": \"film number {i} was as it was\", \"label\": \"{label}\"}}\n")
        };
        (0..n).map(row).collect()
    };
    std::fs::create_dir(tmp.path("tasks")).expect("a folder");
    tmp.write("tasks/sst2.jsonl", &rows(60));
    let run = format!("{RUN} --probes overthinking --task sst2 --data [TMP] -q");
    tmp.refocus(&run).assert().success();
    let first = findings(&tmp);
    let asked = first["findings"][0]["asked"].as_str().expect("words");
    assert!(asked.starts_with("the label of sst2 after 8 true and 8 false demonstrations"), "{asked}");
    assert_eq!(first["settings"]["task"], "sst2");
    // Other rows are another diagnosis, and so is the toy task.
    tmp.write("tasks/sst2.jsonl", &rows(62));
    for other in [run.as_str(), &format!("{RUN} -q")] {
        let refused = tmp.refocus(other).assert().code(2).stdout_eq("").get_output().stderr.clone();
        let told = String::from_utf8(refused).expect("UTF-8");
        assert!(told.contains("hint: give another --out"), "{told}");
    }
    assert_eq!(findings(&tmp), first);
    tmp.refocus(&format!("{RUN} --task sst2")).assert().code(2).stderr_eq(str![[r#"
error: sst2.jsonl: task sst2 needs a data folder that holds this file
hint: give --data DIR or set REFOCUS_DATA

"#]]);
    tmp.refocus(&format!("{RUN} --task sst3")).assert().code(2).stderr_eq(str![[r#"
error: there is no task sst3; is sst2 meant?
hint: `refocus tasks list` shows all; a file ends in .toml

"#]]);
}

/// Facts of a file in place of the project's capitals.
#[test]
fn a_relation_from_a_file_belongs_to_a_diagnosis() {
    let tmp = Tmp::new("diagnose-relation");
    let relation = |n: usize, prompts: &str| -> String {
        let fact =
            |i: usize| format!("{{\"subject\": \"box {i}\", \"object\": \"{}\"}}", ["red", "blue"][i % 2]);
        let facts: Vec<String> = (0..n).map(fact).collect();
        format!("{{\"prompt_templates\": [{prompts}], \"samples\": [{}]}}", facts.join(", "))
    };
    let prompts = r#""The colour of {} is", "What colour is {}? It is""#;
    std::fs::create_dir_all(tmp.path("facts/relations")).expect("a folder");
    tmp.write("facts/relations/colour.json", &relation(300, prompts));
    let run = format!("{RUN} --probes recall,distractors --relation colour --data [TMP] -q");
    tmp.refocus(&format!("{run} --mitigate")).assert().success();
    let first = findings(&tmp);
    let asked = |i: usize| first["findings"][i]["asked"].as_str().expect("words").to_owned();
    assert!(asked(0).starts_with("200 facts of colour, "), "{}", asked(0));
    assert!(asked(0).ends_with(" known, then 2 open prompts each"), "{}", asked(0));
    assert_eq!(asked(1), "300 facts of colour after 4 sentences that name another answer, or none");
    assert_eq!(first["settings"]["relation"], "colour");
    // The folder of facts does as well as the one it is in.
    tmp.refocus(&format!("{run} --mitigate").replace("[TMP] -q", "[TMP]/facts -q")).assert().success();
    assert_eq!(findings(&tmp), first);
    // The file itself is the same relation; other facts are another diagnosis.
    let file = format!("{RUN} --probes recall,distractors --relation [TMP]/facts/relations/colour.json -q");
    tmp.refocus(&format!("{file} --mitigate")).assert().success();
    assert_eq!(findings(&tmp), first);
    tmp.write("facts/relations/colour.json", &relation(301, prompts));
    for other in [run.as_str(), &format!("{RUN} -q")] {
        let refused = tmp.refocus(other).assert().code(2).stdout_eq("").get_output().stderr.clone();
        let told = String::from_utf8(refused).expect("UTF-8");
        assert!(told.contains("hint: give another --out"), "{told}");
    }
    assert_eq!(findings(&tmp), first);
    tmp.refocus(&format!("{RUN} --relation colours --data [TMP]")).assert().code(2).stderr_eq(str![[r#"
error: there is no relation colours; did you mean colour?; there are capital, language, colour

"#]]);
    tmp.refocus(&format!("{RUN} --relation colours --data [TMP]/facts/relations"))
        .assert()
        .code(2)
        .stderr_eq(str![[r#"
error: there is no relation colours; there are capital, language
hint: [TMP]/facts/relations has no relations/ with files

"#]]);
    // Where only one answer can be given, none misleads.
    tmp.write("one.json", &relation(40, prompts).replace("blue", "red"));
    let one = format!("{RUN} --probes distractors --relation [TMP]/one.json -q").replace("/run", "/one");
    tmp.refocus(&one).assert().success().stdout_eq(str![[r#"
probe        state             value  verdict
distractors  cannot be tested  -      all answers are the same
...
"#]]);
}
