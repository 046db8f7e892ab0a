//! A door that is another one until it is opened: what is answered while the journal is read back, and from
//! then on the real one, on the same connections.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::Request;
use axum::http::Method;
use axum::response::Response;
use http_body_util::Either;
use tokio::sync::watch;
use tokio::time::timeout;
use tower::Service;

use super::Door;

/// A door before and after it is opened. Clones open together.
pub struct Gate<B, A>(Arc<Sides<B, A>>);

struct Sides<B, A> {
    before: B,
    after: OnceLock<A>,
    /// How long a post waits for the gate to open.
    wait_max: Duration,
    /// Whether it is decided that the gate opens, or never will.
    is_settled: watch::Sender<bool>,
}

impl<B, A> Gate<B, A> {
    /// A gate that answers as `before` does until it is opened. A post waits for that as long as `wait_max`: a restart
    /// then refuses nobody. It waits with its body unread, so what it holds is what its connection is charged for.
    pub fn new(before: B, wait_max: Duration) -> Self {
        let is_settled = watch::Sender::new(false);
        Self(Arc::new(Sides { before, after: OnceLock::new(), wait_max, is_settled }))
    }

    /// From now on requests are answered as `after` does; the first word holds.
    pub fn open(&self, after: A) {
        let _ = self.0.after.set(after);
        self.0.is_settled.send_replace(true);
    }

    /// The gate will not open: what waits for it is answered now.
    pub fn give_up(&self) {
        self.0.is_settled.send_replace(true);
    }

    async fn settled(&self) {
        let mut is_settled = self.0.is_settled.subscribe();
        // The sender cannot go before us.
        let _ = timeout(self.0.wait_max, is_settled.wait_for(|is_settled| *is_settled)).await;
    }
}

impl<B, A> Clone for Gate<B, A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B: Door + Sync, A: Door + Sync> Service<Request> for Gate<B, A> {
    type Response = Response<Either<B::Body, A::Body>>;
    type Error = Infallible;
    // One allocation a request; its routes make several.
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        if let Some(door) = self.0.after.get() {
            let answer = door.clone().call(request);
            return Box::pin(async { Ok(answer.await?.map(Either::Right)) });
        }
        let gate = self.clone();
        Box::pin(async move {
            if request.method() == Method::POST {
                gate.settled().await;
            }
            match gate.0.after.get() {
                Some(door) => Ok(door.clone().call(request).await?.map(Either::Right)),
                None => Ok(gate.0.before.clone().call(request).await?.map(Either::Left)),
            }
        })
    }
}
