//! What a model is asked, as text, ids and labels. Nothing here knows of models.

pub mod arguments;
pub mod arithmetic;
pub mod classify;
pub mod flipflop;
pub mod harm;
pub mod opinions;
pub mod planted;
mod nearest;
pub mod recall;
pub mod spurious;
