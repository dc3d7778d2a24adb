//! The doctor on the fixtures.

use refocus_model::Checkpoint;
use refocus_model::doctor::doctor;

use crate::expected::{all, isa, tokens};

#[test]
fn the_doctor_finds_every_fixture_sound() {
    for (name, path) in all() {
        let checkpoint = Checkpoint::open(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        let checks = doctor(&checkpoint, &tokens(&path), isa(), 2, |_| {}).expect("runs");
        assert!(checks.len() >= 12, "{name}: {} checks", checks.len());
        for c in checks {
            assert_ne!(c.passed, Some(false), "{name}: {}: {}", c.name, c.detail);
        }
    }
}
