//! Commands that ask a model behind a server: our own server with a tiny model, and one that fails.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;

use refocus_results::StoredRun;
use refocus_results::system2::Judged;
use serde_json::Value;
use snapbox::str;

use crate::serve::Running;
use crate::support::{Tmp, refocus, refused, root};

/// A folder with the tiny model and a chat template, which a server needs and a local run then uses too.
fn model(tmp: &Tmp) -> String {
    let from = root().join("fixtures/overthinking");
    std::fs::create_dir_all(tmp.path("tiny")).expect("folder");
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(from.join(name), tmp.path("tiny").join(name)).expect("copy");
    }
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}\
                    {% if add_generation_prompt %}assistant:{% endif %}";
    tmp.write("tiny/chat_template.jinja", template);
    tmp.path("tiny").to_str().expect("UTF-8").to_owned()
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")
}

#[test]
fn an_evaluation_over_http_says_what_the_local_one_says() {
    let tmp = Tmp::new("upstream-eval");
    let model = model(&tmp);
    let running = Running::of(&model, &["--name", "tiny"]);
    let more = "--suites facts,harm --arms oracle,baseline,extractive --items 4 -q";
    tmp.refocus(&format!("system2 eval {model} {more} --threads 1 --out [TMP]/here")).assert().success();
    let there = format!("system2 eval --upstream {} --model tiny {more} --out [TMP]/there", running.url);
    tmp.refocus(&there).assert().success();
    let (mut replies, mut asked) = (0, 0);
    for suite in ["facts", "harm"] {
        for at in 0..4 {
            let of =
                |run: &str| read(&tmp.path(&format!("{run}/answers/{suite}/{at:05}.json")))["arms"].clone();
            let (here, there) = (of("here"), of("there"));
            for (arm, record) in there.as_object().expect("arms") {
                let local = &here[arm];
                // Below the floor an arm is not asked.
                if local.is_null() {
                    continue;
                }
                for field in ["reply", "text", "reason", "removed"] {
                    assert_eq!(
                        record["rewriting"][field], local["rewriting"][field],
                        "{suite} {at} {arm} {field}"
                    );
                }
                replies += usize::from(record["rewriting"]["reply"].is_string());
                let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
                let numbers =
                    |value: &Value| list(value).iter().filter_map(Value::as_f64).collect::<Vec<_>>();
                for (a, b) in
                    list(&record["rewriting"]["judged"]).iter().zip(list(&local["rewriting"]["judged"]))
                {
                    assert!((a[2].as_f64().expect("a score") - b[2].as_f64().expect("a score")).abs() < 1e-4);
                }
                // Behind the frame a text is as likely as here, and no likelier than is told.
                let frame = local["answered"]["frame"].as_f64().unwrap_or(0.0);
                let most = numbers(&record["answered"]["most"]);
                let told = numbers(&record["answered"]["scores"]);
                for (i, here) in numbers(&local["answered"]["scores"]).iter().enumerate().take(told.len()) {
                    let here = here - frame;
                    let most = most.get(i).copied().unwrap_or(told[i]);
                    assert!(here <= most + 0.05, "{suite} {at} {arm}: {here} {most}");
                    // A random model holds no option likely, so bounds are most of what is told of it.
                    assert!(most - told[i] > 0.01 || (here - told[i]).abs() < 0.02, "{here} {}", told[i]);
                }
                if local["answered"].is_object() {
                    asked += 1;
                    let untold = record["untold"] == true && record["failed"].is_string();
                    assert!(record["answered"].is_object() != untold, "{suite} {at} {arm}: {record}");
                }
            }
        }
    }
    assert!(replies > 0 && asked > 8, "{replies} {asked}");
    let document = read(&tmp.path("there/system2.json"));
    assert_eq!((&document["fingerprint"], &document["model"]), (&Value::Null, &"tiny".into()));
    assert_eq!(document["served"]["choosing"], "log_probabilities");
    assert!(document["served"]["left_out"].to_string().contains("block_edge"), "{document}");
    assert!(document["served"]["fingerprints"][0].is_string(), "{document}");
    // A server that is gone costs nothing that was answered.
    let url = running.url.clone();
    drop(running);
    let more_items = there.replace("--items 4", "--items 5");
    let told =
        refused(tmp.refocus(&format!("{more_items} --upstream-timeout 1"))).get_output().stderr.clone();
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(told.starts_with("error: tiny: "), "{told}");
    assert!(!told.contains(&url), "{told}");
    assert_eq!(read(&tmp.path("there/system2.json")), document);
}

#[test]
fn a_probe_over_http_says_what_the_local_one_says() {
    let tmp = Tmp::new("upstream-probe");
    let running = Running::of("fixtures/overthinking", &["--name", "tiny"]);
    let more = "--lengths 10 --p-ignore 0.1 --count 12 --json";
    let probe = |args: String| -> Value {
        let out = tmp.refocus(&args).assert().success().get_output().stdout.clone();
        serde_json::from_slice(&out).expect("JSON")
    };
    let here = probe(format!("flipflop probe fixtures/overthinking {more} --threads 1"));
    let there =
        probe(format!("flipflop probe --upstream {} --model tiny {more} --out [TMP]/p.json", running.url));
    for (here, there) in
        here["points"].as_array().expect("points").iter().zip(there["points"].as_array().expect("points"))
    {
        for field in ["form", "strings", "copy_last", "rule", "majority"] {
            assert_eq!(here[field], there[field], "{field}: {there}");
        }
        // A random model holds neither answer likely, so some stay undecided; what is decided is decided alike.
        let count = |value: &Value| value.as_u64().expect("a count");
        let (right, sure, open) =
            (count(&here["right"]), count(&there["right"]), count(&there["told"]["undecided"]));
        assert!(sure <= right && right <= sure + open && open < 12, "{here} {there}");
        assert_eq!(there["told"]["by"], "log_probabilities");
        assert_eq!(there["attention"], Value::Array(Vec::new()));
    }
    assert_eq!(read(&tmp.path("p.json")), there);
}

#[test]
fn a_rewrite_over_http_is_the_local_one() {
    let running = Running::of("fixtures/gguf-llama-q8_0/model.gguf", &["--name", "tiny"]);
    let text = "Ann has 3 cups. I think Bob is odd. How many cups has Ann?";
    let ask = ["rewrite", "--upstream", &running.url, "--model", "tiny", text, "--variant", "objectivity"];
    let out = crate::support::refocus_args(&ask).assert().success().get_output().clone();
    let here =
        ["rewrite", "--model", "fixtures/gguf-llama-q8_0/model.gguf", text, "--variant", "objectivity"];
    let here = crate::support::refocus_args(&here).assert().success().get_output().clone();
    assert_eq!(String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&here.stdout));
}

/// A server that writes the first option it is given in capitals, tells no log-probabilities, and judges.
fn in_words() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut bytes = Vec::new();
            let mut part = [0; 4096];
            // One request a connection; its body is as long as it says.
            let body = loop {
                let Ok(n) = stream.read(&mut part) else { break Value::Null };
                bytes.extend_from_slice(&part[..n]);
                let text = String::from_utf8_lossy(&bytes);
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
                if body.len() >= length.unwrap_or(0) {
                    break serde_json::from_str(body).unwrap_or_default();
                }
            };
            let asked =
                body["messages"].as_array().and_then(|m| m.last()?["content"].as_str()).unwrap_or_default();
            let listed = asked.rsplit_once("nothing else: ").and_then(|(_, l)| l.split(';').next());
            let said = match (listed, asked.contains("from -5")) {
                (Some(option), _) => option.to_uppercase(),
                (_, true) => if asked.starts_with("Reply:") { "3" } else { "2" }.to_owned(),
                _ if asked.contains("from 1 (useless)") => "4/5".to_owned(),
                _ => "A fine argument.".to_owned(),
            };
            let answer = serde_json::json!({
                "data": [{"id": "first"}, {"id": "second"}],
                "choices": [{"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 9, "completion_tokens": 2},
            })
            .to_string();
            let head =
                format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", answer.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(answer.as_bytes()));
        }
    });
    format!("http://{address}/v1")
}

#[test]
fn without_log_probabilities_options_are_named_in_words_and_the_rest_is_left_out_by_name() {
    let tmp = Tmp::new("upstream-words");
    let url = in_words();
    let run = format!(
        "system2 eval --upstream {url} --model m --suites facts,spurious --arms oracle,baseline,scored --items 6 --out [TMP]/run"
    );
    let told = tmp
        .refocus(&run)
        .env("REFOCUS_UPSTREAM_KEY", "sk-very-secret")
        .assert()
        .success()
        .get_output()
        .clone();
    let said = String::from_utf8_lossy(&told.stderr).into_owned() + &String::from_utf8_lossy(&told.stdout);
    assert!(
        said.contains("arm scored (no log-probabilities); suite spurious (made of log-probabilities)"),
        "{said}"
    );
    assert!(said.contains("options are named in words"), "{said}");
    let document = read(&tmp.path("run/system2.json"));
    assert_eq!(document["served"]["choosing"], "words");
    let record = read(&tmp.path("run/answers/facts/00000.json"));
    let answered = &record["arms"]["oracle"]["answered"];
    assert!(answered["reply"].is_string() && answered["scores"] == Value::Array(Vec::new()), "{answered}");
    for file in ["run/system2.json", "run/config.json", "run/answers/facts/00000.json"] {
        assert!(!std::fs::read_to_string(tmp.path(file)).expect("a file").contains("sk-very-secret"));
    }
    assert!(!said.contains("sk-very-secret"));
    refused(tmp.refocus(&run.replace("facts,spurious", "spurious"))).stderr_eq(str![[r#"
error: nothing that was asked for can be had from this server
hint: it does not give: [..]suite spurious (made of log-probabilities)

"#]]);
}

#[test]
fn a_judge_is_asked_in_both_orders_and_the_table_says_which_it_is() {
    let tmp = Tmp::new("upstream-judge");
    let url = in_words();
    let run = format!(
        "system2 eval fixtures/overthinking --suites arguments --arms oracle,baseline --items 5 --look 0 --out [TMP]/run \
         --threads 1 --judge {url} --table [TMP]/page.md"
    );
    let out = tmp.refocus(&run).assert().success().get_output().stdout.clone();
    let out = String::from_utf8_lossy(&out).into_owned();
    assert!(out.contains("arguments, judged by first at http://127.0.0.1:"), "{out}");
    let document = read(&tmp.path("run/system2.json"));
    let arm = &document["judged"]["arms"][1];
    assert_eq!((&arm["arm"], &arm["quality"]["value"]), (&"baseline".into(), &4.0.into()), "{arm}");
    assert_eq!(
        (&arm["sentiment"]["value"], &arm["objectivity"]["value"], &arm["orders"]),
        (&2.5.into(), &2.5.into(), &serde_json::json!([0.0, 1.0]))
    );
    let page = std::fs::read_to_string(tmp.path("page.md")).expect("a page");
    assert!(page.contains("## arguments, by a judge"), "{page}");
    let stored = StoredRun::open(&tmp.path("run")).expect("a run");
    let rows: Vec<Judged> = stored.rows().expect("read").expect("judged");
    assert_eq!(
        (rows[1].arm.as_str(), rows[1].quality, rows[1].sentiment),
        ("baseline", Some(4.0), Some(2.5))
    );
    assert!(stored.info().configuration["judge"].as_str().is_some_and(|j| url.starts_with(j)));
    refused(tmp.refocus(&run.replace("arguments", "facts"))).stderr_eq(str![[r#"
error: --judge is for the suite arguments
hint: add arguments to --suites

"#]]);
}

#[test]
fn what_is_missing_is_told_before_anything_is_asked() {
    refused(refocus("system2 eval --upstream http://127.0.0.1:9/v1?key=hunter2 --out x")).stderr_eq(str![[
        r#"
error: --upstream needs the name of a model
hint: give --model NAME, one of those that http://127.0.0.1:9/v1/models lists

"#
    ]]);
    refused(refocus("rewrite --upstream ftp://me:hunter2@h --model m text")).stderr_eq(str![[r#"
error: "h" is no base URL: a key does not belong into it; give it in a file or in the environment

"#]]);
    refused(refocus("rewrite --upstream http://h --model m --score-by need text")).stderr_eq(str![[r#"
error: --score-by is for --variant scored
hint: add --variant scored

"#]]);
    refused(refocus("flipflop probe --upstream http://h --upstream-key-file no-such-file --model m"))
        .stderr_eq(str![[r#"
error: no-such-file: the API keys cannot be read
cause: No such file or directory (os error 2)

"#]]);
}
