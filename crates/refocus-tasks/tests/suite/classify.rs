//! Tasks, their rows, and pairs of prompts: what the study's definitions ask for.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use refocus_tasks::classify::{
    Budget, Dataset, Draw, Setting, Task, TaskError, builtin, builtin_keys, draw, prompt, shown,
};

const SEED: u64 = 7;

fn toy() -> (Task, Dataset) {
    let task = builtin("unnatural").expect("a task");
    let data = Dataset::read(&task, None).expect("rows");
    (task, data)
}

fn pairs(n: u32, demos: usize) -> (Task, Dataset, Vec<Draw>) {
    let (task, data) = toy();
    let tokens = vec![1; data.examples.len()];
    let budget = Budget { demos, mean_text_tokens: 4 };
    let draws =
        (0..n).map(|p| draw(&task, &data, &tokens, budget, SEED, p).expect("a draw")).collect::<Vec<_>>();
    (task, data, draws)
}

#[test]
fn no_text_is_shown_twice_and_classes_are_drawn_uniformly() {
    let (task, _, draws) = pairs(400, 20);
    let mut count = vec![0usize; task.n_classes()];
    let mut first = vec![0usize; task.n_classes()];
    for d in &draws {
        let mut rows: Vec<_> = d.slots.iter().map(|s| s.row).collect();
        rows.sort_unstable();
        rows.dedup();
        assert_eq!(rows.len(), 20);
        d.slots.iter().for_each(|s| count[s.class] += 1);
        first[d.slots[0].class] += 1;
    }
    // Binomial with n = 8000 and p = 1/3: four standard errors are 169.
    assert!(count.iter().all(|&c| c.abs_diff(8000 / 3) < 169), "{count:?}");
    // Shuffled: the first slot is like any other. n = 400: four standard errors are 38.
    assert!(first.iter().all(|&c| c.abs_diff(133) < 38), "{first:?}");
}

#[test]
fn a_permutation_moves_every_class_and_is_one_for_the_whole_prompt() {
    let (task, _, draws) = pairs(300, 12);
    let mut shifts = vec![0; task.n_classes()];
    for d in &draws {
        shifts[d.shift] += 1;
        let s = shown(d, Setting::Permuted, task.n_classes(), SEED);
        for (slot, &c) in d.slots.iter().zip(&s) {
            assert_ne!(slot.class, c);
            assert_eq!((slot.class + d.shift) % task.n_classes(), c);
        }
    }
    assert_eq!(shifts[0], 0);
    assert!(shifts[1..].iter().all(|&n| n > 110), "{shifts:?}");
}

#[test]
fn shares_of_wrong_labels_are_what_the_settings_say() {
    let (task, _, draws) = pairs(300, 20);
    let wrong = |setting: Setting| -> Vec<usize> {
        let count = |d: &Draw| {
            let s = shown(d, setting, task.n_classes(), SEED);
            d.slots.iter().zip(s).filter(|(slot, c)| slot.class != *c).count()
        };
        draws.iter().map(count).collect()
    };
    for (percent, each) in [(20, 4), (40, 8), (60, 12), (80, 16)] {
        assert!(wrong(Setting::PermutedShare(percent)).iter().all(|&n| n == each), "{percent}");
    }
    // 6000 draws: four standard errors are 0.026 and 0.024.
    let mean = |v: Vec<usize>| v.iter().sum::<usize>() as f64 / 6000.0;
    let half = mean(wrong(Setting::Half));
    assert!((half - 0.5).abs() < 0.026, "{half}");
    let random = mean(wrong(Setting::Random));
    assert!((random - 2.0 / 3.0).abs() < 0.024, "{random}");
}

#[test]
fn a_pair_is_a_function_of_seed_and_number() {
    let (task, data, draws) = pairs(5, 8);
    let tokens = vec![1; data.examples.len()];
    let budget = Budget { demos: 8, mean_text_tokens: 4 };
    let again = draw(&task, &data, &tokens, budget, SEED, 3).expect("a draw");
    assert_eq!(again, draws[3]);
    let other = draw(&task, &data, &tokens, budget, SEED + 1, 3).expect("a draw");
    assert_ne!(other.slots, draws[3].slots);
}

#[test]
fn prompts_read_as_the_task_says_and_mark_their_labels() {
    let (task, data, draws) = pairs(1, 3);
    let truth: Vec<usize> = draws[0].slots.iter().map(|s| s.class).collect();
    let p = prompt(&task, &data, &draws[0].slots, &truth);
    let demo = |i: usize| {
        let slot = draws[0].slots[i];
        format!("{}: {}.", data.examples[slot.row].text, task.classes[slot.class].word)
    };
    let want = format!(
        "{}\n\n{}\n\n{}\n\n{}",
        task.instruction.as_deref().expect("an instruction"),
        demo(0),
        demo(1),
        demo(2)
    );
    assert_eq!(p.text, want);
    for (range, &class) in p.labels.iter().zip(&truth) {
        assert_eq!(p.text[range.clone()], format!(" {}", task.classes[class].word));
        assert!(p.text[..range.start].ends_with(':'));
    }
}

#[test]
fn the_mean_length_of_texts_stays_within_the_room() {
    let (task, data) = toy();
    let tokens: Vec<usize> = (0..data.examples.len()).map(|i| 1 + i % 9).collect();
    let budget = Budget { demos: 20, mean_text_tokens: 4 };
    for pair in 0..50 {
        let d = draw(&task, &data, &tokens, budget, SEED, pair).expect("a draw");
        let sum: usize = d.slots.iter().map(|s| tokens[s.row]).sum();
        assert!(sum <= 20 * 4, "{sum}");
    }
    let tight = Budget { demos: 2, mean_text_tokens: 0 };
    let e = draw(&task, &data, &tokens, tight, SEED, 0).expect_err("no room");
    assert!(matches!(e, TaskError::Room { room: 0, shortest: 1.., .. }), "{e}");
}

#[test]
fn too_many_demonstrations_name_the_class_that_runs_out() {
    let (task, data) = toy();
    let tokens = vec![1; data.examples.len()];
    let budget = Budget { demos: 91, mean_text_tokens: 9 };
    let e = draw(&task, &data, &tokens, budget, SEED, 0).expect_err("90 rows");
    assert!(matches!(e, TaskError::Few { rows: 30, .. }), "{e}");
    let none = Budget { demos: 0, mean_text_tokens: 9 };
    assert!(matches!(draw(&task, &data, &tokens, none, SEED, 0), Err(TaskError::NoDemos)));
}

fn parse(text: &str) -> Result<Vec<Task>, TaskError> {
    Task::parse(Path::new("t.toml"), text)
}

const GOOD: &str = r#"
key = "t"
version = 1
title = "a test"
format = "{text} => {label}."
class = [{ name = "a", word = "A" }, { name = "b", word = "B" }]
source = { file = "t.jsonl", columns = { text = "body", label = "kind" }, values = { "0" = "a", "1" = "b" } }
"#;

#[test]
fn bad_task_files_say_which_key() {
    assert!(parse(GOOD).is_ok());
    for (from, to, says) in [
        ("=> {label}.", "=> {label} {text2}", "format: nothing may be filled in after {label}"),
        (" => {label}", "=>{label}", "format: a space must stand before {label}"),
        ("{text} => ", "{text} ", "format: something must stand between"),
        ("{text} =>", "{txt} =>", "format: places are {text}, {text2} and {label}"),
        ("{text} =>", "{text} {text} =>", "format: a place is given twice"),
        ("{text} =>", "=>", "format: it has no {text}"),
        ("{text} =>", "{text} {text2} =>", "format: it asks for {text2}"),
        (", { name = \"b\", word = \"B\" }", "", "class: 1 classes"),
        ("word = \"B\"", "word = \"A\"", "class.word: \"A\" is given twice"),
        ("word = \"B\"", "word = \" B\"", "class.word: \" B\" cannot be a label"),
        ("\"1\" = \"b\"", "\"1\" = \"c\"", "source.values: c is neither"),
        ("key = \"t\"", "key = \"T t\"", "key: \"T t\""),
        ("version = 1", "version = 1\nwords = { a = [\"x\"] }", "source: a task has either"),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let e = parse(&GOOD.replace(from, to)).expect_err(to).to_string();
        assert!(e.starts_with(&format!("t.toml: {says}")), "{e}");
    }
    let e = parse(&GOOD.replace("title", "titel")).expect_err("unknown key");
    assert!(matches!(e, TaskError::Toml { .. }), "{e}");
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("refocus-tasks-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("folder");
        Self(dir)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("write");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn rows_are_read_from_both_spellings_and_three_formats() {
    let dir = Folder::new("spellings");
    let task = &parse(GOOD).expect("a task")[0];
    let want = |d: &Dataset| -> Vec<(String, usize)> {
        d.examples.iter().map(|e| (e.text.clone(), e.class)).collect()
    };
    let all = [("x, \"y\"".to_owned(), 0), ("z".to_owned(), 1)];
    let ours = "{\"text\": \"x, \\\"y\\\"\", \"label\": \"a\"}\n\n{\"text\": \"z\", \"label\": \"b\"}\n";
    let hubs = "{\"body\": \"x, \\\"y\\\"\", \"kind\": 0}\n{\"body\": \"z\", \"kind\": 1}";
    let csv = "kind,body\n0,\"x, \"\"y\"\"\"\n1,z\n";
    let tsv = "label\ttext\na\t\"x, \"\"y\"\"\"\nb\tz\n";
    for (name, text) in [("t.jsonl", ours), ("u.jsonl", hubs), ("t.csv", csv), ("t.tsv", tsv)] {
        let data = Dataset::read_file(task, &dir.write(name, text)).expect(name);
        assert_eq!(want(&data), all, "{name}");
        assert_eq!(data.by_class, [[0], [1]], "{name}");
    }
}

#[test]
fn bad_rows_say_which_line() {
    let dir = Folder::new("rows");
    let task = &parse(GOOD).expect("a task")[0];
    let good = "{\"text\": \"x\", \"label\": \"a\"}\n";
    for (text, says) in [
        ("{\"text\": \"y\", \"label\": \"c\"}", "line 2: \"c\" is no class of task t (a, b)"),
        ("{\"text\": \"y\"}", "line 2: there is no column label"),
        ("{\"label\": \"a\"}", "line 2: there is no column body"),
        ("{\"text\": null, \"label\": \"a\"}", "line 2: column text holds no text"),
        ("{\"text\": \" \", \"label\": \"a\"}", "line 2: the text is empty"),
        ("nonsense", "line 2: not a JSON object"),
        ("", "it holds no row of class b"),
    ] {
        let path = dir.write("t.jsonl", &format!("{good}{text}"));
        let e = Dataset::read_file(task, &path).expect_err(text).to_string();
        assert!(e.starts_with(&format!("{}: {says}", path.display())), "{e}");
    }
    let empty = dir.write("e.jsonl", "");
    assert!(Dataset::read_file(task, &empty).expect_err("empty").to_string().ends_with("it holds no row"));
    let other = dir.write("t.txt", "");
    assert!(
        Dataset::read_file(task, &other)
            .expect_err("txt")
            .to_string()
            .contains(".jsonl, .csv, .tsv and .parquet")
    );
    assert!(Dataset::read(task, None).expect_err("no folder").to_string().contains("needs a data folder"));
}

fn parquet(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/task_rows").join(format!("{name}.parquet"))
}

/// `fixtures/task_rows.py`: what pyarrow wrote.
#[test]
fn parquet_files_of_the_hub_are_read() {
    let task = &parse(GOOD).expect("a task")[0];
    for codec in ["snappy", "gzip", "none"] {
        let data = Dataset::read_file(task, &parquet(codec)).expect(codec);
        let texts: Vec<&str> = data.examples.iter().map(|e| &e.text[..]).collect();
        assert_eq!(texts, ["x, \"y\"", "z", "rain\nand wind", "näher", "a", "b"], "{codec}");
        assert_eq!(data.by_class, [vec![0, 3, 4], vec![1, 2, 5]], "{codec}");
    }
    let told = |path: &Path| Dataset::read_file(task, path).expect_err("refused").to_string();
    assert!(told(&parquet("zstd")).ends_with(
        "zstd.parquet: column body is compressed with ZSTD; Snappy, gzip and no compression are read"
    ));
    assert!(told(&parquet("missing")).ends_with("missing.parquet: row 2: column body holds no text"));
    // The file of another name and ending, where the task's own is not there.
    let dir = Folder::new("parquet");
    std::fs::copy(parquet("snappy"), dir.0.join("t.parquet")).expect("copied");
    assert_eq!(Dataset::read(task, Some(&dir.0)).expect("rows").examples.len(), 6);
}

#[test]
fn damaged_parquet_files_are_told_and_nothing_else_happens() {
    let task = &parse(GOOD).expect("a task")[0];
    let dir = Folder::new("damaged");
    let whole = std::fs::read(parquet("snappy")).expect("a file");
    let path = dir.0.join("d.parquet");
    let mut refused = 0;
    for i in (0..whole.len()).step_by(3) {
        let mut bytes = whole.clone();
        bytes[i] ^= 0x41;
        std::fs::write(&path, &bytes).expect("written");
        refused += u32::from(Dataset::read_file(task, &path).is_err());
        std::fs::write(&path, &whole[..i]).expect("written");
        assert!(Dataset::read_file(task, &path).is_err(), "{i} bytes");
    }
    assert!(refused > 30, "{refused} of {}", whole.len());
}

/// The real rows, where they are: every shipped task finds its file, and prompts can be drawn.
#[test]
fn shipped_tasks_find_their_rows() {
    let Some(folder) = std::env::var_os("REFOCUS_DATA").map(PathBuf::from) else {
        eprintln!("SKIPPED: REFOCUS_DATA is not set");
        return;
    };
    for key in builtin_keys() {
        let task = builtin(key).expect(key);
        let data = Dataset::read(&task, Some(&folder.join("tasks"))).unwrap_or_else(|e| panic!("{key}: {e}"));
        // Characters stand for tokens.
        let length = |e: &refocus_tasks::classify::Example| {
            e.text.chars().count() + e.text2.as_ref().map_or(0, |t| t.chars().count())
        };
        let tokens: Vec<usize> = data.examples.iter().map(length).collect();
        let budget = Budget { demos: 10, mean_text_tokens: 400 };
        let d = draw(&task, &data, &tokens, budget, SEED, 0).unwrap_or_else(|e| panic!("{key}: {e}"));
        assert_eq!(d.slots.len(), 10, "{key}");
    }
}

proptest! {
    #[test]
    fn labels_of_any_setting_are_classes(pair in any::<u32>(), seed in any::<u64>(), demos in 1usize..30) {
        let (task, data) = toy();
        let tokens = vec![1; data.examples.len()];
        let budget = Budget { demos, mean_text_tokens: 1 };
        let d = draw(&task, &data, &tokens, budget, seed, pair).expect("a draw");
        for setting in Setting::ALL {
            let s = shown(&d, setting, task.n_classes(), seed);
            prop_assert_eq!(s.len(), demos);
            prop_assert!(s.iter().all(|&c| c < task.n_classes()));
            prop_assert_eq!(Setting::parse(&setting.name()), Some(setting));
        }
    }

    #[test]
    fn task_files_never_panic(text in "\\PC{0,200}") {
        let _ = parse(&text);
        let _ = parse(&GOOD.replace("{text} => {label}.", &text.replace(['"', '\\'], "")));
    }
}
