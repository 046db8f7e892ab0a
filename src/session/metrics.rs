//! What the viewer got: the running sums that every event moves.
//!
//! Time comes from the stamps of events, not from the playhead: there are no seek events, and neither
//! a rewind nor fast play may distort it. Only of a long silence the playhead tells how much was played. Nothing is
//! added after the last event.

use serde::{Deserialize, Serialize};

use super::in_force::{ActiveAd, InForce, Playing};
use super::list::allocated;
use super::parts::Parts;
use super::place::{self, DAY_S, is_implausible};
use super::quality::Quality;
use super::state::{Ad, Effects, Hold, Main, Part, State};
use super::step::{About, Readings, Step};
use super::tally::Tally;
use super::timeline::Behind;
use super::viewed::Viewed;
use super::{is_default, is_elsewhere};
use crate::wire::{Content, EventType, PlayerTime, Playhead};

/// So many pings that find the playhead where it was are a stall.
const STILL_PINGS: u8 = 3;

/// What the ad breaks, ads and chapters take, and how well it played, each without what is in its lists.
pub(super) const PARTS_BYTES: usize = allocated(size_of::<Parts>());
pub(super) const QUALITY_BYTES: usize = allocated(size_of::<Quality>());

/// The running sums of a session. Times are in ms.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Metrics {
    /// The playhead of the last processed event.
    playhead: Playhead,
    /// The playhead of the last processed event that was not late.
    reference: Playhead,
    /// Content that was played, without stalls.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) content: Tally,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) pause_ms: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) buffer_ms: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) stall_ms: u64,
    /// Silence that is not believed to be anything.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) unaccounted_ms: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) pauses: u32,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) buffers: u32,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) stalls: u32,
    /// Pings in a row that found the playhead where it was; with the third it has stalled.
    #[serde(skip_serializing_if = "is_default")]
    still_pings: u8,
    /// Playheads that cannot be a place in the content, since it was first played.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) implausible_playheads: u32,
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

/// How content that was playing came to an event.
#[derive(Clone, Copy)]
struct Play {
    /// The playhead before.
    from: Playhead,
    to: Playhead,
    is_late: bool,
    /// It is a ping that may show a stall.
    is_still_ping: bool,
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
        let mut metrics = Self { playhead, reference: playhead, ..Self::default() };
        metrics.store(readings, false);
        metrics
    }

    /// Fills in what the state before did not have.
    pub(super) fn fill_in(&mut self) {
        self.reference = self.playhead;
        if let Some(parts) = &mut self.parts {
            parts.fill_in(self.playhead);
        }
    }

    /// What time goes to in this state.
    pub(super) fn in_force(&self, state: &State) -> InForce {
        let clock = || self.parts.as_ref().map(|parts| parts.ad_clock()).unwrap_or_default();
        let ad = state.ad.map(|ad| ActiveAd { state: ad, clock: clock() });
        InForce { main: state.main, ad }
    }

    /// How far the playhead moved forward to `playhead` in a step of so many ms, in ms of the content.
    pub(super) fn forward_ms(&self, content: Content, playhead: Playhead, step_ms: u64) -> u64 {
        place::forward_ms(content, self.reference.seconds(), playhead.seconds(), step_ms)
    }

    /// Gives the time before an event to the state that was in force until then.
    pub(super) fn pass(
        &mut self,
        step_ms: u64,
        before: &State,
        content: Content,
        step: &Step,
        is_late: bool,
    ) {
        let PlayerTime { playhead, .. } = step.player_time;
        let in_force = self.in_force(before);
        let believed_ms = self.believed_ms(in_force, content, step_ms, playhead);
        if !self.give(in_force, believed_ms) {
            let is_in_break = before.break_is_open
                && self
                    .parts
                    .as_ref()
                    .is_some_and(|parts| !is_elsewhere(parts.break_playhead(), playhead));
            let is_still_ping = step.event_type == EventType::Ping
                && !is_late
                && believed_ms == step_ms
                && !is_in_break;
            let passage = Play { from: self.playhead, to: playhead, is_late, is_still_ping };
            self.play(believed_ms, content, before.chapter_is_open, passage);
        }
        self.playhead = playhead;
        if !is_late {
            self.reference = playhead;
        }
    }

    /// Gives a part of the step after a row to the state that was in force before an event of the row. The event has
    /// acted already.
    pub(super) fn credit(&mut self, step_ms: u64, event: &Behind, content: Content, now: &State) {
        let (playhead, before) = (event.playhead, self.as_of_now(event.before));
        let believed_ms = self.believed_ms(before, content, step_ms, playhead);
        if self.give(before, believed_ms) {
            return;
        }
        let (from, to) = (self.reference, playhead);
        let passage = Play { from, to, is_late: false, is_still_ping: false };
        self.play(believed_ms, content, now.chapter_is_open, passage);
        self.reference = playhead;
        if self.in_force(now).playing() != Playing::Content {
            self.settle();
        }
    }

    /// The active ad plays no longer than its length from now on, because the clock was set.
    pub(super) fn cap_ad(&mut self, in_force: InForce) {
        if let (Some(ad), Some(parts)) = (in_force.ad, &mut self.parts) {
            parts.cap_ad(ad.clock.number);
        }
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
                let parts = self.parts.get_or_insert_default();
                parts.note(effects, about);
                if effects.started == Some(Part::Break) {
                    parts.begin_break_at(step.player_time.playhead);
                }
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

    /// What was in force, with what its ad has played since, if it is still the last that began.
    fn as_of_now(&self, mut in_force: InForce) -> InForce {
        if let (Some(ad), Some(parts)) = (&mut in_force.ad, &self.parts)
            && ad.clock.number == parts.ad_clock().number
        {
            ad.clock = parts.ad_clock();
        }
        in_force
    }

    /// How much of a step is believed, in ms. The rest is not accounted for.
    fn believed_ms(
        &mut self,
        in_force: InForce,
        content: Content,
        step_ms: u64,
        playhead: Playhead,
    ) -> u64 {
        let believed_ms =
            in_force.believed_ms(step_ms, || self.forward_ms(content, playhead, step_ms));
        if believed_ms < step_ms {
            self.unaccounted_ms += step_ms - believed_ms;
            self.cap_ad(in_force);
        }
        believed_ms
    }

    /// Gives time to what is in force. False if that is content that plays: what it is then, the playhead tells.
    fn give(&mut self, in_force: InForce, ms: u64) -> bool {
        match (in_force.ad, in_force.main) {
            (Some(ActiveAd { state: Ad::Playing, clock }), _) => self.play_ad(clock.number, ms),
            (Some(ActiveAd { state: Ad::Paused, .. }), _) | (None, Main::Paused) => {
                self.pause_ms += ms;
            }
            (Some(ActiveAd { state: Ad::Buffering, .. }), _) | (None, Main::Buffering) => {
                self.buffer_ms += ms;
            }
            (None, Main::Playing) => return false,
            (None, Main::Starting | Main::Ended) => {}
        }
        true
    }

    fn play_ad(&mut self, number: u32, ms: u64) {
        self.parts.get_or_insert_default().add_ad_time(number, ms);
        self.change_quality(|quality| quality.weigh(ms));
    }

    /// The content was playing: whether it did, the playhead tells.
    fn play(&mut self, ms: u64, content: Content, in_chapter: bool, passage: Play) {
        let Play { from, to, is_late, is_still_ping } = passage;
        if is_elsewhere(to, from) {
            self.settle();
            self.still_pings = 0;
            self.content.add(ms);
            self.change_chapter(in_chapter, |time| time.add(ms));
            self.change_quality(|quality| quality.weigh(ms));
            if !is_late {
                self.viewed.add_played(content, self.reference.seconds(), to.seconds(), ms);
            }
        } else if self.still_pings == STILL_PINGS {
            self.stall_ms += ms;
        } else {
            self.content.hold(ms);
            self.change_chapter(in_chapter, |time| time.hold(ms));
            self.change_quality(|quality| quality.hold(ms));
            self.still_pings += u8::from(is_still_ping);
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
        if is_implausible(content, playhead) {
            self.implausible_playheads += 1;
            return;
        }
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
    let over_midnight = if distance < -DAY_S / 2.0 { DAY_S } else { 0.0 };
    (distance + over_midnight).max(0.0)
}
