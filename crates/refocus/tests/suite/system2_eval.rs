use refocus_results::StoredRun;
use refocus_results::system2::{Answer, Arm, Item, Rewriting, Span, Suite};
use serde_json::Value;
use snapbox::{file, str};

use crate::support::{Tmp, refocus, refused};

// Arms without a rewriting: their numbers do not move with the wording of templates.
const RUN: &str = "system2 eval fixtures/overthinking --suites facts,spurious --arms oracle,baseline,instructed \
                   --items 6 --out [TMP]/run";

fn document(tmp: &Tmp) -> Value {
    let text = std::fs::read_to_string(tmp.path("run/system2.json")).expect("system2.json");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn a_table_for_people_and_the_same_numbers_again() {
    let tmp = Tmp::new("system2-eval");
    tmp.refocus(&format!("{RUN} -q --threads 1"))
        .assert()
        .success()
        .stdout_eq(file!["system2-eval/table.txt"]);
    let first = document(&tmp);
    // Nothing is asked again, so even times are the same.
    let again = tmp.refocus(&format!("{RUN} --threads 2 --table [TMP]/page.md"));
    again.assert().success().stdout_eq(file!["system2-eval/table.txt"]).stderr_eq(str![[r#"
note: the model brings no chat template: it is asked in a plain script (User: …, Assistant:)
note: facts: the oracle stays below the floor; other arms are not asked
note: the page is [TMP]/run/report.html, everything else is in [TMP]/run/system2.json

"#]]);
    assert_eq!(document(&tmp), first);
    assert_eq!(first["schema"], "refocus.system2-eval/1");
    // The fixture knows no fact, so only oracle and baseline are asked there.
    let arms = |suite: usize| first["suites"][suite]["arms"].as_array().map(Vec::len);
    assert_eq!((arms(0), arms(1)), (Some(2), Some(3)));
    assert_eq!(first["attention"]["facts"], 2);
    let page = std::fs::read_to_string(tmp.path("page.md")).expect("a page");
    assert!(page.starts_with("# System 2 Attention on overthinking\n"), "{page}");
    let json = tmp.refocus(&format!("{RUN} -q --json")).output().expect("run").stdout;
    assert_eq!(serde_json::from_slice::<Value>(&json).expect("JSON"), first);
}

#[test]
fn tables_hold_every_item_and_what_the_document_says() {
    let tmp = Tmp::new("system2-tables");
    let run = "system2 eval fixtures/overthinking --suites harm,spurious --arms oracle,baseline,scored --items 6 \
               --out [TMP]/run -q";
    tmp.refocus(run).assert().success();
    let document = document(&tmp);
    let stored = StoredRun::open(&tmp.path("run")).expect("a run");
    assert_eq!(stored.info().study, "system2/3");
    assert_eq!(
        stored.info().model.as_ref().map(|m| m.fingerprint.as_str()),
        document["fingerprint"].as_str()
    );
    let suites: Vec<Suite> = stored.rows().expect("read").expect("suites");
    let arms: Vec<Arm> = stored.rows().expect("read").expect("arms");
    let items: Vec<Item> = stored.rows().expect("read").expect("items");
    let answers: Vec<Answer> = stored.rows().expect("read").expect("answers");
    let rewritings: Vec<Rewriting> = stored.rows().expect("read").expect("rewritings");
    let spans: Vec<Span> = stored.rows().expect("read").expect("spans");
    assert_eq!(suites.iter().map(|s| s.suite.as_str()).collect::<Vec<_>>(), ["spurious", "harm"]);
    assert_eq!((arms.len(), items.len(), answers.len(), rewritings.len()), (6, 12, 36, 2));
    assert_eq!(spans.len(), document["attention"]["rows"].as_array().map_or(0, Vec::len));
    for (i, suite) in suites.iter().enumerate() {
        let of: Vec<&Arm> = arms.iter().filter(|a| a.suite == suite.suite).collect();
        for (a, told) in of.iter().zip(document["suites"][i]["arms"].as_array().expect("arms")) {
            assert_eq!(
                (a.arm.as_str(), a.value),
                (told["arm"].as_str().expect("a name"), told["value"]["value"].as_f64())
            );
            assert_eq!(a.gain_low, told["gain"]["low"].as_f64(), "{} {}", suite.suite, a.arm);
            assert_eq!(a.p, told["p"].as_f64());
        }
    }
    // The numbers of the items are those that the arm's is made of, and pieces that are gone add up.
    for a in arms.iter().filter(|a| a.suite == "harm") {
        let of: Vec<&Answer> = answers.iter().filter(|x| x.suite == "harm" && x.arm == a.arm).collect();
        let numbers: Vec<f64> = of.iter().filter_map(|x| x.value).collect();
        assert_eq!(Some(numbers.iter().sum::<f64>() / numbers.len() as f64), a.value, "{}", a.arm);
        // What has nothing to rewrite has no number.
        let nothing = of.iter().filter(|x| x.reason.as_deref() == Some("no_context")).count();
        assert_eq!((numbers.len(), a.n), (of.len() - nothing, numbers.len() as i64), "{}", a.arm);
        assert_eq!(of.iter().any(|x| x.applied.is_some()), a.arm == "scored");
    }
    let gone =
        answers.iter().filter(|x| x.suite == "harm" && x.arm == "scored").filter_map(|x| x.needed_gone);
    let harm = rewritings.iter().find(|r| r.suite == "harm").expect("harm");
    assert_eq!(gone.sum::<i64>(), harm.needed_gone);
    let clusters =
        |suite: &str| items.iter().filter(|i| i.suite == suite).map(|i| i.cluster).collect::<Vec<_>>();
    // Items of one fact count as one.
    assert_eq!((clusters("spurious"), clusters("harm")), (vec![0, 0, 0, 0, 0, 1], vec![0, 1, 2, 3, 4, 5]));

    // `report` makes the same page, and the tables as CSV.
    let page = std::fs::read_to_string(tmp.path("run/report.html")).expect("a page");
    assert!(page.contains("id=\"suites\"") && page.contains("id=\"attention\""));
    tmp.refocus("report [TMP]/run --csv [TMP]/csv --open no").assert().success().stdout_eq(str![[r#"
[TMP]/run/report.html
[TMP]/csv/suites.csv
[TMP]/csv/arms.csv
[TMP]/csv/rewritings.csv
[TMP]/csv/groups.csv
[TMP]/csv/items.csv
[TMP]/csv/answers.csv
[TMP]/csv/spans.csv

"#]]);
    assert_eq!(std::fs::read_to_string(tmp.path("run/report.html")).expect("a page"), page);
    let csv = std::fs::read_to_string(tmp.path("csv/arms.csv")).expect("arms.csv");
    assert!(csv.starts_with("suite,arm,n,value,low,high,gain,"), "{csv}");

    // Fewer suites: the tables are those of the last command.
    tmp.refocus(&run.replace("harm,spurious", "harm")).assert().success();
    let stored = StoredRun::open(&tmp.path("run")).expect("a run");
    assert_eq!(stored.rows::<Suite>().expect("read").map(|s| s.len()), Some(1));
    assert_eq!(stored.rows::<Span>().expect("read"), None);
}

#[test]
fn what_cannot_be_asked_is_told_before_any_work() {
    let tmp = Tmp::new("system2-refused");
    refused(tmp.refocus("system2 eval fixtures/overthinking --suites fact --out [TMP]/run")).stderr_eq(str![
        [r#"
error: there is no suite fact; there are facts, facts_sampled, questions, ladder, gsm8k, arguments, spurious, harm

"#]
    ]);
    refused(tmp.refocus("system2 eval fixtures/overthinking --arms s2a --out [TMP]/run")).stderr_eq(str![[r#"
error: there is no arm s2a; there are oracle, baseline, instructed, think, objectivity, relevance, single, keep_original, no_instruction, extractive, scored, scored_change

"#]]);
    refused(tmp.refocus("system2 eval fixtures/overthinking --suites gsm8k --out [TMP]/run")).stderr_eq(
        str![[r#"
error: suite gsm8k reads math/gsm8k_test.jsonl, and no folder of data is given
hint: give its folder with --data, or set REFOCUS_DATA

"#]],
    );
    std::fs::create_dir_all(tmp.path("data/math")).expect("folder");
    tmp.write("data/math/gsm8k_test.jsonl.gz", "");
    let packed = "system2 eval fixtures/overthinking --suites gsm8k --data [TMP]/data --out [TMP]/run";
    refused(tmp.refocus(packed)).stderr_eq(str![[r#"
error: suite gsm8k: [TMP]/data/math/gsm8k_test.jsonl is not there, only its .gz
hint: unpack it: gzip -dk [TMP]/data/math/gsm8k_test.jsonl.gz

"#]]);
    // The default suites read the folder of the environment too.
    let by_environment = tmp.refocus("system2 eval fixtures/overthinking --out [TMP]/run");
    let told = refused(by_environment.env("REFOCUS_DATA", tmp.path("data"))).get_output().stderr.clone();
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(told.starts_with("error: suite questions: "), "{told}");
    refused(tmp.refocus("system2 eval fixtures/qwen2 --out [TMP]/run"));
    assert!(!tmp.path("run").exists());
    refused(refocus("system2 eval fixtures/overthinking"));
}

#[test]
fn what_a_rewriting_removes_and_loses_is_counted() {
    let tmp = Tmp::new("system2-harm");
    let run = "system2 eval fixtures/overthinking --suites harm --arms baseline,scored --items 6 --out [TMP]/run -q";
    tmp.refocus(run).assert().success();
    let document = document(&tmp);
    let arms = document["suites"][0]["arms"].as_array().expect("arms");
    let scored = arms.iter().find(|a| a["arm"] == "scored").expect("scored");
    let (n, removal) = (&scored["rewriting"]["n"], &scored["rewriting"]["removal"]);
    assert_eq!((n, &removal["recall"]["n"]), (&6.into(), &1.into()), "{scored}");
    assert!(removal["lost"]["n"].as_u64() > Some(6), "{scored}");
    assert_eq!(scored["cost"]["completion_tokens"], 0.0);
    assert!(arms.iter().all(|a| a["arm"] != "baseline" || a["rewriting"].is_null()));
}

#[test]
fn another_seed_is_another_run() {
    let tmp = Tmp::new("system2-seed");
    let run = "system2 eval fixtures/overthinking --suites harm --arms baseline,extractive --items 2 --out [TMP]/run -q";
    tmp.refocus(run).assert().success();
    refused(tmp.refocus(&format!("{run} --seed 1"))).stderr_eq(str![[r#"
error: [TMP]/run holds a run with another seed: 0 there, 1 here
hint: give another folder to --out, or the model and seed of that run

"#]]);
}
