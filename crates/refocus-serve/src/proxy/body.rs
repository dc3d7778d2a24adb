//! Bodies on their way: a request's, which may have to be sent twice, and an answer's, which may stall or break.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::BoxError;
use axum::body::Body;
use axum::http::HeaderMap;
use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::{Instant, Sleep};

use super::lines::Lines;
use crate::error::ApiError;

/// A side that said nothing for too long.
#[derive(Debug, thiserror::Error)]
#[error("nothing came for {} ms", after.as_millis())]
pub(crate) struct Silent {
    /// The limit.
    pub(crate) after: Duration,
}

/// Ends a wait for the next frame of a body.
struct Patience {
    limit: Duration,
    sleep: Pin<Box<Sleep>>,
    /// The clock runs from the first time that nothing was there, and not while the reader is slow.
    runs: bool,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self { limit, sleep: Box::pin(tokio::time::sleep(limit)), runs: false }
    }

    fn stop(&mut self) {
        self.runs = false;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Silent> {
        if !self.runs {
            self.runs = true;
            self.sleep.as_mut().reset(Instant::now() + self.limit);
        }
        ready!(self.sleep.as_mut().poll(cx));
        Poll::Ready(Silent { after: self.limit })
    }
}

/// Frames below this are gathered: each that is kept as it came keeps the whole buffer that it was read into.
const SMALL: usize = 16 << 10;

/// The frames of a request's body that were read to look into it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    data: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
}

/// A request's body, read as far as it was to be.
pub(crate) enum Read {
    /// All of it.
    Whole(Held),
    /// More than the limit: what was read, and the rest.
    Beyond(Held, Body),
}

impl Held {
    /// Reads a body, up to `most` bytes of it.
    ///
    /// # Errors
    /// The client went away or says nothing.
    pub(crate) async fn read(mut body: Body, most: usize, idle: Duration) -> Result<Read, BoxError> {
        let (mut held, mut length, mut small) = (Self::default(), 0, BytesMut::new());
        loop {
            let frame = match tokio::time::timeout(idle, body.frame()).await {
                Ok(None) => {
                    held.gather(&mut small);
                    return Ok(Read::Whole(held));
                }
                Ok(Some(frame)) => frame.map_err(BoxError::from)?,
                Err(_) => return Err(Silent { after: idle }.into()),
            };
            match frame.into_data() {
                Ok(data) => {
                    length += data.len();
                    // Most bodies are one frame.
                    if held.data.is_empty() || data.len() >= SMALL {
                        held.gather(&mut small);
                        held.data.push_back(data);
                    } else {
                        small.extend_from_slice(&data);
                    }
                }
                Err(frame) => held.trailers = frame.into_trailers().ok(),
            }
            if length > most {
                held.gather(&mut small);
                return Ok(Read::Beyond(held, body));
            }
        }
    }

    /// Takes what was gathered.
    fn gather(&mut self, small: &mut BytesMut) {
        if !small.is_empty() {
            self.data.push_back(std::mem::take(small).freeze());
        }
    }

    /// One that was made here.
    pub(crate) fn of(data: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self { data: [data].into(), trailers }
    }

    /// The bytes in one piece.
    pub(crate) fn bytes(&self) -> Bytes {
        match self.data.iter().map(Bytes::as_ref).collect::<Vec<_>>().as_slice() {
            [] => Bytes::new(),
            [_] => self.data[0].clone(),
            many => many.concat().into(),
        }
    }

    pub(crate) fn trailers(&self) -> Option<HeaderMap> {
        self.trailers.clone()
    }

    fn next(&mut self) -> Option<Frame<Bytes>> {
        self.data.pop_front().map(Frame::data).or_else(|| self.trailers.take().map(Frame::trailers))
    }
}

/// A request's body for as many tries as it allows: any number where it was read here, one where it comes from the
/// client as it goes on, unless nothing of it was taken.
#[derive(Clone)]
pub(crate) struct Source {
    held: Held,
    live: Option<Arc<Mutex<Live>>>,
    length: Option<u64>,
}

struct Live {
    body: Body,
    touched: bool,
    patience: Patience,
    /// When the client last sent something of it, or its end.
    moved: Option<Instant>,
}

impl Source {
    /// What was held, and then what comes.
    pub(crate) fn new(held: Held, rest: Option<Body>, length: Option<u64>, idle: Duration) -> Self {
        let live = |body| {
            let patience = Patience::new(idle);
            Arc::new(Mutex::new(Live { body, touched: false, patience, moved: None }))
        };
        Self { held, live: rest.filter(|body| !body.is_end_stream()).map(live), length }
    }

    /// Whether it can be sent, for the first time or again.
    pub(crate) fn is_fresh(&self) -> bool {
        self.live.as_ref().is_none_or(|live| !live.lock().unwrap_or_else(PoisonError::into_inner).touched)
    }

    /// When the client last moved: now, while more of its body is waited for; nothing where all was read before.
    pub(crate) fn moved(&self) -> Option<Instant> {
        let live = self.live.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        if live.patience.runs { Some(Instant::now()) } else { live.moved }
    }

    /// The body of one try.
    pub(crate) fn outgoing(&self) -> Outgoing {
        Outgoing(self.clone())
    }
}

/// The body of one try to send a request.
pub(crate) struct Outgoing(Source);

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut self.0;
        if let Some(frame) = this.held.next() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let Some(live) = &this.live else { return Poll::Ready(None) };
        let mut live = live.lock().unwrap_or_else(PoisonError::into_inner);
        live.touched = true;
        match Pin::new(&mut live.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                live.patience.stop();
                live.moved = Some(Instant::now());
                Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)))
            }
            Poll::Pending => live.patience.poll(cx).map(|silent| Some(Err(silent.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        let Self(Source { held, live, .. }) = self;
        held.data.is_empty()
            && held.trailers.is_none()
            && live
                .as_ref()
                .is_none_or(|live| live.lock().unwrap_or_else(PoisonError::into_inner).body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// An answer's body on its way to the client.
///
/// The bytes are those that came. Where they are server-sent events, only whole lines go on (half an event is of no
/// use), so that a break can be told in an event of its own and usage can be summed in passing.
pub(crate) struct Relay<B> {
    body: B,
    patience: Patience,
    length: Option<u64>,
    events: Option<Lines>,
    /// Goes out before more is read.
    next: VecDeque<Frame<Bytes>>,
    over: bool,
    /// Ends the body once what came before it is written.
    failed: Option<BoxError>,
    /// Told once when the answer breaks off.
    broken: Box<dyn Fn(&BoxError) + Send + Sync>,
}

impl<B> Relay<B> {
    /// An answer whose head said `length`; `events` where it is a stream of events that may be touched.
    pub(crate) fn new(
        body: B,
        length: Option<u64>,
        events: Option<Lines>,
        idle: Duration,
        broken: impl Fn(&BoxError) + Send + Sync + 'static,
    ) -> Self {
        let next = VecDeque::new();
        Self {
            body,
            patience: Patience::new(idle),
            length,
            events,
            next,
            over: false,
            failed: None,
            broken: Box::new(broken),
        }
    }

    /// The answer breaks off. Inside a stream of events the client is told so where that can be understood;
    /// elsewhere the connection ends before the body does, which every client notices.
    fn breaks(
        &mut self,
        error: BoxError,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.over = true;
        (self.broken)(&error);
        match &mut self.events {
            Some(events) if events.at_line_start() => {
                let told = ApiError::upstream(format!("the upstream broke off its answer: {error}"));
                Poll::Ready(Some(Ok(Frame::data(Bytes::from(format!("{}{}", events.gap(), told.event()))))))
            }
            _ => {
                // An error makes the connection drop what it has not written yet, so it comes a moment later.
                self.failed = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

impl<B> HttpBody for Relay<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            if let Some(frame) = this.next.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
            if this.over {
                return Poll::Ready(this.failed.take().map(Err));
            }
            let frame = match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Pending => {
                    let silent = ready!(this.patience.poll(cx));
                    return this.breaks(silent.into(), cx);
                }
                Poll::Ready(frame) => frame,
            };
            this.patience.stop();
            match (frame, &mut this.events) {
                (Some(Err(error)), _) => return this.breaks(error.into(), cx),
                (Some(Ok(frame)), None) => return Poll::Ready(Some(Ok(frame))),
                (None, None) => return Poll::Ready(None),
                (Some(Ok(frame)), Some(events)) => match frame.into_data() {
                    Ok(data) => this.next.extend(events.push(data).map(Frame::data)),
                    Err(trailers) => {
                        this.next.extend(events.end().map(Frame::data));
                        this.next.push_back(trailers);
                    }
                },
                (None, Some(events)) => {
                    this.over = true;
                    this.next.extend(events.end().map(Frame::data));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.next.is_empty()
            && self.failed.is_none()
            && (self.over || (self.events.is_none() && self.body.is_end_stream()))
    }

    fn size_hint(&self) -> SizeHint {
        // Without a length in the head none may be said, even of an empty body: the router would add it.
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_beyond_the_limit_is_not_lost() {
        let idle = Duration::from_secs(5);
        let body = || Body::from("abcdef");
        let Ok(Read::Whole(held)) = Held::read(body(), 6, idle).await else { panic!("it fits") };
        assert_eq!(held.bytes(), "abcdef");
        let Ok(Read::Beyond(held, rest)) = Held::read(body(), 5, idle).await else { panic!("it does not") };
        let out = Source::new(held, Some(rest), Some(6), idle).outgoing();
        assert_eq!(out.collect().await.expect("a body").to_bytes(), "abcdef");
    }

    /// A body of one frame for each byte.
    struct Bytewise(Vec<u8>);

    impl HttpBody for Bytewise {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            let next = (!self.0.is_empty()).then(|| self.0.remove(0));
            Poll::Ready(next.map(|byte| Ok(Frame::data(Bytes::from(vec![byte])))))
        }
    }

    #[tokio::test]
    async fn small_frames_are_gathered() {
        let body = || Body::new(Bytewise(b"abcdefgh".to_vec()));
        let idle = Duration::from_secs(5);
        let Ok(Read::Whole(held)) = Held::read(body(), 8, idle).await else { panic!("it fits") };
        assert_eq!((held.data.len(), &held.bytes()[..]), (2, &b"abcdefgh"[..]));
        let Ok(Read::Beyond(held, rest)) = Held::read(body(), 5, idle).await else { panic!("it does not") };
        assert_eq!((held.data.len(), &held.bytes()[..]), (2, &b"abcdef"[..]));
        let out = Source::new(held, Some(rest), None, idle).outgoing();
        assert_eq!(out.collect().await.expect("a body").to_bytes(), "abcdefgh");
    }

    #[tokio::test]
    async fn a_live_body_can_be_sent_again_until_it_was_touched() {
        let source = Source::new(Held::default(), Some(Body::from("x")), None, Duration::from_secs(5));
        drop(source.outgoing());
        assert!(source.is_fresh());
        assert_eq!(source.outgoing().collect().await.expect("a body").to_bytes(), "x");
        assert!(!source.is_fresh());
        let held = Source::new(Held::of(Bytes::from("y"), None), None, Some(1), Duration::from_secs(5));
        for _ in 0..2 {
            assert_eq!(held.outgoing().collect().await.expect("a body").to_bytes(), "y");
            assert!(held.is_fresh());
        }
    }
}
