//! Stored sessions that are being committed, so that one that is sent twice at once is kept once.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use crate::journal::{Committed, Unavailable};
use crate::session::BodyHash;
use crate::session::id::SessionId;

/// What becomes of a stored session: its id once it is durable, or why it is not.
type StoredResult = Result<SessionId, Unavailable>;

/// The stored sessions that are being committed, by their bodies. They are bounded by what the journal lets wait.
#[derive(Clone, Debug, Default)]
pub(super) struct Committing(Arc<Mutex<HashMap<BodyHash, watch::Receiver<Option<StoredResult>>>>>);

/// A stored session that is durable already, or soon.
#[derive(Debug)]
pub(super) enum Appended {
    /// The one with the same body was committed some time ago.
    Before(SessionId),
    /// It is being committed, or one with the same body.
    Now(watch::Receiver<Option<StoredResult>>),
}

impl Committing {
    /// Appends a stored session, unless one with the same body is being committed, or `before` knows one.
    pub(super) fn append<E>(
        &self,
        hash: BodyHash,
        id: SessionId,
        before: impl FnOnce() -> Option<SessionId>,
        append: impl FnOnce() -> Result<oneshot::Receiver<Committed>, E>,
    ) -> Result<Appended, E> {
        let mut all = self.0.lock();
        if let Some(first) = all.get(&hash) {
            return Ok(Appended::Now(first.clone()));
        }
        // Asked for with the lock held: what is no longer being committed is folded.
        if let Some(first) = before() {
            return Ok(Appended::Before(first));
        }
        let committed = append()?;
        let (sender, receiver) = watch::channel(None);
        all.insert(hash, receiver.clone());
        drop(all);
        let committing = self.clone();
        // Whoever sent it may not wait for it.
        tokio::spawn(async move {
            let result = match committed.await {
                Ok(committed) => committed.map(|_| id),
                Err(_) => Err(Unavailable::Closed),
            };
            committing.0.lock().remove(&hash);
            sender.send_replace(Some(result));
        });
        Ok(Appended::Now(receiver))
    }
}

impl Appended {
    /// The id of the session, once it is durable.
    pub(super) async fn committed(self) -> StoredResult {
        match self {
            Self::Before(first) => Ok(first),
            Self::Now(mut receiver) => match receiver.wait_for(Option::is_some).await {
                Ok(result) => result.unwrap_or(Err(Unavailable::Closed)),
                Err(_) => Err(Unavailable::Closed),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processor::Outcome;
    use crate::session::id::Key;

    fn id(number: u8) -> SessionId {
        SessionId::mint(&Key::new([1; 32]), 1, [number; 10])
    }

    #[tokio::test]
    async fn a_second_one_waits_for_the_first_and_fails_with_it() {
        let committing = Committing::default();
        let hash = BodyHash::of(&[b"body"]);
        for outcome in [Ok(Outcome::Opened), Err(Unavailable::Disk)] {
            let (sender, receiver) = oneshot::channel();
            let first = committing.append(hash, id(1), || None, || Ok::<_, ()>(receiver)).unwrap();
            let second: Result<_, ()> =
                committing.append(hash, id(2), || unreachable!(), || unreachable!());
            let (first, second) = (first.committed(), second.unwrap().committed());
            sender.send(outcome).unwrap();
            let expected = outcome.map(|_| id(1));
            assert_eq!((first.await, second.await), (expected, expected));
            assert!(committing.0.lock().is_empty());
        }
    }

    #[tokio::test]
    async fn one_that_cannot_be_appended_leaves_nothing_and_one_of_before_is_named() {
        let committing = Committing::default();
        let hash = BodyHash::of(&[b"body"]);
        let refused = committing.append(hash, id(1), || None, || Err("full"));
        assert_eq!(refused.unwrap_err(), "full");
        assert!(committing.0.lock().is_empty());
        let before: Result<_, ()> =
            committing.append(hash, id(2), || Some(id(1)), || unreachable!());
        assert_eq!(before.unwrap().committed().await, Ok(id(1)));
    }
}
