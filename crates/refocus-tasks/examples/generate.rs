//! How fast strings are drawn: `cargo run --release -p refocus-tasks --example generate [SET] [STRINGS]`
//! prints millions of symbols a second on one core, as ids and as text, and beside them what no way of
//! drawing them can do without: random words alone, and bytes alone.
//!
//! A string of `FFL(T, p)` takes one word for two symbols: an eighth of a Philox block of ten rounds a
//! symbol, and 4 bytes written as ids, 1 as text.

use std::hint::black_box;
use std::time::Instant;

use refocus_compute::{Philox, Purpose, TILE};
use refocus_tasks::flipflop::{Set, Split};

fn rate(what: &str, tokens: usize, strings: u32, mut each: impl FnMut(u32)) {
    let start = Instant::now();
    for i in 0..strings {
        each(i);
    }
    let rate = tokens as f64 * f64::from(strings) / start.elapsed().as_secs_f64();
    println!("{what:<13} {:7.0} million symbols/s", rate / 1e6);
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "in".to_owned());
    let strings: u32 = args.next().map_or(Ok(200_000), |n| n.parse())?;
    let set = Set::named(&name).ok_or_else(|| format!("no set is called '{name}'"))?;
    let language = set.language()?;
    let (tokens, family) = (language.tokens(), language.family().name());
    println!("{name} ({family}), {strings} strings of {tokens} symbols");
    let (mut ids, mut text) = (Vec::new(), Vec::new());
    rate("ids", tokens, strings, |i| {
        ids.clear();
        language.append(1, Split::Test, 0, i, &mut ids);
        black_box(&ids);
    });
    language.append_text(1, Split::Test, 0, 0, &mut text)?;
    rate("text", tokens, strings, |i| {
        text.clear();
        let written = language.append_text(1, Split::Test, 0, i, &mut text);
        debug_assert!(written.is_ok());
        black_box(&text);
    });
    let (rng, tiles) = (Philox::new(1, Purpose::new("floor")), tokens.div_ceil(8 * TILE));
    rate("words alone", tokens, strings, |i| {
        for t in 0..tiles {
            black_box(rng.tile::<TILE>(0, i, (t * TILE) as u32));
        }
    });
    rate("bytes alone", tokens, strings, |i| {
        ids.clear();
        ids.resize(tokens, i);
        black_box(&ids);
    });
    Ok(())
}
