//! What a model is asked, as text, ids and labels. Nothing here knows of models.

pub mod classify;
pub mod flipflop;
mod nearest;
pub mod recall;
