//! What time goes to, and how much of a long step is believed.
//!
//! Players send a ping every 10 s, in stored sessions every 50 s. A device that sleeps without a pause sends
//! nothing. So a longer silence counts as play only as far as the playhead moved, or the ad had something left.

use serde::{Deserialize, Serialize};

use super::parts::AdClock;
use super::state::{Ad, Main};

/// A longer step is a silence, in ms. Of a silence so much counts as buffering, or as an ad of unknown length.
pub(super) const SILENCE_MS: u64 = 90_000;

/// What time goes to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct InForce {
    pub(super) main: Main,
    /// The ad that is active; while there is one, the main content owns no time.
    pub(super) ad: Option<ActiveAd>,
}

/// An active ad.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ActiveAd {
    pub(super) state: Ad,
    pub(super) clock: AdClock,
}

/// What plays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Playing {
    /// The content.
    Content,
    /// An ad, of which so many ms are left.
    Ad { left_ms: u64 },
    /// Neither.
    Nothing,
}

impl InForce {
    /// What plays.
    pub(super) fn playing(self) -> Playing {
        match (self.ad, self.main) {
            (Some(ActiveAd { state: Ad::Playing, clock }), _) => {
                Playing::Ad { left_ms: clock.left_ms() }
            }
            (None, Main::Playing) => Playing::Content,
            _ => Playing::Nothing,
        }
    }

    /// How much of a step is believed, in ms. `forward_ms` tells how far the playhead moved forward meanwhile.
    pub(super) fn believed_ms(self, step_ms: u64, forward_ms: impl FnOnce() -> u64) -> u64 {
        let is_silent = step_ms > SILENCE_MS;
        match (self.ad, self.main) {
            (Some(ActiveAd { state: Ad::Playing, clock }), _) if is_silent || clock.is_capped => {
                step_ms.min(clock.left_ms())
            }
            _ if !is_silent => step_ms,
            (Some(ActiveAd { state: Ad::Buffering, .. }), _) | (None, Main::Buffering) => {
                SILENCE_MS
            }
            (None, Main::Playing) => {
                Some(forward_ms()).filter(|ms| *ms < step_ms.div_ceil(2)).unwrap_or(step_ms)
            }
            // Pauses may last.
            _ => step_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ad(state: Ad, length_ms: u64, played_ms: u64, is_capped: bool) -> InForce {
        let clock = AdClock { number: 1, length_ms, played_ms, is_capped };
        InForce { main: Main::Playing, ad: Some(ActiveAd { state, clock }) }
    }

    #[test]
    fn of_a_long_step_in_content_the_playhead_is_believed() {
        let content = InForce { main: Main::Playing, ad: None };
        let believed = |step_ms, moved_ms| content.believed_ms(step_ms, || moved_ms);
        assert_eq!(believed(90_000, 0), 90_000, "the server needs no cadence up to there");
        assert_eq!(believed(90_001, 500), 500);
        assert_eq!(believed(100_001, 50_000), 50_000, "less than half");
        assert_eq!(believed(100_000, 50_000), 100_000, "half speed is play");
        assert_eq!(content.playing(), Playing::Content);
    }

    #[test]
    fn a_pause_may_last_and_a_buffer_for_90_s() {
        let of = |main| InForce { main, ad: None }.believed_ms(1_000_000, || 0);
        assert_eq!(of(Main::Paused), 1_000_000);
        assert_eq!(of(Main::Buffering), 90_000);
        assert_eq!(ad(Ad::Paused, 1, 0, true).believed_ms(1_000_000, || 0), 1_000_000);
        assert_eq!(ad(Ad::Buffering, 1, 0, true).believed_ms(1_000_000, || 0), 90_000);
    }

    #[test]
    fn an_ad_plays_what_is_left_of_it() {
        let believed = |ad: InForce, step_ms| ad.believed_ms(step_ms, || unreachable!());
        assert_eq!(believed(ad(Ad::Playing, 15_000, 5_000, false), 90_001), 10_000);
        assert_eq!(believed(ad(Ad::Playing, 0, 5_000, false), 90_001), 90_000, "unknown length");
        assert_eq!(believed(ad(Ad::Playing, 200_000, 0, false), 100_000), 100_000);
        assert_eq!(believed(ad(Ad::Playing, 15_000, 14_000, false), 5_000), 5_000);
        assert_eq!(believed(ad(Ad::Playing, 15_000, 14_000, true), 5_000), 1_000);
        assert_eq!(believed(ad(Ad::Playing, 15_000, 99_000, true), 5_000), 0);
        assert_eq!(believed(ad(Ad::Playing, 0, 99_000, true), 5_000), 5_000);
    }
}
