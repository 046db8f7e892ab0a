//! The lists of a report: ad breaks, ads, chapters, player states, in the order of their start.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Number;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::facts::{Facts, Metadata, Value, length};
use super::number::Seconds;
use crate::session::{self, End, Pod, Session};

/// How much a report may repeat of the session's custom metadata, in bytes: each ad and each chapter
/// inherits it, and a start may have a hundred kilobytes of it.
const REPEATED_BYTES_MAX: usize = 1 << 20;

/// The lists.
pub(super) struct Lists<'s> {
    pub(super) ad_breaks: Vec<ReportedBreak<'s>>,
    pub(super) ads: Vec<ReportedAd<'s>>,
    pub(super) chapters: Vec<ReportedChapter<'s>>,
    pub(super) states: Vec<ReportedState<'s>>,
    /// Not every entry has the custom metadata of its session, or all that it said itself.
    pub(super) metadata_is_cut: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReportedBreak<'s> {
    pod_id: String,
    name: Option<&'s str>,
    index: Option<&'s Number>,
    offset: Option<&'s Number>,
    ad_count: u32,
    completed: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReportedAd<'s> {
    id: Option<&'s RawValue>,
    name: Option<&'s RawValue>,
    pod_id: String,
    pod_index: Option<&'s Number>,
    pod_position: Option<&'s RawValue>,
    length: Option<Value<'s>>,
    is_started: bool,
    is_completed: bool,
    is_skipped: bool,
    time_played: Seconds,
    player_name: Option<&'s RawValue>,
    advertiser: Option<&'s RawValue>,
    campaign_id: Option<&'s RawValue>,
    creative_id: Option<&'s RawValue>,
    #[serde(rename = "creativeURL")]
    creative_url: Option<&'s RawValue>,
    site_id: Option<&'s RawValue>,
    placement_id: Option<&'s RawValue>,
    custom_metadata: Metadata<'s>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReportedChapter<'s> {
    id: String,
    index: Option<&'s RawValue>,
    name: Option<&'s RawValue>,
    offset: Option<&'s RawValue>,
    length: Option<Value<'s>>,
    is_started: bool,
    is_completed: bool,
    is_skipped: bool,
    time_played: Seconds,
    custom_metadata: Metadata<'s>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReportedState<'s> {
    name: &'s str,
    is_set: bool,
    count: u32,
    time: Seconds,
}

impl<'s> Lists<'s> {
    pub(super) fn of(session: &'s Session, facts: &Facts<'s>) -> Self {
        let content_id = facts.text("media.id").unwrap_or_default();
        let mut inherited = Inherited::new(&facts.custom_metadata);
        let parts = session.metrics.parts();
        let breaks = parts.iter().flat_map(|parts| parts.breaks.listed.iter());
        let ads = parts.iter().flat_map(|parts| parts.ads.listed.iter());
        let chapters = parts.iter().flat_map(|parts| parts.chapters.listed.iter());
        let states = session.state.player_states.iter();
        Self {
            ad_breaks: breaks.map(|entry| ReportedBreak::of(entry, &content_id)).collect(),
            ads: ads.map(|entry| ReportedAd::of(entry, &content_id, &mut inherited)).collect(),
            chapters: chapters
                .map(|entry| ReportedChapter::of(entry, &content_id, &mut inherited))
                .collect(),
            states: states.map(ReportedState::of).collect(),
            metadata_is_cut: inherited.is_cut,
        }
    }
}

impl<'s> ReportedBreak<'s> {
    fn of(entry: &'s session::BreakEntry, content_id: &str) -> Self {
        let session::BreakFacts { name, pod, .. } = &entry.facts;
        Self {
            pod_id: pod_id(content_id, pod),
            name: name.as_deref(),
            index: pod.index.as_ref(),
            offset: pod.offset.as_ref(),
            ad_count: entry.ads,
            completed: entry.is_completed,
        }
    }
}

impl<'s> ReportedAd<'s> {
    fn of(
        entry: &'s session::AdEntry,
        content_id: &str,
        inherited: &mut Inherited<'_, 's>,
    ) -> Self {
        let facts = entry.facts.read();
        let sent = |key: &str| facts.params.get(key).copied();
        Self {
            id: sent("media.ad.id"),
            name: sent("media.ad.name"),
            pod_id: pod_id(content_id, &entry.pod),
            pod_index: entry.pod.index.as_ref(),
            pod_position: sent("media.ad.podPosition"),
            length: sent("media.ad.length").map(length),
            is_started: true,
            is_completed: entry.ended == Some(End::Completed),
            is_skipped: entry.ended == Some(End::Skipped),
            time_played: Seconds(entry.time_ms),
            player_name: sent("media.ad.playerName"),
            advertiser: sent("media.ad.advertiser"),
            campaign_id: sent("media.ad.campaignId"),
            creative_id: sent("media.ad.creativeId"),
            creative_url: sent("media.ad.creativeURL"),
            site_id: sent("media.ad.siteId"),
            placement_id: sent("media.ad.placementId"),
            custom_metadata: inherited.overlaid(facts.custom_metadata, facts.is_cut),
        }
    }
}

impl<'s> ReportedChapter<'s> {
    fn of(
        entry: &'s session::ChapterEntry,
        content_id: &str,
        inherited: &mut Inherited<'_, 's>,
    ) -> Self {
        let facts = entry.facts.read();
        let sent = |key: &str| facts.params.get(key).copied();
        let (index, offset) = (sent("media.chapter.index"), sent("media.chapter.offset"));
        let number = |sent: Option<&RawValue>| serde_json::from_str(sent?.get()).ok();
        Self {
            id: group_id(content_id, number(index).as_ref(), number(offset).as_ref()),
            index,
            name: sent("media.chapter.friendlyName"),
            offset,
            length: sent("media.chapter.length").map(length),
            is_started: true,
            is_completed: entry.ended == Some(End::Completed),
            is_skipped: entry.ended == Some(End::Skipped),
            time_played: Seconds(entry.time.sure_ms()),
            custom_metadata: inherited.overlaid(facts.custom_metadata, facts.is_cut),
        }
    }
}

impl<'s> ReportedState<'s> {
    fn of(state: &'s session::PlayerState) -> Self {
        Self {
            name: state.name.as_str(),
            is_set: true,
            count: state.count,
            time: Seconds(state.time_ms),
        }
    }
}

/// The session's custom metadata, which ads and chapters inherit.
struct Inherited<'f, 's> {
    metadata: &'f Metadata<'s>,
    bytes: usize,
    /// How much more of it may be repeated, in bytes.
    left_bytes: usize,
    is_cut: bool,
}

impl<'f, 's> Inherited<'f, 's> {
    fn new(metadata: &'f Metadata<'s>) -> Self {
        let bytes_of =
            |(key, value): (&&str, &&RawValue)| key.len() + "\"\":,".len() + value.get().len();
        let bytes = metadata.iter().map(bytes_of).sum();
        Self { metadata, bytes, left_bytes: REPEATED_BYTES_MAX, is_cut: false }
    }

    /// The session's metadata overlaid with an entry's own, which wins. Some of an entry's facts may not be kept.
    fn overlaid(&mut self, own: Metadata<'s>, is_cut: bool) -> Metadata<'s> {
        self.is_cut |= is_cut;
        let Some(left_bytes) = self.left_bytes.checked_sub(self.bytes) else {
            self.is_cut = true;
            return own;
        };
        self.left_bytes = left_bytes;
        let mut effective: BTreeMap<_, _> = self.metadata.clone();
        effective.extend(own);
        effective
    }
}

fn pod_id(content_id: &str, pod: &Pod) -> String {
    group_id(content_id, pod.index.as_ref(), pod.offset.as_ref())
}

/// The id that the same break or chapter of the same content has in all sessions.
fn group_id(content_id: &str, index: Option<&Number>, offset: Option<&Number>) -> String {
    const SEPARATOR: &[u8] = b"\x1F";
    const DIGEST_BYTES: usize = 16;
    let mut hash = Sha256::new();
    hash.update(content_id);
    for number in [index, offset] {
        hash.update(SEPARATOR);
        hash.update(number.map(canonical).unwrap_or_default());
    }
    hex::encode(&hash.finalize()[..DIGEST_BYTES])
}

/// A number as text: two that are equal are the same, `20` and `20.0`.
fn canonical(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() => (float + 0.0).to_string(),
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_break_of_the_same_content_has_one_id() {
        let number = |json: &str| serde_json::from_str::<Number>(json).unwrap();
        let id = |index: &str, offset: &str| {
            group_id("content", Some(&number(index)), Some(&number(offset)))
        };
        // printf 'content\x1f1\x1f0' | sha256sum
        assert_eq!(id("1", "0"), "3326bc622858cecf416a8bf45e512805");
        assert_eq!(id("1", "0"), id("1.0", "-0.0"));
        assert_ne!(id("1", "0"), id("1", "0.5"));
        assert_ne!(group_id("content", None, None), id("1", "0"));
        assert_eq!(id("1", "0").len(), 32);
    }

    #[test]
    fn metadata_is_inherited_and_overlaid_and_repeated_so_often_only() {
        let long = serde_json::to_string(&"x".repeat(400 << 10)).unwrap();
        let raw = |json: &str| RawValue::from_string(json.to_owned()).unwrap();
        let (long, short, own) = (raw(&long), raw("\"s\""), raw("\"o\""));
        let metadata: Metadata<'_> = [("a", &*short), ("b", &*long)].into();
        let mut inherited = Inherited::new(&metadata);
        let effective = inherited.overlaid([("a", &*own), ("c", &*own)].into(), false);
        let shown: Vec<_> =
            effective.iter().map(|(key, value)| (*key, value.get().len())).collect();
        assert_eq!(shown, [("a", 3), ("b", (400 << 10) + 2), ("c", 3)]);
        assert_eq!(effective["a"].get(), "\"o\"");
        assert_eq!(inherited.overlaid(Metadata::new(), false).len(), 2);
        assert!(!inherited.is_cut);
        assert_eq!(inherited.overlaid([("a", &*own)].into(), false).len(), 1);
        assert!(inherited.is_cut);
    }
}
