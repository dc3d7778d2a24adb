//! Writes a model as a folder from parameters in memory, with a configuration made from its specification
//! alone: `cargo run -p refocus-model --example export MODEL DIR`. `fixtures/check_convert.py` checks with it
//! that `transformers` reads such configurations.

use std::error::Error;

use refocus_model::export::Export;
use refocus_model::{Checkpoint, Params};

fn main() -> Result<(), Box<dyn Error>> {
    let [model, dir] = std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "MODEL DIR")?;
    let checkpoint = Checkpoint::open(&model)?;
    let params = Params::read(&checkpoint)?;
    let mut export = Export::new(params.spec(), &params)?;
    export.beside(checkpoint.beside()?).write(dir.as_ref(), false, &mut |_, _| {})?;
    Ok(())
}
