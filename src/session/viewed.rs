//! Which parts of the content were viewed, each counted once however often it was played.

use serde::{Deserialize, Serialize};

use super::is_default;
use super::list::List;
use super::place::{DAY_S, farthest_s, is_implausible, passes_midnight, seconds};
use crate::wire::Content;

/// How many intervals are told apart; beyond, the two nearest become one.
const INTERVALS_MAX: usize = 4_096;

/// A part of the content, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Interval {
    from: f64,
    to: f64,
}

/// The union of what was viewed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Viewed {
    /// Sorted; no two touch each other.
    intervals: List<Interval>,
    /// Intervals were joined over parts that nobody viewed, because there were too many.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) is_truncated: bool,
}

impl Viewed {
    /// Adds what was viewed when playing content moved from one playhead to another in `elapsed_ms`.
    pub(super) fn add_played(&mut self, content: Content, from: f64, to: f64, elapsed_ms: u64) {
        if is_implausible(content, to) {
            return;
        }
        let is_known = !is_implausible(content, from);
        if is_known && from <= to && to <= from + farthest_s(elapsed_ms) {
            self.add_of(content, from, to);
        } else if is_known && passes_midnight(content, from, to, elapsed_ms) {
            self.add(from, DAY_S);
            self.add(0.0, to);
        } else {
            // It jumped somewhere in between. The time just before is the best guess, and lets a rewind
            // add little.
            self.add_of(content, (to - seconds(elapsed_ms)).max(0.0), to);
        }
    }

    /// How much of the content was viewed, in seconds.
    pub(crate) fn seconds(&self) -> f64 {
        self.intervals.iter().map(|interval| interval.to - interval.from).sum()
    }

    /// The memory that it holds beside itself, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        self.intervals.heap_bytes()
    }

    /// Adds an interval, as far as it lies within the content.
    fn add_of(&mut self, content: Content, from: f64, to: f64) {
        match content {
            Content::Recorded { length_s: Some(length_s) } => self.add(from, to.min(length_s)),
            Content::Recorded { length_s: None } | Content::Live => self.add(from, to),
        }
    }

    fn add(&mut self, from: f64, to: f64) {
        if from >= to {
            return;
        }
        let first = self.intervals.partition_point(|interval| interval.to < from);
        let end = self.intervals.partition_point(|interval| interval.from <= to);
        let touched = &self.intervals[first..end];
        let joined = Interval {
            from: touched.first().map_or(from, |interval| interval.from.min(from)),
            to: touched.last().map_or(to, |interval| interval.to.max(to)),
        };
        self.intervals.replace(first..end, joined);
        if self.intervals.len() > INTERVALS_MAX {
            self.join_nearest();
        }
    }

    fn join_nearest(&mut self) {
        let gap = |pair: &[Interval]| pair[1].from - pair[0].to;
        let pairs = self.intervals.windows(2).enumerate();
        let Some((row, pair)) = pairs.min_by(|(_, a), (_, b)| gap(a).total_cmp(&gap(b))) else {
            return;
        };
        let joined = Interval { from: pair[0].from, to: pair[1].to };
        self.intervals.replace(row..row + 2, joined);
        self.is_truncated = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDED: Content = Content::Recorded { length_s: Some(100.0) };

    fn shown(viewed: &Viewed) -> Vec<(f64, f64)> {
        viewed.intervals.iter().map(|interval| (interval.from, interval.to)).collect()
    }

    fn played(content: Content, passages: &[(f64, f64, u64)]) -> Vec<(f64, f64)> {
        let mut viewed = Viewed::default();
        for (from, to, elapsed_s) in passages {
            viewed.add_played(content, *from, *to, elapsed_s * 1_000);
        }
        shown(&viewed)
    }

    #[test]
    fn continuous_play_adds_what_lies_between() {
        assert_eq!(played(RECORDED, &[(5.0, 15.0, 10)]), [(5.0, 15.0)]);
        assert_eq!(played(RECORDED, &[(5.0, 26.0, 10)]), [(5.0, 26.0)], "twice as fast and jitter");
        assert_eq!(played(RECORDED, &[(5.0, 5.5, 10)]), [(5.0, 5.5)], "slow motion");
    }

    #[test]
    fn a_jump_adds_the_time_before_its_end() {
        assert_eq!(played(RECORDED, &[(5.0, 26.01, 10)]), [(16.01, 26.01)]);
        assert_eq!(played(RECORDED, &[(50.0, 26.0, 10)]), [(16.0, 26.0)]);
        assert_eq!(played(RECORDED, &[(50.0, 6.0, 10)]), [(0.0, 6.0)]);
        assert_eq!(played(RECORDED, &[(50.0, 6.0, 0)]), [], "no time, nothing viewed");
    }

    #[test]
    fn recorded_content_is_cut_at_its_length_if_that_is_known() {
        assert_eq!(played(RECORDED, &[(95.0, 105.0, 10)]), [(95.0, 100.0)]);
        assert_eq!(played(RECORDED, &[(101.0, 105.0, 10)]), []);
        assert_eq!(played(RECORDED, &[(95.0, 161.0, 60)]), [], "no place in the content");
        assert_eq!(played(RECORDED, &[(161.0, 50.0, 10)]), [(40.0, 50.0)]);
        let unknown = Content::Recorded { length_s: None };
        assert_eq!(played(unknown, &[(95.0, 105.0, 10)]), [(95.0, 105.0)]);
    }

    #[test]
    fn live_content_goes_on_over_midnight() {
        let midnight = (86_395.0, 5.0, 10);
        assert_eq!(played(Content::Live, &[midnight]), [(0.0, 5.0), (86_395.0, 86_400.0)]);
        assert_eq!(played(RECORDED, &[midnight]), [(0.0, 5.0)], "for others it is a jump");
        assert_eq!(played(Content::Live, &[(86_395.0, 50.0, 10)]), [(40.0, 50.0)]);
        assert_eq!(played(Content::Live, &[(86_405.0, 5.0, 2)]), [(3.0, 5.0)], "no such second");
        assert_eq!(played(Content::Live, &[(200_000.0, 80_000.0, 1)]), [(79_999.0, 80_000.0)]);
    }

    #[test]
    fn what_touches_becomes_one_and_nothing_counts_twice() {
        let apart = [(0.0, 10.0, 10), (20.0, 30.0, 10), (40.0, 50.0, 10)];
        assert_eq!(played(RECORDED, &apart), [(0.0, 10.0), (20.0, 30.0), (40.0, 50.0)]);
        let with = |passage| played(RECORDED, &[&apart[..], &[passage]].concat());
        assert_eq!(with((10.0, 20.0, 10)), [(0.0, 30.0), (40.0, 50.0)]);
        assert_eq!(with((5.0, 45.0, 40)), [(0.0, 50.0)]);
        assert_eq!(with((22.0, 28.0, 6)), with((20.0, 30.0, 10)));
        assert_eq!(with((12.0, 15.0, 3)), [(0.0, 10.0), (12.0, 15.0), (20.0, 30.0), (40.0, 50.0)]);
        assert_eq!(with((60.0, 70.0, 10)).last(), Some(&(60.0, 70.0)));
    }

    #[test]
    fn beyond_the_most_the_two_nearest_are_joined() {
        let mut viewed = Viewed::default();
        for number in 0..4_096_u32 {
            viewed.add(f64::from(number) * 10.0, f64::from(number) * 10.0 + 1.0);
        }
        assert!(!viewed.is_truncated);
        viewed.add(54.0, 55.0);
        assert!(viewed.is_truncated);
        assert_eq!(viewed.intervals.len(), INTERVALS_MAX);
        assert_eq!(viewed.intervals[5], Interval { from: 50.0, to: 55.0 });
        assert!((viewed.seconds() - 4_100.0).abs() < 1e-9, "three seconds of gap");
        assert_eq!(viewed.heap_bytes(), 4_096 * 16);
    }
}
