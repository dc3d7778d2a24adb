//! The page and its charts, from tables made up for the purpose.

mod made_up;
mod page;
