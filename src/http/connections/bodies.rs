//! The bodies of requests on their way in: what is read of them, and whether they are waited for.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use axum::BoxError;
use axum::body::HttpBody;
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};

use super::traffic::{InFlight, PROGRESS_BYTES, Traffic};

/// The body of a request, which notes on its connection how it comes.
pub(super) struct ArrivingBody {
    body: Incoming,
    traffic: Arc<Traffic>,
    was_reset: Option<Arc<AtomicBool>>,
    is_waiting: bool,
    /// Whether it came further since it last waited.
    progressed: bool,
}

impl ArrivingBody {
    /// The body of this request.
    pub(super) fn new(body: Incoming, traffic: Arc<Traffic>, request: &InFlight) -> Self {
        let was_reset = request.was_reset.clone();
        Self { body, traffic, was_reset, is_waiting: false, progressed: true }
    }
}

impl HttpBody for ArrivingBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let poll = Pin::new(&mut this.body).poll_frame(context);
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
        if let (Some(Err(_)), Some(was_reset)) = (&frame, &this.was_reset) {
            was_reset.store(true, Ordering::Relaxed);
        }
        let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
        if let Some(data) = data {
            this.traffic.read_body(data.len());
            this.progressed |= data.len() >= PROGRESS_BYTES;
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ArrivingBody {
    fn drop(&mut self) {
        if self.is_waiting {
            // Nobody waits for the rest.
            let _ = self.traffic.body_goes_on();
        }
    }
}
