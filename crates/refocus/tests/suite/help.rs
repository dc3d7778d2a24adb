use snapbox::{file, str};

use crate::support::{Tmp, refocus, refused};

#[test]
fn short_help() {
    refocus("-h").assert().success().stdout_eq(file!["help/refocus-h.txt"]).stderr_eq("");
}

#[test]
fn long_help() {
    refocus("--help").assert().success().stdout_eq(file!["help/refocus.txt"]);
    refocus("model --help").assert().success().stdout_eq(file!["help/model.txt"]);
    refocus("model inspect --help").assert().success().stdout_eq(file!["help/model-inspect.txt"]);
    refocus("model forward --help").assert().success().stdout_eq(file!["help/model-forward.txt"]);
    refocus("model lens --help").assert().success().stdout_eq(file!["help/model-lens.txt"]);
    refocus("model generate --help").assert().success().stdout_eq(file!["help/model-generate.txt"]);
    refocus("model doctor --help").assert().success().stdout_eq(file!["help/model-doctor.txt"]);
    refocus("model convert --help").assert().success().stdout_eq(file!["help/model-convert.txt"]);
    refocus("train flipflop --help").assert().success().stdout_eq(file!["help/train-flipflop.txt"]);
    refocus("train world --help").assert().success().stdout_eq(file!["help/train-world.txt"]);
    refocus("overthinking --help").assert().success().stdout_eq(file!["help/overthinking.txt"]);
    refocus("recall --help").assert().success().stdout_eq(file!["help/recall.txt"]);
    refocus("train lens --help").assert().success().stdout_eq(file!["help/train-lens.txt"]);
    refocus("report --help").assert().success().stdout_eq(file!["help/report.txt"]);
    refocus("serve --help").assert().success().stdout_eq(file!["help/serve.txt"]);
    refocus("rewrite --help").assert().success().stdout_eq(file!["help/rewrite.txt"]);
    refocus("patch --help").assert().success().stdout_eq(file!["help/patch.txt"]);
    refocus("tasks --help").assert().success().stdout_eq(file!["help/tasks.txt"]);
    refocus("tasks list --help").assert().success().stdout_eq(file!["help/tasks-list.txt"]);
    refocus("tasks show --help").assert().success().stdout_eq(file!["help/tasks-show.txt"]);
    refocus("tasks validate --help").assert().success().stdout_eq(file!["help/tasks-validate.txt"]);
    refocus("patch check --help").assert().success().stdout_eq(file!["help/patch-check.txt"]);
    refocus("patch show --help").assert().success().stdout_eq(file!["help/patch-show.txt"]);
    refocus("patch export --help").assert().success().stdout_eq(file!["help/patch-export.txt"]);
    refocus("system2 --help").assert().success().stdout_eq(file!["help/system2.txt"]);
    refocus("system2 eval --help").assert().success().stdout_eq(file!["help/system2-eval.txt"]);
    refocus("flipflop --help").assert().success().stdout_eq(file!["help/flipflop.txt"]);
    refocus("flipflop eval --help").assert().success().stdout_eq(file!["help/flipflop-eval.txt"]);
    refocus("flipflop study --help").assert().success().stdout_eq(file!["help/flipflop-study.txt"]);
    refocus("flipflop generate --help").assert().success().stdout_eq(file!["help/flipflop-generate.txt"]);
    refocus("flipflop probe --help").assert().success().stdout_eq(file!["help/flipflop-probe.txt"]);
    refocus("flipflop attend --help").assert().success().stdout_eq(file!["help/flipflop-attend.txt"]);
    refocus("flipflop handset --help").assert().success().stdout_eq(file!["help/flipflop-handset.txt"]);
    refocus("flipflop figures --help").assert().success().stdout_eq(file!["help/flipflop-figures.txt"]);
    refocus("flipflop validate --help").assert().success().stdout_eq(file!["help/flipflop-validate.txt"]);
}

#[test]
fn a_wrong_flag_gets_a_suggestion() {
    refused(refocus("model forward fixtures/gpt2 --tokns x.json")).stderr_eq(str![[r#"
error: unexpected argument '--tokns' found

  tip: a similar argument exists: '--tokens'

Usage: refocus model forward <--text <STR>|--tokens <FILE>> <MODEL>

For more information, try '--help'.

"#]]);
}

#[test]
fn a_wrong_command_gets_a_suggestion() {
    refused(refocus("model inspekt fixtures/gpt2")).stderr_eq(str![[r#"
error: unrecognized subcommand 'inspekt'

  tip: a similar subcommand exists: 'inspect'

Usage: refocus model [OPTIONS] <COMMAND>

For more information, try '--help'.

"#]]);
}

#[test]
fn one_input_is_needed_and_not_two() {
    refused(refocus("model forward fixtures/gpt2")).stderr_eq(str![[r#"
error: the following required arguments were not provided:
  <--text <STR>|--tokens <FILE>>

Usage: refocus model forward <--text <STR>|--tokens <FILE>> <MODEL>

For more information, try '--help'.

"#]]);
    refused(refocus("model forward fixtures/gpt2 --text a --tokens b")).stderr_eq(str![[r#"
error: the argument '--text <STR>' cannot be used with '--tokens <FILE>'

Usage: refocus model forward <--text <STR>|--tokens <FILE>> <MODEL>

For more information, try '--help'.

"#]]);
}

#[test]
fn numbers_are_checked() {
    refused(refocus("model forward fixtures/gpt2 --tokens a --top 0")).stderr_eq(str![[r#"
error: invalid value '0' for '--top <N>': 0 is not in 1..=4294967295

For more information, try '--help'.

"#]]);
    refused(refocus("model inspect fixtures/gpt2 --threads 5000")).stderr_eq(str![[r#"
error: invalid value '5000' for '--threads <N>': 5000 is not in 1..=1024

For more information, try '--help'.

"#]]);
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let bash = refocus("completions bash").assert().success().get_output().stdout.clone();
    let bash = String::from_utf8(bash).expect("UTF-8");
    let tmp = Tmp::new("man");
    tmp.refocus("man --out [TMP] -q").assert().success();
    let pages = tmp.list();
    for command in
        ["model inspect", "patch export", "overthinking", "recall", "system2 eval", "serve", "train lens"]
    {
        let dashed = command.replace(' ', "-");
        assert!(pages.contains(&format!("refocus-{dashed}.1")), "{command}: {pages:?}");
        let last = command.rsplit(' ').next().unwrap_or(command);
        assert!(bash.contains(&format!("__{last}")), "{command}");
    }
    let page = std::fs::read_to_string(tmp.path("refocus-patch-export.1")).expect("a page");
    assert!(page.contains("refocus patch export") && page.contains("partial"), "{page}");
    refused(tmp.refocus("man --out [TMP]/none")).stderr_eq(str![[r#"
error: [TMP]/none/refocus.1: cannot be written
cause: No such file or directory (os error 2)

"#]]);
}
