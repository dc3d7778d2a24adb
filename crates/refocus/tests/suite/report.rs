//! `refocus report`: what it refuses.

use crate::support::{refocus, refused};
use snapbox::str;

#[test]
fn a_folder_without_a_run_is_named() {
    refused(refocus("report no/such/folder")).stderr_eq(str![[r#"
error: no/such/folder: there is no such folder

"#]]);
    refused(refocus("report fixtures/README.md")).stderr_eq(str![[r#"
error: fixtures/README.md: not a folder
hint: give the folder that a study wrote with --out

"#]]);
    refused(refocus("report fixtures")).stderr_eq(str![[r#"
error: fixtures: no results of a run: it has no run.json

"#]]);
}
