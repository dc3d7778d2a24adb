//! What clients of OpenAI's interface send, read field by field, so that an error names the field; and what they
//! are answered. Nothing is dropped in silence: a field that changes an answer and is not supported is refused.

mod chat;
mod completion;
mod fields;
mod messages;
mod reply;
mod shared;
mod tools;

pub use self::chat::{ChatRequest, Format};
pub use self::completion::{CompletionRequest, Prompt};
pub(crate) use self::reply::Piece;
pub use self::reply::{Choice, Likely, Reply, Shape, TokenLogprob, UsageCount};
pub use self::shared::Shared;
pub(crate) use self::tools::{CLOSE, OPEN, Said};
pub use self::tools::{Calls, ToolCall, ToolChoice, Tools};
