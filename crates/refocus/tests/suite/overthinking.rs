use std::path::Path;

use serde_json::Value;
use snapbox::{file, str};

use crate::support::{Tmp, refocus, refused, root};

const MODEL: &str = "fixtures/overthinking";
const RUN: &str = "overthinking fixtures/overthinking --tasks unnatural --pairs 8 --demos 3 --settings \
                   permuted,half --out [TMP]/run";

const TASK: &str = r#"key = "mood"
version = 1
title = "moods"
format = "{text} = {label};"
class = [{ name = "up", word = "good" }, { name = "down", word = "bad" }]
source = { file = "mood.jsonl" }
"#;

fn summary(tmp: &Tmp, run: &str) -> Value {
    let text = std::fs::read_to_string(tmp.path(run).join("summary.json")).expect("a summary");
    serde_json::from_str(&text).expect("JSON")
}

/// `fixtures/overthinking.py`: `transformers` on the same ids.
#[test]
fn the_numbers_are_those_of_transformers() {
    let tmp = Tmp::new("overthinking-numbers");
    tmp.refocus(&format!("overthinking {MODEL} --prompts {MODEL}/prompts.jsonl --out [TMP]/run -q"))
        .assert()
        .success();
    let got = summary(&tmp, "run");
    let want = std::fs::read_to_string(root().join(MODEL).join("expected.json")).expect("a file");
    let want: Value = serde_json::from_str(&want).expect("JSON");
    let mut compared = 0;
    for setting in ["permuted", "half"] {
        for curve in ["tp", "fp", "permuted"] {
            let numbers = |v: &Value| -> Vec<f64> {
                let rows = v["tasks"]["unnatural"][setting][curve].as_array().expect("layers").clone();
                rows.iter()
                    .flat_map(|r| r.as_array().expect("slots").clone())
                    .map(|x| x.as_f64().expect("f64"))
                    .collect()
            };
            let (a, b) = (numbers(&got), numbers(&serde_json::json!({ "tasks": want })));
            assert_eq!(a.len(), 9, "embeddings and two blocks, three slots");
            for (a, b) in a.iter().zip(&b) {
                assert!((a - b).abs() < 1e-4, "{setting} {curve}: {a} is not {b}");
                compared += 1;
            }
            assert_eq!(b.len(), 9);
        }
    }
    assert_eq!(compared, 54);
}

#[test]
fn a_table_for_people() {
    let tmp = Tmp::new("overthinking-table");
    tmp.refocus(RUN).assert().success().stdout_eq(file!["overthinking/table.txt"]).stderr_eq(str![[r#"
note: the page is [TMP]/run/report.html, everything else is in [TMP]/run/summary.json

"#]]);
    let json = tmp.refocus(&format!("{RUN} --json")).output().expect("run").stdout;
    assert_eq!(json, std::fs::read(tmp.path("run/summary.json")).expect("a summary"));
}

#[test]
fn dumped_prompts_give_the_same_numbers() {
    let tmp = Tmp::new("overthinking-dump");
    tmp.refocus(&format!("{RUN} --dump-prompts [TMP]/p.jsonl -q")).assert().success();
    let committed = std::fs::read(root().join(MODEL).join("prompts.jsonl")).expect("a file");
    assert!(std::fs::read(tmp.path("p.jsonl")).expect("dumped") == committed, "other prompts than committed");
    tmp.refocus(&format!("overthinking {MODEL} --prompts [TMP]/p.jsonl --out [TMP]/again -q"))
        .assert()
        .success();
    assert_eq!(summary(&tmp, "run")["tasks"], summary(&tmp, "again")["tasks"]);
}

#[test]
fn a_stopped_run_goes_on_to_the_same_bytes() {
    let tmp = Tmp::new("overthinking-resume");
    let bytes = |name: &str| std::fs::read(tmp.path("run").join(name)).expect("a file");
    tmp.refocus(RUN).assert().success();
    let (whole, block) = (bytes("summary.json"), bytes("blocks/00-00001.bin"));
    let kept = ["run.json", "tables/mitigations.parquet", "report.html", "ablations/00-01-top5-00000.bin"];
    let before = kept.map(bytes);
    // As if it had been killed while it worked on the second block, with the first one kept.
    std::fs::remove_file(tmp.path("run/summary.json")).expect("remove");
    std::fs::remove_file(tmp.path("run/blocks/00-00001.bin")).expect("remove");
    std::fs::remove_file(tmp.path("run/ablations/00-01-top5-00000.bin")).expect("remove");
    std::fs::remove_file(tmp.path("run/tables/curves.parquet")).expect("remove");
    tmp.refocus(&format!("{RUN} --threads 2")).assert().success().stderr_eq(str![[r#"
note: layers: 16 of 21 prompts were answered before
note: without demonstrations: 15 of 15 prompts were answered before
note: heads: 24 of 24 prompts were answered before
note: ablations: 8 of 16 prompts were answered before
note: the page is [TMP]/run/report.html, everything else is in [TMP]/run/summary.json

"#]]);
    assert_eq!((bytes("summary.json"), bytes("blocks/00-00001.bin")), (whole, block.clone()));
    assert_eq!(kept.map(bytes), before);
    // The same command again runs nothing.
    tmp.refocus(RUN).assert().success().stderr_eq(str![[r#"
note: layers: 21 of 21 prompts were answered before
note: without demonstrations: 15 of 15 prompts were answered before
note: heads: 24 of 24 prompts were answered before
note: ablations: 16 of 16 prompts were answered before
note: the page is [TMP]/run/report.html, everything else is in [TMP]/run/summary.json

"#]]);
    // What is damaged is told, not used.
    let mut damaged = block;
    damaged[50] ^= 1;
    std::fs::write(tmp.path("run/blocks/00-00001.bin"), damaged).expect("write");
    refused(tmp.refocus(RUN)).stderr_eq(str![[r#"
error: [TMP]/run/blocks/00-00001.bin: it is damaged; remove the file, and its prompts are run again

"#]]);
}

#[test]
fn a_folder_of_another_run_is_refused() {
    let tmp = Tmp::new("overthinking-other");
    tmp.refocus(RUN).assert().success();
    refused(tmp.refocus(&RUN.replace("--pairs 8", "--pairs 9"))).stderr_eq(str![[r#"
error: [TMP]/run holds a run with another pairs: 8 there, 9 here
hint: give another folder to --out, or the flags of that run

"#]]);
    refused(tmp.refocus(&format!("{RUN} --mode paper"))).stderr_eq(str![[r#"
error: [TMP]/run holds a run with another mode: "correct" there, "paper" here
hint: give another folder to --out, or the flags of that run

"#]]);
}

#[test]
fn paper_mode_differs_at_the_last_layer_and_each_defect_can_be_switched() {
    let tmp = Tmp::new("overthinking-paper");
    tmp.refocus(RUN).assert().success();
    let paper = |name: &str, more: &str| {
        let run = RUN.replace("/run", &format!("/{name}"));
        tmp.refocus(&format!("{run} --mode paper {more}")).assert().success();
        summary(&tmp, name)
    };
    let (correct, all) = (summary(&tmp, "run"), paper("all", ""));
    let of = |v: &Value, key: &str| v["tasks"]["unnatural"]["permuted"][key].clone();
    for layer in 0..2 {
        assert_eq!(of(&correct, "tp")[layer], of(&all, "tp")[layer]);
    }
    assert_ne!(of(&correct, "label_mass_tp"), of(&all, "label_mass_tp"));
    assert_eq!(of(&all, "mitigations")[0]["measured_on"], "all pairs");
    assert_eq!(all["defects"], serde_json::json!([1, 2, 3, 4, 5, 6, 7]));
    // Without the first the last layer is read as it is, without the seventh the choice is honest.
    let six = paper("six", "--defects 7");
    assert_eq!(of(&correct, "label_mass_tp"), of(&six, "label_mass_tp"));
    assert_eq!(of(&six, "mitigations")[0]["measured_on"], "all pairs");
    let names = |v: &Value| -> Vec<String> {
        let all = of(v, "mitigations").as_array().expect("a list").clone();
        all.iter().filter_map(|m| m["name"].as_str().map(str::to_owned)).collect()
    };
    assert!(names(&all).contains(&"heads_uniform".to_owned()), "{:?}", names(&all));
    assert!(!names(&all).contains(&"heads_zero".to_owned()));
    assert!(names(&six).contains(&"heads_zero".to_owned()));
    let none = paper("none", "--defects none");
    assert_eq!(of(&none, "mitigations")[0]["measured_on"], "odd pairs");
    assert_eq!(of(&none, "tp"), of(&correct, "tp"));
    refused(tmp.refocus(&format!("{RUN} --defects 8"))).stderr_eq(str![[r#"
error: --defects 8: give numbers from 1 to 7, or none
hint: 1 the final norm is applied twice at the last layer; 2 the words of four of TREC's six classes are mixed up; 3 an inverted format counts in the average over formats; 4 a head set to zero attends uniformly instead; 5 random heads are drawn with layers and heads swapped; 6 ablations of the first format are compared with the average over all; 7 what is chosen is chosen on the pairs that measure it

"#]]);
}

#[test]
fn mixed_words_and_inverted_formats_belong_to_their_defects() {
    let tmp = Tmp::new("overthinking-words");
    // As tasks/trec.toml, with words whose first tokens the fixture's tokenizer can tell apart.
    let format = "format = \"{text} = {label};\"";
    let task = format!(
        "key = \"trec\"\nversion = 1\ntitle = \"t\"\n{format}\n\
         class = [{{ name = \"a\", word = \"apple\" }}, {{ name = \"b\", word = \"berry\" }}]\n\
         source = {{ file = \"t.jsonl\" }}\n\
         [[variant]]\nname = \"trec.mixed\"\ninverted = true\n{format}\nwords = [\"berry\", \"apple\"]\n"
    );
    let row = |i: usize| format!("{{\"text\": \"t{i}\", \"label\": \"{}\"}}\n", ["a", "b"][i % 2]);
    tmp.write("t.toml", &task);
    tmp.write("t.jsonl", &(0..40).map(row).collect::<String>());
    let run = |task: &str, name: &str, more: &str| {
        let command = format!(
            "overthinking {MODEL} --tasks {task} --data [TMP] --pairs 5 --demos 2 --out [TMP]/{name} {more}"
        );
        tmp.refocus(&command)
    };
    run("sst2.10", "inverted", "").assert().code(2).stderr_eq(str![[r#"
error: words of sst2.10 are not those of their classes
hint: it exists for --mode paper, or --defects 3

"#]]);
    let words = |name: &str, more: &str| {
        run("[TMP]/t.toml", name, more).assert().success();
        summary(&tmp, name)["about"]["trec"]["words"].clone()
    };
    assert_eq!(words("right", ""), serde_json::json!(["apple", "berry"]));
    assert_eq!(words("mixed", "--defects 2"), serde_json::json!(["berry", "apple"]));
}

#[test]
fn a_preset_runs_its_protocol_and_shows_no_figures_of_another_model() {
    let tmp = Tmp::new("overthinking-preset");
    let run = |more: &str| tmp.refocus(&format!("overthinking {MODEL} --out [TMP]/run {more}"));
    run("--preset gpt2 --tasks unnatural --pairs 6 --demos 2 --context 200").assert().success().stderr_eq(
        str![[r#"
note: the published figures of gpt2 are of another model: not shown
note: the page is [TMP]/run/report.html, everything else is in [TMP]/run/summary.json

"#]],
    );
    let all = summary(&tmp, "run");
    assert_eq!(all["mode"], "paper");
    let settings = all["tasks"]["unnatural"].as_object().expect("settings");
    assert_eq!(settings.keys().collect::<Vec<_>>(), ["permuted", "half", "random"]);
    assert_eq!(all.get("published"), None);
    refused(run("--preset gpt3")).stderr_eq(str![[r#"
error: there is no preset gpt3
hint: one of gpt2, gpt2-medium, gpt2-large, gpt2-xl, pythia-410m, gpt-j

"#]]);
}

#[test]
fn every_number_of_a_run_is_there() {
    let tmp = Tmp::new("overthinking-measures");
    tmp.refocus(&RUN.replace("permuted,half", "permuted,random")).assert().success();
    let all = summary(&tmp, "run");
    for setting in ["permuted", "random"] {
        let s = &all["tasks"]["unnatural"][setting];
        let predictions = &s["predictions"];
        for kind in ["plain", "calibrated"] {
            for layer in 0..3 {
                for slot in 0..3 {
                    let at = |name: &str| predictions[kind][name][layer][slot].as_f64().expect("f64");
                    let sum = at("true_on_false") + at("shown_on_false") + at("other_on_false");
                    assert!((sum - 1.0).abs() < 1e-12, "{setting} {kind} {layer} {slot}: {sum}");
                }
            }
        }
        assert_eq!(predictions["agreement"]["slots"], serde_json::json!([1, 2]));
        assert_eq!(predictions["agreement"]["on_false"][2].as_array().map(Vec::len), Some(2));
        let names: Vec<&str> =
            s["mitigations"].as_array().expect("a list").iter().filter_map(|m| m["name"].as_str()).collect();
        let want = [
            "zero_shot",
            "early_exit",
            "early_exit_balanced",
            "context_contrast",
            "layer_contrast",
            "layer_contrast_fixed",
        ];
        assert_eq!(names[..6], want);
        let inside = &s["inside"];
        let heads = inside["chosen"]["heads"].as_array().expect("heads").clone();
        assert_eq!((heads.len(), &inside["chosen"]["task"]), (5, &Value::from("unnatural")));
        let head = |h: &Value| format!("head_{}.{}_zero", h["layer"], h["head"]);
        let mut ablated = vec!["heads_zero".to_owned()];
        ablated.extend(heads.iter().map(head));
        ablated.push("random_heads_zero".to_owned());
        assert_eq!(names[6..13], ablated);
        assert_eq!(names.len(), 6 + 2 * 7, "zero and mean; there is no gap, so no late block");
        assert_eq!(inside["against_random"][0]["draws"], 20);
    }
    // The toy task is a control: there are no means, and no claim over tasks.
    assert_eq!(all["means"].as_array().map(Vec::len), Some(0));
    let claims = all["claims"].as_array().expect("claims");
    assert!(claims.iter().any(|c| c["id"] == "gap" && c["task"] == "unnatural"));
    assert!(claims.iter().any(|c| c["id"] == "heads_found" && c["task"] == "unnatural"));
    assert!(claims.iter().any(|c| c["id"] == "late_attention" && c["why"] == "not measured in this run"));
}

#[test]
fn a_run_has_a_page_with_every_section() {
    let tmp = Tmp::new("overthinking-page");
    tmp.refocus(RUN).assert().success();
    let page = || std::fs::read_to_string(tmp.path("run/report.html")).expect("a page");
    let first = page();
    for section in ["summary", "curves", "heads", "repairs", "claims", "examples", "method", "provenance"] {
        assert!(first.contains(&format!("id=\"{section}\"")), "{section}");
    }
    // `report` makes the same page of the same tables.
    tmp.refocus("report [TMP]/run --open no").assert().success();
    assert_eq!(page(), first);
    // A map is added to what is there.
    assert!(!first.contains("Effect of removing the head"));
    tmp.refocus(&format!("{RUN} --map 4")).assert().success().stderr_eq(str![[r#"
note: layers: 21 of 21 prompts were answered before
note: without demonstrations: 15 of 15 prompts were answered before
note: heads: 24 of 24 prompts were answered before
note: ablations: 16 of 16 prompts were answered before
note: the page is [TMP]/run/report.html, everything else is in [TMP]/run/summary.json

"#]]);
    assert!(page().contains("Effect of removing the head"));
    let stages = summary(&tmp, "run")["stages"].as_array().expect("stages").clone();
    let names: Vec<&str> = stages.iter().filter_map(|s| s["name"].as_str()).collect();
    assert_eq!(names, ["layers", "without demonstrations", "heads", "ablations", "map"]);
    // What is left out is not told as measured, and other heads do not need another folder.
    tmp.refocus(&format!("{RUN} --stages lens -q")).assert().success();
    let all = summary(&tmp, "run");
    assert_eq!(all["tasks"]["unnatural"]["permuted"].get("inside"), None);
    tmp.refocus(&format!("{RUN} --top-heads 2 -q")).assert().success();
    let all = summary(&tmp, "run");
    let chosen = &all["tasks"]["unnatural"]["half"]["inside"]["chosen"];
    assert_eq!(chosen["heads"].as_array().map(Vec::len), Some(2));
    assert_eq!(chosen["setting"], "permuted");
    // One writer at a time.
    let lock = refocus_results::Lock::take(&tmp.path("run")).expect("the lock");
    refused(tmp.refocus(RUN)).stderr_eq(str![[r#"
error: [TMP]/run: another run is writing to this folder

"#]]);
    drop(lock);
    refused(tmp.refocus(&format!("{RUN} --stages lens,ablations"))).stderr_eq(str![[r#"
error: the stage ablations needs the stage heads
hint: name it in --stages too

"#]]);
}

#[test]
fn proposed_patches_fit_the_model() {
    let tmp = Tmp::new("overthinking-patches");
    tmp.refocus(RUN).assert().success();
    let files = summary(&tmp, "run")["patches"].as_array().expect("patches").clone();
    assert!(files.iter().any(|f| f == "patches/heads_zero_unnatural_permuted.toml"));
    for file in &files {
        let file = file.as_str().expect("a name");
        let text = std::fs::read_to_string(tmp.path("run").join(file)).expect("a file");
        assert!(text.contains("before  after  gain"), "{text}");
        tmp.refocus(&format!("patch check {MODEL} --patch [TMP]/run/{file} -q")).assert().success();
    }
}

#[test]
fn what_cannot_be_asked_is_told() {
    let tmp = Tmp::new("overthinking-bad");
    let out = "--out [TMP]/run";
    let toy = format!("overthinking {MODEL} --tasks unnatural {out}");
    refused(tmp.refocus(&format!("{toy} --demos 0"))).stderr_eq(str![[r#"
error: a prompt has at least one demonstration

"#]]);
    refused(tmp.refocus(&format!("{toy} --demos 40"))).stderr_eq(str![[r#"
error: task unnatural: 40 demonstrations do not fit into 512 tokens: each has 12, and [..] of them are needed around its text

"#]]);
    refused(tmp.refocus(&format!("{toy} --context 513"))).stderr_eq(str![[r#"
error: --context 513 is more than the model's context of 512 tokens

"#]]);
    refused(tmp.refocus(&format!("{toy} --settings permuted,wrong"))).stderr_eq(str![[r#"
error: there is no setting wrong
hint: one of permuted, half, random, permuted_20, permuted_40, permuted_60, permuted_80

"#]]);
    let own = format!("overthinking {MODEL} --tasks [TMP]/mood.toml --data [TMP] {out}");
    tmp.write("mood.toml", TASK);
    tmp.write("mood.jsonl", "");
    refused(tmp.refocus(&own)).stderr_eq(str![[r#"
error: [TMP]/mood.jsonl: it holds no row

"#]]);
    tmp.write("mood.jsonl", "{\"text\": \"sun\"}\n");
    refused(tmp.refocus(&own)).stderr_eq(str![[r#"
error: [TMP]/mood.jsonl: line 1: there is no column label

"#]]);
    tmp.write(
        "mood.jsonl",
        "{\"text\": \"sun\", \"label\": \"up\"}\n{\"text\": \"fog\", \"label\": \"down\"}\n",
    );
    tmp.write("mood.toml", &TASK.replace("\"bad\"", "\"grim\""));
    refused(tmp.refocus(&own)).stderr_eq(str![[r#"
error: task mood: the words "good" and "grim" begin with the same token 262, so the token before them cannot tell them apart

"#]]);
    assert!(!Path::new(&tmp.path("run")).exists(), "nothing was begun");
}

#[test]
fn prompts_that_do_not_fit_are_told_with_their_line() {
    let tmp = Tmp::new("overthinking-lines");
    let run = format!("overthinking {MODEL} --prompts [TMP]/p.jsonl --out [TMP]/run");
    tmp.write("p.jsonl", "\n");
    refused(tmp.refocus(&run)).stderr_eq(str![[r#"
error: [TMP]/p.jsonl: it holds no prompt

"#]]);
    let all = std::fs::read_to_string(root().join(MODEL).join("prompts.jsonl")).expect("a file");
    let first = all.lines().next().expect("a line");
    tmp.write("p.jsonl", first);
    refused(tmp.refocus(&run)).stderr_eq(str![[r#"
error: [TMP]/p.jsonl: task unnatural, setting permuted, pair 0: one of the two prompts is missing

"#]]);
    tmp.write("p.jsonl", &all.replacen("\"ids\":[", "\"ids\":[99999,", 1));
    refused(tmp.refocus(&run)).stderr_eq(str![[r#"
error: [TMP]/p.jsonl: line 1: id 99999, where the model's vocabulary has 282 tokens

"#]]);
    tmp.write("p.jsonl", &all.replacen("\"pair\"", "\"pear\"", 1));
    refused(tmp.refocus(&run)).stderr_eq(str![[r#"
error: [TMP]/p.jsonl: line 1: not a prompt: unknown field `pear`, expected one of `task`, `setting`, `pair`, `kind`, `ids`, `slots`, `truth`, `shown`, `label_ids`, `label_lens`, `alone` at line 1 column 47

"#]]);
    refused(refocus("overthinking fixtures/overthinking --tasks unnatural")).stderr_eq(str![[r#"
error: the following required arguments were not provided:
  --out <DIR>

Usage: refocus overthinking --tasks <A,B,…> --out <DIR> <MODEL>

For more information, try '--help'.

"#]]);
}
