use snapbox::str;

use crate::support::{Tmp, refocus, refocus_args, refused};

const GGUF: &str = "fixtures/gguf-llama-q4_1/model.gguf";

#[test]
fn a_text_goes_on() {
    refocus_args(&["model", "generate", GGUF, "--text", "There are", "--max-new", "8"])
        .assert()
        .success()
        .stdout_eq(str![[r#"
7hehehehehehehe

"#]])
        .stderr_eq("");
}

#[test]
fn ids_go_on() {
    refocus("model generate fixtures/gpt2 --tokens - --max-new 5")
        .stdin("[[28, 74], [1]]")
        .assert()
        .success()
        .stdout_eq(str![[r#"
sequence 0: [53, 9, 90, 85, 85]
sequence 1: [0, 53, 9, 9, 82]

"#]]);
}

#[test]
fn one_json_document() {
    refocus_args(&["model", "generate", GGUF, "--text", "one", "--max-new", "4", "--json"])
        .assert()
        .success()
        .stdout_eq(str![[r#"
{
  "schema": "refocus.model-generate/1",
  "model": "fixtures/gguf-llama-q4_1/model.gguf",
  "seed": 0,
  "sequences": [
    {
      "prompt": [
        123
      ],
      "sample": 0,
      "ids": [
        123,
        123,
        123,
        123
      ],
      "text": "oneoneoneone",
      "ended": "length"
    }
  ]
}

"#]]);
}

#[test]
fn no_new_tokens() {
    refocus("model generate fixtures/gpt2 --tokens - --max-new 0")
        .stdin("[[28, 74]]")
        .assert()
        .success()
        .stdout_eq(str![[r#"
sequence 0: []

"#]]);
}

#[test]
fn the_end_of_the_context_ends_a_text() {
    refocus("model generate fixtures/gpt2 --tokens - --max-new 24")
        .stdin("[[28, 74]]")
        .assert()
        .success()
        .stdout_eq(str![[r#"
sequence 0: [53, 9, 90, 85, 85, 85, 96, 96, 96, 55, 55, 60, 82, 37, 63, 82, 13, 82, 96, 13, 13, 23, 82]

"#]])
        .stderr_eq(str![[r#"
note: sequence 0 ended after 23 new tokens: the model's context of 24 is full

"#]]);
    refused(refocus("model generate fixtures/gpt2 --tokens -").stdin(ids(25))).stderr_eq(str![[r#"
error: sequence 0 has 25 tokens, the model's context is 24
hint: shorten the sequence; `refocus model inspect MODEL` shows the context

"#]]);
}

/// One sequence of `n` ids.
fn ids(n: usize) -> String {
    format!("[{:?}]", vec![1; n])
}

#[test]
fn samples_follow_from_the_seed() {
    let run = |flags: &str| {
        let args = format!("model generate {GGUF} --tokens - --max-new 12 --temperature 2 {flags}");
        let out = refocus(&args).stdin("[[5, 6]]").assert().success();
        String::from_utf8(out.get_output().stdout.clone()).expect("text")
    };
    let one = run("--seed 3 --top-k 90");
    assert_eq!(one, run("--seed 3 --top-k 90 --threads 1"));
    assert_ne!(one, run("--seed 4 --top-k 90"));
    // The first of several is the one that comes alone.
    let three = run("--seed 3 --n 3 --top-k 90");
    let first = format!("sequence 0 sample 0: {:?}\n", one.trim_end_matches('\n'));
    assert!(three.starts_with(&first), "{three}{one}");
    assert_eq!(three.lines().count(), 3);
}

#[test]
fn several_samples() {
    refocus(&format!(
        "model generate {GGUF} --tokens - --max-new 5 --temperature 1.5 --top-p 0.9 --n 2 --seed 8"
    ))
    .stdin("[[5, 6], [7]]")
    .assert()
    .success()
    .stdout_eq(str![[r#"
sequence 0 sample 0: "$es<|endoftext|> wr"
sequence 0 sample 1: "d=gJ^"
sequence 1 sample 0: "P\" s<|endoftext|>es"
sequence 1 sample 1: ""

"#]])
    .stderr_eq("");
}

#[test]
fn log_probabilities() {
    refocus_args(&["model", "generate", GGUF, "--text", "one", "--max-new", "3", "--logprobs", "2"])
        .assert()
        .success()
        .stdout_eq(str![[r#"
oneoneone

token  logprob  most likely
"one"  -1.5395  "one" -1.5395  "!" -2.1232
"one"  -1.5395  "one" -1.5395  "!" -2.1232
"one"  -1.5395  "one" -1.5395  "!" -2.1232

"#]]);
    refocus("model generate fixtures/gpt2 --tokens - --max-new 2 --logprobs 1 --logit-bias 7=100")
        .stdin("[[28], [74]]")
        .assert()
        .success()
        .stdout_eq(str![[r#"
sequence 0: [7, 7]

token  logprob  most likely
#7     -7.1980  #53 -1.9243
#7     -7.0266  #53 -1.2213

sequence 1: [7, 7]

token  logprob  most likely
#7     -7.3691  #53 -1.8248
#7     -7.1193  #53 -1.1306

"#]]);
}

#[test]
fn one_of_some_choices() {
    refocus_args(&["model", "generate", GGUF, "--text", "There are", "--choices", " two, three,four"])
        .assert()
        .success()
        .stdout_eq(str![[r#"
 two

choice    tokens   logprob  share
"four"         3  -18.9760  69.5%
" three"       4  -20.4422  16.0%
" two"         3  -20.5500  14.4%

"#]])
        .stderr_eq("");
    refocus_args(&[
        "model",
        "generate",
        GGUF,
        "--text",
        "one",
        "--choice",
        "a,b",
        "--choice",
        "c",
        "--logprobs",
        "1",
        "--json",
    ])
    .assert()
    .success()
    .stdout_eq(str![[r#"
{
  "schema": "refocus.model-generate/1",
  "model": "fixtures/gguf-llama-q4_1/model.gguf",
  "seed": 0,
  "sequences": [
    {
      "prompt": [
        123
      ],
      "sample": 0,
      "ids": [
        72
      ],
      "text": "c",
      "ended": "complete",
      "whole": true,
      "logprobs": [
        {
          "id": 72,
          "token": "c",
          "logprob": -6.398481,
          "top": [
            {
              "id": 123,
              "token": "one",
              "logprob": -1.5394602
            }
          ]
        }
      ]
    }
  ],
  "choices": [
    [
      {
        "text": "a,b",
        "ids": [
          70,
          17,
          71
        ],
        "logprob": -17.43916654586792,
        "logprobs": [
          -6.7202997,
          -5.9783974,
          -4.7404695
        ]
      },
      {
        "text": "c",
        "ids": [
          72
        ],
        "logprob": -6.3984808921813965,
        "logprobs": [
          -6.398481
        ]
      }
    ]
  ]
}

"#]])
    .stderr_eq("");
}

#[test]
fn a_regular_expression() {
    let run = |regex: &str, max_new: &str| {
        refocus_args(&["model", "generate", GGUF, "--text", "one", "--regex", regex, "--max-new", max_new])
    };
    run("[0-9]{3}-[a-f]", "9")
        .assert()
        .success()
        .stdout_eq(str![[r#"
204-b

"#]])
        .stderr_eq("");
    run("[0-9]{9}", "4")
        .assert()
        .success()
        .stdout_eq(str![[r#"
2043

"#]])
        .stderr_eq(str![[r#"
note: sequence 0 ended before its text met the constraint; raise --max-new

"#]]);
    refused(run("[0-9", "4")).stderr_eq(str![[r#"
error: the regular expression cannot be used: unclosed character class
    [0-9
    ^

"#]]);
    refused(run("é", "4")).stderr_eq(str![[r#"
error: the regular expression cannot be used: no text meets it

"#]]);
}

#[test]
fn json_of_a_schema() {
    let tmp = Tmp::new("generate-schema");
    tmp.write("s.json", r#"{"type": "object", "properties": {"age": {"type": "integer", "minimum": 1, "maximum": 20}}, "required": ["age"], "additionalProperties": false}"#);
    let run = |file: &str| {
        let args = format!("model generate {GGUF} --tokens - --max-new 200 --json-schema [TMP]/{file}");
        tmp.refocus(&format!("{args} --temperature 5 --json")).stdin("[[5, 6]]")
    };
    let out = run("s.json").assert().success();
    let document: serde_json::Value = serde_json::from_slice(&out.get_output().stdout).expect("JSON");
    let sequence = &document["sequences"][0];
    assert_eq!((&sequence["ended"], &sequence["whole"]), (&"complete".into(), &true.into()));
    let text = sequence["text"].as_str().expect("text");
    let value: serde_json::Value = serde_json::from_str(text).expect("JSON");
    assert!(value["age"].as_u64().is_some_and(|a| (1..=20).contains(&a)), "{text}");

    refused(run("no.json")).stderr_eq(str![[r#"
error: [TMP]/no.json: cannot be read
cause: No such file or directory (os error 2)

"#]]);
    tmp.write("half.json", "{\"type\": ");
    refused(run("half.json")).stderr_eq(str![[r#"
error: [TMP]/half.json: not JSON
cause: EOF while parsing a value at line 1 column 9

"#]]);
    tmp.write("if.json", r#"{"properties": {"a": {"if": {"type": "null"}}}}"#);
    refused(run("if.json")).stderr_eq(str![[r#"
error: [TMP]/if.json
cause: the JSON schema cannot be used: Unimplemented keys: ["if"] (at /properties/a)

"#]]);
}

#[test]
fn stop_strings() {
    refocus_args(&["model", "generate", GGUF, "--text", "There are", "--stop", "eheh", "--json"])
        .assert()
        .success()
        .stdout_eq(str![[r#"
{
  "schema": "refocus.model-generate/1",
  "model": "fixtures/gguf-llama-q4_1/model.gguf",
  "seed": 0,
  "sequences": [
    {
      "prompt": [
        57,
        103,
        104,
        101,
        104
      ],
      "sample": 0,
      "ids": [
        28,
        103,
        103,
        103
      ],
      "text": "7h",
      "ended": "stop_string"
    }
  ]
}

"#]]);
    refused(refocus("model generate fixtures/gpt2 --tokens - --stop x").stdin("[[1]]")).stderr_eq(str![[
        r#"
error: fixtures/gpt2: tokenizer: there is no tokenizer.json, and no vocab.json with merges.txt
hint: --stop and constraints are about text and need the model's tokenizer

"#
    ]]);
}

#[test]
fn flags_that_do_not_go_together() {
    let run =
        |flags: &str| refused(refocus(&format!("model generate {GGUF} --tokens - {flags}")).stdin("[[5]]"));
    run("--top-k 3").stderr_eq(str![[r#"
error: the following required arguments were not provided:
  --temperature <T>

Usage: refocus model generate --temperature <T> --top-k <K> <--text <STR>|--tokens <FILE>|--message <STR>|--messages <FILE>> <MODEL>

For more information, try '--help'.

"#]]);
    run("--choices a,b --regex a").stderr_eq(str![[r#"
error: the argument '--choices <A,B,…>' cannot be used with '--regex <RE>'

Usage: refocus model generate --choices <A,B,…> <--text <STR>|--tokens <FILE>|--message <STR>|--messages <FILE>> <MODEL>

For more information, try '--help'.

"#]]);
    run("--regex a --ignore-eos").stderr_eq(str![[r#"
error: the argument '--ignore-eos' cannot be used with:
  --choices <A,B,…>
  --choice <STR>
  --regex <RE>
  --json-schema <FILE>

Usage: refocus model generate --ignore-eos <--text <STR>|--tokens <FILE>|--message <STR>|--messages <FILE>> <MODEL>

For more information, try '--help'.

"#]]);
    run("--temperature -1").stderr_eq(str![[r#"
error: invalid value '-1' for '--temperature <T>': it must be 0 or above

For more information, try '--help'.

"#]]);
    run("--temperature 1 --top-p 1.5").stderr_eq(str![[r#"
error: invalid value '1.5' for '--top-p <P>': it must be above 0 and at most 1

For more information, try '--help'.

"#]]);
    run("--logit-bias 5").stderr_eq(str![[r#"
error: invalid value '5' for '--logit-bias <ID=BIAS>': a token id, '=' and a number are needed, such as 50=-2.5

For more information, try '--help'.

"#]]);
    run("--logit-bias 5000=1").stderr_eq(str![[r#"
error: --logit-bias: the vocabulary has no token 5000, only 0 to 126

"#]]);
    run("--choices a,a").stderr_eq(str![[r#"
error: the choice "a" is there twice

"#]]);
}

#[test]
fn a_patch_acts_while_generating() {
    let tmp = Tmp::new("generate-patch");
    tmp.write("p.toml", "[[intervention]]\ndo = \"exit\"\nlayer = 1\n");
    let run = |patch: &str| {
        let args = format!("model generate fixtures/gpt2 --tokens - --max-new 6 {patch}");
        tmp.refocus(&args).stdin("[[28, 74]]").assert().success().get_output().stdout.clone()
    };
    assert_ne!(run(""), run("--patch [TMP]/p.toml"));
}

#[test]
fn decode_entries_act_while_generating() {
    let tmp = Tmp::new("generate-decode");
    tmp.write("p.toml", "[[decode]]\ndo = \"temperature\"\nfactor = 0.5\n");
    let run = |flags: &str| {
        let args = format!("model generate {GGUF} --tokens - --max-new 12 {flags}");
        tmp.refocus(&args).stdin("[[5, 6]]").assert().success().get_output().stdout.clone()
    };
    // Twice the temperature at half the temperature.
    assert_eq!(run("--temperature 1.5"), run("--temperature 3 --patch [TMP]/p.toml"));
    assert_ne!(run("--temperature 3"), run("--temperature 3 --patch [TMP]/p.toml"));
}

/// A patch that breaks one sequence: the other is printed all the same.
#[test]
fn what_other_sequences_said_is_not_lost() {
    let tmp = Tmp::new("generate-broken");
    tmp.write(
        "p.toml",
        "[[intervention]]\nat = \"blocks.0.hook_resid_post\"\nposition = 4\ndo = \"scale\"\nfactor = 3e38\n",
    );
    let run = |flags: &str| {
        let args =
            format!("model generate fixtures/gpt2 --tokens - --max-new 2 --patch [TMP]/p.toml {flags}");
        tmp.refocus(&args).stdin("[[1, 2, 3, 4, 5, 6], [28]]").assert().code(2)
    };
    run("")
        .stdout_eq(str![[r#"
sequence 0: []
sequence 1: [53, 53]

"#]])
        .stderr_eq(str![[r#"
error: logits of sequence 0 holds NaN at position 5

"#]]);
    run("--json").stdout_eq(str![[r#"
{
  "schema": "refocus.model-generate/1",
  "model": "fixtures/gpt2",
  "seed": 0,
  "sequences": [
    {
      "prompt": [
        1,
        2,
        3,
        4,
        5,
        6
      ],
      "sample": 0,
      "ids": [],
      "text": null,
      "ended": "error",
      "error": "logits of sequence 0 holds NaN at position 5"
    },
    {
      "prompt": [
        28
      ],
      "sample": 0,
      "ids": [
        53,
        53
      ],
      "text": null,
      "ended": "length"
    }
  ]
}

"#]]);
}

#[test]
fn messages_go_through_the_chat_template() {
    refocus_args(&["model", "generate", GGUF, "--message", "hello", "--system", "the", "--show-prompt"])
        .assert()
        .success()
        .stdout_eq(str![[r#"
<|im_start|>system
the<|im_end|>
<|im_start|>user
hello<|im_end|>
<|im_start|>assistant


"#]]);
    // The answer is that to the text which the template makes.
    let said = |args: &[&str]| {
        let base = ["model", "generate", GGUF, "--max-new", "6", "--json"];
        let out = refocus_args(&[&base[..], args].concat()).output().expect("run");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let document: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
        document["sequences"].clone()
    };
    let text = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(said(&["--message", "hello"]), said(&["--text", text]));
    let tmp = Tmp::new("generate-messages");
    tmp.write("chat.json", r#"[{"role": "user", "content": "hello"}]"#);
    let path = tmp.path("chat.json");
    assert_eq!(said(&["--message", "hello"]), said(&["--messages", path.to_str().expect("UTF-8")]));
}

#[test]
fn what_a_prompt_cannot_take_is_refused() {
    let tmp = Tmp::new("generate-refused");
    tmp.write("chat.json", r#"[{"role": "user", "content": "hello"}]"#);
    tmp.write("tools.json", r#"[{"type": "function", "function": {"name": "f"}}]"#);
    for other in ["--text hello", "--messages [TMP]/chat.json", "--tokens [TMP]/ids.json"] {
        let e = tmp.refocus(&format!("model generate {GGUF} {other} --system the")).output().expect("run");
        let told = String::from_utf8_lossy(&e.stderr);
        assert_eq!(e.status.code(), Some(2), "{other}");
        assert!(told.contains("cannot be used with") && told.contains("'--system <STR>'"), "{told}");
    }
    let tools = format!("model generate {GGUF} --message hello --tools [TMP]/tools.json");
    refused(tmp.refocus(&tools)).stderr_eq(str![[r#"
error: [..]: the chat template has no place for tools
hint: leave --tools out, or put them into the system message

"#]]);
}

#[test]
fn messages_need_a_template_and_a_form() {
    refused(refocus_args(&["model", "generate", GGUF, "--messages", "-"]).stdin("{}")).stderr_eq(str![[r#"
error: standard input: not a JSON list of messages, objects with role and content
cause: invalid type: map, expected a sequence at line 1 column 0

"#]]);
    refused(refocus_args(&["model", "generate", GGUF, "--messages", "-"]).stdin("[1]")).stderr_eq(str![[
        r#"
error: [..]message 0 is no object

"#
    ]]);
    refused(refocus_args(&["model", "generate", "fixtures/gpt2", "--message", "a"]));
    refused(refocus_args(&["model", "generate", GGUF, "--message", "a", "--text", "b"]));
}
