//! The figures of a session: what the viewer got, and how well it played.

use serde::Serialize;

use super::facts::Facts;
use super::number::{Plain, Seconds};
use crate::session::{CloseReason, Parts, Quality, Session};

/// A stream is estimated for each so much time begun.
const STREAM_MS: u64 = 30 * 60 * 1_000;

/// The grid of segments: five minutes.
const SEGMENT_S: f64 = 300.0;

/// What the viewer got, in the documented order.
#[expect(clippy::struct_excessive_bools, reason = "each is a documented field")]
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Figures {
    is_viewed: bool,
    has_resume: bool,
    is_played: bool,
    is_completed: bool,
    time_played: Seconds,
    total_time_played: Seconds,
    unique_time_played: Plain,
    average_minute_audience: Option<Plain>,
    #[serde(rename = "hasProgress10")]
    has_progress_10: bool,
    #[serde(rename = "hasProgress25")]
    has_progress_25: bool,
    #[serde(rename = "hasProgress50")]
    has_progress_50: bool,
    #[serde(rename = "hasProgress75")]
    has_progress_75: bool,
    #[serde(rename = "hasProgress95")]
    has_progress_95: bool,
    has_segment_view: bool,
    segment: Option<String>,
    pause_count: u32,
    pause_time: Seconds,
    has_pause_impacted_streams: bool,
    ad_break_count: u32,
    ad_count: u32,
    ad_completes: u32,
    ad_skips: u32,
    ad_time_played: Seconds,
    chapter_count: u32,
    chapter_completes: u32,
    chapter_skips: u32,
    chapter_time_played: Seconds,
    estimated_streams: u64,
    is_downloaded: bool,
    is_federated: bool,
    authorized: bool,
    unaccounted_time: Seconds,
    seconds_since_last_call: Seconds,
}

impl Figures {
    pub(super) fn of(session: &Session, facts: &Facts<'_>) -> Self {
        let metrics = &session.metrics;
        let parts = metrics.parts();
        let count = |part: fn(&Parts) -> u32| parts.map_or(0, part);
        let time = |part: fn(&Parts) -> u64| Seconds(parts.map_or(0, part));
        let content_ms = metrics.content.sure_ms();
        let ad_ms = parts.map_or(0, |parts| parts.ad_ms);
        let length_s = facts.length_s();
        let passed = |percent: f64| {
            let reach = metrics.reach.zip(length_s);
            reach.is_some_and(|(reach, length_s)| reach.most >= length_s * percent / 100.0)
        };
        let is_played = session.state.content_started;
        let has_resume = facts.is_set("media.resume");
        let authorized = facts.text("media.pass.auth");
        Self {
            is_viewed: !has_resume,
            has_resume,
            is_played,
            is_completed: session.state.completed,
            time_played: Seconds(content_ms),
            total_time_played: Seconds(content_ms + ad_ms),
            unique_time_played: Plain::rounded(metrics.viewed.seconds()),
            average_minute_audience: length_s
                .map(|length_s| Plain::rounded(seconds(content_ms) / length_s)),
            has_progress_10: passed(10.0),
            has_progress_25: passed(25.0),
            has_progress_50: passed(50.0),
            has_progress_75: passed(75.0),
            has_progress_95: passed(95.0),
            has_segment_view: is_played,
            segment: metrics.reach.map(|reach| segment(reach.least, reach.most)),
            pause_count: metrics.pauses,
            pause_time: Seconds(metrics.pause_ms),
            has_pause_impacted_streams: metrics.pauses > 0,
            ad_break_count: count(|parts| parts.breaks.started),
            ad_count: count(|parts| parts.ads.started),
            ad_completes: count(|parts| parts.ad_ends.completes),
            ad_skips: count(|parts| parts.ad_ends.skips),
            ad_time_played: Seconds(ad_ms),
            chapter_count: count(|parts| parts.chapters.started),
            chapter_completes: count(|parts| parts.chapter_ends.completes),
            chapter_skips: count(|parts| parts.chapter_ends.skips),
            chapter_time_played: time(|parts| parts.chapter_time.sure_ms()),
            estimated_streams: (content_ms + ad_ms) / STREAM_MS + 1,
            is_downloaded: reason(session) == Some(CloseReason::Downloaded),
            is_federated: false,
            authorized: authorized.is_some_and(|text| text.eq_ignore_ascii_case("true")),
            unaccounted_time: Seconds(metrics.unaccounted_ms),
            seconds_since_last_call: Seconds(silent_ms(session)),
        }
    }
}

/// How well it played, in the documented order.
#[expect(clippy::struct_excessive_bools, reason = "each is a documented field")]
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Qoe<'s> {
    bitrate_average: Option<u64>,
    bitrate_average_bucket: Option<String>,
    bitrate_change_count: u32,
    has_bitrate_change_impacted_streams: bool,
    dropped_frames: u64,
    has_dropped_frame_impacted_streams: bool,
    buffer_count: u32,
    buffer_time: Seconds,
    has_buffer_impacted_streams: bool,
    stall_count: u32,
    stall_time: Seconds,
    has_stall_impacted_streams: bool,
    error_count: u32,
    has_error_impacted_streams: bool,
    player_sdk_errors: Vec<&'s str>,
    external_errors: Vec<&'s str>,
    is_dropped_before_start: bool,
    time_to_start: Seconds,
    frames_per_second: Option<Plain>,
}

impl<'s> Qoe<'s> {
    pub(super) fn of(session: &'s Session) -> Self {
        let metrics = &session.metrics;
        let quality = metrics.quality();
        let errors = |is_external| {
            let all = quality.iter().flat_map(|quality| quality.error_ids.iter());
            all.filter(|error| error.is_external == is_external).map(|error| &*error.id).collect()
        };
        let bitrate = quality.and_then(Quality::kbits_per_second);
        let bitrate_changes = quality.map_or(0, |quality| quality.bitrate_changes);
        let dropped_frames = quality.and_then(|quality| quality.last.dropped_frames).unwrap_or(0);
        let error_count = quality.map_or(0, |quality| quality.errors);
        let time_to_start_ms = quality.and_then(|quality| quality.last.time_to_start_ms);
        let frames_per_second = quality.and_then(|quality| quality.last.frames_per_second);
        Self {
            bitrate_average: bitrate,
            bitrate_average_bucket: bitrate.map(bucket),
            bitrate_change_count: bitrate_changes,
            has_bitrate_change_impacted_streams: bitrate_changes > 0,
            dropped_frames,
            has_dropped_frame_impacted_streams: dropped_frames > 0,
            buffer_count: metrics.buffers,
            buffer_time: Seconds(metrics.buffer_ms),
            has_buffer_impacted_streams: metrics.buffers > 0,
            stall_count: metrics.stalls,
            stall_time: Seconds(metrics.stall_ms),
            has_stall_impacted_streams: metrics.stalls > 0,
            error_count,
            has_error_impacted_streams: error_count > 0,
            player_sdk_errors: errors(false),
            external_errors: errors(true),
            is_dropped_before_start: session.closing.is_some() && !session.state.content_started,
            time_to_start: Seconds(time_to_start_ms.unwrap_or(0)),
            frames_per_second: frames_per_second.map(Plain),
        }
    }
}

impl Qoe<'_> {
    /// Leaves out the ids of the player's errors, and says whether there were any.
    pub(super) fn leave_out_player_errors(&mut self) -> bool {
        !std::mem::take(&mut self.player_sdk_errors).is_empty()
    }

    /// Leaves out the ids of errors from outside, and says whether there were any.
    pub(super) fn leave_out_external_errors(&mut self) -> bool {
        !std::mem::take(&mut self.external_errors).is_empty()
    }
}

fn reason(session: &Session) -> Option<CloseReason> {
    session.closing.as_ref().map(|closing| closing.reason)
}

/// How long nothing was heard of a session that was given up.
fn silent_ms(session: &Session) -> u64 {
    match reason(session) {
        None | Some(CloseReason::SessionEnd | CloseReason::Downloaded) => 0,
        Some(_) if session.state.completed => 0,
        Some(_) => session.silent_ms().unwrap_or(0),
    }
}

/// The part of the content that was seen, in minutes on a grid of five.
fn segment(least_s: f64, most_s: f64) -> String {
    const MINUTES: f64 = 5.0;
    // The sum has no negative zero, which would be written with its sign.
    let from = MINUTES * (least_s / SEGMENT_S).floor() + 0.0;
    let to = (MINUTES * (most_s / SEGMENT_S).ceil()).max(from + MINUTES);
    format!("[{from}-{to}]")
}

/// The hundred of kbit/s that a bitrate lies in.
fn bucket(kbits_per_second: u64) -> String {
    let from = kbits_per_second / 100 * 100;
    format!("{from}-{}", from + 99)
}

#[expect(clippy::cast_precision_loss, reason = "beyond 285 000 years")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_on_a_grid_of_five_minutes_and_at_least_one_of_them() {
        for (least, most, expected) in [
            (0.0, 0.0, "[0-5]"),
            (-0.0, 299.0, "[0-5]"),
            (0.0, 300.0, "[0-5]"),
            (299.9, 300.1, "[0-10]"),
            (300.0, 300.0, "[5-10]"),
            (700.0, 3_000.0, "[10-50]"),
        ] {
            assert_eq!(segment(least, most), expected);
        }
    }

    #[test]
    fn a_bucket_has_a_hundred_kbits() {
        for (kbits, expected) in [(0, "0-99"), (99, "0-99"), (100, "100-199"), (1_533, "1500-1599")]
        {
            assert_eq!(bucket(kbits), expected);
        }
    }
}
