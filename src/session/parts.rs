//! The ad breaks, ads and chapters of a session, in the order of their start.
//!
//! A list takes a thousand of each, and all together so much memory. What comes beyond is counted and timed
//! like the rest, but not listed.

use serde::{Deserialize, Serialize};

use super::facts::Facts;
use super::in_force::SILENCE_MS;
use super::is_default;
use super::list::List;
use super::state::{Effects, End, Part};
use super::step::{About, BreakFacts, Pod};
use super::tally::Tally;
use crate::wire::Playhead;

/// How many entries a list takes.
const ENTRIES_MAX: usize = 1_000;

/// How many bytes the entries of all lists may say, as the report has them: escapes make a text up to six times as
/// long. Players send a few hundred for an ad; a hostile one could send a hundred thousand, and its report would be
/// longer than a line of the journal.
const JSON_BYTES_MAX: usize = 8 << 20;

/// The ad breaks, ads and chapters of a session.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Parts {
    pub(crate) breaks: Entries<BreakEntry>,
    pub(crate) ads: Entries<AdEntry>,
    pub(crate) ad_ends: Ends,
    /// The time of all ads, in ms.
    pub(crate) ad_ms: u64,
    pub(crate) chapters: Entries<ChapterEntry>,
    pub(crate) chapter_ends: Ends,
    /// The time of all chapters.
    pub(crate) chapter_time: Tally,
    /// The place of the last ad break.
    pod: Pod,
    /// What the entries of all lists say, in bytes of JSON; none if that is not summed up yet.
    #[serde(skip)]
    json_bytes: Option<usize>,
    /// Where the playhead was when it began, and stands while it lasts.
    #[serde(default)]
    break_playhead: Playhead,
    /// The ad that began last.
    #[serde(default)]
    ad_clock: AdClock,
}

/// How long the ad that began last has played.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct AdClock {
    /// Which ad of the session it is, from 1.
    pub(super) number: u32,
    /// How long it is, in ms; 0 if that is not known.
    pub(super) length_ms: u64,
    /// How long it has played, in ms.
    pub(super) played_ms: u64,
    /// Whether it plays no longer than its length, because time was made up for it.
    pub(super) is_capped: bool,
}

/// How often something was played to its end, and skipped.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Ends {
    pub(crate) completes: u32,
    pub(crate) skips: u32,
}

/// An ad break.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BreakEntry {
    pub(crate) facts: BreakFacts,
    /// How many ads began in it.
    pub(crate) ads: u32,
    pub(crate) is_completed: bool,
}

/// An ad.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AdEntry {
    pub(crate) facts: Facts,
    /// The place of its break, which may be one that is not listed.
    pub(crate) pod: Pod,
    pub(crate) time_ms: u64,
    pub(crate) ended: Option<End>,
}

/// A chapter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ChapterEntry {
    pub(crate) facts: Facts,
    pub(crate) time: Tally,
    pub(crate) ended: Option<End>,
}

impl Parts {
    /// Notes what of an event concerns ad breaks, ads and chapters.
    pub(super) fn note(&mut self, effects: Effects, about: Option<About>) {
        if let Some(end) = effects.ad_ended {
            self.ad_ends.count(end);
            if let Some(ad) = self.ads.current() {
                ad.ended = Some(end);
            }
        }
        if let Some(end) = effects.break_ended
            && let Some(ad_break) = self.breaks.current()
        {
            ad_break.is_completed = end == End::Completed;
        }
        if let Some(end) = effects.chapter_ended {
            self.chapter_ends.count(end);
            if let Some(chapter) = self.chapters.current() {
                chapter.ended = Some(end);
            }
        }
        if let Some(part) = effects.started {
            self.start(part, about);
        }
    }

    /// The ad that began last, and how long it has played.
    pub(super) fn ad_clock(&self) -> AdClock {
        self.ad_clock
    }

    /// From now on this ad plays no longer than its length, if it is still the last that began.
    pub(super) fn cap_ad(&mut self, number: u32) {
        self.ad_clock.is_capped |= self.ad_clock.number == number;
    }

    /// Gives time to an ad.
    pub(super) fn add_ad_time(&mut self, number: u32, elapsed_ms: u64) {
        self.ad_ms += elapsed_ms;
        if self.ad_clock.number == number {
            self.ad_clock.played_ms += elapsed_ms;
        }
        // All that are listed are the first of them.
        let row = (number as usize).checked_sub(1);
        if let Some(ad) = row.and_then(|row| self.ads.listed.get_mut(row)) {
            ad.time_ms += elapsed_ms;
        }
    }

    /// Where the playhead was when the last ad break began.
    pub(super) fn break_playhead(&self) -> Playhead {
        self.break_playhead
    }

    /// Notes where the playhead is, because an ad break begins.
    pub(super) fn begin_break_at(&mut self, playhead: Playhead) {
        self.break_playhead = playhead;
    }

    /// Fills in what the state before did not have: the playhead stands in a break, and the last ad says how long
    /// it is.
    pub(super) fn fill_in(&mut self, playhead: Playhead) {
        self.break_playhead = playhead;
        let number = self.ads.started;
        self.ad_clock = match self.ads.current() {
            Some(ad) => AdClock { played_ms: ad.time_ms, ..AdClock::of(number, &ad.facts) },
            None => AdClock { number, ..AdClock::default() },
        };
    }

    /// Changes the time of the chapter that is open.
    pub(super) fn change_chapter_time(&mut self, change: impl Fn(&mut Tally)) {
        change(&mut self.chapter_time);
        if let Some(chapter) = self.chapters.current() {
            change(&mut chapter.time);
        }
    }

    /// Ends the doubt about time of chapters, which may lie in several of them.
    pub(super) fn decide_chapter_time(&mut self, decide: impl Fn(&mut Tally)) {
        if self.chapter_time.is_decided() {
            return;
        }
        decide(&mut self.chapter_time);
        for chapter in self.chapters.listed.iter_mut() {
            decide(&mut chapter.time);
        }
    }

    /// The memory that it holds beside itself, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        let breaks = self.breaks.listed.iter().map(|entry| entry.facts.heap_bytes());
        let ads = self.ads.listed.iter().map(|entry| entry.facts.heap_bytes());
        let chapters = self.chapters.listed.iter().map(|entry| entry.facts.heap_bytes());
        self.breaks.listed.heap_bytes()
            + self.ads.listed.heap_bytes()
            + self.chapters.listed.heap_bytes()
            + breaks.chain(ads).chain(chapters).sum::<usize>()
    }

    /// Whether there is room for an entry that says so much; if so, it is taken.
    fn takes(&mut self, json_bytes: usize) -> bool {
        let said = self.json_bytes.unwrap_or_else(|| self.summed_up()) + json_bytes;
        let fits = said <= JSON_BYTES_MAX;
        self.json_bytes = Some(if fits { said } else { said - json_bytes });
        fits
    }

    /// Reads every text, so it is done once.
    fn summed_up(&self) -> usize {
        let breaks = self.breaks.listed.iter().map(|entry| entry.facts.json_bytes());
        let ads = self.ads.listed.iter().map(|entry| entry.facts.json_bytes());
        let chapters = self.chapters.listed.iter().map(|entry| entry.facts.json_bytes());
        breaks.chain(ads).chain(chapters).sum()
    }

    fn start(&mut self, part: Part, about: Option<About>) {
        let facts_of = |about| match about {
            Some(About::Part(facts)) => facts,
            _ => Facts::default(),
        };
        match part {
            Part::Break => {
                let facts = match about {
                    Some(About::Break(facts)) => facts,
                    _ => BreakFacts::default(),
                };
                self.pod = facts.pod.clone();
                self.breaks.says_less |= facts.is_cut;
                let fits = self.breaks.takes_more() && self.takes(facts.json_bytes());
                self.breaks.start(fits, BreakEntry { facts, ads: 0, is_completed: false });
            }
            Part::Ad => {
                if let Some(ad_break) = self.breaks.current() {
                    ad_break.ads += 1;
                }
                let (facts, pod) = (facts_of(about), self.pod.clone());
                self.ad_clock = AdClock::of(self.ads.started + 1, &facts);
                let fits = self.ads.takes_more() && self.takes(facts.json_bytes());
                self.ads.start(fits, AdEntry { facts, pod, time_ms: 0, ended: None });
            }
            Part::Chapter => {
                let facts = facts_of(about);
                let fits = self.chapters.takes_more() && self.takes(facts.json_bytes());
                let entry = ChapterEntry { facts, time: Tally::default(), ended: None };
                self.chapters.start(fits, entry);
            }
        }
    }
}

impl AdClock {
    /// How much of the ad is left, in ms; of one whose length is not known, as much as any silence is believed.
    pub(super) fn left_ms(self) -> u64 {
        match self.length_ms {
            0 => SILENCE_MS,
            length_ms => length_ms.saturating_sub(self.played_ms),
        }
    }

    /// Of an ad that begins and says this.
    fn of(number: u32, facts: &Facts) -> Self {
        let seconds = facts.number("media.ad.length").unwrap_or(0.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the cast saturates, and a negative length is not known"
        )]
        let length_ms = (seconds * 1_000.0) as u64;
        Self { number, length_ms, ..Self::default() }
    }
}

impl Ends {
    fn count(&mut self, end: End) {
        match end {
            End::Completed => self.completes += 1,
            End::Skipped => self.skips += 1,
            End::Abandoned => {}
        }
    }
}

/// What began, as far as it is listed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Entries<T> {
    /// How many began.
    pub(crate) started: u32,
    /// The first of them.
    pub(crate) listed: List<T>,
    /// Whether some say less than they did, because it is too long to keep.
    #[serde(default, skip_serializing_if = "is_default")]
    says_less: bool,
}

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self { started: 0, listed: List::default(), says_less: false }
    }
}

impl<T> Entries<T> {
    /// Whether some are not listed, or not with all that they say.
    pub(crate) fn is_cut(&self) -> bool {
        self.has_left_out() || self.says_less
    }

    fn has_left_out(&self) -> bool {
        self.started as usize > self.listed.len()
    }

    /// Whether one more may be listed: none after one that was left out.
    fn takes_more(&self) -> bool {
        !self.has_left_out() && self.listed.len() < ENTRIES_MAX
    }

    /// Notes that one began; it is listed if it fits.
    fn start(&mut self, fits: bool, entry: T) {
        let is_listed = fits && self.takes_more();
        self.started += 1;
        if is_listed {
            self.listed.push(entry);
        }
    }

    /// The one that began last, if it is listed.
    fn current(&mut self) -> Option<&mut T> {
        if self.has_left_out() { None } else { self.listed.last_mut() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Event, Rules};

    fn started(part: Part) -> Effects {
        Effects { started: Some(part), ..Effects::default() }
    }

    #[test]
    fn beyond_their_memory_the_lists_stay_and_counters_go_on() {
        let body = |name: &str| {
            let name = name.repeat(50_000);
            format!(
                r#"{{"eventType":"adStart","playerTime":{{"playhead":0,"ts":0}},"params":{{
                "media.ad.id":"{name}","media.ad.length":1,"media.ad.podPosition":1,
                "media.ad.playerName":"p"}}}}"#
            )
        };
        let facts = |name: &str| {
            let body = body(name);
            let event = Event::parse(body.as_bytes(), Rules::default()).unwrap();
            Some(About::Part(Facts::of(&event)))
        };
        let mut parts = Parts::default();
        for _ in 0..200 {
            parts.note(started(Part::Ad), facts("x"));
        }
        assert_eq!((parts.ads.started, parts.ads.listed.len()), (200, 167));
        assert!(parts.heap_bytes() <= JSON_BYTES_MAX + 168 * (16 + size_of::<AdEntry>()));
        parts.note(started(Part::Ad), None);
        parts.add_ad_time(201, 10);
        assert_eq!(parts.ads.listed.len(), 167, "a later one that would fit is not listed either");
        assert!(parts.ads.is_cut() && parts.ads.listed[166].time_ms == 0);
    }

    #[test]
    fn what_counts_is_what_the_report_will_say_whatever_was_read_back_in_between() {
        // Six bytes of the report each.
        let facts =
            || BreakFacts { name: Some("\u{1}".repeat(10_000).into()), ..BreakFacts::default() };
        let mut parts = Parts::default();
        for number in 0..400 {
            parts.note(started(Part::Break), Some(About::Break(facts())));
            if number % 50 == 0 {
                let saved = serde_json::to_string(&parts).unwrap();
                parts = serde_json::from_str(&saved).unwrap();
            }
        }
        assert_eq!((parts.breaks.started, parts.breaks.listed.len()), (400, 139));
        let names = parts.breaks.listed.iter().map(|entry| &entry.facts.name);
        let json = serde_json::to_string(&names.collect::<Vec<_>>()).unwrap();
        assert!((8_000_000..=JSON_BYTES_MAX + 200).contains(&json.len()), "{}", json.len());
    }

    #[test]
    fn a_break_whose_name_is_too_long_is_listed_without_it() {
        let mut parts = Parts::default();
        let facts = BreakFacts { is_cut: true, ..BreakFacts::default() };
        parts.note(started(Part::Break), Some(About::Break(facts)));
        parts.note(started(Part::Break), Some(About::Break(BreakFacts::default())));
        assert_eq!(parts.breaks.listed.len(), 2);
        assert!(parts.breaks.is_cut());
    }

    #[test]
    fn beyond_a_thousand_the_list_stays_and_all_counters_and_times_go_on() {
        let mut parts = Parts::default();
        for number in 0..1_001_u32 {
            let facts = BreakFacts {
                name: Some("pod".into()),
                pod: Pod { index: Some(number.into()), offset: None },
                is_cut: false,
            };
            parts.note(started(Part::Break), Some(About::Break(facts)));
            parts.note(started(Part::Ad), None);
            parts.add_ad_time(number + 1, 10);
            parts.note(Effects { ad_ended: Some(End::Skipped), ..Effects::default() }, None);
            let ended = Effects { break_ended: Some(End::Completed), ..Effects::default() };
            parts.note(ended, None);
            parts.note(started(Part::Chapter), None);
            parts.change_chapter_time(|time| time.add(10));
            let ended = Effects { chapter_ended: Some(End::Completed), ..Effects::default() };
            parts.note(ended, None);
        }
        assert_eq!(parts.breaks.listed.len(), 1_000);
        let started = (parts.breaks.started, parts.ads.started, parts.chapters.started);
        assert_eq!(started, (1_001, 1_001, 1_001));
        assert!(parts.breaks.is_cut() && parts.ads.is_cut() && parts.chapters.is_cut());
        assert_eq!((parts.ad_ms, parts.ad_ends.skips), (10_010, 1_001));
        assert_eq!(parts.chapter_time.sure_ms(), 10_010);
        assert_eq!(parts.chapter_ends.completes, 1_001);
        let last = &parts.breaks.listed[999];
        assert_eq!((last.ads, last.is_completed), (1, true));
        let last = &parts.ads.listed[999];
        assert_eq!((last.time_ms, last.ended), (10, Some(End::Skipped)));
        assert_eq!(last.pod.index, Some(999.into()));
        assert_eq!(parts.chapters.listed[999].time.sure_ms(), 10);
    }
}
