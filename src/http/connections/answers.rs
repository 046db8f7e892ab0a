//! Answers on their way out: charged from when they are made until their last byte has gone.
//!
//! A peer that asks for more than it reads makes the server hold the rest. hyper keeps an answer in pieces, in its
//! own queue or in that of a stream of HTTP/2, so each piece carries what frees the charge when it goes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::HttpBody;
use axum::http::HeaderValue;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, RETRY_AFTER,
};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;

use super::traffic::Traffic;
use super::{RETRY_AFTER_S, status_of};
use crate::limits::memory::{Charge, Kind, OverLimit};

/// What an answer takes besides its body, until it has gone: its task, and its stream of HTTP/2.
const ANSWER_BYTES: usize = 2 << 10;

/// How large a piece is at most. A peer is given its time for each.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// The body of an answer.
pub(super) struct AnswerBody<B> {
    /// Nothing if there was no memory for it.
    body: Option<B>,
    /// What is left of the frame that is being sent.
    rest: Bytes,
    /// Nothing for an answer without a body.
    guard: Option<Arc<Guard>>,
    /// Whether its length is not known, so that it is charged as it comes.
    is_streamed: bool,
}

/// Charges the answer to the client of the connection, or replaces it by one without a body.
pub(super) fn charged<B: HttpBody>(
    response: Response<B>,
    traffic: &Arc<Traffic>,
) -> Response<AnswerBody<B>> {
    let (mut head, body) = response.into_parts();
    let made = if body.is_end_stream() {
        Ok(AnswerBody { body: Some(body), rest: Bytes::new(), guard: None, is_streamed: false })
    } else {
        AnswerBody::charged(body, traffic)
    };
    let body = made.unwrap_or_else(|over| {
        head.status = status_of(over);
        for name in [CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG] {
            head.headers.remove(name);
        }
        head.headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        AnswerBody { body: None, rest: Bytes::new(), guard: None, is_streamed: false }
    });
    Response::from_parts(head, body)
}

impl<B: HttpBody> AnswerBody<B> {
    fn charged(body: B, traffic: &Arc<Traffic>) -> Result<Self, OverLimit> {
        let length = body.size_hint().exact();
        let bytes = usize::try_from(length.unwrap_or(0)).unwrap_or(usize::MAX / 2);
        let charge = traffic.charge.client().charge(Kind::Answers, bytes + ANSWER_BYTES)?;
        let (charge, traffic) = (Mutex::new(charge), Arc::clone(traffic));
        let id = traffic.answer_begins();
        let guard = Arc::new(Guard { charge, traffic, id });
        let is_streamed = length.is_none();
        Ok(Self { body: Some(body), rest: Bytes::new(), guard: Some(guard), is_streamed })
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for AnswerBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        if this.rest.is_empty() {
            let Some(body) = &mut this.body else { return Poll::Ready(None) };
            match ready!(Pin::new(body).poll_frame(context))
                .map(|frame| frame.map(Frame::into_data))
            {
                Some(Ok(Ok(data))) => this.rest = data,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let bytes = this.rest.split_to(this.rest.len().min(PIECE_BYTES_MAX));
        let piece = match &this.guard {
            None => bytes,
            Some(guard) => guard.piece(bytes, this.is_streamed),
        };
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let Some(body) = &self.body else { return SizeHint::with_exact(0) };
        let (rest, mut hint) = (self.rest.len() as u64, body.size_hint());
        if rest > 0 {
            // The upper bound first: it must not be below the lower one.
            if let Some(upper) = hint.upper() {
                hint.set_upper(upper + rest);
            }
            hint.set_lower(hint.lower() + rest);
        }
        hint
    }
}

/// What is held for an answer; dropped with its body and all its pieces.
struct Guard {
    charge: Mutex<Charge>,
    traffic: Arc<Traffic>,
    id: u32,
}

impl Guard {
    fn piece(self: &Arc<Self>, bytes: Bytes, is_streamed: bool) -> Bytes {
        let mut own = None;
        if is_streamed {
            // Only operators get such answers, a few at a time, and hyper takes the next piece when there is room
            // for it. So one for which there is no memory is sent all the same.
            let client = self.charge.lock().client().clone();
            own = client.charge(Kind::Answers, bytes.len()).ok();
        }
        Bytes::from_owner(Piece { bytes, guard: Arc::clone(self), _charge: own })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.traffic.answer_ends(self.id);
    }
}

/// A piece of an answer, until it has gone.
struct Piece {
    bytes: Bytes,
    guard: Arc<Guard>,
    _charge: Option<Charge>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.guard.traffic.answer_goes_on(self.guard.id);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use axum::body::Body;
    use axum::http::StatusCode;
    use http_body_util::BodyExt;

    use super::*;
    use crate::limits::memory::Memory;
    use crate::size::Size;

    fn used(memory: &Memory) -> usize {
        memory.usage().find(|usage| usage.kind == Kind::Answers).unwrap().used
    }

    fn traffic(ceiling: Size) -> (Memory, Arc<Traffic>) {
        let memory = Memory::new(Size::gib(1), 1.0, &[(Kind::Answers, ceiling)], Vec::new());
        let traffic = Arc::new(Traffic::of_tests(&memory));
        (memory, traffic)
    }

    /// Frames whose number and length nobody tells before.
    struct Streamed(VecDeque<Bytes>);

    impl HttpBody for Streamed {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|bytes| Ok(Frame::data(bytes))))
        }
    }

    #[tokio::test]
    async fn an_answer_is_charged_until_its_body_and_its_last_piece_have_gone() {
        let (memory, traffic) = traffic(Size::mib(1));
        let response = charged(Response::new(Body::from(vec![7; 100_000])), &traffic);
        let all = 100_000 + ANSWER_BYTES;
        assert_eq!((used(&memory), traffic.unread()), (all, 1));
        let mut body = response.into_body();
        assert_eq!(body.size_hint().exact(), Some(100_000));
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first.len(), PIECE_BYTES_MAX);
        assert_eq!(body.size_hint().exact(), Some(100_000 - PIECE_BYTES_MAX as u64));
        assert!(!body.is_end_stream());
        let second = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(body.is_end_stream());
        assert_eq!(first.len() + second.len(), 100_000);
        drop((body, first));
        assert_eq!((used(&memory), traffic.unread()), (all, 1));
        drop(second);
        assert_eq!((used(&memory), traffic.unread()), (0, 0));
        assert!(traffic.unread_since().is_none());
    }

    #[tokio::test]
    async fn an_answer_without_a_body_costs_nothing() {
        let (memory, traffic) = traffic(Size::kib(1));
        let response = charged(Response::new(Body::empty()), &traffic);
        assert!(response.body().is_end_stream());
        assert_eq!((response.status(), used(&memory), traffic.unread()), (StatusCode::OK, 0, 0));
    }

    #[tokio::test]
    async fn an_answer_for_which_there_is_no_memory_is_replaced() {
        let (memory, traffic) = traffic(Size::kib(64));
        let mut response = Response::new(Body::from(vec![7; 100_000]));
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("100000"));
        response.headers_mut().insert("x-kept", HeaderValue::from_static("1"));
        let response = charged(response, &traffic);
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key("x-kept"));
        assert!(response.headers().contains_key(RETRY_AFTER));
        assert!(!response.headers().contains_key(CONTENT_LENGTH));
        assert!(response.body().is_end_stream());
        assert_eq!(response.body().size_hint().exact(), Some(0));
        assert_eq!((used(&memory), traffic.unread()), (0, 0));
    }

    #[tokio::test]
    async fn an_answer_of_unknown_length_is_charged_as_it_comes() {
        let (memory, traffic) = traffic(Size::kib(64));
        let frames = [10_000, 20_000, 1 << 20].map(|bytes| Bytes::from(vec![7; bytes]));
        let mut body = charged(Response::new(Streamed(frames.into())), &traffic).into_body();
        assert_eq!(used(&memory), ANSWER_BYTES);
        let first = body.frame().await.unwrap().unwrap();
        let second = body.frame().await.unwrap().unwrap();
        assert_eq!(used(&memory), ANSWER_BYTES + 30_000);
        drop(first);
        assert_eq!(used(&memory), ANSWER_BYTES + 20_000);
        drop(second);
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame.unwrap().data_ref().unwrap().len();
        }
        assert_eq!(bytes, 1 << 20, "operators get what they ask for");
        drop(body);
        assert_eq!(used(&memory), 0);
    }
}
