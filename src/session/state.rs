//! What a session is doing: main content, ad break, ad, chapter, player states.
//!
//! One table, [`State::apply`], says what each event does. An event out of its context does nothing here.

use std::mem;

use serde::{Deserialize, Serialize};

use super::is_default;
use super::list::{List, allocated};
use super::step::{About, StateNames, Step};
use crate::wire::EventType;

/// How many player states a session may name.
const PLAYER_STATES_MAX: usize = 10;

/// The player states that the documentation names, as reports spell them.
const STANDARD_STATES: [&str; 5] =
    ["fullscreen", "mute", "closedCaptioning", "pictureInPicture", "inFocus"];

/// The main content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Main {
    /// It has not been played yet.
    #[default]
    Starting,
    /// It is played.
    Playing,
    /// It is paused, or sought in.
    Paused,
    /// It waits for data.
    Buffering,
    /// It was played to its end.
    Ended,
}

/// An ad that is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ad {
    /// It is played.
    Playing,
    /// It is paused.
    Paused,
    /// It waits for data.
    Buffering,
}

/// How an ad, an ad break or a chapter ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum End {
    /// It was played to its end.
    Completed,
    /// It was skipped.
    Skipped,
    /// Something else came.
    Abandoned,
}

/// The name of a player state. The standard ones are known in any case, and spelled in one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StateName(Box<str>);

impl StateName {
    /// The state of this name.
    pub fn new(name: &str) -> Self {
        let standard = STANDARD_STATES.iter().find(|known| known.eq_ignore_ascii_case(name));
        Self((*standard.unwrap_or(&name)).into())
    }

    /// The name as reports spell it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The memory that it holds beside itself, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        allocated(self.0.len())
    }
}

/// A player state that was named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlayerState {
    /// Its name.
    pub name: StateName,
    /// Whether it is on.
    pub is_open: bool,
    /// How often it began.
    pub count: u32,
    /// How long it was on, in ms.
    pub time_ms: u64,
}

/// The state of a session.
#[expect(clippy::struct_excessive_bools, reason = "each is a part of the documented state")]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The main content; it stands still while an ad is active, and goes on as it was.
    #[serde(skip_serializing_if = "is_default")]
    pub main: Main,
    /// Whether an ad break is open.
    #[serde(skip_serializing_if = "is_default")]
    pub break_is_open: bool,
    /// The ad that is active.
    #[serde(skip_serializing_if = "is_default")]
    pub ad: Option<Ad>,
    /// Whether a chapter is open.
    #[serde(skip_serializing_if = "is_default")]
    pub chapter_is_open: bool,
    /// Whether the content was played, be it for a moment.
    #[serde(skip_serializing_if = "is_default")]
    pub content_started: bool,
    /// Whether the content was played to its end.
    #[serde(skip_serializing_if = "is_default")]
    pub completed: bool,
    /// The player states in order of their first start.
    #[serde(skip_serializing_if = "is_default")]
    pub player_states: List<PlayerState>,
    /// Whether some were named that are not listed.
    #[serde(skip_serializing_if = "is_default")]
    pub player_states_are_cut: bool,
}

/// How playback is held up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// By the viewer.
    Pause,
    /// For want of data.
    Buffer,
}

/// What can begin and end within a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// An ad break.
    Break,
    /// An ad.
    Ad,
    /// A chapter.
    Chapter,
}

/// What came of an event: first something ended, then something started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Playback came to be held up.
    pub held: Option<Hold>,
    /// The active ad ended.
    pub ad_ended: Option<End>,
    /// The open ad break ended.
    pub break_ended: Option<End>,
    /// The open chapter ended.
    pub chapter_ended: Option<End>,
    /// Something began.
    pub started: Option<Part>,
}

impl Effects {
    /// Whether an ad break, an ad or a chapter began or ended.
    pub(super) fn concern_parts(self) -> bool {
        let ended = self.ad_ended.or(self.break_ended).or(self.chapter_ended);
        ended.is_some() || self.started.is_some()
    }
}

impl State {
    /// Lets an event act: the one table of transitions.
    pub fn apply(&mut self, step: &Step) -> Effects {
        use EventType as E;
        let mut effects = Effects::default();
        match step.event_type {
            // The state in force is the ad's while one is active, otherwise the main content's.
            E::Play if self.ad.is_some() => self.ad = Some(Ad::Playing),
            E::Play => (self.main, self.content_started) = (Main::Playing, true),
            E::PauseStart => effects.held = self.hold(Hold::Pause),
            E::BufferStart => effects.held = self.hold(Hold::Buffer),

            E::AdBreakStart => {
                effects.ad_ended = self.end_ad(End::Abandoned);
                effects.break_ended = self.end_break(End::Abandoned);
                self.break_is_open = true;
                effects.started = Some(Part::Break);
            }
            E::AdStart if self.break_is_open => {
                effects.ad_ended = self.end_ad(End::Abandoned);
                self.ad = Some(Ad::Playing);
                effects.started = Some(Part::Ad);
            }
            E::AdComplete => effects.ad_ended = self.end_ad(End::Completed),
            E::AdSkip => effects.ad_ended = self.end_ad(End::Skipped),
            E::AdBreakComplete if self.break_is_open => {
                effects.ad_ended = self.end_ad(End::Abandoned);
                effects.break_ended = self.end_break(End::Completed);
            }

            E::ChapterStart => {
                effects.chapter_ended = self.end_chapter(End::Abandoned);
                self.chapter_is_open = true;
                effects.started = Some(Part::Chapter);
            }
            E::ChapterComplete => effects.chapter_ended = self.end_chapter(End::Completed),
            E::ChapterSkip => effects.chapter_ended = self.end_chapter(End::Skipped),

            E::StateStart | E::StateEnd | E::StatesUpdate => {
                if let Some(About::States(states)) = step.about.as_deref() {
                    self.change_player_states(states);
                }
            }

            E::SessionComplete => (self.main, self.completed) = (Main::Ended, true),

            // They move time and playhead only. The session closes, but not here.
            E::SessionStart | E::SessionEnd | E::Ping | E::BitrateChange | E::Error
            // Out of a break.
            | E::AdStart | E::AdBreakComplete => {}
        }
        effects
    }

    /// Holds up the state in force; nothing if it was held up in this way before.
    fn hold(&mut self, hold: Hold) -> Option<Hold> {
        let (main, ad) = match hold {
            Hold::Pause => (Main::Paused, Ad::Paused),
            Hold::Buffer => (Main::Buffering, Ad::Buffering),
        };
        let entered = match &mut self.ad {
            Some(active) => mem::replace(active, ad) != ad,
            None => mem::replace(&mut self.main, main) != main,
        };
        entered.then_some(hold)
    }

    fn end_ad(&mut self, end: End) -> Option<End> {
        self.ad.take().map(|_| end)
    }

    fn end_break(&mut self, end: End) -> Option<End> {
        mem::take(&mut self.break_is_open).then_some(end)
    }

    fn end_chapter(&mut self, end: End) -> Option<End> {
        mem::take(&mut self.chapter_is_open).then_some(end)
    }

    fn change_player_states(&mut self, names: &StateNames) {
        self.player_states_are_cut |= names.is_cut;
        for name in names.ends.iter() {
            if let Some(state) = self.player_states.iter_mut().find(|state| state.name == *name) {
                state.is_open = false;
            }
        }
        for name in names.starts.iter() {
            if let Some(state) = self.player_states.iter_mut().find(|state| state.name == *name) {
                state.count += u32::from(!state.is_open);
                state.is_open = true;
            } else if self.player_states.len() < PLAYER_STATES_MAX {
                let name = name.clone();
                self.player_states.push(PlayerState { name, is_open: true, count: 1, time_ms: 0 });
            } else {
                self.player_states_are_cut = true;
            }
        }
    }

    /// Lets time pass: player states that are on stay on across all else.
    pub(super) fn pass(&mut self, elapsed_ms: u64) {
        for state in self.player_states.iter_mut().filter(|state| state.is_open) {
            state.time_ms += elapsed_ms;
        }
    }

    /// The memory that it holds beside itself, in bytes.
    pub fn heap_bytes(&self) -> usize {
        let names: usize = self.player_states.iter().map(|state| state.name.heap_bytes()).sum();
        self.player_states.heap_bytes() + names
    }
}

#[cfg(test)]
mod tests {
    use EventType as E;

    use super::*;
    use crate::session::tests::step;

    /// The state after these events, and what came of the last.
    fn after(events: &[EventType]) -> (State, Effects) {
        let mut state = State::default();
        let mut effects = Effects::default();
        for event_type in events {
            effects = state.apply(&step(*event_type, 0, 0.0));
        }
        (state, effects)
    }

    fn main_after(events: &[EventType]) -> Main {
        after(events).0.main
    }

    /// In a break with an active ad.
    const AD: [EventType; 2] = [E::AdBreakStart, E::AdStart];

    /// In an ad, after these further events.
    fn ad_after(events: &[EventType]) -> (State, Effects) {
        after(&[&AD, events].concat())
    }

    #[test]
    fn play_starts_the_content_or_lets_the_ad_go_on() {
        let (state, _) = after(&[E::Play]);
        assert_eq!((state.main, state.content_started), (Main::Playing, true));
        for before in [E::PauseStart, E::BufferStart, E::SessionComplete] {
            assert_eq!(main_after(&[E::Play, before, E::Play]), Main::Playing, "{before:?}");
        }
        let (state, _) = ad_after(&[E::PauseStart, E::Play]);
        assert_eq!((state.ad, state.main), (Some(Ad::Playing), Main::Starting));
        assert!(!state.content_started, "an ad is no content");
        let (state, _) = ad_after(&[E::AdComplete, E::Play]);
        assert!(state.content_started && state.break_is_open, "a play between two ads does");
    }

    #[test]
    fn pause_and_buffer_hold_the_state_in_force_and_count_once() {
        for (event, main, ad, hold) in [
            (E::PauseStart, Main::Paused, Ad::Paused, Hold::Pause),
            (E::BufferStart, Main::Buffering, Ad::Buffering, Hold::Buffer),
        ] {
            let held = Effects { held: Some(hold), ..Effects::default() };
            for before in [&[][..], &[E::Play], &[E::Play, E::SessionComplete]] {
                let (state, effects) = after(&[before, &[event]].concat());
                assert_eq!((state.main, effects), (main, held), "{before:?}");
                let (_, again) = after(&[before, &[event, event]].concat());
                assert_eq!(again, Effects::default(), "already so");
                let (_, anew) = after(&[before, &[event, E::Play, event]].concat());
                assert_eq!(anew, held);
            }
            let (state, effects) = ad_after(&[event]);
            assert_eq!((state.ad, state.main), (Some(ad), Main::Starting), "main is frozen");
            assert_eq!(effects, held);
            let (_, again) = ad_after(&[event, event]);
            assert_eq!(again, Effects::default());
        }
        let (_, other) = after(&[E::PauseStart, E::BufferStart]);
        assert_eq!(other.held, Some(Hold::Buffer));
    }

    #[test]
    fn events_that_only_move_time_change_no_state() {
        for event in [E::Ping, E::BitrateChange, E::Error, E::SessionEnd] {
            for before in [&[][..], &[E::Play], &AD, &[E::ChapterStart]] {
                let (state, effects) = after(&[before, &[event]].concat());
                assert_eq!((state, effects), (after(before).0, Effects::default()), "{event:?}");
            }
        }
    }

    #[test]
    fn a_break_start_ends_an_active_ad_and_an_open_break() {
        let (state, effects) = after(&[E::AdBreakStart]);
        assert!(state.break_is_open && state.ad.is_none());
        assert_eq!(effects, Effects { started: Some(Part::Break), ..Effects::default() });
        let (state, effects) = ad_after(&[E::AdBreakStart]);
        assert!(state.break_is_open && state.ad.is_none());
        assert_eq!(effects.ad_ended, Some(End::Abandoned));
        assert_eq!(effects.break_ended, Some(End::Abandoned));
        assert_eq!(effects.started, Some(Part::Break));
    }

    #[test]
    fn an_ad_acts_in_a_break_only() {
        for event in [E::AdStart, E::AdComplete, E::AdSkip, E::AdBreakComplete] {
            let (state, effects) = after(&[E::Play, event]);
            assert_eq!((state, effects), (after(&[E::Play]).0, Effects::default()), "{event:?}");
        }
        let (state, effects) = ad_after(&[]);
        assert_eq!(state.ad, Some(Ad::Playing), "playing at once");
        assert_eq!(effects, Effects { started: Some(Part::Ad), ..Effects::default() });
        let (state, effects) = ad_after(&[E::PauseStart, E::AdStart]);
        assert_eq!(state.ad, Some(Ad::Playing));
        assert_eq!((effects.ad_ended, effects.started), (Some(End::Abandoned), Some(Part::Ad)));
    }

    #[test]
    fn an_ad_ends_completed_skipped_or_abandoned_and_main_goes_on_as_it_was() {
        for (event, end) in [(E::AdComplete, End::Completed), (E::AdSkip, End::Skipped)] {
            let (state, effects) = ad_after(&[event]);
            assert!(state.ad.is_none() && state.break_is_open);
            assert_eq!(effects, Effects { ad_ended: Some(end), ..Effects::default() });
            let (_, again) = ad_after(&[event, event]);
            assert_eq!(again, Effects::default(), "no ad is active");
            let mid_roll = after(&[E::Play, E::AdBreakStart, E::AdStart, E::PauseStart, event]).0;
            assert_eq!(mid_roll.main, Main::Playing);
        }
        let (state, effects) = ad_after(&[E::AdBreakComplete]);
        assert!(state.ad.is_none() && !state.break_is_open);
        assert_eq!(effects.ad_ended, Some(End::Abandoned));
        assert_eq!(effects.break_ended, Some(End::Completed));
        assert_eq!(state.main, Main::Starting, "after a pre-roll the content has not begun");
    }

    #[test]
    fn a_chapter_is_completed_skipped_or_ended_by_the_next() {
        let (state, effects) = after(&[E::ChapterStart]);
        assert!(state.chapter_is_open);
        assert_eq!(effects.started, Some(Part::Chapter));
        assert_eq!(effects.chapter_ended, None);
        let (state, effects) = after(&[E::ChapterStart, E::ChapterStart]);
        assert!(state.chapter_is_open);
        assert_eq!(effects.started, Some(Part::Chapter));
        assert_eq!(effects.chapter_ended, Some(End::Abandoned));
        for (event, end) in [(E::ChapterComplete, End::Completed), (E::ChapterSkip, End::Skipped)] {
            let (state, effects) = after(&[E::ChapterStart, event]);
            assert!(!state.chapter_is_open);
            assert_eq!(effects.chapter_ended, Some(end));
            assert_eq!(after(&[event]).1, Effects::default(), "none is open");
        }
    }

    #[test]
    fn a_completed_session_has_ended_content_and_its_ads_go_on() {
        let (state, _) = after(&[E::Play, E::SessionComplete]);
        assert_eq!((state.main, state.completed), (Main::Ended, true));
        let (state, _) = ad_after(&[E::SessionComplete]);
        assert_eq!((state.main, state.ad), (Main::Ended, Some(Ad::Playing)));
        let replay = after(&[E::Play, E::SessionComplete, E::Play]).0;
        assert!(replay.completed, "it was completed once");
    }

    fn changed(state: &mut State, ends: &[&str], starts: &[&str]) {
        let names = |names: &[&str]| names.iter().copied().map(StateName::new).collect();
        let names = StateNames { ends: names(ends), starts: names(starts), is_cut: false };
        let mut step = step(E::StatesUpdate, 0, 0.0);
        step.about = Some(Box::new(About::States(names)));
        assert_eq!(state.apply(&step), Effects::default());
    }

    fn player_states(state: &State) -> Vec<(&str, bool)> {
        state.player_states.iter().map(|state| (state.name.as_str(), state.is_open)).collect()
    }

    #[test]
    fn player_states_open_and_close_and_the_standard_ones_are_known_in_any_case() {
        let mut state = State::default();
        changed(&mut state, &["mute"], &["fullScreen", "Mine"]);
        changed(&mut state, &[], &["FULLSCREEN", "mine"]);
        assert_eq!(player_states(&state), [("fullscreen", true), ("Mine", true), ("mine", true)]);
        changed(&mut state, &["Mine", "fullscreen"], &["fullscreen"]);
        assert_eq!(
            player_states(&state),
            [("fullscreen", true), ("Mine", false), ("mine", true)],
            "ends come first"
        );
    }

    #[test]
    fn an_eleventh_player_state_is_dropped_and_a_known_one_starts_again() {
        let names: Vec<String> = (0..11).map(|number| format!("s{number}")).collect();
        let mut state = State::default();
        for name in &names {
            changed(&mut state, &[], &[name]);
        }
        assert!(state.player_states_are_cut);
        changed(&mut state, &["s0"], &["s10"]);
        assert_eq!(state.player_states.len(), 10);
        changed(&mut state, &["s10"], &["s0"]);
        assert!(state.player_states.iter().all(|state| state.is_open));
        let counts = state.player_states.iter().map(|state| state.count);
        assert_eq!(counts.collect::<Vec<_>>(), [2, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
    }
}
