//! Time of a kind, and time that may yet turn out to be of another.
//!
//! While content plays and the playhead stands still, it is not known whether it stalls. Such time is held
//! until that is decided: it is added, or it is dropped.

use serde::{Deserialize, Serialize};

use super::is_default;

/// Time of a kind, in ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Tally {
    #[serde(skip_serializing_if = "is_default")]
    sure_ms: u64,
    #[serde(skip_serializing_if = "is_default")]
    held_ms: u64,
}

impl Tally {
    /// Adds time.
    pub(super) fn add(&mut self, ms: u64) {
        self.sure_ms += ms;
    }

    /// Holds time until it is decided what it is.
    pub(super) fn hold(&mut self, ms: u64) {
        self.held_ms += ms;
    }

    /// The time that was held is of this kind.
    pub(super) fn settle(&mut self) {
        self.sure_ms += self.drop_held();
    }

    /// The time that was held is of another kind. Gives it.
    pub(super) fn drop_held(&mut self) -> u64 {
        std::mem::take(&mut self.held_ms)
    }

    /// Whether no time is held.
    pub(super) fn is_decided(self) -> bool {
        self.held_ms == 0
    }

    /// The time that is known to be of this kind, in ms.
    pub(crate) fn sure_ms(self) -> u64 {
        self.sure_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_is_held_is_added_or_dropped() {
        let mut tally = Tally::default();
        tally.add(5);
        tally.hold(7);
        assert_eq!((tally.sure_ms(), tally.is_decided()), (5, false));
        tally.settle();
        tally.hold(2);
        assert_eq!((tally.sure_ms(), tally.drop_held()), (12, 2));
        tally.settle();
        assert_eq!((tally.sure_ms(), tally.is_decided()), (12, true));
    }
}
