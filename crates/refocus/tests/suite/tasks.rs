use snapbox::{file, str};

use crate::support::{Tmp, refocus, refused};

const TASK: &str = r#"key = "mood"
version = 3
title = "moods"
format = "{text} = {label};"
class = [{ name = "up", word = "good" }, { name = "down", word = "bad" }]
skip = ["flat"]
source = { file = "mood.jsonl" }
"#;

const ROWS: &str = r#"{"text": "sun", "label": "up"}
{"text": "rain", "label": "down"}
{"text": "fog", "label": "flat"}
{"text": "warm", "label": "up"}
{"text": "hail", "label": "down"}
"#;

#[test]
fn list_without_data_says_so() {
    refocus("tasks list").assert().success().stdout_eq(file!["tasks/list.txt"]).stderr_eq(str![[r#"
note: no data folder: give --data DIR or set REFOCUS_DATA

"#]]);
}

#[test]
fn list_of_no_folder_is_refused() {
    let tmp = Tmp::new("tasks-nowhere");
    refused(tmp.refocus("tasks list --data [TMP]/none")).stderr_eq(str![[r#"
error: [TMP]/none: there is no such folder
hint: --data or REFOCUS_DATA names the folder of data sets

"#]]);
}

#[test]
fn show_marks_what_is_scored() {
    refocus("tasks show unnatural --demos 3")
        .assert()
        .success()
        .stdout_eq(file!["tasks/show.txt"])
        .stderr_eq("");
    refocus("tasks show unnatural --demos 3 --json").assert().success().stdout_eq(file!["tasks/show.json"]);
}

#[test]
fn the_same_pair_whatever_the_threads() {
    let one = refocus("tasks show unnatural --seed 5 --threads 1").output().expect("run").stdout;
    let two = refocus("tasks show unnatural --seed 5 --threads 7").output().expect("run").stdout;
    let other = refocus("tasks show unnatural --seed 6").output().expect("run").stdout;
    assert_eq!(one, two);
    assert_ne!(one, other);
}

#[test]
fn a_task_of_ones_own() {
    let tmp = Tmp::new("tasks-own");
    tmp.write("mood.toml", TASK);
    tmp.write("mood.jsonl", ROWS);
    tmp.refocus("tasks validate [TMP]/mood.toml --data [TMP]").assert().success().stdout_eq(str![[r#"
mood, version 3: moods

class  word  rows
up     good     2
down   bad      2

rows of skipped classes, left out: 1

rows from [TMP]/mood.jsonl

"#]]);
    tmp.write("mood.jsonl", &ROWS.replace("hail\", \"label\": \"down", "hail\", \"label\": \"dwn"));
    refused(tmp.refocus("tasks validate [TMP]/mood.toml --data [TMP]")).stderr_eq(str![[r#"
error: [TMP]/mood.jsonl: line 5: "dwn" is no class of task mood (up, down)

"#]]);
    tmp.write("mood.toml", &TASK.replace("title", "titel"));
    refused(tmp.refocus("tasks validate [TMP]/mood.toml --data [TMP]")).stderr_eq(str![[r#"
error: [TMP]/mood.toml: not a task file
cause: TOML parse error at line 3, column 1
  |
3 | titel = "moods"
  | ^^^^^
unknown field `titel`, expected one of `key`, `version`, `title`, `control`, `instruction`, `format`, `skip`, `class`, `source`, `words`, `variant`


"#]]);
}

#[test]
fn what_is_asked_for_must_exist() {
    refused(refocus("tasks show agnews")).stderr_eq(str![[r#"
error: there is no task agnews; is ag_news meant?
hint: `refocus tasks list` shows all; a file ends in .toml

"#]]);
    refused(refocus("tasks show sst2.99")).stderr_eq(str![[r#"
error: there is no task sst2.99; is sst2.9 meant?
hint: `refocus tasks list` shows all; a file ends in .toml

"#]]);
    refused(refocus("tasks show sst2")).stderr_eq(str![[r#"
error: sst2.jsonl: task sst2 needs a data folder that holds this file
hint: give --data DIR or set REFOCUS_DATA

"#]]);
    refused(refocus("tasks show unnatural --setting wrong")).stderr_eq(str![[r#"
error: there is no setting wrong
hint: one of permuted, half, random, permuted_20, permuted_40, permuted_60, permuted_80

"#]]);
    refused(refocus("tasks show unnatural --demos 91")).stderr_eq(str![[r#"
error: task unnatural: class [..] has 30 rows, and a prompt of 91 demonstrations needs more

"#]]);
    refused(refocus("tasks show unnatural --demos 0")).stderr_eq(str![[r#"
error: a prompt has at least one demonstration

"#]]);
}
