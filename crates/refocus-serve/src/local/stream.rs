//! An answer as a stream of events, made while the engine works. When its client goes away the stream is
//! dropped, and with it the channel that the engine looks at.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::answer::Writer;
use super::engine::{Stop, Update};
use crate::error::ApiError;
use crate::openai::{Piece, Reply, UsageCount};

/// A comment goes out where nothing else does for so long: whoever is between would close the connection.
const QUIET: Duration = Duration::from_secs(15);

/// The body of a streamed answer.
pub(super) struct Events {
    updates: UnboundedReceiver<Update>,
    reply: Reply,
    writers: Vec<Writer>,
    /// Choices that have not ended.
    left: usize,
    prompt: usize,
    out: BytesMut,
    over: bool,
    quiet: Interval,
    stop: Stop,
}

impl Events {
    /// `echoes`: for each choice the text before its first token; `prompt`: tokens of all prompts.
    pub(super) fn new(
        updates: UnboundedReceiver<Update>,
        reply: Reply,
        writers: Vec<Writer>,
        echoes: &[String],
        prompt: usize,
        stop: Stop,
    ) -> Self {
        let mut quiet = interval_at(Instant::now() + QUIET, QUIET);
        quiet.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut out = BytesMut::new();
        for index in 0..writers.len() {
            let echo = echoes.get(index).map_or("", String::as_str);
            out.extend_from_slice(reply.begin(index, echo).unwrap_or_default().as_bytes());
        }
        let left = writers.len();
        Self { updates, reply, writers, left, prompt, out, over: false, quiet, stop }
    }

    fn take(&mut self, update: Option<Update>) {
        match update {
            Some(Update::Accepted) => {}
            Some(Update::Choice { index, what }) => {
                let Some(writer) = self.writers.get_mut(index) else { return };
                match writer.push(what) {
                    Ok(pieces) => {
                        for piece in pieces {
                            self.left -= usize::from(matches!(piece, Piece::End(_)));
                            self.out.extend_from_slice(self.reply.piece(index, &piece).as_bytes());
                        }
                    }
                    Err(error) => return self.fail(&error),
                }
                if self.left == 0 {
                    let completion = self.writers.iter().map(Writer::tokens).sum();
                    let usage = UsageCount { prompt: self.prompt, completion };
                    self.out.extend_from_slice(self.reply.end(usage).as_bytes());
                    self.over = true;
                }
            }
            Some(Update::Refused { why, .. }) => self.fail(&ApiError::internal(why.to_string())),
            Some(Update::Cut) => self.fail(&ApiError::stopping()),
            None => self.fail(&self.stop.why()),
        }
    }

    fn fail(&mut self, error: &ApiError) {
        self.out.extend_from_slice(error.event().as_bytes());
        self.over = true;
        // The engine need not go on with the other choices.
        self.updates.close();
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        // Everything that is there goes into one frame.
        while !this.over {
            match this.updates.poll_recv(cx) {
                Poll::Ready(update) => this.take(update),
                Poll::Pending => break,
            }
        }
        if !this.out.is_empty() {
            this.quiet.reset();
            return Poll::Ready(Some(Ok(Frame::data(this.out.split().freeze()))));
        }
        if this.over {
            return Poll::Ready(None);
        }
        this.quiet.poll_tick(cx).map(|_| Some(Ok(Frame::data(Bytes::from_static(b": still at work\n\n")))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::Shape;

    /// What a client reads at the end of a stream whose engine says no more.
    async fn cut_off(stop: Stop) -> String {
        let (updates, receiver) = tokio::sync::mpsc::unbounded_channel();
        let reply = Reply {
            shape: Shape::Chat,
            id: "a".to_owned(),
            created: 1,
            model: "m".to_owned(),
            fingerprint: "f".to_owned(),
            logprobs: false,
            usage: false,
            rewrite: None,
        };
        let events = Events::new(receiver, reply, Vec::new(), &[], 0, stop);
        drop(updates);
        let whole = axum::body::to_bytes(axum::body::Body::new(events), 1 << 20).await.expect("a body");
        String::from_utf8_lossy(&whole).into_owned()
    }

    #[tokio::test]
    async fn a_stream_tells_a_failed_engine_from_a_stopped_one() {
        let failed = cut_off(Stop::asked(false)).await;
        assert!(failed.contains("internal_error") && failed.contains("the engine has ended"), "{failed}");
        let stopped = cut_off(Stop::asked(true)).await;
        assert!(stopped.contains("server_stopping"), "{stopped}");
    }
}
