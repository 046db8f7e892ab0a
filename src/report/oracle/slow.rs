//! The report computed a second time, slowly, from the words of its definitions.
//!
//! Nothing here is kept up to date from event to event. First the life of the session gives one list of
//! processed events; every state is then found by looking back through that list, every interval between two
//! events gets one owner, and every number is a scan over all events or all intervals. That is quadratic and
//! more, which does not matter for sessions of some hundred events, and it shares no bookkeeping with the fold,
//! so that a slip in one is not repeated in the other. The limits of a report are left out.

use std::iter;

use serde_json::{Value, json};

const WINDOW_MS: u64 = 5_000;
const WINDOW_EVENTS: usize = 10;
const LINGER_MS: u64 = 500;
const NO_EVENTS_MS: u64 = 600_000;
const NO_PLAYHEAD_MS: u64 = 1_800_000;
const LIFETIME_MS: u64 = 48 * 3_600_000;
const REMEMBERED_EVENTS: usize = 8;
const REMEMBERED_MS: u64 = 60_000;
const AHEAD_MS: i64 = 300_000;
const FAR_BEHIND_MS: i64 = 60_000;
const ROW_DRIFT_MS: u64 = 10_000;
const ROW_MS: i64 = 15_000;
const LAST_ROW_MS: i64 = 5_000;
const STORED_LONG_MS: u64 = 600_000;
const STORED_STILL_MS: u64 = 48 * 3_600_000;
const STORED_JUMP_MS: u64 = 60_000;
const SILENCE_MS: u64 = 90_000;
const PAST_THE_END_S: f64 = 60.0;
const STILL_PINGS: usize = 3;
const MOVED_S: f64 = 0.001;
const DAY_S: f64 = 86_400.0;
const STATES: usize = 10;
const STANDARD_STATES: [&str; 5] =
    ["fullscreen", "mute", "closedCaptioning", "pictureInPicture", "inFocus"];

/// An accepted event as it came in.
#[derive(Clone, Copy)]
struct Arrival<'a> {
    received: u64,
    ts: i64,
    playhead: f64,
    kind: &'a str,
    body: &'a Value,
}

impl<'a> Arrival<'a> {
    fn new(received: u64, body: &'a Value) -> Self {
        let time = &body["playerTime"];
        Self {
            received,
            ts: whole(&time["ts"]),
            playhead: time["playhead"].as_f64().expect("a playhead is a number"),
            kind: body["eventType"].as_str().expect("an event type is a string"),
            body,
        }
    }
}

/// An event in the order of processing.
#[derive(Clone, Copy)]
struct Processed<'a> {
    kind: &'a str,
    playhead: f64,
    body: &'a Value,
    /// Time since the processed event before, which is what may be added to a metric.
    since_ms: u64,
    /// The effective time on the client's clock.
    effective: i64,
    late: bool,
    jumped: bool,
    /// It is stamped before the reference.
    is_back: bool,
}

/// What the life of the session says about the report, beside the events themselves.
struct Frame {
    received_first: u64,
    received_last: u64,
    closed: Option<(u64, &'static str)>,
    duplicates: usize,
    downloaded: bool,
}

/// The report of an online session at the server time `read_ms`, every timer due by then having fired. In that of
/// one that is open what waits counts as processed, and time in which the playhead stands is nothing yet.
///
/// `bodies` are the events in order of arrival with their times of receipt; the first is the `sessionStart`.
/// Events that come when the session no longer takes them are left out, as the server refuses them. With
/// `u64::MAX` the session is closed in any case.
pub(super) fn expected(bodies: &[(u64, Value)], read_ms: u64) -> Value {
    let accepted: Vec<Arrival<'_>> = accepted(bodies, read_ms);
    let close = close_of(&accepted);
    let (order, duplicates) = order(&accepted);
    let frame = Frame {
        received_first: accepted[0].received,
        received_last: accepted[accepted.len() - 1].received,
        closed: (close.0 <= read_ms).then_some(close),
        duplicates,
        downloaded: false,
    };
    report(&Story::of(&order, true), &frame)
}

/// The report of a downloaded session, which is closed as soon as it is there.
pub(super) fn expected_downloaded(bodies: &[Value], received_ms: u64) -> Value {
    let all: Vec<Arrival<'_>> = bodies.iter().map(|body| Arrival::new(received_ms, body)).collect();
    let end = all.iter().position(|event| event.kind == "sessionEnd");
    let frame = Frame {
        received_first: received_ms,
        received_last: received_ms,
        closed: Some((received_ms, "downloaded")),
        duplicates: 0,
        downloaded: true,
    };
    report(&Story::of(&all[..end.map_or(all.len(), |end| end + 1)], false), &frame)
}

/// What can be seen on the way to a report and not in it: how often each came.
pub(super) struct Seen {
    /// Windows that held as many events as they may.
    pub(super) full_windows: usize,
    /// Times that the clock was set forward, and back.
    pub(super) set_forward: usize,
    pub(super) set_back: usize,
    /// Clocks that were set while an ad played.
    pub(super) set_in_ads: usize,
    /// Clocks that turned out to have been set when nothing more came.
    pub(super) set_at_last: usize,
    /// Steps of jumps that belong to two states.
    pub(super) split_jumps: usize,
    /// Rows that were given up.
    pub(super) lost_rows: usize,
    /// Times of silence while content played, while an ad played, and in a buffer, that were not believed.
    pub(super) silent_contents: usize,
    pub(super) silent_ads: usize,
    pub(super) silent_buffers: usize,
    /// Pings in a break that stood where it began.
    pub(super) pings_in_breaks: usize,
    pub(super) midnights: usize,
    /// Jumps of the playhead while content played.
    pub(super) playhead_jumps: usize,
    /// Times of a chapter that were stalled.
    pub(super) stalled_chapters: usize,
    /// Times in which the playhead stood, too short for a stall.
    pub(super) still_contents: usize,
    /// Times in which an ad was paused or buffered.
    pub(super) held_ads: usize,
    /// Times of an ad in an open chapter.
    pub(super) ads_in_chapters: usize,
    /// Names of player states that were to start.
    pub(super) states: usize,
}

/// What can be seen in a session that is closed.
pub(super) fn seen(bodies: &[(u64, Value)]) -> Seen {
    let accepted = accepted(bodies, u64::MAX);
    let (windows, _) = windows(&accepted);
    let order = order(&accepted).0;
    let story = Story::of(&order, true);
    let (events, intervals) = (&story.events, &story.intervals);
    let content = Content::of(&events[0].body["params"]);
    let shares = shares(intervals, true);
    let count = |is_seen: &dyn Fn(&Interval, Share) -> bool| {
        intervals.iter().zip(&shares).filter(|(interval, share)| is_seen(interval, **share)).count()
    };
    let is_far = |it: &Interval| it.to < it.from || it.to > it.from + (2.0 * seconds(it.ms) + 1.0);
    let mut states: Vec<String> = Vec::new();
    for event in events {
        states.extend(state_changes(0, event).into_iter().filter(|it| it.1).map(|it| it.2));
    }
    states.sort();
    states.dedup();
    let jumps = |is_back: bool| {
        let jumped = |i: &usize| events[*i].jumped && (events[*i].is_back == is_back);
        (0..events.len()).filter(jumped).collect::<Vec<_>>()
    };
    let in_ad = |i: &&usize| History(events).ad_before(**i).is_some();
    let lost = |it: &Interval, state| it.lost_ms > 0 && it.state == state;
    let is_still = |it: &Interval| !it.moved && it.ping;
    Seen {
        full_windows: windows.iter().filter(|window| window.len() == WINDOW_EVENTS).count(),
        set_forward: jumps(false).len(),
        set_back: jumps(true).len(),
        set_in_ads: [jumps(false), jumps(true)].concat().iter().filter(in_ad).count(),
        set_at_last: usize::from(story.is_set_at_last),
        split_jumps: intervals.iter().filter(|it| it.is_credit && it.ms > 0).count(),
        lost_rows: (1..order.len())
            .filter(|&i| {
                let row = |i| row(&order, events, i).is_some_and(|first| first < i);
                events[i].late && i > 1 && row(i - 1) && !row(i)
            })
            .count(),
        silent_contents: count(&|it, _| lost(it, State::Playing) && it.ad.is_none()),
        silent_ads: count(&|it, _| lost(it, State::Playing) && it.ad.is_some()),
        silent_buffers: count(&|it, _| lost(it, State::Buffering)),
        pings_in_breaks: count(&|it, _| it.at_break && is_still(it) && it.state == State::Playing),
        midnights: count(&|it, _| plays_on(it) && is_midnight(it, content)),
        playhead_jumps: count(&|it, _| plays_on(it) && is_far(it) && !is_midnight(it, content)),
        stalled_chapters: count(&|it, share| share == Share::Stall && it.chapter.is_some()),
        still_contents: count(&|it, share| share == Share::Content && !it.moved && it.ms > 0),
        held_ads: count(&|it, _| it.ad.is_some() && it.state != State::Playing),
        ads_in_chapters: count(&|it, _| it.ad.is_some() && it.chapter.is_some()),
        states: states.len(),
    }
}

/// What is taken until `read_ms`.
fn accepted(bodies: &[(u64, Value)], read_ms: u64) -> Vec<Arrival<'_>> {
    bodies
        .iter()
        .zip(answers(bodies))
        .filter(|((received, _), answer)| *answer != 410 && *received <= read_ms)
        .map(|((received, body), _)| Arrival::new(*received, body))
        .collect()
}

/// The events in the order in which they are processed, and the number of repeats left out.
fn order<'a>(accepted: &[Arrival<'a>]) -> (Vec<Arrival<'a>>, usize) {
    let first = accepted.first().expect("a session has a start");
    let (windows, duplicates) = windows(accepted);
    (
        iter::once(*first).chain(windows.iter().flat_map(|window| sorted(window))).collect(),
        duplicates,
    )
}

/// The status code of each body in turn: 201 for the first, then 204 or 410.
pub(super) fn answers(bodies: &[(u64, Value)]) -> Vec<u16> {
    let mut accepted: Vec<Arrival<'_>> = Vec::new();
    let mut answers = Vec::new();
    for (received, body) in bodies {
        let event = Arrival::new(*received, body);
        let answer = match accepted.len() {
            0 => 201,
            _ if refused(&accepted, &event) => 410,
            _ => 204,
        };
        if answer != 410 {
            accepted.push(event);
        }
        answers.push(answer);
    }
    answers
}

fn refused(accepted: &[Arrival<'_>], event: &Arrival<'_>) -> bool {
    let after_end = accepted
        .iter()
        .find(|earlier| earlier.kind == "sessionEnd")
        .is_some_and(|end| event.kind == "sessionEnd" || event.ts > end.ts);
    after_end || event.received >= close_of(accepted).0
}

/// When and why a session with these events closes if no other comes.
fn close_of(accepted: &[Arrival<'_>]) -> (u64, &'static str) {
    if let Some(end) = accepted.iter().find(|event| event.kind == "sessionEnd") {
        return (end.received + LINGER_MS, "sessionEnd");
    }
    let first = accepted[0].received;
    let last = accepted[accepted.len() - 1].received;
    let changed = accepted
        .windows(2)
        .filter(|pair| moved(pair[0].playhead, pair[1].playhead))
        .map(|pair| pair[1].received)
        .next_back()
        .unwrap_or(first);
    let deadlines = [
        (last + NO_EVENTS_MS, "timeoutNoEvents"),
        (changed + NO_PLAYHEAD_MS, "timeoutNoPlayhead"),
        (first + LIFETIME_MS, "lifetime"),
    ];
    // Of equal deadlines the first of the list is taken; nothing says which it should be.
    deadlines.into_iter().min_by_key(|deadline| deadline.0).expect("there are three deadlines")
}

/// The events behind the start grouped into ordering windows, and the number of repeats left out.
///
/// The bound of ten holds for the end and for the siblings that come after it as for all others: the ten are
/// flushed, and those after them make the next window. The end stays the last of all.
fn windows<'a>(accepted: &[Arrival<'a>]) -> (Vec<Vec<Arrival<'a>>>, usize) {
    let mut windows: Vec<Vec<Arrival<'a>>> = Vec::new();
    let mut kept = vec![accepted[0]];
    for event in &accepted[1..] {
        // Once the end is there, only the end of the linger is waited for.
        let open = windows
            .last_mut()
            .filter(|window| has_end(window) || event.received < window[0].received + WINDOW_MS);
        let last = kept.iter().rev().take(REMEMBERED_EVENTS);
        let recent = last.filter(|earlier| event.received - earlier.received <= REMEMBERED_MS);
        let waiting = open.iter().flat_map(|window| window.iter());
        if recent.chain(waiting).any(|earlier| earlier.body == event.body) {
            continue;
        }
        kept.push(*event);
        match open {
            Some(window) if window.len() < WINDOW_EVENTS => window.push(*event),
            Some(window) => {
                let end = window.iter().position(|waiting| waiting.kind == "sessionEnd");
                let end = end.map(|place| window.remove(place));
                windows.push(end.into_iter().chain([*event]).collect());
            }
            None => windows.push(vec![*event]),
        }
    }
    (windows, accepted.len() - kept.len())
}

fn has_end(window: &[Arrival<'_>]) -> bool {
    window.iter().any(|event| event.kind == "sessionEnd")
}

/// A window in the order in which it is processed; the sort keeps the order of arrival among equals.
fn sorted<'a>(window: &[Arrival<'a>]) -> Vec<Arrival<'a>> {
    let mut sorted = window.to_vec();
    sorted.sort_by_key(|event| (event.kind == "sessionEnd", event.ts, rank(event.kind)));
    sorted
}

fn rank(kind: &str) -> u8 {
    match kind {
        "adComplete" | "adSkip" | "chapterComplete" | "chapterSkip" => 0,
        "adBreakComplete" => 1,
        "adBreakStart" => 2,
        "adStart" | "chapterStart" => 3,
        "sessionComplete" => 5,
        _ => 4,
    }
}

/// What kind of content is played, and where a playhead can be in it.
#[derive(Clone, Copy)]
struct Content {
    is_live: bool,
    /// In seconds; 0 if it is not known.
    length: f64,
}

impl Content {
    fn of(params: &Value) -> Self {
        Self { is_live: is_live(params), length: known_length(&params["media.length"]) }
    }

    fn is_place(self, playhead: f64) -> bool {
        if self.is_live {
            playhead < DAY_S
        } else {
            self.length == 0.0 || playhead <= self.length + PAST_THE_END_S
        }
    }

    /// How far the playhead moved forward within a step, in ms.
    fn forward_ms(self, a: f64, b: f64, step_ms: u64) -> u64 {
        let forward = if !self.is_place(a) || !self.is_place(b) {
            0.0
        } else if b >= a {
            b - a
        } else if self.is_live && b + DAY_S - a <= 2.0 * seconds(step_ms) + 1.0 {
            b - a + DAY_S
        } else {
            0.0
        };
        milliseconds(forward)
    }
}

/// How an event follows those before it.
struct Step {
    ms: u64,
    is_late: bool,
    is_jump: bool,
    /// Of a jump after a row: the first event of the row.
    row: Option<usize>,
}

/// The processed events, and what was the case between them.
struct Story<'a> {
    events: Vec<Processed<'a>>,
    intervals: Vec<Interval>,
    /// Whether the clock turns out to have been set when nothing more comes.
    is_set_at_last: bool,
    /// The time that this adds.
    last_ms: u64,
    last_ts: i64,
}

impl<'a> Story<'a> {
    /// The story of the events in this order, each told by looking back at what was told before.
    fn of(order: &[Arrival<'a>], is_online: bool) -> Self {
        let mut story = Self {
            events: Vec::new(),
            intervals: Vec::new(),
            is_set_at_last: false,
            last_ms: 0,
            last_ts: 0,
        };
        for i in 0..order.len() {
            let step = match i {
                0 => Step { ms: 0, is_late: false, is_jump: false, row: None },
                _ if is_online => story.online_step(order, i),
                _ => story.stored_step(order, i),
            };
            story.tell(order, &step, i);
        }
        let last = order.len() - 1;
        let from = story.reference(order.len());
        story.last_ts = story.events[last].effective;
        // At the close, and for the running report, five seconds and two events suffice.
        if is_online
            && story.events[last].late
            && let Some(first) = row(order, &story.events, last)
            && since(order[first].received, order[last].received) >= LAST_ROW_MS
        {
            (story.is_set_at_last, story.last_ts) = (true, order[last].ts);
            story.last_ms = order[last].received.saturating_sub(order[from].received);
            let until_first = order[first].received.saturating_sub(order[from].received);
            let until_first = until_first.min(story.last_ms);
            let capped = History(&story.events).ad_before(last);
            let now = order.len();
            story.credit(first, now, until_first, capped);
            story.credit(last, now, story.last_ms - until_first, capped);
        }
        story
    }

    /// The place of the last event before `i` that was not late.
    fn reference(&self, i: usize) -> usize {
        (0..i).rev().find(|&j| !self.events[j].late).expect("the start is not late")
    }

    /// The time of the session up to and with the event at a place.
    fn elapsed(&self, i: usize) -> u64 {
        self.events[..=i].iter().map(|event| event.since_ms).sum()
    }

    fn online_step(&self, order: &[Arrival<'_>], i: usize) -> Step {
        let (event, reference) = (order[i], self.reference(i));
        let by_receipts = event.received.saturating_sub(order[reference].received);
        let late = Step { ms: 0, is_late: true, is_jump: false, row: None };
        if event.ts < order[reference].ts {
            let first = row(order, &self.events, i);
            let first = first.filter(|&j| since(order[j].received, event.received) >= ROW_MS);
            return first.map_or(late, |j| Step {
                ms: by_receipts,
                is_late: false,
                is_jump: true,
                row: Some(j),
            });
        }
        let step = (event.ts - order[reference].ts).cast_unsigned();
        let anchor = (0..i).rev().find(|&j| self.events[j].jumped).unwrap_or(0);
        let elapsed = self.elapsed(i - 1) + step - self.elapsed(anchor);
        let is_jump =
            elapsed.cast_signed() - since(order[anchor].received, event.received) > AHEAD_MS;
        let ms = if is_jump { by_receipts } else { step };
        Step { ms, is_late: false, is_jump, row: None }
    }

    fn stored_step(&self, order: &[Arrival<'_>], i: usize) -> Step {
        let (event, reference) = (order[i], self.reference(i));
        let is_far = |j: usize| order[j].ts < order[reference].ts - FAR_BEHIND_MS;
        let is_back = event.ts < order[reference].ts;
        let step = (event.ts - order[reference].ts).max(0).cast_unsigned();
        let content = Content::of(&order[0].body["params"]);
        let forward = |ms| content.forward_ms(order[reference].playhead, event.playhead, ms);
        let history = History(&self.events);
        let (ad, state) = (history.ad_before(i), history.state_before(i));
        let plays = state == State::Playing;
        let is_jump = if is_back {
            is_far(i) && self.events[i - 1].late && is_far(i - 1)
        } else if plays && ad.is_some() {
            step > STORED_LONG_MS
        } else if plays {
            step > STORED_LONG_MS && 2 * u128::from(forward(step)) < u128::from(step)
        } else {
            step > STORED_STILL_MS
        };
        let ms = match (is_jump, ad) {
            (false, _) => step,
            (true, Some(ad)) if plays => self.left_of(ad).min(STORED_JUMP_MS),
            (true, None) if plays => forward(STORED_JUMP_MS).min(STORED_JUMP_MS),
            _ => 0,
        };
        Step { ms, is_late: is_back && !is_jump, is_jump, row: None }
    }

    /// Tells the event at place `i`.
    fn tell(&mut self, order: &[Arrival<'a>], step: &Step, i: usize) {
        let reference = if i == 0 { 0 } else { self.reference(i) };
        let Arrival { kind, playhead, body, ts, .. } = order[i];
        self.events.push(Processed {
            kind,
            playhead,
            body,
            since_ms: step.ms,
            effective: if step.is_late { self.events[reference].effective } else { ts },
            late: step.is_late,
            jumped: step.is_jump,
            is_back: ts < order[reference].ts,
        });
        if i == 0 {
            return;
        }
        let capped = History(&self.events).ad_before(i).filter(|_| step.is_jump);
        let mut rest = step.ms;
        if let Some(first) = step.row {
            let until_first = order[first].received.saturating_sub(order[reference].received);
            rest -= until_first.min(step.ms);
            self.credit(first, i, until_first.min(step.ms), capped);
        }
        let was_at = self.events[i - 1].playhead;
        self.between(i, i, rest, capped, was_at);
    }

    /// Gives time to what was in force before the event at `place`, as it is seen from before the event at `now`.
    fn credit(&mut self, place: usize, now: usize, ms: u64, capped: Option<usize>) {
        let was_at = self.last_viewed(now);
        self.between(place, now, ms, capped, was_at);
        let interval = self.intervals.last_mut().expect("it was just told");
        (interval.is_credit, interval.ping, interval.late) = (true, false, false);
    }

    /// Where content that plays goes on from, seen from before the event at `now`: the playhead of the last event
    /// that was not late, or of the event up to which time was given meanwhile.
    fn last_viewed(&self, now: usize) -> f64 {
        let credited = |it: &&Interval| {
            it.now == now && it.is_credit && it.ad.is_none() && it.state == State::Playing
        };
        let meanwhile = self.intervals.iter().rev().find(credited).map(|it| it.to);
        meanwhile
            .unwrap_or_else(|| self.events[self.reference(now.min(self.events.len()))].playhead)
    }

    /// Adds the interval before the event at `place`, with the chapter and the bitrate of before the event at `now`.
    fn between(
        &mut self,
        place: usize,
        now: usize,
        step_ms: u64,
        capped: Option<usize>,
        was_at: f64,
    ) {
        let history = History(&self.events);
        let (ad, state) = (history.ad_before(place), history.state_before(place));
        let event = &self.events[place];
        let content = Content::of(&self.events[0].body["params"]);
        let from = self.last_viewed(now);
        let is_capped = |ad| capped == Some(ad) || self.is_capped(ad);
        let is_silent = step_ms > SILENCE_MS;
        let ms = match (ad, state) {
            (Some(ad), State::Playing) if is_silent || is_capped(ad) => {
                step_ms.min(self.left_of(ad))
            }
            _ if !is_silent => step_ms,
            (_, State::Buffering) => SILENCE_MS,
            (None, State::Playing) => {
                let moved = content.forward_ms(from, event.playhead, step_ms);
                if u128::from(moved) * 2 < u128::from(step_ms) { moved } else { step_ms }
            }
            _ => step_ms,
        };
        let break_start = history.break_before(place);
        self.intervals.push(Interval {
            now,
            ms,
            lost_ms: step_ms - ms,
            ad,
            state,
            chapter: history.chapter_before(now),
            bitrate: history.quality_before(now, "media.qoe.bitrate"),
            from,
            to: event.playhead,
            moved: moved(was_at, event.playhead),
            ping: event.kind == "ping",
            late: event.late,
            at_break: break_start
                .is_some_and(|start| !moved(self.events[start].playhead, event.playhead)),
            is_credit: false,
        });
    }

    /// How long the ad that started at a place has played.
    fn played(&self, ad: usize) -> u64 {
        let of_ad = |it: &&Interval| it.ad == Some(ad) && it.state == State::Playing;
        self.intervals.iter().filter(of_ad).map(|it| it.ms).sum()
    }

    /// How much is left of it, as far as that is known.
    fn left_of(&self, ad: usize) -> u64 {
        let length = known_length(&self.events[ad].body["params"]["media.ad.length"]);
        if length > 0.0 {
            whole_milliseconds(length).saturating_sub(self.played(ad))
        } else {
            SILENCE_MS
        }
    }

    /// Whether the clock was set in the ad before, or some of its time was not believed.
    fn is_capped(&self, ad: usize) -> bool {
        let history = History(&self.events);
        let jumped = |j: usize| self.events[j].jumped && history.ad_before(j) == Some(ad);
        let lost = |it: &Interval| it.ad == Some(ad) && it.lost_ms > 0;
        (0..self.events.len() - 1).any(jumped) || self.intervals.iter().any(lost)
    }
}

/// The first event of the row of late events that the event at place `i` belongs to, told from the beginning of all
/// late events that follow one another.
fn row(order: &[Arrival<'_>], events: &[Processed<'_>], i: usize) -> Option<usize> {
    let reference = (0..i).rev().find(|&j| !events[j].late).expect("the start is not late");
    let t = order[reference].ts;
    let mut first: Option<usize> = None;
    for j in reference + 1..=i {
        let event = order[j];
        let shown = first.map_or(t, |_| t + since(order[reference].received, event.received));
        first = match first {
            _ if event.ts >= t || event.ts >= shown - FAR_BEHIND_MS => None,
            Some(first) => {
                let moved = event.ts - order[first].ts;
                let drift = moved - since(order[first].received, event.received);
                Some(if drift.unsigned_abs() <= ROW_DRIFT_MS { first } else { j })
            }
            None => Some(j),
        };
    }
    first
}

fn since(from: u64, to: u64) -> i64 {
    to.cast_signed() - from.cast_signed()
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Starting,
    Playing,
    Paused,
    Buffering,
    Ended,
}

/// What an interval is counted as.
#[derive(Clone, Copy, PartialEq)]
enum Share {
    Content,
    Ad,
    Pause,
    Buffer,
    Stall,
    Nothing,
}

/// Time between two consecutive processed events, with all that held during it. Events are named by their place in
/// the list.
#[expect(clippy::struct_excessive_bools, reason = "each was asked of the events by itself")]
struct Interval {
    /// The event that it was told with.
    now: usize,
    /// Time that is believed, and time that is not.
    ms: u64,
    lost_ms: u64,
    ad: Option<usize>,
    state: State,
    chapter: Option<usize>,
    bitrate: Option<f64>,
    /// Where content was viewed from, and up to where.
    from: f64,
    to: f64,
    moved: bool,
    ping: bool,
    late: bool,
    /// The playhead is where it was when the open break began.
    at_break: bool,
    /// It was given when the clock was found to have been set.
    is_credit: bool,
}

/// The processed events, asked what was the case just before the event at a place.
struct History<'a>(&'a [Processed<'a>]);

impl History<'_> {
    /// The place of the last event before `i` that is one of `kinds`.
    fn last_of(&self, i: usize, kinds: &[&str]) -> Option<usize> {
        (0..i).rev().find(|&j| kinds.contains(&self.0[j].kind))
    }

    fn break_before(&self, i: usize) -> Option<usize> {
        self.last_of(i, &["adBreakStart", "adBreakComplete"])
            .filter(|&j| self.0[j].kind == "adBreakStart")
    }

    fn ad_before(&self, i: usize) -> Option<usize> {
        self.last_of(i, &["adStart", "adComplete", "adSkip", "adBreakStart", "adBreakComplete"])
            .filter(|&j| self.starts_ad(j))
    }

    fn chapter_before(&self, i: usize) -> Option<usize> {
        self.last_of(i, &["chapterStart", "chapterComplete", "chapterSkip"])
            .filter(|&j| self.0[j].kind == "chapterStart")
    }

    fn starts_ad(&self, i: usize) -> bool {
        self.0[i].kind == "adStart" && self.break_before(i).is_some()
    }

    /// The state in force: of the ad if there is one, otherwise of the content.
    fn state_before(&self, i: usize) -> State {
        let drives = |j: usize| match self.0[j].kind {
            "play" => Some(State::Playing),
            "pauseStart" => Some(State::Paused),
            "bufferStart" => Some(State::Buffering),
            _ => None,
        };
        if let Some(ad) = self.ad_before(i) {
            return (ad + 1..i).rev().find_map(drives).unwrap_or(State::Playing);
        }
        let main = |j: usize| match self.0[j].kind {
            "sessionComplete" => Some(State::Ended),
            _ => drives(j).filter(|_| self.ad_before(j).is_none()),
        };
        (0..i).rev().find_map(main).unwrap_or(State::Starting)
    }

    /// The place of the `play` that started the content.
    fn content_start(&self) -> Option<usize> {
        (0..self.0.len()).find(|&i| self.0[i].kind == "play" && self.ad_before(i).is_none())
    }

    fn quality_before(&self, i: usize, key: &str) -> Option<f64> {
        self.0[..i].iter().rev().find_map(|event| quality(event.body, key))
    }

    fn count(&self, kind: &str) -> usize {
        self.0.iter().filter(|event| event.kind == kind).count()
    }

    fn places(&self, wanted: impl Fn(usize) -> bool) -> Vec<usize> {
        (0..self.0.len()).filter(|&i| wanted(i)).collect()
    }

    /// Whether what started at `start` was ended by one of `kinds`, and not by something else or not at all.
    fn ended_by(
        &self,
        start: usize,
        kind: &str,
        open_before: impl Fn(usize) -> Option<usize>,
    ) -> bool {
        (start + 1..self.0.len()).any(|i| self.0[i].kind == kind && open_before(i) == Some(start))
    }
}

/// What every interval is counted as. Still playback is judged by its whole row: the longest run of still
/// intervals around it. In the report of a session that is open, one that may go on is nothing yet.
fn shares(intervals: &[Interval], is_closed: bool) -> Vec<Share> {
    let still = |i: usize| {
        intervals
            .get(i)
            .is_some_and(|it| it.ad.is_none() && it.state == State::Playing && !it.moved)
    };
    let counts = |i: usize| {
        let it = &intervals[i];
        it.ping && !it.late && it.lost_ms == 0 && !it.at_break
    };
    let share = |i: usize| match (intervals[i].ad, intervals[i].state) {
        (Some(_), State::Playing) => Share::Ad,
        (_, State::Paused) => Share::Pause,
        (_, State::Buffering) => Share::Buffer,
        (None, State::Playing) if still(i) => {
            let first = (0..=i).rev().take_while(|&j| still(j)).last().unwrap_or(i);
            let row: Vec<usize> = (first..intervals.len()).take_while(|&j| still(j)).collect();
            let pings = row.iter().filter(|&&j| counts(j)).count();
            let may_go_on = !is_closed && row.last() == Some(&(intervals.len() - 1));
            match pings {
                STILL_PINGS.. => Share::Stall,
                _ if may_go_on => Share::Nothing,
                _ => Share::Content,
            }
        }
        (None, State::Playing) => Share::Content,
        _ => Share::Nothing,
    };
    (0..intervals.len()).map(share).collect()
}

fn report(story: &Story<'_>, frame: &Frame) -> Value {
    let Story { events, intervals, .. } = story;
    let history = History(events);
    // What the last event changed ends what stood still before it.
    let goes_on = history.state_before(events.len()) == State::Playing
        && history.ad_before(events.len()).is_none();
    let shares = shares(intervals, frame.closed.is_some() || !goes_on);
    let duration = story.elapsed(events.len() - 1) + story.last_ms;
    let jumps = events.iter().filter(|event| event.jumped).count();
    json!({
        "status": if frame.closed.is_some() { "closed" } else { "open" },
        "closeReason": frame.closed.map(|close| close.1),
        "startTs": events[0].effective,
        "lastEventTs": story.last_ts,
        "durationMs": duration,
        "receivedFirstMs": frame.received_first,
        "receivedLastMs": frame.received_last,
        "closedMs": frame.closed.map(|close| close.0),
        "eventCount": events.len(),
        "lateCount": events.iter().filter(|event| event.late).count(),
        "duplicateCount": frame.duplicates,
        "clockJumps": jumps + usize::from(story.is_set_at_last),
        "implausiblePlayheads": implausible(&history),
        "metrics": metrics(&history, intervals, &shares, frame),
        "qoe": qoe(&history, intervals, &shares, frame),
        "adBreaks": ad_breaks(&history),
        "ads": ads(&history, intervals),
        "chapters": chapters(&history, intervals, &shares),
        "states": states(events, story.last_ms),
    })
}

/// How many playheads were no place in the content, once it had started.
fn implausible(history: &History<'_>) -> usize {
    let content = Content::of(&history.0[0].body["params"]);
    let since_start = history.content_start().map_or(&[][..], |start| &history.0[start..]);
    since_start.iter().filter(|event| !content.is_place(event.playhead)).count()
}

fn metrics(
    history: &History<'_>,
    intervals: &[Interval],
    shares: &[Share],
    frame: &Frame,
) -> Value {
    let params = &history.0[0].body["params"];
    let length = params["media.length"].as_f64().unwrap_or(0.0).max(0.0);
    let of_content = Content::of(params);
    let resumed = params["media.resume"] == json!(true);
    let started = history.content_start();
    let content = total(intervals, shares, Share::Content);
    let ad = total(intervals, shares, Share::Ad);
    let pauses = entries(history, "pauseStart", State::Paused);
    let completed = history.count("sessionComplete") > 0;
    let distances = started.map_or(Vec::new(), |start| distances(&history.0[start..], of_content));
    let passed = |mark: f64| length > 0.0 && distances.iter().any(|x| *x >= length * mark / 100.0);
    let in_chapters = (intervals.iter().zip(shares))
        .filter(|(interval, share)| **share == Share::Content && interval.chapter.is_some())
        .map(|(interval, _)| interval.ms)
        .sum();
    let chapter_ends = |kind: &str| {
        history.places(|i| history.0[i].kind == kind && history.chapter_before(i).is_some()).len()
    };
    let ad_ends = |kind: &str| {
        history.places(|i| history.0[i].kind == kind && history.ad_before(i).is_some()).len()
    };
    let silent = match frame.closed {
        Some((close, reason)) if reason != "sessionEnd" && !completed && !frame.downloaded => {
            close - frame.received_last
        }
        _ => 0,
    };
    let is_authorized =
        params["media.pass.auth"].as_str().is_some_and(|auth| auth.eq_ignore_ascii_case("true"));
    json!({
        "isViewed": !resumed,
        "hasResume": resumed,
        "isPlayed": started.is_some(),
        "isCompleted": completed,
        "timePlayed": seconds(content),
        "totalTimePlayed": seconds(content + ad),
        "uniqueTimePlayed": six_decimals(union_length(&viewed(intervals, of_content))),
        "averageMinuteAudience": (length > 0.0).then(|| six_decimals(seconds(content) / length)),
        "hasProgress10": passed(10.0),
        "hasProgress25": passed(25.0),
        "hasProgress50": passed(50.0),
        "hasProgress75": passed(75.0),
        "hasProgress95": passed(95.0),
        "hasSegmentView": started.is_some(),
        "segment": segment(&distances),
        "pauseCount": pauses,
        "pauseTime": seconds(total(intervals, shares, Share::Pause)),
        "hasPauseImpactedStreams": pauses > 0,
        "adBreakCount": history.count("adBreakStart"),
        "adCount": history.places(|i| history.starts_ad(i)).len(),
        "adCompletes": ad_ends("adComplete"),
        "adSkips": ad_ends("adSkip"),
        "adTimePlayed": seconds(ad),
        "chapterCount": history.count("chapterStart"),
        "chapterCompletes": chapter_ends("chapterComplete"),
        "chapterSkips": chapter_ends("chapterSkip"),
        "chapterTimePlayed": seconds(in_chapters),
        "estimatedStreams": (content + ad) / 1_800_000 + 1,
        "isDownloaded": frame.downloaded,
        "isFederated": false,
        "authorized": is_authorized,
        "unaccountedTime": seconds(intervals.iter().map(|it| it.lost_ms).sum()),
        "secondsSinceLastCall": seconds(silent),
    })
}

fn qoe(history: &History<'_>, intervals: &[Interval], shares: &[Share], frame: &Frame) -> Value {
    let events = history.0;
    let last = |key: &str| history.quality_before(events.len(), key);
    let changes = history.count("bitrateChange");
    let dropped = last("media.qoe.droppedFrames").unwrap_or(0.0);
    let buffers = entries(history, "bufferStart", State::Buffering);
    let stalled = |i: usize| shares.get(i) == Some(&Share::Stall);
    let stalls = (0..shares.len()).filter(|&i| stalled(i) && (i == 0 || !stalled(i - 1))).count();
    let errors = history.count("error");
    let average = bitrate_average(intervals, shares, last("media.qoe.bitrate"));
    let bucket = average.map(|kbps| format!("{}-{}", kbps / 100 * 100, kbps / 100 * 100 + 99));
    json!({
        "bitrateAverage": average,
        "bitrateAverageBucket": bucket,
        "bitrateChangeCount": changes,
        "hasBitrateChangeImpactedStreams": changes > 0,
        "droppedFrames": dropped,
        "hasDroppedFrameImpactedStreams": dropped > 0.0,
        "bufferCount": buffers,
        "bufferTime": seconds(total(intervals, shares, Share::Buffer)),
        "hasBufferImpactedStreams": buffers > 0,
        "stallCount": stalls,
        "stallTime": seconds(total(intervals, shares, Share::Stall)),
        "hasStallImpactedStreams": stalls > 0,
        "errorCount": errors,
        "hasErrorImpactedStreams": errors > 0,
        "playerSdkErrors": error_ids(events, false),
        "externalErrors": error_ids(events, true),
        "isDroppedBeforeStart": frame.closed.is_some() && history.content_start().is_none(),
        "timeToStart": time_to_start(history),
        "framesPerSecond": last("media.qoe.framesPerSecond"),
    })
}

fn total(intervals: &[Interval], shares: &[Share], wanted: Share) -> u64 {
    intervals
        .iter()
        .zip(shares)
        .filter(|(_, share)| **share == wanted)
        .map(|(interval, _)| interval.ms)
        .sum()
}

/// How often events of this kind found another state in force than the one they bring.
fn entries(history: &History<'_>, kind: &str, state: State) -> usize {
    history.places(|i| history.0[i].kind == kind && history.state_before(i) != state).len()
}

/// Whether content played and the playhead moved on.
fn plays_on(interval: &Interval) -> bool {
    interval.ad.is_none() && interval.state == State::Playing && interval.moved && !interval.late
}

/// Whether the playhead of live content went on over midnight.
fn is_midnight(interval: &Interval, content: Content) -> bool {
    let (a, b, d) = (interval.from, interval.to, seconds(interval.ms));
    content.is_live && b < a && b + DAY_S - a <= 2.0 * d + 1.0
}

/// The stretches of content that were seen, in seconds of the content.
fn viewed(intervals: &[Interval], content: Content) -> Vec<(f64, f64)> {
    let mut viewed = Vec::new();
    for interval in intervals.iter().filter(|it| plays_on(it) && content.is_place(it.to)) {
        let (a, b, d) = (interval.from, interval.to, seconds(interval.ms));
        if !content.is_place(a) {
            viewed.push(((b - d).max(0.0), b));
        } else if a <= b && b <= a + (2.0 * d + 1.0) {
            viewed.push((a, b));
        } else if is_midnight(interval, content) {
            viewed.extend([(a, DAY_S), (0.0, b)]);
        } else {
            viewed.push(((b - d).max(0.0), b));
        }
    }
    if !content.is_live && content.length > 0.0 {
        for (a, b) in &mut viewed {
            (*a, *b) = (a.min(content.length), b.min(content.length));
        }
    }
    viewed
}

/// The length of the union, by asking of every gap between two neighbouring end points whether any stretch
/// covers it.
fn union_length(stretches: &[(f64, f64)]) -> f64 {
    let mut points: Vec<f64> = stretches.iter().flat_map(|(a, b)| [*a, *b]).collect();
    points.sort_by(f64::total_cmp);
    points
        .windows(2)
        .filter(|pair| stretches.iter().any(|(a, b)| *a <= pair[0] && pair[1] <= *b))
        .map(|pair| pair[1] - pair[0])
        .sum()
}

/// The playheads that count for markers and segment, from the starting `play` on.
fn distances(events: &[Processed<'_>], content: Content) -> Vec<f64> {
    let places: Vec<f64> =
        events.iter().map(|event| event.playhead).filter(|it| content.is_place(*it)).collect();
    let from_start = |playhead: f64| {
        let distance = playhead - places[0];
        (if distance < -DAY_S / 2.0 { distance + DAY_S } else { distance }).max(0.0)
    };
    places.iter().map(|it| if content.is_live { from_start(*it) } else { *it }).collect()
}

fn segment(distances: &[f64]) -> Option<String> {
    let min = distances.iter().copied().reduce(f64::min)?;
    let max = distances.iter().copied().reduce(f64::max)?;
    let low = 5.0 * (min / 300.0).floor();
    let high = (5.0 * (max / 300.0).ceil()).max(low + 5.0);
    Some(format!("[{low}-{high}]"))
}

/// The average in whole kbit/s, in exact fractions: bitrates are taken in units of 2⁻⁴⁰ bit/s, which every
/// plausible one has.
fn bitrate_average(intervals: &[Interval], shares: &[Share], last: Option<f64>) -> Option<u128> {
    let weighed: Vec<(u128, u128)> = (intervals.iter().zip(shares))
        .filter(|(_, share)| matches!(share, Share::Content | Share::Ad))
        .filter_map(|(interval, _)| {
            Some((bitrate_units(interval.bitrate?), u128::from(interval.ms)))
        })
        .collect();
    let weight: u128 = weighed.iter().map(|(_, ms)| ms).sum();
    let (sum, weight) = match weight {
        0 => (bitrate_units(last?), 1),
        _ => (weighed.iter().map(|(units, ms)| units * ms).sum(), weight),
    };
    let kilobit = 1_000 * (1_u128 << 40) * weight;
    Some((2 * sum + kilobit) / (2 * kilobit))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates are positive and far below the bound"
)]
fn bitrate_units(bits_per_second: f64) -> u128 {
    (bits_per_second * 2_f64.powi(40)).round() as u128
}

/// The distinct ids of errors from outside, or of all others, first seen first.
fn error_ids(events: &[Processed<'_>], external: bool) -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    for event in events.iter().filter(|event| event.kind == "error") {
        let source = error_text(event.body, "media.qoe.errorSource", "media.errorSource");
        let id = error_text(event.body, "media.qoe.errorID", "media.errorId");
        if let Some(id) = id
            && (source == Some("external")) == external
            && !ids.iter().any(|known| known == id)
        {
            ids.push(id.to_owned());
        }
    }
    ids
}

fn error_text<'a>(body: &'a Value, key: &str, alias: &str) -> Option<&'a str> {
    [&body["qoeData"][key], &body["params"][key], &body["params"][alias]]
        .into_iter()
        .find_map(Value::as_str)
}

/// The last positive value up to the starting `play`, else the first one after it, in seconds.
fn time_to_start(history: &History<'_>) -> f64 {
    let positive =
        |event: &Processed<'_>| quality(event.body, "media.qoe.timeToStart").filter(|ms| *ms > 0.0);
    let split = history.content_start().map_or(history.0.len(), |start| start + 1);
    let (before, after) = history.0.split_at(split);
    let ms = before.iter().rev().find_map(positive).or_else(|| after.iter().find_map(positive));
    // Seconds have up to three decimals, so a fraction of a millisecond is rounded away.
    ms.map_or(0.0, |ms| (ms + 0.5).floor() / 1_000.0)
}

fn ad_breaks(history: &History<'_>) -> Vec<Value> {
    history
        .places(|i| history.0[i].kind == "adBreakStart")
        .into_iter()
        .map(|start| {
            let params = &history.0[start].body["params"];
            let ads = history.places(|i| history.starts_ad(i) && history.break_before(i) == Some(start));
            json!({
                "name": params["media.ad.podFriendlyName"],
                "index": params["media.ad.podIndex"],
                "offset": params["media.ad.podSecond"],
                "adCount": ads.len(),
                "completed": history.ended_by(start, "adBreakComplete", |i| history.break_before(i)),
            })
        })
        .collect()
}

fn ads(history: &History<'_>, intervals: &[Interval]) -> Vec<Value> {
    history
        .places(|i| history.starts_ad(i))
        .into_iter()
        .map(|start| {
            let params = &history.0[start].body["params"];
            let pod = history.break_before(start).expect("an ad has a break");
            let played = intervals
                .iter()
                .filter(|interval| interval.ad == Some(start) && interval.state == State::Playing)
                .map(|interval| interval.ms)
                .sum();
            json!({
                "id": params["media.ad.id"],
                "name": params["media.ad.name"],
                "podIndex": history.0[pod].body["params"]["media.ad.podIndex"],
                "podPosition": params["media.ad.podPosition"],
                "length": known_length(&params["media.ad.length"]),
                "isStarted": true,
                "isCompleted": history.ended_by(start, "adComplete", |i| history.ad_before(i)),
                "isSkipped": history.ended_by(start, "adSkip", |i| history.ad_before(i)),
                "timePlayed": seconds(played),
            })
        })
        .collect()
}

fn chapters(history: &History<'_>, intervals: &[Interval], shares: &[Share]) -> Vec<Value> {
    history
        .places(|i| history.0[i].kind == "chapterStart")
        .into_iter()
        .map(|start| {
            let params = &history.0[start].body["params"];
            let played = (intervals.iter().zip(shares))
                .filter(|(interval, share)| interval.chapter == Some(start) && **share == Share::Content)
                .map(|(interval, _)| interval.ms)
                .sum();
            json!({
                "index": params["media.chapter.index"],
                "name": params["media.chapter.friendlyName"],
                "offset": params["media.chapter.offset"],
                "length": known_length(&params["media.chapter.length"]),
                "isStarted": true,
                "isCompleted": history.ended_by(start, "chapterComplete", |i| history.chapter_before(i)),
                "isSkipped": history.ended_by(start, "chapterSkip", |i| history.chapter_before(i)),
                "timePlayed": seconds(played),
            })
        })
        .collect()
}

/// The states in order of their first start, each found by its own walk through all starts and ends.
fn states(events: &[Processed<'_>], last_ms: u64) -> Vec<Value> {
    let changes: Vec<(usize, bool, String)> =
        events.iter().enumerate().flat_map(|(i, event)| state_changes(i, event)).collect();
    let mut names: Vec<&str> = Vec::new();
    for (_, on, name) in &changes {
        if *on && !names.contains(&name.as_str()) && names.len() < STATES {
            names.push(name);
        }
    }
    names
        .into_iter()
        .map(|name| {
            let mut occurrences: Vec<(usize, usize)> = Vec::new();
            let mut opened: Option<usize> = None;
            for (i, on, _) in changes.iter().filter(|change| change.2 == name) {
                match (opened, on) {
                    (None, true) => opened = Some(*i),
                    (Some(start), false) => {
                        occurrences.push((start, *i));
                        opened = None;
                    }
                    _ => {}
                }
            }
            occurrences.extend(opened.map(|start| (start, events.len() - 1)));
            let ms: u64 = occurrences
                .iter()
                .map(|(start, end)| {
                    events[start + 1..=*end].iter().map(|event| event.since_ms).sum::<u64>()
                })
                .sum();
            let ms = ms + opened.map_or(0, |_| last_ms);
            json!({"name": name, "isSet": true, "count": occurrences.len(), "time": seconds(ms)})
        })
        .collect()
}

/// The starts and ends of states that an event asks for, in the order in which they act.
fn state_changes(i: usize, event: &Processed<'_>) -> Vec<(usize, bool, String)> {
    let params = &event.body["params"];
    let change = |on: bool, holder: &Value| {
        holder["media.state.name"].as_str().map(|name| (i, on, spelled(name)))
    };
    let list = |on: bool, key: &str| -> Vec<(usize, bool, String)> {
        params[key]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|holder| change(on, holder))
            .collect()
    };
    match event.kind {
        "stateStart" => change(true, params).into_iter().collect(),
        "stateEnd" => change(false, params).into_iter().collect(),
        "statesUpdate" => [list(false, "statesEnd"), list(true, "statesStart")].concat(),
        _ => Vec::new(),
    }
}

fn spelled(name: &str) -> String {
    let standard = STANDARD_STATES.into_iter().find(|standard| standard.eq_ignore_ascii_case(name));
    standard.unwrap_or(name).to_owned()
}

fn is_live(params: &Value) -> bool {
    let kind = params["media.contentType"].as_str().unwrap_or_default();
    ["live", "linear", "radio"].iter().any(|live| live.eq_ignore_ascii_case(kind))
}

/// A quality value of one event; below zero it is unknown, which lets `params` speak.
fn quality(body: &Value, key: &str) -> Option<f64> {
    let values = [body["qoeData"][key].as_f64(), body["params"][key].as_f64()];
    values.into_iter().flatten().find(|value| *value >= 0.0)
}

fn known_length(length: &Value) -> f64 {
    length.as_f64().unwrap_or(0.0).max(0.0)
}

fn moved(from: f64, to: f64) -> bool {
    (to - from).abs() > MOVED_S
}

#[expect(clippy::cast_precision_loss, reason = "a session lasts far less than 2⁵³ ms")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "what is beyond the bound is the most there is"
)]
fn whole_milliseconds(seconds: f64) -> u64 {
    (seconds * 1_000.0) as u64
}

/// To the nearest millisecond.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "what is beyond the bound is the most there is"
)]
fn milliseconds(seconds: f64) -> u64 {
    (seconds * 1_000.0 + 0.5).floor() as u64
}

fn six_decimals(number: f64) -> f64 {
    (number * 1_000_000.0).round() / 1_000_000.0
}

/// An integer that may be written with a zero fraction.
#[expect(clippy::cast_possible_truncation, reason = "integers of a body are below 2⁵³")]
fn whole(number: &Value) -> i64 {
    number
        .as_i64()
        .or_else(|| number.as_f64().map(|number| number as i64))
        .expect("a ts is an integer")
}
