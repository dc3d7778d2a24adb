//! The page and its charts, from tables made up for the purpose.

mod made_up;
mod made_up_recall;
mod made_up_system2;
mod page;
