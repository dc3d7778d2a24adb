//! Fetching a model from a hub, told to a person.

use std::path::PathBuf;

use refocus_hub::{Event, Hub, HubError, ModelId, Settings};

use crate::printer::Printer;
use crate::table;

/// The files of a model, fetched where they are not in the cache.
pub(crate) fn fetch(id: &ModelId, printer: &Printer) -> Result<PathBuf, HubError> {
    let bar = printer.bytes_bar();
    let note = |text: String| bar.suspend(|| printer.note(&text));
    let detail = |text: String| bar.suspend(|| printer.detail(&text));
    // What is there already says nothing about the time that the rest takes.
    let mut resumed = false;
    let mut watch = |event: Event<'_>| match event {
        Event::Stale { id, commit, why } => {
            note(format!("{why}; {id} is used as it was last fetched, commit {commit}"));
        }
        Event::Offline { id, commit, variable } => {
            detail(format!("{variable} is set; {id} is used as it was last fetched, commit {commit}"));
        }
        Event::Earlier { id, commit } => {
            note(format!("{} was fetched earlier and needs no hub", id.at(commit)));
        }
        Event::Plan { id, commit, files, bytes } => {
            let plural = if files == 1 { "" } else { "s" };
            note(format!("fetching {files} file{plural} of {}, {}, commit {commit}", id.repo(), size(bytes)));
            bar.inc_length(bytes);
        }
        Event::File(file) => bar.set_message(file.to_owned()),
        Event::Bytes(n) => {
            bar.inc(n);
            if std::mem::take(&mut resumed) {
                bar.reset_eta();
            }
        }
        Event::Lost(n) => bar.set_position(bar.position().saturating_sub(n)),
        Event::Resumed { file, at } => {
            resumed = true;
            note(format!("going on with {file} after {}", size(at)));
        }
        Event::Waiting { file } => note(format!("waiting for another process that fetches {file}")),
        Event::Retry { why, pause } => {
            note(format!("{why}; trying again in {:.1} s", pause.as_secs_f64()));
        }
        _ => {}
    };
    let fetched = Hub::new(Settings::from_env()?).fetch(id, &mut watch);
    bar.finish_and_clear();
    let fetched = fetched?;
    printer.detail(&format!("{id} is commit {}", fetched.commit));
    Ok(fetched.path)
}

fn size(bytes: u64) -> String {
    table::bytes(usize::try_from(bytes).unwrap_or(usize::MAX))
}
