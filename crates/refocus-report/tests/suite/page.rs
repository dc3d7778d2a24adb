//! The page is well-formed, complete, and needs nothing but itself.

use roxmltree::{Document, Node, ParsingOptions};

use crate::made_up::{Tmp, flipflop, info, overthinking};
use crate::made_up_recall::recall;
use crate::made_up_system2::system2;
use refocus_report::{compare, page};
use refocus_results::{Column, Kind, Record, RunFolder, Schema, StoredRun, Table};

const LIMIT: usize = 2 << 20;

/// Parses the page as XML: every tag is closed, every attribute quoted, every text escaped.
fn check(html: &str) -> Vec<String> {
    assert!(html.len() < LIMIT, "{} bytes", html.len());
    let html = html.trim_start();
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    let document = Document::parse_with_options(html, options).expect("a well-formed page");
    let mut ids = Vec::new();
    for node in document.descendants().filter(Node::is_element) {
        let name = node.tag_name().name();
        assert!(!matches!(name, "script" | "link" | "img" | "iframe" | "object"), "{name}");
        for a in node.attributes() {
            let ours = matches!(a.name(), "href" | "src" | "xlink:href");
            assert!(!ours || a.value().starts_with('#'), "refers to {}", a.value());
            assert!(!a.name().starts_with("on"), "{}", a.name());
            assert!(!a.value().contains("NaN") && !a.value().contains("inf"), "{}={}", a.name(), a.value());
        }
        if name == "svg" {
            let first: Vec<&str> =
                node.children().filter(Node::is_element).take(2).map(|n| n.tag_name().name()).collect();
            assert_eq!(first, ["title", "desc"]);
            assert_eq!(node.attribute("role"), Some("img"));
            inside(node);
        }
        if let Some(id) = node.attribute("id") {
            assert!(!ids.contains(&id.to_owned()), "{id} twice");
            ids.push(id.to_owned());
        }
    }
    for a in document.descendants().filter_map(|n| n.attribute("href")) {
        assert!(ids.iter().any(|id| a == format!("#{id}")), "{a} leads nowhere");
    }
    assert!(!html.contains("url(") && !html.contains("@import"));
    ids
}

/// Everything that has a place is inside the drawing.
fn inside(svg: Node<'_, '_>) {
    let size: Vec<f64> =
        svg.attribute("viewBox").expect("viewBox").split(' ').map(|x| x.parse().expect("number")).collect();
    for node in svg.descendants() {
        for (names, most) in [(["x", "x1", "x2", "cx"], size[2]), (["y", "y1", "y2", "cy"], size[3])] {
            for name in names {
                let Some(at) = node.attribute(name) else { continue };
                let at: f64 = at.parse().expect("number");
                assert!((-0.1..=most + 0.1).contains(&at), "{name} {at} of {most}");
            }
        }
    }
}

#[test]
fn an_overthinking_page_has_every_section() {
    let dir = Tmp::new("over");
    let html = page(&overthinking(&dir.0, "models/a-model.gguf", 1.0)).expect("page");
    let ids = check(&html);
    let want =
        ["main", "summary", "curves", "heads", "repairs", "claims", "examples", "method", "provenance"];
    assert_eq!(ids, want);
    for said in [
        "a-model: what false demonstrations do",
        "lower accuracy on 2 of 2 tasks. The largest loss is on toy: from 80.0 % with true labels to 40.0 %",
        "no loss of accuracy is shown on any of 1 task",
        "a &#60;warm&#62; &#38; lovely film",
        "Of 3 claims put to the test, 2 held, 0 did not and 1 could not be tested.",
    ] {
        assert!(html.contains(said), "{said}");
    }
    // The same tables, the same page.
    assert_eq!(html, page(&StoredRun::open(&dir.0).expect("open")).expect("again"));
}

#[test]
fn a_flip_flop_page_has_every_section() {
    let dir = Tmp::new("flip");
    let html = page(&flipflop(&dir.0)).expect("page");
    assert_eq!(check(&html), ["main", "summary", "claims", "training", "distance", "provenance"]);
    assert!(html.contains("Set in: no error, 3 ways of training, any seed."), "summary");
}

#[test]
fn a_recall_page_shows_what_happens_inside() {
    let dir = Tmp::new("recall-page");
    let html = page(&recall(&dir.0)).expect("page");
    let ids = check(&html);
    for id in ["summary", "heads", "mlp", "shots", "last", "repairs", "provenance"] {
        assert!(ids.iter().any(|x| x == id), "{id} is missing");
    }
    // A map of each form in six ways, of 270 heads each.
    assert_eq!(html.matches("A map of 270 heads").count(), 12);
    assert!(html.contains("Heads that the paper names") && html.contains("as warm: intercept_0.75"));
    assert!(html.contains("Does &#60;something&#62; &#38; more."));
}

#[test]
fn a_page_of_system_2_attention_says_what_the_verdicts_carry() {
    let dir = Tmp::new("system2-page");
    let html = page(&system2(&dir.0)).expect("page");
    let ids = check(&html);
    for id in ["summary", "suites", "rewriting", "attention", "judged", "provenance"] {
        assert!(ids.iter().any(|x| x == id), "{id} is missing");
    }
    assert!(
        html.contains("facts, capitals: help: objectivity; do not help: scored; of 1 arm it cannot be told.")
    );
    assert!(html.contains(
        "ladder, sums: nothing can be tested (floor: &#60;low&#62;). It was stopped before its end."
    ));
    // A number that is missing is none.
    assert!(html.contains("50.0 % [40.0 %, 60.0 %], 20 of 40") && html.contains("–"));
}

#[test]
fn two_runs_stand_side_by_side() {
    let (a, b, c) = (Tmp::new("a"), Tmp::new("b"), Tmp::new("c"));
    let (x, y) = (overthinking(&a.0, "base", 1.0), overthinking(&b.0, "tuned", 0.5));
    let html = compare(&x, &y).expect("page");
    let ids = check(&html);
    assert_eq!(ids[..3], ["main", "beside", "summary"]);
    assert!(html.contains("base beside tuned"));
    let error = compare(&x, &flipflop(&c.0)).expect_err("two studies").to_string();
    assert!(error.contains("is a run of overthinking") && error.ends_with("one of flipflop"), "{error}");
}

#[test]
fn only_what_is_there_is_shown() {
    let dir = Tmp::new("some");
    let all = overthinking(&dir.0, "base", 1.0);
    let some = Tmp::new("less");
    let mut run = RunFolder::create(&some.0, info("overthinking/1", None)).expect("create");
    for name in ["settings", "heads"] {
        run.write_table(&all.table(name).expect("read").expect("table")).expect("write");
    }
    let html = page(&StoredRun::open(&some.0).expect("open")).expect("page");
    assert_eq!(check(&html), ["main", "summary", "heads", "method", "provenance"]);
}

#[test]
fn a_run_without_tables_is_refused() {
    let dir = Tmp::new("none");
    let mut run = RunFolder::create(&dir.0, info("overthinking/1", None)).expect("create");
    let error = page(&StoredRun::open(&dir.0).expect("open")).expect_err("no tables").to_string();
    assert!(error.ends_with("the run has no table that a page can show"), "{error}");
    let column = Column {
        name: "x".to_owned(),
        kind: Kind::Real,
        optional: false,
        unit: String::new(),
        about: String::new(),
    };
    let schema = Schema { name: "other".to_owned(), version: 1, about: String::new(), columns: vec![column] };
    run.write_table(&Table::new(schema.clone())).expect("write");
    let error = page(&StoredRun::open(&dir.0).expect("open")).expect_err("no tables").to_string();
    assert!(error.ends_with("; it has other"), "{error}");
    let claims = Schema { name: refocus_results::overthinking::Claim::schema().name, ..schema };
    run.write_table(&Table::new(claims)).expect("write");
    let error = page(&StoredRun::open(&dir.0).expect("open")).expect_err("another schema").to_string();
    assert!(error.contains("a table of another schema"), "{error}");
}
