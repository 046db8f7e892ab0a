//! The bodies of requests on their way in: what is read of them, and whether they are waited for.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use axum::BoxError;
use axum::body::HttpBody;
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};

use super::traffic::{InFlight, PROGRESS_BYTES, StreamNotes, Traffic};

/// The body of a request, which notes on its connection how it comes.
pub(super) struct ArrivingBody {
    /// Nothing once its rest is left over.
    body: Option<Incoming>,
    traffic: Arc<Traffic>,
    /// Of HTTP/2 alone.
    stream: Option<Arc<StreamNotes>>,
    /// What becomes of the rest if nobody reads it.
    rest: Rest,
    is_waiting: bool,
    /// Whether it came further since it last waited.
    progressed: bool,
}

impl ArrivingBody {
    /// The body of this request; `waits_for_word` if it comes only after a 100.
    pub(super) fn new(
        body: Incoming,
        traffic: Arc<Traffic>,
        request: &InFlight,
        waits_for_word: bool,
    ) -> Self {
        let rest = if waits_for_word { Rest::NotSent } else { Rest::LeftOver };
        Self::with(body, traffic, request, rest)
    }

    /// The rest of a body whose request has its answer.
    pub(super) fn left_over(rest: Incoming, traffic: Arc<Traffic>, request: &InFlight) -> Self {
        Self::with(rest, traffic, request, Rest::Unwanted)
    }

    fn with(body: Incoming, traffic: Arc<Traffic>, request: &InFlight, rest: Rest) -> Self {
        let (body, stream) = (Some(body), request.stream.clone());
        Self { body, traffic, stream, rest, is_waiting: false, progressed: true }
    }
}

/// What becomes of the rest of a body that is dropped before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// It is left over, to be read on after the answer.
    LeftOver,
    /// The client waits for a 100 before it sends, and gets none.
    NotSent,
    /// It has been read on long enough.
    Unwanted,
    /// There is none.
    Ended,
}

impl HttpBody for ArrivingBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        if this.rest == Rest::NotSent {
            // To ask for it sends the 100.
            this.rest = Rest::LeftOver;
        }
        let poll = Pin::new(body).poll_frame(context);
        if poll.is_pending() && !this.is_waiting {
            this.is_waiting = true;
            this.traffic.body_waits(std::mem::take(&mut this.progressed));
        }
        let frame = ready!(poll);
        if std::mem::take(&mut this.is_waiting)
            && let Err(evicted) = this.traffic.body_goes_on()
        {
            return Poll::Ready(Some(Err(evicted.into())));
        }
        if let (Some(Err(_)), Some(stream)) = (&frame, &this.stream) {
            stream.was_reset.store(true, Ordering::Relaxed);
        }
        if !matches!(frame, Some(Ok(_))) {
            this.rest = Rest::Ended;
        }
        let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
        if let Some(data) = data {
            this.traffic.read_body(data.len());
            this.progressed |= data.len() >= PROGRESS_BYTES;
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

impl Drop for ArrivingBody {
    fn drop(&mut self) {
        if self.is_waiting {
            // Nobody waits for the rest here.
            let _ = self.traffic.body_goes_on();
        }
        let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) else { return };
        match self.rest {
            Rest::LeftOver => self.traffic.leave_over(body, self.stream.as_deref()),
            // HTTP/2 resets the stream then.
            Rest::NotSent | Rest::Unwanted if self.stream.is_some() => self.traffic.excuse_reset(),
            Rest::NotSent | Rest::Unwanted | Rest::Ended => {}
        }
    }
}
