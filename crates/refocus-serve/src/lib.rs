//! One server, two sources: [`local`] answers from a model on this machine, [`proxy`] passes requests on to another
//! OpenAI-compatible server and loses nothing on the way. The only crate with an asynchronous runtime.

pub mod body;
pub mod client;
pub mod config;
pub mod error;
mod exchange;
pub mod keys;
pub mod local;
pub mod metrics;
pub mod openai;
mod patient;
pub mod proxy;
pub mod server;
mod tls;

pub use client::HttpChat;
pub use tls::TlsError;
