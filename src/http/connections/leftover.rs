//! The rest of a body that nobody reads any more: read on and dropped, so that its client gets the answer.
//!
//! Most clients write the whole body before they read. One whose connection is closed meanwhile, or a proxy before
//! it, never sees why it was refused and when to try again, and sends all of it once more. So the answer goes out at
//! once, the rest is read within bounds, and only then is the connection closed.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::sync::watch;
use tokio::time::sleep;

use super::bodies::ArrivingBody;
use super::traffic::{InFlight, Traffic};
use super::{Shared, Stage};
use crate::http::STORED_BYTES_LIMIT;
use crate::limits::memory::Kind;

/// How much is read to be dropped: twice the largest body that there may be.
const BYTES_MAX: u64 = 2 * STORED_BYTES_LIMIT.as_u64();

/// How long that may take, and how long once the server stops.
const TIME_MAX: Duration = Duration::from_secs(10);
const TIME_MAX_DRAINING: Duration = Duration::from_secs(1);

/// A rest that is no larger has mostly arrived, so its connection can be used again.
const REUSED_BYTES_MAX: u64 = 64 << 10;

/// What reading on is charged: the task, and the piece that it drops next.
const CHARGED_BYTES: usize = 12 << 10;

/// Reads on in the background, with the request still open. Tells whether the answer should close the connection.
///
/// Beyond the bound HTTP/1 closes the connection, and HTTP/2 resets the stream with `NO_ERROR`. That is not done at
/// once: curl 7.88, for one, then drops the answer, though it has all of it.
pub(super) fn read_on(
    rest: Incoming,
    status: StatusCode,
    traffic: &Arc<Traffic>,
    in_flight: InFlight,
    shared: &Shared,
) -> bool {
    let is_http1 = in_flight.stream.is_none();
    let is_long = rest.size_hint().upper().is_none_or(|bytes| bytes > REUSED_BYTES_MAX);
    // Who was too slow had his time.
    let is_late = status == StatusCode::REQUEST_TIMEOUT;
    let charge = || traffic.charge.client().charge(Kind::Bodies, CHARGED_BYTES).ok();
    // One that is dropped at once excuses what of it is on its way, too.
    let rest = ArrivingBody::left_over(rest, Arc::clone(traffic), &in_flight);
    let Some(charge) = (!is_late).then(charge).flatten() else { return is_http1 };
    let mut stage = shared.stage.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = drop_all(rest) => {}
            () = sleep(TIME_MAX) => {}
            () = stopped(&mut stage) => {}
        }
        drop((in_flight, charge));
    });
    is_http1 && is_long
}

/// Reads to the end of a body, or to the bound.
async fn drop_all(mut rest: ArrivingBody) {
    let mut dropped = 0;
    while let Some(Ok(frame)) = rest.frame().await {
        dropped += frame.data_ref().map_or(0, |data| data.len() as u64);
        if dropped > BYTES_MAX {
            return;
        }
    }
}

/// Waits until the server has stopped taking requests for a moment.
async fn stopped(stage: &mut watch::Receiver<Stage>) {
    // A sender that is gone has stopped, too.
    let _ = stage.wait_for(|stage| *stage == Stage::Draining).await;
    sleep(TIME_MAX_DRAINING).await;
}
