//! `refocus flipflop`.

use snapbox::str;

use crate::support::{Tmp, refocus, refused};

#[test]
fn the_same_seed_prints_the_same_strings() {
    refocus("flipflop generate --p-ignore 0.6 --length 32 --count 3")
        .assert()
        .success()
        .stdout_eq(str![[r#"
w1w1i1i0r1r1i1i0i1i0i1i0i0i0i1r1
w0w1i0r1w1i1i1i1r1i1i0i0i1i0i0r1
w0i0r0w1r1i0r1i1r1w1w1i0r1i0i0r1

"#]])
        .stderr_eq("");
    refocus("flipflop generate --p-ignore 0.6 --length 32 --count 2 --first 1 --threads 2")
        .assert()
        .success()
        .stdout_eq(str![[r#"
w0w1i0r1w1i1i1i1r1i1i0i0i1i0i0r1
w0i0r0w1r1i0r1i1r1w1w1i0r1i0i0r1

"#]])
        .stderr_eq("");
    refocus("flipflop generate --p-ignore 0.6 --length 32 --count 1 --seed 1")
        .assert()
        .success()
        .stdout_eq(str![[r#"
w1i1i1i0r1i0w0i0r0i0i1i0w0i1i1r0

"#]])
        .stderr_eq("");
}

#[test]
fn other_forms() {
    refocus("flipflop generate --p-ignore 0.6 --length 16 --count 2 --form ids")
        .assert()
        .success()
        .stdout_eq(str![[r#"
0 4 0 4 2 4 2 3 1 4 1 4 2 4 1 4
0 3 0 4 2 3 1 4 0 4 2 4 2 4 1 4

"#]])
        .stderr_eq("");
    refocus("flipflop generate --p-ignore 0.6 --length 12 --count 1 --form natural")
        .assert()
        .success()
        .stdout_eq(str![[r#"
Alice turns the light on. Then, Alice turns the light on. Then, Bob eats an apple. Then, Bob eats a banana. Now, the light is on. Now, the light is on.

"#]])
        .stderr_eq("");
    refocus("flipflop generate --p-ignore 0.6 --length 12 --count 1 --form natural --wording door")
        .assert()
        .success()
        .stdout_eq(str![[r#"
Alice opens the door. Then, Alice opens the door. Then, Bob tells a joke. Then, Bob sings a song. Now, the door is open. Now, the door is open.

"#]])
        .stderr_eq("");
    refocus("flipflop generate --p-ignore 0.6 --length 40 --count 1 --symbols 256 --form ids")
        .assert()
        .success()
        .stdout_eq(str![[r#"
0 224 0 257 2 123 2 147 1 257 1 257 2 240 2 239 2 50 2 97 2 68 2 169 2 144 2 225 2 162 2 37 1 257 2 53 2 216 1 257

"#]])
        .stderr_eq("");
    refocus("flipflop generate --p-ignore 0.6 --length 40 --count 1 --registers 2 --symbols 2*2")
        .assert()
        .success()
        .stdout_eq(str![[r#"
wa11wb11ia01ia10ra11ra11ib11ib11ib00ra11

"#]])
        .stderr_eq("");
}

#[test]
fn facts_of_reads() {
    refocus("flipflop generate --p-ignore 0.3 --length 12 --count 2 --facts")
        .assert()
        .success()
        .stdout_eq(str![[r#"
{"text":"w1w1r1r1w0r0","writes":[{"at":1,"register":0,"value":1},{"at":3,"register":0,"value":1},{"at":9,"register":0,"value":0}],"reads":[{"at":4,"answer":4,"register":0,"value":1,"since_write":1,"since_either":1,"write_at":3,"read_at":null,"stale_same":1,"stale_other":0},{"at":6,"answer":4,"register":0,"value":1,"since_write":2,"since_either":1,"write_at":3,"read_at":5,"stale_same":1,"stale_other":0},{"at":10,"answer":3,"register":0,"value":0,"since_write":1,"since_either":1,"write_at":9,"read_at":7,"stale_same":0,"stale_other":2}]}
{"text":"w0w1i0r1w1r1","writes":[{"at":1,"register":0,"value":0},{"at":3,"register":0,"value":1},{"at":9,"register":0,"value":1}],"reads":[{"at":6,"answer":4,"register":0,"value":1,"since_write":2,"since_either":2,"write_at":3,"read_at":null,"stale_same":0,"stale_other":1},{"at":10,"answer":4,"register":0,"value":1,"since_write":1,"since_either":1,"write_at":9,"read_at":7,"stale_same":1,"stale_other":1}]}

"#]])
        .stderr_eq("");
    refocus("flipflop generate --p-ignore 0.3 --length 8 --count 1 --facts --form ids")
        .assert()
        .success()
        .stdout_eq(str![[r#"
{"ids":[0,4,0,4,1,4,1,4],"writes":[{"at":1,"register":0,"value":1},{"at":3,"register":0,"value":1}],"reads":[{"at":4,"answer":4,"register":0,"value":1,"since_write":1,"since_either":1,"write_at":3,"read_at":null,"stale_same":1,"stale_other":0},{"at":6,"answer":4,"register":0,"value":1,"since_write":2,"since_either":1,"write_at":3,"read_at":5,"stale_same":1,"stale_other":0}]}

"#]])
        .stderr_eq("");
    refocus("flipflop generate --p-ignore 0.3 --length 8 --count 1 --facts --form natural")
        .assert()
        .success()
        .stdout_eq(str![[r#"
{"text":"Alice turns the light on. Then, Alice turns the light on. Now, the light is on. Now, the light is on.","writes":[{"at":1,"register":0,"value":1},{"at":3,"register":0,"value":1}],"reads":[{"at":4,"answer":4,"register":0,"value":1,"since_write":1,"since_either":1,"write_at":3,"read_at":null,"stale_same":1,"stale_other":0,"prompt_bytes":75,"answer_text":" on","wrong_text":" off"},{"at":6,"answer":4,"register":0,"value":1,"since_write":2,"since_either":1,"write_at":3,"read_at":5,"stale_same":1,"stale_other":0,"prompt_bytes":97,"answer_text":" on","wrong_text":" off"}]}

"#]])
        .stderr_eq("");
}

#[test]
fn families() {
    refocus("flipflop generate --p-ignore 0.1 --length 64 --count 1 --family piecewise --tail-ignore 1")
        .assert()
        .success()
        .stdout_eq(str![[r#"
w1w1r1w0w0w0r0r0r0r0r0r0r0r0i1r0w0r0r0w1i1w0w0r0i0i1i0i0i0i1i0r0

"#]])
        .stderr_eq("");
    refocus("flipflop generate --p-ignore 0.8 --length 64 --count 1 --family decoy --burst 5 --gap 3")
        .assert()
        .success()
        .stdout_eq(str![[r#"
w1w1i1i0i0i0i1i0i1i0i1i0i0i0i1i1i0i0i0i1i1i0w1w1w1w1w1w0i0i1i0r0

"#]])
        .stderr_eq("");
    refocus("flipflop generate --p-ignore 0.8 --length 64 --count 1 --family read-run --run 5")
        .assert()
        .success()
        .stdout_eq(str![[r#"
w1w1i1i0i0i0i1i0i1i0i1i0i0i0i1i1i0i0i0i1i1i0i0i1i0i1i0i0i0i1r1r1

"#]])
        .stderr_eq("");
    refocus("flipflop generate --p-ignore 0.8 --length 64 --count 1 --family churn --changes 6")
        .assert()
        .success()
        .stdout_eq(str![[r#"
w1w0i1i0i0i0i1i0i1i0i1i0i0i0i1r0w1r1r1w0i1i0w1i1i0i1w0i0i0w1i0r1

"#]])
        .stderr_eq("");
    refocus("flipflop generate --p-ignore 0.3 --length 64 --count 1 --family write-flip --rate 1")
        .assert()
        .success()
        .stdout_eq(str![[r#"
w1w0r0r0w1w0r0i0i1i0i1i0r0r0i1i1w1r1i0w0i1r0w1i1i0i1w0i0i0w1w0r0

"#]])
        .stderr_eq("");
    refocus("flipflop generate --p-ignore 0.8 --length 64 --count 1 --family anti-correlated --rate 1")
        .assert()
        .success()
        .stdout_eq(str![[r#"
w1w1i0i0i0i0i0i0i0i0i0i0i0i0i0i0i0i0i0i0i0i0i0i0i0i0i0i0i0i0r1r1

"#]])
        .stderr_eq("");
    refocus("flipflop generate --p-ignore 0.8 --length 64 --count 1 --family markov --rate 0")
        .assert()
        .success()
        .stdout_eq(str![[r#"
w1w1i1i1i1i1i1i1i1i1i1i1i1i1i1i1i1i1i1i1i1i1i1i1i1i1i1i1i1i1r1r1

"#]])
        .stderr_eq("");
    refocus("flipflop generate --length 64 --count 2 --family mixture --mix 0,1")
        .assert()
        .success()
        .stdout_eq(str![[r#"
w1i1i1i0i0i0i1i0i1i0i1i0i0i0i1i1i0i0i0i1i1i0i0i1i0i1i0i0i0i1i0r1
w0i1i0i0i1i1i1i1i0i1i0i0i1i0i0i1i1i0i0i0i1i0i0i1i1i1i0i1i0i1i0r0

"#]])
        .stderr_eq("");
    refocus("flipflop generate --p-write 0.5 --p-read 0.5 --length 16 --count 1 --stretch-from 16")
        .assert()
        .success()
        .stdout_eq(str![[r#"
w1w1w1w0w0w0w1r1

"#]])
        .stderr_eq("");
    let churn = "flipflop generate --p-ignore 0.8 --family churn --changes 3 --length 640 --stretch-from 64";
    refused(refocus(churn)).stderr_eq(str![[r#"
error: flip-flop: strings of the family churn cannot be stretched: how often they read and write follows from more than probabilities

"#]]);
}

#[test]
fn documents() {
    refocus("flipflop generate --p-ignore 0.8 --length 16 --count 2 --family decoy --burst 2 --gap 1 --json")
        .assert()
        .success()
        .stdout_eq(str![[r#"
{
  "schema": "refocus.flipflop-generate/1",
  "set": null,
  "family": "decoy",
  "parameters": {
    "burst": 2,
    "gap": 1
  },
  "length": 16,
  "p_write": 0.09999999999999998,
  "p_read": 0.09999999999999998,
  "p_ignore": 0.8,
  "registers": 1,
  "symbols": 2,
  "width": 1,
  "vocab": 5,
  "seed": 0,
  "first": 0,
  "count": 2,
  "form": "text",
  "strings": [
    "w1w1i1w0w0w1i1r1",
    "w0r0i0w0w0w1i1r1"
  ]
}

"#]])
        .stderr_eq("");
}

#[test]
fn what_cannot_be_drawn_is_refused_by_its_value() {
    refused(refocus("flipflop generate")).stderr_eq(str![[r#"
error: how often strings read, write and ignore is not given
hint: give --p-ignore P, such as 0.8, or --set NAME

"#]]);
    refused(refocus("flipflop generate --p-ignore 0.5 --length 5")).stderr_eq(str![[r#"
error: flip-flop: a string has from 4 to 1048576 symbols, 2 for each instruction: not 5

"#]]);
    refused(refocus("flipflop generate --p-ignore 0.5 --length 2")).stderr_eq(str![[r#"
error: flip-flop: a string has from 4 to 1048576 symbols, 2 for each instruction: not 2

"#]]);
    refused(refocus("flipflop generate --p-ignore 0.5 --length 2000000")).stderr_eq(str![[r#"
error: flip-flop: a string has from 4 to 1048576 symbols, 2 for each instruction: not 2000000

"#]]);
    refused(refocus("flipflop generate --p-ignore 1.5")).stderr_eq(str![[r#"
error: flip-flop: the probability to ignore is 1.5, not a number from 0 to 1

"#]]);
    refused(refocus("flipflop generate --p-ignore -0.1")).stderr_eq(str![[r#"
error: flip-flop: the probability to ignore is -0.1, not a number from 0 to 1

"#]]);
    refused(refocus("flipflop generate --p-ignore nan")).stderr_eq(str![[r#"
error: flip-flop: the probability to ignore is NaN, not a number from 0 to 1

"#]]);
    refused(refocus("flipflop generate --p-ignore 0.5 --p-write 0.5 --p-read 0.5")).stderr_eq(str![[r#"
error: flip-flop: the probabilities to write (0.5), read (0.5) and ignore (0.5) sum to 1.5, not to 1

"#]]);
    refused(refocus("flipflop generate --p-ignore 0.8 --p-write 0.3")).stderr_eq(str![[r#"
error: --p-write 0.3 and --p-ignore 0.8 are more than 1 together

"#]]);
    refused(refocus("flipflop generate --p-ignore 0.5 --registers 0")).stderr_eq(str![[r#"
error: flip-flop: from 1 to 64 registers are possible: not 0

"#]]);
    refused(refocus("flipflop generate --p-ignore 0.5 --symbols 1")).stderr_eq(str![[r#"
error: flip-flop: data need from 2 to 256 values: not 1 symbols in 1 places

"#]]);
    refused(refocus("flipflop generate --p-ignore 0.5 --symbols 2*x")).stderr_eq(str![[r#"
error: invalid value '2*x' for '--symbols <M[*W]>': 'x' is not a number

For more information, try '--help'.

"#]]);
    refused(refocus("flipflop generate --p-ignore 0.5 --symbols 256")).stderr_eq(str![[r#"
error: data of 256 symbols have no written form: there are 64 characters; use ids

"#]]);
    refused(refocus("flipflop generate --p-ignore 0.5 --symbols 4 --form natural")).stderr_eq(str![[r#"
error: the natural form has one light: it needs --registers 1 and --symbols 2

"#]]);
    refused(refocus("flipflop generate --p-ignore 0.5 --burst 3")).stderr_eq(str![[r#"
error: --burst belongs to --family decoy, not to ffl

"#]]);
    refused(refocus("flipflop generate --p-ignore 0.5 --length 16 --family decoy")).stderr_eq(str![[r#"
error: flip-flop: the number of decoys is 8, not from 1 to 5

"#]]);
    refused(refocus("flipflop generate --p-ignore 0.5 --family churn")).stderr_eq(str![[r#"
error: --family churn needs --changes N

"#]]);
    refused(refocus("flipflop generate --p-ignore 0.5 --family mixture --mix 0.1")).stderr_eq(str![[r#"
error: a mixture takes its probabilities from --mix, not from --p-ignore

"#]]);
    refused(refocus("flipflop generate --set nope")).stderr_eq(str![[r#"
error: invalid value 'nope' for '--set <NAME>'
  [possible values: in, sparse, dense, half-in, half-sparse, half-dense, rare, rare-b3, piecewise, decoy, half-piecewise, half-decoy, long]

For more information, try '--help'.

"#]]);
    refused(refocus("flipflop generate --set in --registers 2")).stderr_eq(str![[r#"
error: the argument '--set <NAME>' cannot be used with '--registers <K>'

Usage: refocus flipflop generate --set <NAME>

For more information, try '--help'.

"#]]);
    refused(refocus("flipflop generate --set sparse --json")).stderr_eq(str![[r#"
error: 100000 strings of 512 symbols are too many for one JSON document, which holds 16777216 symbols
hint: --facts without --json prints a JSON object a line

"#]]);
    refused(refocus("flipflop generate --p-ignore 0.5 --first 4294967295 --count 2")).stderr_eq(str![[r#"
error: 2 strings from number 4294967295 on: the last number is 4294967295

"#]]);
}

#[test]
fn a_line_that_is_no_string() {
    let say = |more: &str, input: &str| {
        refocus(&format!("flipflop validate - {more}")).stdin(input.to_owned()).assert().code(1).stderr_eq("")
    };
    say("", "w0r0\nw0i1w1r0\n").stdout_eq(str![[r#"
standard input: line 2, column 8: the datum read is not the one written in column 6

"#]]);
    say("", "w0r0\n\nw0r0\n").stdout_eq(str![[r#"
standard input: line 2, column 1: a string has at least 4 symbols, 2 for each instruction: not 0

"#]]);
    say("", "w0r0\r\nw0r0 \n").stdout_eq(str![[r#"
standard input: line 2, column 5: ' ' where an instruction (w, r or i) is needed

"#]]);
    say("", "w0w1r0x0").stdout_eq(str![[r#"
standard input: line 1, column 6: the datum read is not the one written in column 4

"#]]);
    say("", "i0r0").stdout_eq(str![[r#"
standard input: line 1, column 1: the first instruction must write

"#]]);
    say("", "w0r0i0").stdout_eq(str![[r#"
standard input: line 1, column 5: the last instruction must read

"#]]);
    say("", "w0r0w0r").stdout_eq(str![[r#"
standard input: line 1, column 8: a string has at least 4 symbols, 2 for each instruction: not 7

"#]]);
    say("--registers 2", "wa0ib1rb0").stdout_eq(str![[r#"
standard input: line 1, column 7: the register is read before it is written

"#]]);
    say("--registers 2", "wa0rc0").stdout_eq(str![[r#"
standard input: line 1, column 5: 'c' where a register (a or b) is needed

"#]]);
    say("--json", "w0r0\nw0r1\n").stdout_eq(str![[r#"
{
  "schema": "refocus.flipflop-validate/1",
  "file": "standard input",
  "valid": false,
  "strings": 1,
  "reads": 1,
  "error": {
    "line": 2,
    "column": 4,
    "says": "the datum read is not the one written in column 2"
  }
}

"#]]);
}

#[test]
fn lines_that_are_strings() {
    let tmp = Tmp::new("flipflop-validate");
    for (flags, language) in [
        ("--set half-sparse --count 50", ""),
        ("--p-ignore 0.3 --length 300 --registers 4 --symbols 16", "--registers 4 --symbols 16"),
        ("--p-ignore 0.3 --length 300 --symbols 2*2", "--symbols 2*2"),
    ] {
        let strings = refocus(&format!("flipflop generate {flags}")).assert().success();
        let strings = String::from_utf8(strings.get_output().stdout.clone()).expect("text");
        tmp.write("strings.txt", &strings);
        let n = strings.lines().count();
        let said = tmp.refocus(&format!("flipflop validate [TMP]/strings.txt {language}")).assert().success();
        let said = String::from_utf8(said.get_output().stdout.clone()).expect("text");
        assert!(said.contains(&format!("strings.txt: {n} valid strings, ")), "{said}");
    }
    tmp.write("dos.txt", "w0r0\r\nw1i0r1");
    tmp.refocus("flipflop validate [TMP]/dos.txt").assert().success().stdout_eq(str![[r#"
[TMP]/dos.txt: 2 valid strings, 2 reads

"#]]);
    tmp.refocus("flipflop validate [TMP]/dos.txt --json").assert().success().stdout_eq(str![[r#"
{
  "schema": "refocus.flipflop-validate/1",
  "file": "[TMP]/dos.txt",
  "valid": true,
  "strings": 2,
  "reads": 2,
  "error": null
}

"#]]);
}

#[test]
fn files_that_cannot_be_read() {
    let tmp = Tmp::new("flipflop-files");
    refused(tmp.refocus("flipflop validate [TMP]/none.txt")).stderr_eq(str![[r#"
error: [TMP]/none.txt: cannot be read
cause: No such file or directory (os error 2)

"#]]);
    tmp.write("empty.txt", "");
    refused(tmp.refocus("flipflop validate [TMP]/empty.txt")).stderr_eq(str![[r#"
error: [TMP]/empty.txt: there is no string

"#]]);
    refused(tmp.refocus("flipflop validate [TMP]/empty.txt --symbols 100")).stderr_eq(str![[r#"
error: data of 100 symbols have no written form: there are 64 characters; use ids

"#]]);
    std::fs::write(tmp.path("bytes.txt"), b"w0r0\nw0\xffr0\n").expect("write");
    tmp.refocus("flipflop validate [TMP]/bytes.txt").assert().code(1).stdout_eq(str![[r#"
[TMP]/bytes.txt: line 2, column 3: this is not UTF-8

"#]]);
    std::fs::write(tmp.path("zeros.txt"), vec![b'0'; 3 << 20]).expect("write");
    tmp.refocus("flipflop validate [TMP]/zeros.txt").assert().code(1).stdout_eq(str![[r#"
[TMP]/zeros.txt: line 1, column 1048577: a string has at most 1048576 symbols

"#]]);
}

/// What `| head` does.
#[test]
#[cfg(unix)]
fn nobody_has_to_read_to_the_end() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    let mut child = Command::new(snapbox::cmd::cargo_bin!("refocus"))
        .args(["flipflop", "generate", "--set", "dense"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    assert_eq!(line.len(), 513);
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
