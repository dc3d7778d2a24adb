use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use snapbox::str;

use crate::support::{Tmp, refocus, refused, root};

#[test]
fn a_model_or_another_server_is_needed() {
    refused(refocus("serve")).stderr_eq(str![[r#"
error: there is nothing to serve
hint: name a model with --model, or another server with --upstream

"#]]);
    refused(refocus("serve --upstream localhost:8000")).stderr_eq(str![[r#"
error: 'localhost:8000' is no address of a server: it has to begin with http:// or https://

"#]]);
    refused(refocus("serve --upstream http://h").env("REFOCUS_UPSTREAM_KEY", "a b\nc")).stderr_eq(str![[
        r#"
error: REFOCUS_UPSTREAM_KEY: API key 1 has a character that a header cannot hold

"#
    ]]);
}

#[test]
fn flags_of_a_model_where_the_environment_names_another_server() {
    for flag in ["--patch p.toml", "--name n"] {
        let refused = refused(refocus(&format!("serve {flag}")).env("REFOCUS_UPSTREAM", "http://h"));
        let told = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
        let flag = flag.split(' ').next().expect("a flag");
        let wanted = format!("error: {flag} is for a model on this machine, and none is named\n");
        assert!(told.starts_with(&wanted) && told.contains("REFOCUS_UPSTREAM"), "{told}");
    }
}

#[test]
fn settings_of_a_proxy_with_a_slip() {
    let tmp = Tmp::new("serve-proxy-settings");
    tmp.write("s.toml", "[proxy]\nupstream = \"http://h\"\n[proxy.system2]\nvariant = \"best\"\n");
    refused(tmp.refocus("serve --config [TMP]/s.toml")).stderr_eq(str![[r#"
error: system2.variant: there is no 'best'; there are objectivity, relevance, single, keep_original, no_instruction, extractive, scored

"#]]);
    tmp.write("s.toml", "[proxy]\nupstream_key = \"sk-secret\"\n");
    let refused = refused(tmp.refocus("serve --config [TMP]/s.toml"));
    let told = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(
        told.contains("unknown field `upstream_key`, expected one of `upstream`, `upstream_key_file`"),
        "{told}"
    );
}

#[test]
fn settings_with_a_slip() {
    let tmp = Tmp::new("serve-settings");
    tmp.write("s.toml", "listen = \"127.0.0.1:0\"\n[local]\nsequence = 4\n");
    refused(tmp.refocus("serve --model fixtures/overthinking --config [TMP]/s.toml")).stderr_eq(str![[r#"
error: [TMP]/s.toml: line 3: unknown field `sequence`, expected one of `name`, `sequences`, `requests`, `cache_bytes`, `chunk`, `heartbeat_ms`

"#]]);
    tmp.write("s.toml", "api_keys_file = \"none.txt\"\n");
    refused(tmp.refocus("serve --model fixtures/overthinking --config [TMP]/s.toml")).stderr_eq(str![[r#"
error: [TMP]/none.txt: the API keys cannot be read
cause: No such file or directory (os error 2)

"#]]);
    refused(refocus("serve --model fixtures/overthinking").env("REFOCUS_LISTEN", "here")).stderr_eq(str![[
        r#"
error: REFOCUS_LISTEN="here": an address and a port are needed, such as 127.0.0.1:8080

"#
    ]]);
}

#[test]
fn a_model_without_a_tokenizer() {
    refused(refocus("serve --model fixtures/gpt2 --listen 127.0.0.1:0")).stderr_eq(str![[r#"
error: fixtures/gpt2: tokenizer: there is no tokenizer.json, and no vocab.json with merges.txt

"#]]);
}

#[test]
fn a_port_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let args = format!("serve --model fixtures/overthinking --listen 127.0.0.1:{port}");
    refused(refocus(&args)).stderr_eq(str![[r#"
error: cannot listen on 127.0.0.1:[..]
cause: Address already in use (os error 98)
hint: another program has this port: give another with --listen; 0 takes one that is free

"#]]);
}

/// The program until it is told to stop.
pub struct Running {
    child: Child,
    pub url: String,
}

impl Running {
    fn start(more: &[&str]) -> Self {
        Self::of("fixtures/overthinking", more)
    }

    pub fn of(model: &str, more: &[&str]) -> Self {
        let mut command = Command::new(snapbox::cmd::cargo_bin!("refocus"));
        command.args(["serve", "--model", model, "--listen", "127.0.0.1:0", "--json"]);
        command.args(["--threads", "1"]).args(more).current_dir(root());
        command.env_remove("REFOCUS_API_KEYS").env_remove("REFOCUS_LISTEN");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        let mut text = String::new();
        let mut lines = BufReader::new(child.stdout.as_mut().expect("piped"));
        while !text.ends_with("}\n") {
            assert_ne!(lines.read_line(&mut text).expect("reads"), 0, "ended after {text:?}");
        }
        let document: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(document["schema"], "refocus.serve/1");
        let url = document["url"].as_str().expect("a URL").to_owned();
        Self { child, url }
    }

    /// Sends a completion on a connection of its own; the answer comes later.
    fn ask(&self, body: &Value) -> TcpStream {
        let address = self.url.strip_prefix("http://").and_then(|u| u.strip_suffix("/v1")).expect("a URL");
        let mut stream = TcpStream::connect(address).expect("connects");
        let body = body.to_string();
        let head = format!(
            "POST /v1/completions HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).expect("sends");
        stream
    }

    /// Stops it as a terminal or a supervisor does; its exit code and what it said.
    fn stop(mut self, signal: &str) -> (Option<i32>, String) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().expect("kill").success());
        let code = self.child.wait().expect("ends").code();
        let mut said = String::new();
        self.child.stderr.take().expect("piped").read_to_string(&mut said).expect("reads");
        (code, said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test that failed leaves nobody behind.
        let _ = self.child.kill();
    }
}

fn answer(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("a whole answer");
    text
}

#[test]
fn it_answers_and_stops_when_told() {
    for signal in ["-TERM", "-INT"] {
        let running = Running::start(&["--name", "tiny"]);
        let body = json!({"model": "tiny", "prompt": "Once", "max_tokens": 5, "temperature": 0});
        let got = answer(running.ask(&body));
        assert!(got.starts_with("HTTP/1.1 200 OK\r\n"), "{got}");
        let document: Value =
            serde_json::from_str(got.split("\r\n\r\n").nth(1).expect("a body")).expect("JSON");
        assert_eq!(document["usage"]["completion_tokens"], 5);
        // The command line says the same of the same model.
        let said = refocus("model generate fixtures/overthinking --text Once --max-new 5 --json");
        let said: Value = serde_json::from_slice(&said.assert().success().get_output().stdout).expect("JSON");
        assert_eq!(document["choices"][0]["text"], said["sequences"][0]["text"]);
        assert_eq!(running.stop(signal), (Some(0), String::new()));
    }
}

#[test]
fn an_answer_under_way_ends_before_the_server_does() {
    let running = Running::start(&[]);
    let body = json!({"model": "overthinking", "prompt": "Once", "max_tokens": 300, "stream": true, "logit_bias": {"0": -100}});
    let mut stream = running.ask(&body);
    let mut first = [0; 12];
    stream.read_exact(&mut first).expect("it begins");
    assert_eq!(&first, b"HTTP/1.1 200");
    assert_eq!(running.stop("-TERM").0, Some(0));
    assert!(answer(stream).contains("data: [DONE]\n\n"));
}

#[test]
fn a_patch_is_served() {
    let tmp = Tmp::new("serve-patch");
    tmp.write("p.toml", "[[intervention]]\nat = \"blocks.*.attn.hook_z\"\ndo = \"zero\"\n");
    let path = tmp.path("p.toml");
    let running = Running::start(&["--patch", path.to_str().expect("UTF-8")]);
    let body = json!({"model": "overthinking", "prompt": "Once", "max_tokens": 8, "temperature": 0});
    let got = answer(running.ask(&body));
    let document: Value = serde_json::from_str(got.split("\r\n\r\n").nth(1).expect("a body")).expect("JSON");
    let args = "model generate fixtures/overthinking --text Once --max-new 8 --json --patch [TMP]/p.toml";
    let said: Value =
        serde_json::from_slice(&tmp.refocus(args).assert().success().get_output().stdout).expect("JSON");
    assert_eq!(document["choices"][0]["text"], said["sequences"][0]["text"]);
    assert_eq!(running.stop("-INT").0, Some(0));
}
