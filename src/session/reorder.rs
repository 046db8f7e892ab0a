//! The window in which the events of a session wait, so that late ones find their place.
//!
//! Libraries post in parallel, so events overtake each other. They wait in a window that opens with the
//! first of them, and are processed in the order of the player's clock when 5 s have passed or when ten
//! wait and an eleventh comes. A `sessionEnd` ends the window: for half a second its siblings are still
//! taken, then it is processed last.

use std::mem;

use serde::{Deserialize, Serialize};

use super::step::{Print, Step};
use crate::wire::EventType;

/// How long a window stays open, in ms of up time.
const SPAN_MS: u64 = 5_000;

/// How many events wait at most; the next one flushes them.
const WAITING_MAX: usize = 10;

/// How long a session lingers after its `sessionEnd`, in ms of up time.
const LINGER_MS: u64 = 500;

/// What an event that waits takes in the list of them, without what it holds itself. When it is processed an
/// interval of what was viewed, or an entry of a list, may take its place; with these bytes more none of them is
/// larger.
pub(super) const WAITING_BYTES: usize = size_of::<Waiting>() + 16;

/// An event that waits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Waiting {
    /// When it was received, in ms since the Unix epoch by the server's clock.
    pub(super) received_ms: u64,
    pub(super) step: Step,
}

/// The events that wait.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Window {
    /// When the first of them was received, in ms of up time.
    opened_up_ms: u64,
    waiting: Vec<Waiting>,
    end: Option<Box<End>>,
}

/// The end of a session that lingers.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct End {
    /// The instant from which on nothing more is taken, in ms of up time.
    closes_up_ms: u64,
    waiting: Waiting,
}

impl Window {
    /// Whether an event may still come: after a `sessionEnd` only what is stamped no later.
    pub(super) fn takes(&self, step: &Step) -> bool {
        self.end.as_ref().is_none_or(|end| {
            step.event_type != EventType::SessionEnd
                && step.player_time.ts <= end.waiting.step.player_time.ts
        })
    }

    /// How many events wait, without the end.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether the same body waits.
    pub(super) fn holds(&self, print: Print) -> bool {
        self.waiting.iter().any(|waiting| waiting.step.print == print)
    }

    /// The instant from which on the session is closed by its `sessionEnd`, in ms of up time.
    pub(super) fn closes_up_ms(&self) -> Option<u64> {
        self.end.as_ref().map(|end| end.closes_up_ms)
    }

    /// What must be processed now because it has waited its time, in order.
    pub(super) fn flush_due(&mut self, up_ms: u64) -> Vec<Waiting> {
        let is_due = self.end.is_none() && up_ms >= self.opened_up_ms.saturating_add(SPAN_MS);
        if is_due { self.sorted() } else { Vec::new() }
    }

    /// What must be processed before another event may wait, in order.
    pub(super) fn flush_full(&mut self) -> Vec<Waiting> {
        let waiting = self.waiting.len() + usize::from(self.end.is_some());
        if waiting >= WAITING_MAX { self.sorted() } else { Vec::new() }
    }

    /// Lets an event wait. Says whether it will be processed before one that came before it.
    pub(super) fn add(&mut self, received_ms: u64, up_ms: u64, step: Step) -> bool {
        // All that waits is processed together, and the end after it.
        let overtaken = |waiting: &Waiting| place(&waiting.step) > place(&step);
        let is_end = step.event_type == EventType::SessionEnd;
        let is_moved = !is_end && (self.end.is_some() || self.waiting.iter().any(overtaken));
        if self.waiting.is_empty() {
            self.opened_up_ms = up_ms;
        }
        let waiting = Waiting { received_ms, step };
        if is_end {
            let closes_up_ms = up_ms.saturating_add(LINGER_MS);
            self.end = Some(Box::new(End { closes_up_ms, waiting }));
        } else {
            // Most windows have one event or two, and a million sessions have a window each.
            self.waiting.reserve_exact(1);
            self.waiting.push(waiting);
        }
        is_moved
    }

    /// All that waits, in order, because the session closes.
    pub(super) fn close(&mut self) -> Vec<Waiting> {
        let mut all = self.sorted();
        all.extend(self.end.take().map(|end| end.waiting));
        all
    }

    /// The memory that it holds beside itself, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        let steps = self.waiting.iter().map(|waiting| waiting.step.heap_bytes()).sum::<usize>();
        let end = self.end.as_ref().map_or(0, |end| WAITING_BYTES + end.waiting.step.heap_bytes());
        self.waiting.len() * WAITING_BYTES + steps + end
    }

    /// What waits, in no order.
    pub(super) fn steps(&self) -> impl Iterator<Item = &Step> {
        let end = self.end.iter().map(|end| &end.waiting);
        self.waiting.iter().chain(end).map(|waiting| &waiting.step)
    }

    fn sorted(&mut self) -> Vec<Waiting> {
        let mut waiting = mem::take(&mut self.waiting);
        // The sort is stable, so what is equal stays in order of arrival.
        waiting.sort_by_key(|waiting| place(&waiting.step));
        waiting
    }
}

/// Where an event stands among others.
fn place(step: &Step) -> (u64, u8) {
    (step.player_time.ts, rank(step.event_type))
}

/// Which of several events that are stamped alike comes first.
fn rank(event_type: EventType) -> u8 {
    match event_type {
        EventType::AdComplete
        | EventType::AdSkip
        | EventType::ChapterComplete
        | EventType::ChapterSkip => 0,
        EventType::AdBreakComplete => 1,
        EventType::AdBreakStart => 2,
        EventType::AdStart | EventType::ChapterStart => 3,
        EventType::SessionComplete => 5,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::step;

    /// The types and stamps of events.
    fn shown(events: &[Waiting]) -> Vec<(EventType, u64)> {
        events.iter().map(|e| (e.step.event_type, e.step.player_time.ts)).collect()
    }

    fn add(window: &mut Window, up_ms: u64, event_type: EventType, ts: u64) -> bool {
        window.add(up_ms, up_ms, step(event_type, ts, 0.0))
    }

    #[test]
    fn a_window_is_due_five_seconds_after_its_first_event() {
        let mut window = Window::default();
        add(&mut window, 1_000, EventType::Play, 20);
        add(&mut window, 5_999, EventType::Ping, 10);
        assert_eq!(shown(&window.flush_due(5_999)), []);
        let flushed = window.flush_due(6_000);
        assert_eq!(shown(&flushed), [(EventType::Ping, 10), (EventType::Play, 20)]);
        add(&mut window, 6_000, EventType::Play, 30);
        assert_eq!(shown(&window.flush_due(10_999)), [], "the next one opened with its first");
        assert_eq!(window.flush_due(11_000).len(), 1);
    }

    #[test]
    fn an_event_that_is_put_before_an_earlier_one_is_told() {
        use EventType::*;
        let mut window = Window::default();
        assert!(!add(&mut window, 0, Play, 20), "nothing waits");
        assert!(!add(&mut window, 0, Ping, 30), "it came and stays behind");
        assert!(add(&mut window, 0, Ping, 25), "one that is later had come");
        assert!(!add(&mut window, 0, PauseStart, 30), "in order of arrival");
        assert!(add(&mut window, 0, AdStart, 30), "the kind puts it before the ping");
        assert!(!add(&mut window, 0, SessionEnd, 10), "an end is always the last");
        assert!(add(&mut window, 0, SessionComplete, 10), "the end had come");
        window.close();
        assert!(!add(&mut window, 0, Ping, 5), "nothing waits any more");
    }

    #[test]
    fn an_eleventh_event_flushes_ten() {
        let mut window = Window::default();
        for number in 0..10 {
            assert_eq!(shown(&window.flush_full()), []);
            add(&mut window, 0, EventType::Ping, 10 - number);
        }
        let flushed = window.flush_full();
        assert!(flushed.is_sorted_by_key(|event| event.step.player_time.ts));
        assert_eq!((flushed.len(), window.heap_bytes()), (10, 0));
    }

    #[test]
    fn ties_go_by_kind_and_then_by_arrival() {
        use EventType::*;
        let order = [
            AdSkip,
            AdComplete,
            ChapterSkip,
            ChapterComplete,
            AdBreakComplete,
            AdBreakStart,
            ChapterStart,
            AdStart,
            Play,
            PauseStart,
            StateStart,
            Error,
        ];
        let mut window = Window::default();
        for event_type in [SessionComplete].into_iter().chain(order.into_iter().rev()) {
            add(&mut window, 0, event_type, 7);
        }
        let types: Vec<_> = shown(&window.close()).into_iter().map(|(kind, _)| kind).collect();
        let expected = [
            ChapterComplete,
            ChapterSkip,
            AdComplete,
            AdSkip,
            AdBreakComplete,
            AdBreakStart,
            AdStart,
            ChapterStart,
            Error,
            StateStart,
            PauseStart,
            Play,
            SessionComplete,
        ];
        assert_eq!(types, expected);
    }

    #[test]
    fn after_the_end_only_what_is_stamped_no_later_is_taken() {
        let mut window = Window::default();
        add(&mut window, 1_000, EventType::Play, 20);
        add(&mut window, 2_000, EventType::SessionEnd, 50);
        assert_eq!(window.closes_up_ms(), Some(2_500));
        assert!(window.takes(&step(EventType::Ping, 50, 0.0)));
        assert!(!window.takes(&step(EventType::Ping, 51, 0.0)));
        assert!(!window.takes(&step(EventType::SessionEnd, 50, 0.0)), "a second end");
        add(&mut window, 2_100, EventType::SessionComplete, 50);
        assert_eq!(shown(&window.flush_due(9_000)), [], "the end ended the window");
        let all = shown(&window.close());
        let kinds: Vec<_> = all.into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [EventType::Play, EventType::SessionComplete, EventType::SessionEnd]);
    }

    #[test]
    fn the_end_counts_among_the_ten_and_stays_the_last() {
        let mut window = Window::default();
        add(&mut window, 0, EventType::SessionEnd, 50);
        for number in 0..9 {
            assert_eq!(shown(&window.flush_full()), []);
            add(&mut window, 0, EventType::Ping, number);
        }
        assert_eq!(window.flush_full().len(), 9);
        add(&mut window, 0, EventType::Ping, 3);
        let all = shown(&window.close());
        assert_eq!(all, [(EventType::Ping, 3), (EventType::SessionEnd, 50)]);
    }
}
