//! Where a playhead can be in the content.
//!
//! The playhead of live content is the second of the day, and begins again at midnight.

use crate::wire::Content;

/// The seconds of a day.
pub(super) const DAY_S: f64 = 86_400.0;

/// How far behind the length of the content a playhead is still a place in it, in seconds.
const PAST_THE_END_S: f64 = 60.0;

/// Whether a playhead, in seconds, cannot be a place in the content.
pub(super) fn is_implausible(content: Content, playhead: f64) -> bool {
    match content {
        Content::Live => playhead >= DAY_S,
        Content::Recorded { length_s } => {
            length_s.is_some_and(|length_s| playhead > length_s + PAST_THE_END_S)
        }
    }
}

/// How far a playhead may move in `step_ms` and be play, in seconds: speeds up to two, and some jitter.
pub(super) fn farthest_s(step_ms: u64) -> f64 {
    2.0 * seconds(step_ms) + 1.0
}

/// Whether the playhead of live content went on over midnight in `step_ms`.
pub(super) fn passes_midnight(content: Content, from: f64, to: f64, step_ms: u64) -> bool {
    content == Content::Live && to < from && to + DAY_S - from <= farthest_s(step_ms)
}

/// How far the playhead moved forward in `step_ms`, in ms of the content; 0 from or to where no playhead can be.
pub(super) fn forward_ms(content: Content, from: f64, to: f64, step_ms: u64) -> u64 {
    if is_implausible(content, from) || is_implausible(content, to) {
        return 0;
    }
    let over_midnight = if passes_midnight(content, from, to, step_ms) { DAY_S } else { 0.0 };
    whole((to - from + over_midnight).max(0.0) * 1_000.0 + 0.5)
}

#[expect(clippy::cast_precision_loss, reason = "no two events lie 2^53 ms apart")]
pub(super) fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
fn whole(number: f64) -> u64 {
    number.floor() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_and_more_and_far_behind_the_end_is_no_place() {
        let recorded = Content::Recorded { length_s: Some(100.0) };
        assert!(!is_implausible(recorded, 160.0) && is_implausible(recorded, 160.001));
        assert!(!is_implausible(Content::Recorded { length_s: None }, f64::MAX));
        assert!(!is_implausible(Content::Live, 86_399.999) && is_implausible(Content::Live, DAY_S));
    }

    #[test]
    fn only_forward_counts_and_live_content_goes_on_over_midnight() {
        let recorded = Content::Recorded { length_s: Some(100.0) };
        assert_eq!(forward_ms(recorded, 10.0, 10.5, 9_000), 500);
        assert_eq!(forward_ms(recorded, 10.5, 10.0, 9_000), 0);
        assert_eq!(forward_ms(recorded, 10.0, 161.0, 9_000), 0, "no place in the content");
        assert_eq!(forward_ms(recorded, 161.0, 90.0, 9_000), 0);
        assert_eq!(forward_ms(Content::Live, 86_395.0, 5.0, 10_000), 10_000);
        assert_eq!(forward_ms(Content::Live, 86_395.0, 50.0, 10_000), 0, "too far");
        let unknown = Content::Recorded { length_s: None };
        assert_eq!(forward_ms(unknown, 0.0, f64::MAX, 1), u64::MAX);
    }
}
