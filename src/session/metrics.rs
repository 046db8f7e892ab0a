//! What the viewer got: the running sums that every event moves.
//!
//! Time comes from the stamps of events, never from the playhead: there are no seek events, and neither
//! a rewind nor fast play may distort it. Nothing is added after the last event.

use serde::{Deserialize, Serialize};

use super::list::allocated;
use super::parts::Parts;
use super::quality::Quality;
use super::state::{Ad, Effects, Hold, Main, Part, State};
use super::step::{About, Readings, Step};
use super::tally::Tally;
use super::viewed::Viewed;
use super::{is_default, is_elsewhere};
use crate::wire::{Content, EventType, Playhead};

/// So many pings that find the playhead where it was are a stall.
const STILL_PINGS: u8 = 3;

/// The playhead of live content is the second of the day.
const SECONDS_OF_A_DAY: f64 = 86_400.0;

/// What the ad breaks, ads and chapters take, and how well it played, each without what is in its lists.
pub(super) const PARTS_BYTES: usize = allocated(size_of::<Parts>());
pub(super) const QUALITY_BYTES: usize = allocated(size_of::<Quality>());

/// The running sums of a session. Times are in ms.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Metrics {
    /// The playhead of the last processed event.
    playhead: Playhead,
    /// Content that was played, without stalls.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) content: Tally,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) pause_ms: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) buffer_ms: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) stall_ms: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) pauses: u32,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) buffers: u32,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) stalls: u32,
    /// Pings in a row that found the playhead where it was; with the third it has stalled.
    #[serde(skip_serializing_if = "is_default")]
    still_pings: u8,
    /// Since the content was first played.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reach: Option<Reach>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) viewed: Viewed,
    /// Most sessions have neither ads nor chapters.
    #[serde(skip_serializing_if = "Option::is_none")]
    parts: Option<Box<Parts>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quality: Option<Box<Quality>>,
}

/// How far into the content the playhead came, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reach {
    /// Where the content was first played.
    began: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Metrics {
    /// Begins with the start of a session.
    pub(super) fn new(playhead: Playhead, readings: Option<&Readings>) -> Self {
        let mut metrics = Self { playhead, ..Self::default() };
        metrics.store(readings, false);
        metrics
    }

    /// Gives the time before an event to the state that was in force until then.
    pub(super) fn pass(&mut self, elapsed_ms: u64, before: &State, content: Content, step: &Step) {
        match (before.ad, before.main) {
            (Some(Ad::Playing), _) => self.play_ad(elapsed_ms),
            (Some(Ad::Paused), _) | (None, Main::Paused) => self.pause_ms += elapsed_ms,
            (Some(Ad::Buffering), _) | (None, Main::Buffering) => self.buffer_ms += elapsed_ms,
            (None, Main::Playing) => {
                self.play(elapsed_ms, content, before.chapter_is_open, step);
            }
            (None, Main::Starting | Main::Ended) => {}
        }
        self.playhead = step.player_time.playhead;
    }

    /// Takes what came of an event, given the state after it; of the one before, what main was and whether
    /// content had been played.
    pub(super) fn act(
        &mut self,
        content: Content,
        step: Step,
        effects: Effects,
        (main_before, had_started): (Main, bool),
        after: &State,
    ) {
        if after.main != main_before || effects.started == Some(Part::Ad) {
            self.settle();
            self.still_pings = 0;
        }
        let about = step.about.map(|about| *about);
        match effects.held {
            Some(Hold::Pause) => self.pauses += 1,
            Some(Hold::Buffer) => self.buffers += 1,
            None => {}
        }
        match (step.event_type, about) {
            (EventType::BitrateChange, _) => self.quality_mut().bitrate_changes += 1,
            (EventType::Error, Some(About::Error(id))) => self.quality_mut().error(Some(id)),
            (EventType::Error, _) => self.quality_mut().error(None),
            (_, about) if effects.concern_parts() => {
                self.parts.get_or_insert_default().note(effects, about);
            }
            _ => {}
        }
        self.store(step.readings.as_deref(), had_started);
        if after.content_started {
            self.reach(content, step.player_time.playhead.seconds());
        }
    }

    /// What was held is content, because nothing comes that could show a stall.
    pub(super) fn settle(&mut self) {
        self.content.settle();
        if let Some(parts) = &mut self.parts {
            parts.decide_chapter_time(Tally::settle);
        }
        self.change_quality(Quality::settle);
    }

    /// The ad breaks, ads and chapters, if there were any.
    pub(crate) fn parts(&self) -> Option<&Parts> {
        self.parts.as_deref()
    }

    /// How well it played, if that was said.
    pub(crate) fn quality(&self) -> Option<&Quality> {
        self.quality.as_deref()
    }

    /// The memory that it holds beside itself, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        let parts = self.parts.as_ref().map(|parts| PARTS_BYTES + parts.heap_bytes());
        let quality = self.quality.as_ref().map(|quality| QUALITY_BYTES + quality.heap_bytes());
        self.viewed.heap_bytes() + parts.unwrap_or(0) + quality.unwrap_or(0)
    }

    fn play_ad(&mut self, elapsed_ms: u64) {
        self.parts.get_or_insert_default().add_ad_time(elapsed_ms);
        self.change_quality(|quality| quality.weigh(elapsed_ms));
    }

    /// The content was playing: whether it did, the playhead tells.
    fn play(&mut self, elapsed_ms: u64, content: Content, in_chapter: bool, step: &Step) {
        let playhead = step.player_time.playhead;
        if is_elsewhere(playhead, self.playhead) {
            self.settle();
            self.still_pings = 0;
            self.content.add(elapsed_ms);
            self.change_chapter(in_chapter, |time| time.add(elapsed_ms));
            self.change_quality(|quality| quality.weigh(elapsed_ms));
            let (from, to) = (self.playhead.seconds(), playhead.seconds());
            self.viewed.add_played(content, from, to, elapsed_ms);
        } else if self.still_pings == STILL_PINGS {
            self.stall_ms += elapsed_ms;
        } else {
            self.content.hold(elapsed_ms);
            self.change_chapter(in_chapter, |time| time.hold(elapsed_ms));
            self.change_quality(|quality| quality.hold(elapsed_ms));
            self.still_pings += u8::from(step.event_type == EventType::Ping);
            if self.still_pings == STILL_PINGS {
                self.stall();
            }
        }
    }

    fn change_chapter(&mut self, in_chapter: bool, change: impl Fn(&mut Tally)) {
        if in_chapter && let Some(parts) = &mut self.parts {
            parts.change_chapter_time(change);
        }
    }

    fn change_quality(&mut self, change: impl FnOnce(&mut Quality)) {
        if let Some(quality) = &mut self.quality {
            change(quality);
        }
    }

    /// What was held is a stall.
    fn stall(&mut self) {
        self.stalls += 1;
        self.stall_ms += self.content.drop_held();
        if let Some(parts) = &mut self.parts {
            parts.decide_chapter_time(|time| {
                time.drop_held();
            });
        }
        self.change_quality(Quality::drop_held);
    }

    fn store(&mut self, readings: Option<&Readings>, had_started: bool) {
        if let Some(readings) = readings {
            self.quality_mut().store(readings, had_started);
        }
    }

    fn quality_mut(&mut self) -> &mut Quality {
        self.quality.get_or_insert_default()
    }

    fn reach(&mut self, content: Content, playhead: f64) {
        let began = self.reach.map_or(playhead, |reach| reach.began);
        let at = match content {
            Content::Recorded { .. } => playhead,
            Content::Live => distance(began, playhead),
        };
        let reach = self.reach.get_or_insert(Reach { began, least: at, most: at });
        reach.least = reach.least.min(at);
        reach.most = reach.most.max(at);
    }
}

/// How far live content has gone on, which may be over midnight.
fn distance(began: f64, playhead: f64) -> f64 {
    let distance = playhead - began;
    let over_midnight = if distance < -SECONDS_OF_A_DAY / 2.0 { SECONDS_OF_A_DAY } else { 0.0 };
    (distance + over_midnight).max(0.0)
}
