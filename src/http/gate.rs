//! A door that is another one until it is opened: what is answered while the journal is read back, and from
//! then on the real one, on the same connections.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::response::Response;
use http_body_util::Either;
use tower::Service;

use super::Door;

/// A door before and after it is opened. Clones open together.
pub struct Gate<B, A>(Arc<Sides<B, A>>);

struct Sides<B, A> {
    before: B,
    after: OnceLock<A>,
}

impl<B, A> Gate<B, A> {
    /// A gate that answers as `before` does until it is opened.
    pub fn new(before: B) -> Self {
        Self(Arc::new(Sides { before, after: OnceLock::new() }))
    }

    /// From now on requests are answered as `after` does; the first word holds.
    pub fn open(&self, after: A) {
        let _ = self.0.after.set(after);
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
            Box::pin(async { Ok(answer.await?.map(Either::Right)) })
        } else {
            let answer = self.0.before.clone().call(request);
            Box::pin(async { Ok(answer.await?.map(Either::Left)) })
        }
    }
}
