//! How well a session played: bitrates weighed by time, dropped frames, errors.

use serde::{Deserialize, Serialize};

use super::list::{List, allocated};
use super::step::{ErrorId, Readings};
use super::tally::Tally;
use crate::escape;

/// How many ids of errors are told apart.
const ERROR_IDS_MAX: usize = 64;

/// How many bytes they may have together, as the report has them.
const ERROR_IDS_BYTES_MAX: usize = 64 << 10;

/// One kbit/s in bits in a thousand seconds.
const KBIT_MILLI: u128 = 1_000_000;

/// How well a session played.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Quality {
    /// The last known values; of the time to start, the one that holds.
    pub(crate) last: Readings,
    pub(crate) bitrate_changes: u32,
    pub(crate) errors: u32,
    /// The different ids of errors, the first seen first.
    pub(crate) error_ids: List<ErrorId>,
    /// An error of the player is not listed.
    pub(crate) player_errors_are_cut: bool,
    /// An error from outside is not listed.
    pub(crate) external_errors_are_cut: bool,
    /// The play time for which a bitrate was known.
    weighed: Tally,
    /// The sum of bitrates times play time in ms, exactly.
    weight: u128,
    /// The part of it that belongs to the time that is held.
    held_weight: u128,
}

impl Quality {
    /// Takes the values that an event carries; `has_started` says whether content had been played before
    /// the event.
    pub(super) fn store(&mut self, readings: &Readings, has_started: bool) {
        let Readings { bitrate_milli, dropped_frames, frames_per_second, time_to_start_ms } =
            *readings;
        let last = &mut self.last;
        last.bitrate_milli = bitrate_milli.or(last.bitrate_milli);
        last.dropped_frames = dropped_frames.or(last.dropped_frames);
        last.frames_per_second = frames_per_second.or(last.frames_per_second);
        last.time_to_start_ms = match (has_started, last.time_to_start_ms) {
            // Once it played, the first value stays.
            (true, Some(known_ms)) => Some(known_ms),
            (_, known_ms) => time_to_start_ms.or(known_ms),
        };
    }

    /// Counts an error; one without an id is counted only.
    pub(super) fn error(&mut self, id: Option<ErrorId>) {
        self.errors += 1;
        let Some(id) = id.filter(|id| !self.error_ids.contains(id)) else { return };
        let is_cut = self.external_errors_are_cut || self.player_errors_are_cut;
        let json_bytes = |error: &ErrorId| escape::json_bytes(&error.id) + ",".len();
        let bytes: usize = self.error_ids.iter().map(json_bytes).sum();
        let fits = !id.id.is_empty() && bytes + json_bytes(&id) <= ERROR_IDS_BYTES_MAX;
        if fits && !is_cut && self.error_ids.len() < ERROR_IDS_MAX {
            self.error_ids.push(id);
        } else if id.is_external {
            self.external_errors_are_cut = true;
        } else {
            self.player_errors_are_cut = true;
        }
    }

    /// Weighs the current bitrate with play time.
    pub(super) fn weigh(&mut self, elapsed_ms: u64) {
        if let Some(bitrate_milli) = self.last.bitrate_milli {
            self.weighed.add(elapsed_ms);
            self.weight += u128::from(bitrate_milli) * u128::from(elapsed_ms);
        }
    }

    /// As [`weigh`](Self::weigh), with time that may turn out not to be play time.
    pub(super) fn hold(&mut self, elapsed_ms: u64) {
        if let Some(bitrate_milli) = self.last.bitrate_milli {
            self.weighed.hold(elapsed_ms);
            self.held_weight += u128::from(bitrate_milli) * u128::from(elapsed_ms);
        }
    }

    /// The time that was held is play time.
    pub(super) fn settle(&mut self) {
        self.weighed.settle();
        self.weight += std::mem::take(&mut self.held_weight);
    }

    /// The time that was held is not play time.
    pub(super) fn drop_held(&mut self) {
        self.weighed.drop_held();
        self.held_weight = 0;
    }

    /// The mean bitrate in kbit/s, rounded half up.
    pub(crate) fn kbits_per_second(&self) -> Option<u64> {
        let last = self.last.bitrate_milli?;
        let (weight, weighed_ms) = match self.weighed.sure_ms() {
            0 => (u128::from(last), 1),
            weighed_ms => (self.weight, weighed_ms),
        };
        let divisor = u128::from(weighed_ms) * KBIT_MILLI;
        u64::try_from((weight + divisor / 2) / divisor).ok()
    }

    /// The memory that it holds beside itself, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        let ids: usize = self.error_ids.iter().map(|error| allocated(error.id.len())).sum();
        self.error_ids.heap_bytes() + ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bitrate(bits: u64) -> Readings {
        Readings { bitrate_milli: Some(bits * 1_000), ..Readings::default() }
    }

    #[test]
    fn the_mean_bitrate_is_weighed_by_play_time_and_rounded_half_up() {
        let mut quality = Quality::default();
        assert_eq!(quality.kbits_per_second(), None);
        quality.weigh(99_000);
        quality.store(&bitrate(1_499), false);
        assert_eq!(quality.kbits_per_second(), Some(1), "no weighed time: the last value");
        quality.store(&bitrate(1_500), true);
        assert_eq!(quality.kbits_per_second(), Some(2));
        // The worked example of the specification.
        for (bits, seconds) in [(1_000_000, 20), (3_000_000, 15), (500_000, 11)] {
            quality.store(&bitrate(bits), true);
            quality.weigh(seconds * 1_000);
        }
        assert_eq!(quality.kbits_per_second(), Some(1_533));
    }

    #[test]
    fn held_time_has_the_weight_of_the_bitrate_it_was_held_with() {
        let mut quality = Quality::default();
        quality.hold(5_000);
        quality.store(&bitrate(1_000_000), true);
        quality.weigh(1_000);
        quality.hold(1_000);
        quality.store(&bitrate(4_000_000), true);
        assert_eq!(quality.kbits_per_second(), Some(1_000));
        quality.hold(1_000);
        let mut stalled = quality.clone();
        stalled.drop_held();
        stalled.settle();
        assert_eq!(stalled.kbits_per_second(), Some(1_000));
        quality.settle();
        assert_eq!(quality.kbits_per_second(), Some(2_000));
    }

    #[test]
    fn the_greatest_values_do_not_overflow() {
        let mut quality = Quality::default();
        quality.store(&Readings { bitrate_milli: Some(u64::MAX), ..Readings::default() }, true);
        quality.weigh(1 << 53);
        assert_eq!(quality.kbits_per_second(), Some(18_446_744_073_710));
    }

    #[test]
    fn the_time_to_start_is_the_last_up_to_the_first_play_or_the_first_after_it() {
        let after = |values: &[(u64, bool)]| {
            let mut quality = Quality::default();
            for (ms, has_started) in values {
                let time_to_start_ms = Some(*ms).filter(|ms| *ms > 0);
                quality.store(&Readings { time_to_start_ms, ..Readings::default() }, *has_started);
            }
            quality.last.time_to_start_ms
        };
        assert_eq!(after(&[(5, false), (7, false), (0, false), (9, true)]), Some(7));
        assert_eq!(after(&[(0, false), (0, true), (9, true), (8, true)]), Some(9));
        assert_eq!(after(&[(0, true)]), None);
    }

    #[test]
    fn different_ids_of_errors_are_listed_and_all_errors_counted() {
        let error = |number: u32, is_external| {
            Some(ErrorId { id: format!("e{number}").into(), is_external })
        };
        let mut quality = Quality::default();
        quality.error(None);
        for number in 0..63 {
            quality.error(error(number, false));
        }
        quality.error(error(0, true));
        quality.error(error(5, false));
        assert_eq!((quality.errors, quality.error_ids.len()), (66, 64));
        assert!(!quality.player_errors_are_cut);
        quality.error(error(99, false));
        assert!(quality.player_errors_are_cut && !quality.external_errors_are_cut);
        quality.error(error(99, true));
        assert!(quality.external_errors_are_cut);
        assert_eq!((quality.errors, quality.error_ids.len()), (68, 64));
    }
}
