//! What a model is asked, as text, ids and labels. Nothing here knows of models.

pub mod arguments;
pub mod arithmetic;
pub mod classify;
pub mod flipflop;
pub mod harm;
mod nearest;
pub mod opinions;
pub mod planted;
pub mod recall;
pub mod spurious;
pub mod world;
