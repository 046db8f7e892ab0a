//! The last events of a session, by which a repeat is known.
//!
//! Clients give up after 5 s and send the same bytes again, up to twice; by then the first may have been processed.
//! A million sessions remember their last events each, so one takes eight bytes:
//!
//! ```text
//! print, 48 bits │ age, 16 bits
//! ```
//! That two other bodies look the same is as likely as eight in 2^48, and would cost their session one event.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::step::Print;

/// How many events are remembered.
const EVENTS: usize = 8;

/// For how long, in ms by receipts.
const SPAN_MS: u16 = 60_000;

/// The last events, the newest first.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Recent {
    prints: [[u8; 6]; EVENTS],
    /// How long before the last receipt of the session each was received, in ms; more than the span at free places.
    ages_ms: [u16; EVENTS],
}

impl Default for Recent {
    fn default() -> Self {
        Self { prints: Default::default(), ages_ms: [u16::MAX; EVENTS] }
    }
}

impl Recent {
    /// Whether there is none that may still be repeated.
    pub(super) fn is_empty(&self) -> bool {
        self.fresh().next().is_none()
    }

    /// So much time passed since the last receipt, in ms.
    pub(super) fn pass(&mut self, elapsed_ms: u64) {
        let elapsed_ms = u16::try_from(elapsed_ms).unwrap_or(u16::MAX);
        for age_ms in &mut self.ages_ms {
            *age_ms = age_ms.saturating_add(elapsed_ms);
        }
    }

    /// Whether one of them had the same body.
    pub(super) fn holds(&self, print: Print) -> bool {
        let print = shortened(print);
        self.fresh().any(|(known, _)| known == print)
    }

    /// Remembers the event that was just received.
    pub(super) fn add(&mut self, print: Print) {
        self.prints.copy_within(..EVENTS - 1, 1);
        self.ages_ms.copy_within(..EVENTS - 1, 1);
        (self.prints[0], self.ages_ms[0]) = (shortened(print), 0);
    }

    fn fresh(&self) -> impl Iterator<Item = ([u8; 6], u16)> {
        // Ages rise from place to place.
        let all = self.prints.into_iter().zip(self.ages_ms);
        all.take_while(|(_, age_ms)| *age_ms <= SPAN_MS)
    }
}

fn shortened(print: Print) -> [u8; 6] {
    *print.to_bytes().first_chunk().expect("eight bytes hold six")
}

/// Saved as a list of prints and ages, without those that are too old.
impl Serialize for Recent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.fresh().map(|(print, age_ms)| {
            let mut bytes = [0; 8];
            bytes[..print.len()].copy_from_slice(&print);
            (u64::from_le_bytes(bytes), age_ms)
        }))
    }
}

impl<'de> Deserialize<'de> for Recent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let saved = Vec::<(u64, u16)>::deserialize(deserializer)?;
        let mut recent = Self::default();
        let places = recent.prints.iter_mut().zip(&mut recent.ages_ms);
        for ((print, age_ms), (place, place_ms)) in saved.into_iter().zip(places) {
            *place = *print.to_le_bytes().first_chunk().expect("eight bytes hold six");
            *place_ms = age_ms;
        }
        Ok(recent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(number: u64) -> Print {
        Print::of(&number.to_le_bytes())
    }

    #[test]
    fn the_last_eight_are_known_for_a_minute() {
        let mut recent = Recent::default();
        for number in 0..9 {
            assert!(!recent.holds(print(number)));
            recent.add(print(number));
            recent.pass(1_000);
        }
        assert!(!recent.holds(print(0)) && recent.holds(print(1)), "the last eight");
        recent.pass(52_000);
        assert!(recent.holds(print(1)), "60 s before");
        recent.pass(1);
        assert!(!recent.holds(print(1)) && recent.holds(print(2)));
        recent.pass(u64::MAX);
        assert_eq!(recent.fresh().count(), 0);
    }

    #[test]
    fn what_is_saved_is_what_is_read() {
        let mut recent = Recent::default();
        for number in 0..5 {
            recent.add(print(number));
            recent.pass(13_000);
        }
        let saved = serde_json::to_string(&recent).unwrap();
        let read: Recent = serde_json::from_str(&saved).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), saved);
        assert!(read.holds(print(1)) && !read.holds(print(0)), "too old");
        assert_eq!(size_of::<Recent>(), 64);
    }
}
