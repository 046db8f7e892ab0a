//! Sessions as players send them, and as no player should.
//!
//! The bodies are valid and come in plausible scenes, with the clock, the network and the viewer going wrong in
//! between.

use std::iter;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Value, json};

const EVENTS_MAX: usize = 60;
/// The server's clock when the session begins.
const RECEIVED_MS: u64 = 1_800_000_000_000;
/// The client's clock at the same moment; the two are never compared.
const STAMPED_MS: i64 = 1_700_000_000_000;
const DAY_S: f64 = 86_400.0;

/// One event of a scene before anything goes wrong with it.
#[derive(Clone, Debug)]
struct Step {
    gap_ms: u64,
    kind: &'static str,
    params: Value,
    qoe: Value,
    head: Head,
}

/// Where the playhead is, seen from the event before.
#[derive(Clone, Copy, Debug)]
enum Head {
    /// It goes with the time while content plays and stands otherwise.
    Follow,
    Still,
    By(f64),
    To(f64),
    /// As far on as is not yet a jump.
    Fast,
    /// At this part of the content, in percent.
    Part(u8),
    /// Without regard to the day that a live playhead belongs to.
    Beyond(f64),
}

/// What goes wrong with an event.
#[derive(Clone, Debug, Default)]
struct Twist {
    stamp: Stamp,
    way: Way,
    quality: Vec<Quality>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Stamp {
    #[default]
    Right,
    /// The time of the event before.
    Same,
    /// A time before the right one, for this event only.
    Early(i64),
    /// The client's clock is set to another time and stays there.
    Shift(i64),
}

#[derive(Clone, Copy, Debug, Default)]
enum Way {
    #[default]
    Prompt,
    Delayed(u64),
    /// Sent again, the same byte for byte.
    Repeated(u64),
}

#[derive(Clone, Debug)]
struct Quality {
    key: &'static str,
    value: Value,
    in_params: bool,
}

/// What the clock and the network do to a whole session.
#[derive(Clone, Copy, Debug, Default)]
struct Network {
    /// By how much the client's clock runs fast, in parts of a thousand.
    drift: i64,
    /// When there was none, since the start in ms; what was sent meanwhile comes then.
    outage: (u64, u64),
    /// What waited comes with the newest first.
    is_reversed: bool,
}

impl Network {
    /// What the client's clock shows so long after the start.
    fn stamped(self, elapsed_ms: u64) -> i64 {
        let elapsed_ms = elapsed_ms.cast_signed();
        elapsed_ms + elapsed_ms * self.drift / 1_000
    }

    /// When that is received which is sent so long after the start.
    fn delivered(self, elapsed_ms: u64) -> u64 {
        let (from_ms, to_ms) = self.outage;
        let waits_ms = to_ms.saturating_sub(elapsed_ms);
        match elapsed_ms >= from_ms && waits_ms > 0 {
            true if self.is_reversed => to_ms + waits_ms / 100,
            true => to_ms,
            false => elapsed_ms,
        }
    }
}

/// The beginning of a session: its first body without the time, and whether the playhead is the second of the
/// day.
#[derive(Clone, Debug)]
struct Opening {
    params: Value,
    qoe: Value,
    playhead: f64,
    live: bool,
}

/// The bodies of one online session with their times of receipt, which never fall.
///
/// Each body is valid in the profile `adobe`; the first is the `sessionStart`, and no other is. Some come when
/// the session has closed and will be refused.
pub(super) fn any_session() -> impl Strategy<Value = Vec<(u64, Value)>> {
    (opening(), steps(), twists(), network())
        .prop_map(|(opening, steps, twists, network)| play_out(&opening, &steps, &twists, network))
}

/// One that has been watched for nearly as long as a session may last before its scenes begin.
pub(super) fn any_long_session() -> impl Strategy<Value = Vec<(u64, Value)>> {
    const VIGIL_EVENTS: usize = 288;
    const NAP_MS: u64 = 599_900;
    let kinds = select(vec!["ping", "ping", "play", "pauseStart"]);
    let vigil = vec((0..100_u64, kinds), VIGIL_EVENTS);
    (opening(), vigil, steps(), twists()).prop_map(|(opening, vigil, scenes, twists)| {
        let vigil = vigil.into_iter().map(|(ms, kind)| step(NAP_MS + ms, kind, Head::By(7.0)));
        let steps: Vec<Step> = vigil.chain(scenes).collect();
        let calm = iter::repeat_n(Twist::default(), VIGIL_EVENTS);
        let twists: Vec<Twist> = calm.chain(twists).collect();
        play_out(&opening, &steps, &twists, Network::default())
    })
}

/// The bodies of one downloaded session in the order of the array.
pub(super) fn any_batch() -> impl Strategy<Value = Vec<Value>> {
    let leap = prop_oneof![
        select(vec![90_001, 600_000, 600_001, 3_600_000, 28_800_000]),
        select(vec![172_800_000, 172_800_001, 1_700_000_000_000]),
        select(vec![-60_000, -60_001, -3_600_000, -1_700_000_000_000]),
    ];
    let leaps = vec((any::<Index>(), leap), 0..4);
    (any_session(), any::<bool>(), leaps).prop_map(|(session, is_flagged, leaps)| {
        let mut bodies: Vec<Value> = session.into_iter().map(|(_, body)| body).collect();
        // A device sleeps, or its clock is set, and nobody has receipts.
        for (place, leap_ms) in leaps {
            for body in bodies.iter_mut().skip(place.index(EVENTS_MAX) + 1) {
                let ts = &mut body["playerTime"]["ts"];
                *ts = json!((ts.as_i64().unwrap() + leap_ms).max(0));
            }
        }
        if is_flagged {
            bodies[0]["params"]["media.downloaded"] = json!(true);
        }
        bodies
    })
}

fn play_out(
    opening: &Opening,
    steps: &[Step],
    twists: &[Twist],
    network: Network,
) -> Vec<(u64, Value)> {
    let start = body("sessionStart", opening.playhead, STAMPED_MS, &opening.params, &opening.qoe);
    let mut sent = vec![(RECEIVED_MS, start)];
    let (mut elapsed, mut clock, mut last_ts) = (0_u64, STAMPED_MS, STAMPED_MS);
    let mut playhead = opening.playhead;
    let length_s = opening.params["media.length"].as_f64().unwrap();
    let (mut playing, mut in_break, mut in_ad) = (false, false, false);
    for (step, twist) in steps.iter().zip(twists) {
        elapsed += step.gap_ms;
        let target = match step.head {
            Head::Follow if playing && !in_ad => playhead + seconds(step.gap_ms),
            Head::Follow | Head::Still => playhead,
            Head::By(distance) => playhead + distance,
            Head::Fast => playhead + 2.0 * seconds(step.gap_ms) + 1.0,
            Head::Part(percent) => length_s * f64::from(percent) / 100.0,
            Head::To(target) | Head::Beyond(target) => target,
        };
        let is_of_the_day = opening.live && !matches!(step.head, Head::Beyond(_));
        playhead =
            four_decimals(if is_of_the_day { target.rem_euclid(DAY_S) } else { target.max(0.0) });
        let right = clock + network.stamped(elapsed);
        let ts = match twist.stamp {
            Stamp::Right => right,
            Stamp::Same => last_ts,
            Stamp::Early(ms) => right - ms,
            Stamp::Shift(ms) => {
                // A television that boots in 1970 does not go further back.
                clock = (clock + ms).max(0);
                clock + network.stamped(elapsed)
            }
        };
        let ts = ts.max(0);
        last_ts = ts;

        let (mut params, mut qoe) = (step.params.clone(), step.qoe.clone());
        for quality in &twist.quality {
            // A ping takes no params.
            let holder =
                if quality.in_params && step.kind != "ping" { &mut params } else { &mut qoe };
            holder[quality.key] = quality.value.clone();
        }
        let body = body(step.kind, playhead, ts, &params, &qoe);
        let arrival = RECEIVED_MS + network.delivered(elapsed);
        match twist.way {
            Way::Prompt => sent.push((arrival, body)),
            Way::Delayed(ms) => sent.push((arrival + ms, body)),
            Way::Repeated(ms) => sent.extend([(arrival, body.clone()), (arrival + ms, body)]),
        }

        // Only what the playhead needs to look real; the definitions are not repeated here.
        match step.kind {
            "play" if !in_ad => playing = true,
            "pauseStart" | "bufferStart" if !in_ad => playing = false,
            "sessionComplete" => playing = false,
            "adStart" if in_break => in_ad = true,
            "adComplete" | "adSkip" => in_ad = false,
            "adBreakStart" => (in_break, in_ad) = (true, false),
            "adBreakComplete" => (in_break, in_ad) = (false, false),
            _ => {}
        }
    }
    // The sort keeps the order of sending among equals, so the start stays first.
    sent.sort_by_key(|(arrival, _)| *arrival);
    sent
}

fn body(kind: &str, playhead: f64, ts: i64, params: &Value, qoe: &Value) -> Value {
    let mut body =
        json!({"eventType": kind, "playerTime": {"playhead": number(playhead), "ts": ts}});
    for (member, value) in [("params", params), ("qoeData", qoe)] {
        if value.as_object().is_some_and(|map| !map.is_empty()) {
            body[member] = value.clone();
        }
    }
    body
}

fn opening() -> impl Strategy<Value = Opening> {
    let recorded = (
        select(vec!["vod", "VOD", "podcast", "song", "", "other"]),
        prop_oneof![
            2 => select(vec![json!(0), json!(-1), json!(60.333), json!(1), json!(100.0)]),
            3 => (10..4_000_u32).prop_map(|length| json!(length)),
        ],
    );
    let live = (
        select(vec!["live", "Live", "linear", "RADIO"]),
        select(vec![json!(86_400), json!(0), json!(600), json!(-1)]),
    );
    let content = prop_oneof![3 => recorded.boxed(), 1 => live.boxed()];
    let place = prop_oneof![3 => Just(0.0), 1 => 0.0..1.0, 2 => 0.9995..1.0];
    let flags =
        (option::of(any::<bool>()), option::of(select(vec!["true", "TRUE", "false", "yes"])));
    (content, place, flags, vec(quality(), 0..3)).prop_map(
        |((kind, length), place, (resume, auth), qualities)| {
            let mut params = json!({
                "analytics.trackingServer": "analytics.example.com",
                "analytics.reportSuite": "examplersid",
                "visitor.marketingCloudOrgId": "0123456789ABCDEF@ExampleOrg",
                "media.id": "example-content",
                "media.length": length,
                "media.contentType": kind,
                "media.playerName": "example-player",
                "media.channel": "example-channel",
            });
            if let Some(resume) = resume {
                params["media.resume"] = json!(resume);
            }
            if let Some(auth) = auth {
                params["media.pass.auth"] = json!(auth);
            }
            let mut qoe = json!({});
            for quality in qualities {
                let holder = if quality.in_params { &mut params } else { &mut qoe };
                holder[quality.key] = quality.value;
            }
            let live =
                ["live", "linear", "radio"].iter().any(|live| live.eq_ignore_ascii_case(kind));
            let seconds = length.as_f64().unwrap_or(0.0);
            // The first playhead lies below the end of the day or of the content, where there is one.
            let bound = if live || seconds <= 0.0 { DAY_S } else { seconds };
            let playhead = (place * bound * 1_000.0).floor() / 1_000.0;
            Opening { params, qoe, playhead, live }
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let scenes =
        (vec(scene(), 0..14), option::weighted(0.6, ending())).prop_map(|(scenes, ending)| {
            let mut steps: Vec<Step> = scenes.into_iter().flatten().collect();
            let ending = ending.unwrap_or_default();
            steps.truncate(EVENTS_MAX - ending.len());
            steps.extend(ending);
            steps
        });
    prop_oneof![20 => scenes, 1 => half_hours(), 1 => two_deadlines()]
}

/// What one session suffers: half of all sessions only what their scenes bring, the others anything.
fn twists() -> impl Strategy<Value = Vec<Twist>> {
    let calm = vec(quality(), 0..2).prop_map(|quality| Twist {
        stamp: Stamp::Right,
        way: Way::Prompt,
        quality,
    });
    let shuffled = (way(), vec(quality(), 0..2)).prop_map(|(way, quality)| Twist {
        stamp: Stamp::Right,
        way,
        quality,
    });
    let rough = (stamp(), way(), vec(quality(), 0..3)).prop_map(|(stamp, way, quality)| Twist {
        stamp,
        way,
        quality,
    });
    prop_oneof![
        4 => vec(calm, EVENTS_MAX),
        2 => vec(shuffled, EVENTS_MAX),
        2 => vec(rough, EVENTS_MAX),
        3 => clock_is_set(),
    ]
}

/// The client's clock is set once, and all else is well.
fn clock_is_set() -> impl Strategy<Value = Vec<Twist>> {
    let shifts = select(vec![-3_600_000, -1_700_000_000_000, -200_000, 400_000, 3_600_000]);
    (1..EVENTS_MAX / 2, shifts).prop_map(|(place, shift)| {
        let mut twists = vec![Twist::default(); EVENTS_MAX];
        twists[place].stamp = Stamp::Shift(shift);
        twists
    })
}

fn network() -> impl Strategy<Value = Network> {
    let drift = prop_oneof![6 => Just(0), 1 => -30..30_i64];
    let outage = prop_oneof![
        4 => Just((0, 0)),
        1 => (0..60_000_u64, 1_000..240_000_u64).prop_map(|(from, long)| (from, from + long)),
    ];
    (drift, outage, any::<bool>()).prop_map(|(drift, outage, is_reversed)| Network {
        drift,
        outage,
        is_reversed,
    })
}

fn stamp() -> impl Strategy<Value = Stamp> {
    prop_oneof![
        24 => Just(Stamp::Right),
        4 => Just(Stamp::Same),
        3 => (1..6_000_i64).prop_map(Stamp::Early),
        1 => select(vec![59_999, 60_000, 60_001, 90_000]).prop_map(Stamp::Early),
        1 => (1..3_600_000_i64).prop_map(Stamp::Shift),
        1 => (-3_600_000..0_i64).prop_map(Stamp::Shift),
        1 => select(vec![299_999, 300_000, 300_001, 1_700_000_000_000]).prop_map(Stamp::Shift),
        1 => select(vec![-59_999, -60_000, -60_001, -1_700_000_000_000]).prop_map(Stamp::Shift),
    ]
}

fn way() -> impl Strategy<Value = Way> {
    prop_oneof![
        12 => Just(Way::Prompt),
        4 => (1..300_u64).prop_map(Way::Delayed),
        2 => (300..12_000_u64).prop_map(Way::Delayed),
        1 => (12_000..95_000_u64).prop_map(Way::Delayed),
        1 => select(vec![499, 500, 501, 4_999, 5_000, 5_001]).prop_map(Way::Delayed),
        2 => (0..3_000_u64).prop_map(Way::Repeated),
        1 => (3_000..12_000_u64).prop_map(Way::Repeated),
        1 => (12_000..70_000_u64).prop_map(Way::Repeated),
        1 => select(vec![59_999, 60_000, 60_001]).prop_map(Way::Repeated),
    ]
}

/// A quality value, known or unknown. Dropped frames stay whole, since nothing says how the report would round
/// them.
fn quality() -> impl Strategy<Value = Quality> {
    let bitrates = vec![
        json!(1_000_000),
        json!(2_500_000.5),
        json!(345_678.9),
        json!(0),
        json!(-1),
        json!(-0.5),
    ];
    let value = prop_oneof![
        4 => select(bitrates).prop_map(|value| ("media.qoe.bitrate", value)),
        2 => (0..20_000_000_u32).prop_map(|value| ("media.qoe.bitrate", json!(value))),
        2 => (-1..500_i32).prop_map(|value| ("media.qoe.droppedFrames", json!(value))),
        1 => Just(("media.qoe.droppedFrames", json!(20.0))),
        2 => select(vec![json!(25), json!(23.976), json!(29.97), json!(0), json!(-1)])
            .prop_map(|value| ("media.qoe.framesPerSecond", value)),
        2 => select(vec![json!(1_200), json!(20.0), json!(834.25), json!(1_500.75), json!(0), json!(-1)])
            .prop_map(|value| ("media.qoe.timeToStart", value)),
    ];
    (value, prop::bool::weighted(0.3)).prop_map(|((key, value), in_params)| Quality {
        key,
        value,
        in_params,
    })
}

/// A few events that belong together.
fn scene() -> impl Strategy<Value = Vec<Step>> {
    prop_oneof![
        4 => Just(vec![step(100, "play", Head::Follow)]),
        4 => vec(ping(Head::Follow), 1..6),
        2 => stall(),
        1 => (stall(), ping(Head::Follow), stall()).prop_map(|(one, ping, other)| [one, vec![ping], other].concat()),
        1 => midnight(),
        3 => interruption(),
        3 => ad_break(),
        2 => chapter(),
        4 => vec(anything(), 1..5),
        1 => burst(),
        1 => sleep(),
        2 => silence(),
        1 => long_view(),
        1 => many_states(),
        1 => again_and_again(),
        1 => Just(vec![step(500, "sessionComplete", Head::Follow)]),
        1 => Just(vec![step(400, "sessionEnd", Head::Follow)]),
    ]
}

fn ping(head: Head) -> impl Strategy<Value = Step> {
    prop_oneof![3 => Just(10_000), 1 => 9_000..11_000_u64]
        .prop_map(move |gap| step(gap, "ping", head))
}

/// A playhead that stands while content plays, for two pings or more, with other events among them.
fn stall() -> impl Strategy<Value = Vec<Step>> {
    let head = prop_oneof![
        6 => Just(Head::Still),
        1 => Just(Head::By(0.000_5)),
        1 => Just(Head::By(0.002)),
    ];
    let still = prop_oneof![4 => Just("ping"), 1 => Just("bitrateChange"), 1 => Just("play")];
    let plays = prop::bool::weighted(0.8);
    (plays, vec((still, head, 1_000..11_000_u64), 2..8)).prop_map(|(plays, row)| {
        let play = plays.then(|| step(10, "play", Head::Still));
        play.into_iter()
            .chain(row.into_iter().map(|(kind, head, gap)| step(gap, kind, head)))
            .collect()
    })
}

/// Play up to the end of the day, and on.
fn midnight() -> impl Strategy<Value = Vec<Step>> {
    (86_390..86_400_i32, vec(ping(Head::Follow), 1..4)).prop_map(|(second, pings)| {
        let play = step(100, "play", Head::To(f64::from(second)));
        iter::once(play).chain(pings).collect()
    })
}

/// A pause, a buffer or a seek, ended by `play` in most cases.
fn interruption() -> impl Strategy<Value = Vec<Step>> {
    let kinds = select(vec!["pauseStart", "bufferStart"]);
    (
        vec(kinds, 1..4),
        vec(ping(Head::Still), 0..3),
        option::weighted(0.8, any_head()),
        0..8_000_u64,
    )
        .prop_map(|(kinds, pings, resumes_at, gap)| {
            let mut steps: Vec<Step> =
                kinds.into_iter().map(|kind| step(gap, kind, Head::Follow)).collect();
            steps.extend(pings);
            steps.extend(resumes_at.map(|head| step(gap, "play", head)));
            steps
        })
}

/// A break with its ads, any of its events perhaps missing.
fn ad_break() -> impl Strategy<Value = Vec<Step>> {
    let ad = (
        option::weighted(0.9, ad_start()),
        option::weighted(0.5, select(vec!["play", "pauseStart", "bufferStart"])),
        vec((900..1_100_u64).prop_map(|gap| step(gap, "ping", Head::Follow)), 0..5),
        option::weighted(0.8, select(vec!["adComplete", "adComplete", "adSkip"])),
        // Until the next one the playhead stands.
        vec(any_ping_in_break(), 0..4),
    );
    let complete = option::weighted(0.8, Just(step(1, "adBreakComplete", Head::Follow)));
    (option::weighted(0.9, break_start()), vec(ad, 0..3), complete).prop_map(
        |(start, ads, complete)| {
            let mut steps: Vec<Step> = start.into_iter().collect();
            for (start, drive, pings, end, between) in ads {
                steps.extend(start);
                steps.extend(drive.map(|kind| step(1, kind, Head::Follow)));
                steps.extend(pings);
                steps.extend(end.map(|kind| step(300, kind, Head::Follow)));
                steps.extend(between);
            }
            steps.extend(complete);
            steps
        },
    )
}

fn any_ping_in_break() -> impl Strategy<Value = Step> {
    prop_oneof![3 => Just(Head::Still), 1 => Just(Head::Follow)]
        .prop_map(|head| step(1_000, "ping", head))
}

fn break_start() -> impl Strategy<Value = Step> {
    let place = select(vec![json!(0), json!(21), json!(33.5), json!(-1)]);
    (option::of(select(vec!["pre", "mid"])), -1..4_i32, place).prop_map(|(name, index, second)| {
        let mut step = step(20, "adBreakStart", Head::Follow);
        step.params = json!({"media.ad.podIndex": index, "media.ad.podSecond": second});
        if let Some(name) = name {
            step.params["media.ad.podFriendlyName"] = json!(name);
        }
        step
    })
}

fn ad_start() -> impl Strategy<Value = Step> {
    let length = select(vec![json!(15), json!(7.5), json!(-1), json!(0)]);
    let gap = prop_oneof![1 => Just(0), 2 => Just(1), 1 => 2..3_000_u64];
    (gap, select(vec!["ad-1", "ad-2"]), length, -1..4_i32, option::of(Just("Ad"))).prop_map(
        |(gap, id, length, position, name)| {
            let mut step = step(gap, "adStart", Head::Follow);
            step.params = json!({
                "media.ad.id": id,
                "media.ad.length": length,
                "media.ad.podPosition": position,
                "media.ad.playerName": "example-ad-player",
            });
            if let Some(name) = name {
                step.params["media.ad.name"] = json!(name);
                step.params["media.ad.podFriendlyName"] = json!("not the name of the break");
            }
            step
        },
    )
}

fn chapter() -> impl Strategy<Value = Vec<Step>> {
    let end = option::weighted(0.8, select(vec!["chapterComplete", "chapterSkip"]));
    (
        chapter_start(),
        vec(prop_oneof![3 => ping(Head::Follow).boxed(), 1 => anything().boxed()], 0..4),
        end,
    )
        .prop_map(|(start, middle, end)| {
            let mut steps = vec![start];
            steps.extend(middle);
            steps.extend(end.map(|kind| step(200, kind, Head::Follow)));
            steps
        })
}

fn chapter_start() -> impl Strategy<Value = Step> {
    let number = || select(vec![json!(0), json!(30), json!(12.5), json!(-1)]);
    (-1..5_i32, number(), number(), option::of(select(vec!["One", "Two"]))).prop_map(
        |(index, offset, length, name)| {
            let mut step = step(5, "chapterStart", Head::Follow);
            step.params = json!({
                "media.chapter.index": index,
                "media.chapter.offset": offset,
                "media.chapter.length": length,
            });
            if let Some(name) = name {
                step.params["media.chapter.friendlyName"] = json!(name);
            }
            step
        },
    )
}

/// Any single event, in or out of place.
fn anything() -> impl Strategy<Value = Step> {
    let plain = select(vec![
        "play",
        "pauseStart",
        "bufferStart",
        "ping",
        "bitrateChange",
        "adComplete",
        "adSkip",
        "adBreakComplete",
        "chapterComplete",
        "chapterSkip",
    ])
    .prop_map(|kind| step(0, kind, Head::Follow));
    let event = prop_oneof![
        10 => plain.boxed(),
        1 => break_start().boxed(),
        1 => ad_start().boxed(),
        1 => chapter_start().boxed(),
        4 => state().boxed(),
        2 => error().boxed(),
    ];
    (event, any_gap(), any_head()).prop_map(|(step, gap_ms, head)| Step { gap_ms, head, ..step })
}

/// More events than a window holds, within a moment.
fn burst() -> impl Strategy<Value = Vec<Step>> {
    vec((anything(), 0..3_u64), 8..16)
        .prop_map(|steps| steps.into_iter().map(|(step, gap_ms)| Step { gap_ms, ..step }).collect())
}

/// A viewer who walked away: still pings up to one of the deadlines and a little beyond it.
fn sleep() -> impl Strategy<Value = Vec<Step>> {
    let last = (0..5_u64).prop_map(|i| 29_998 + i);
    (any::<bool>(), vec(Just(590_000), 0..4), last, option::of(599_998..600_003_u64)).prop_map(
        |(pauses, naps, last, silence)| {
            // The first event moves the playhead, which starts the 30 minutes; three naps and the last gap make
            // them full.
            let kind = if pauses { "pauseStart" } else { "ping" };
            let mut steps = vec![step(10, kind, Head::By(1.0))];
            steps.extend(
                naps.into_iter()
                    .chain([last])
                    .chain(silence)
                    .map(|gap| step(gap, "ping", Head::Still)),
            );
            steps.push(step(5, "play", Head::Still));
            steps
        },
    )
}

/// A device that sleeps, whatever plays.
fn silence() -> impl Strategy<Value = Vec<Step>> {
    let gap = prop_oneof![Just(90_000), Just(90_001), 90_001..580_000_u64];
    let head = prop_oneof![
        3 => Just(Head::Still),
        2 => Just(Head::By(0.5)),
        1 => (1..600_i32).prop_map(|second| Head::By(f64::from(second))),
        1 => Just(Head::Follow),
        1 => any_head(),
    ];
    let before = prop_oneof![
        3 => Just(vec![step(10, "play", Head::Follow)]),
        1 => Just(vec![step(10, "bufferStart", Head::Follow)]),
        2 => (break_start(), ad_start(), option::of(select(vec!["pauseStart", "bufferStart"])))
            .prop_map(|(pod, ad, drive)| {
                let drive = drive.map(|kind| step(5, kind, Head::Still));
                [pod, ad].into_iter().chain(drive).collect()
            }),
    ];
    let kinds = select(vec!["ping", "ping", "play", "adComplete", "sessionComplete"]);
    (before, vec((gap, head, kinds), 1..3), vec(ping(Head::Follow), 0..4)).prop_map(
        |(mut steps, silences, pings)| {
            steps.extend(silences.into_iter().map(|(gap, head, kind)| step(gap, kind, head)));
            steps.extend(pings);
            steps
        },
    )
}

/// A player that tells of itself just often enough to stay open, long enough for a second stream.
fn long_view() -> impl Strategy<Value = Vec<Step>> {
    vec(select(vec![599_999, 590_000, 300_000]), 2..6).prop_map(|gaps| {
        let play = step(10, "play", Head::Follow);
        [play]
            .into_iter()
            .chain(gaps.into_iter().map(|gap| step(gap, "ping", Head::Follow)))
            .collect()
    })
}

/// Nothing but content, by whole half hours.
fn half_hours() -> impl Strategy<Value = Vec<Step>> {
    const HALF_HOUR_MS: u64 = 1_800_000;
    (1..3_u64, 4..7_u64).prop_map(|(count, pings)| {
        let ping = step(HALF_HOUR_MS / pings, "ping", Head::Follow);
        let pings = (0..count * pings).map(|_| ping.clone());
        iter::once(step(100, "play", Head::Still)).chain(pings).collect()
    })
}

/// A player that falls silent with two deadlines about to come at one instant.
fn two_deadlines() -> impl Strategy<Value = Vec<Step>> {
    prop_oneof![4 => Just(20_000), 1 => 19_999..20_002_u64].prop_map(|last| {
        let still = [590_000, 590_000, last].map(|gap| step(gap, "ping", Head::Still));
        iter::once(step(10, "play", Head::By(1.0))).chain(still).collect()
    })
}

/// More states than a session may have.
fn many_states() -> impl Strategy<Value = Vec<Step>> {
    vec((state_name(), state_name(), any_gap()), 4..8).prop_map(|rows| {
        rows.into_iter()
            .map(|(one, other, gap_ms)| {
                let starts = json!([{"media.state.name": one}, {"media.state.name": other}]);
                let update = step(gap_ms.min(20_000), "statesUpdate", Head::Follow);
                Step { params: json!({"statesStart": starts}), ..update }
            })
            .collect()
    })
}

/// A state that comes and goes.
fn again_and_again() -> impl Strategy<Value = Vec<Step>> {
    (state_name(), vec((select(vec!["stateStart", "stateEnd"]), any_gap()), 3..8)).prop_map(
        |(name, changes)| {
            let change = |(kind, gap_ms): (&'static str, u64)| {
                let step = step(gap_ms.min(20_000), kind, Head::Follow);
                Step { params: json!({"media.state.name": name}), ..step }
            };
            changes.into_iter().map(change).collect()
        },
    )
}

/// The end of a session with siblings that it overtook or that come too late.
fn ending() -> impl Strategy<Value = Vec<Step>> {
    let gap = prop_oneof![2 => Just(0), 3 => 1..300_u64, 1 => 499..502_u64];
    (option::of(Just("sessionComplete")), any_head(), vec((anything(), gap), 0..5), any::<bool>())
        .prop_map(|(complete, head, siblings, twice)| {
            let mut steps: Vec<Step> =
                complete.map(|kind| step(100, kind, head)).into_iter().collect();
            steps.push(step(50, "sessionEnd", head));
            steps.extend(siblings.into_iter().map(|(step, gap_ms)| Step { gap_ms, ..step }));
            steps.extend(twice.then(|| step(1, "sessionEnd", Head::Still)));
            steps
        })
}

fn state() -> impl Strategy<Value = Step> {
    (
        select(vec!["stateStart", "stateStart", "stateEnd", "statesUpdate"]),
        vec(state_name(), 1..4),
        vec(state_name(), 0..4),
    )
        .prop_map(|(kind, first, second)| {
            let list = |names: &[String]| -> Vec<Value> {
                names.iter().map(|name| json!({"media.state.name": name})).collect()
            };
            let mut step = step(0, kind, Head::Follow);
            step.params = match kind {
                "statesUpdate" if second.is_empty() => json!({"statesStart": list(&first)}),
                "statesUpdate" => json!({"statesStart": list(&first), "statesEnd": list(&second)}),
                _ => json!({"media.state.name": first[0]}),
            };
            step
        })
}

fn state_name() -> impl Strategy<Value = String> {
    let standard = vec![
        "fullscreen",
        "fullScreen",
        "FULLSCREEN",
        "mute",
        "Mute",
        "closedcaptioning",
        "pictureInPicture",
        "INFOCUS",
    ];
    prop_oneof![
        3 => select(standard).prop_map(str::to_owned),
        3 => (1..13_u32).prop_map(|n| format!("custom.{n}")),
        1 => Just("Custom.1".to_owned()),
    ]
}

/// An error with its id in either place, in both or in none.
fn error() -> impl Strategy<Value = Step> {
    let id = || option::weighted(0.6, select(vec!["decode-17", "cdn-503", "drm-9"]));
    let source = || option::of(select(vec!["player", "external", "External"]));
    (id(), source(), id(), source(), any::<bool>()).prop_map(
        |(id, source, other_id, other_source, alias)| {
            let names = if alias {
                ["media.errorId", "media.errorSource"]
            } else {
                ["media.qoe.errorID", "media.qoe.errorSource"]
            };
            let mut step = step(0, "error", Head::Follow);
            step.qoe = texts([("media.qoe.errorID", id), ("media.qoe.errorSource", source)]);
            step.params = texts([(names[0], other_id), (names[1], other_source)]);
            step
        },
    )
}

fn texts(members: [(&str, Option<&str>); 2]) -> Value {
    let present =
        members.into_iter().filter_map(|(key, text)| Some((key.to_owned(), json!(text?))));
    Value::Object(present.collect::<Map<String, Value>>())
}

fn any_gap() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => Just(0),
        3 => Just(1),
        6 => 1..1_500_u64,
        6 => 1_500..15_000_u64,
        2 => 4_998..5_003_u64,
        1 => 15_000..599_000_u64,
        1 => 599_998..600_003_u64,
    ]
}

fn any_head() -> impl Strategy<Value = Head> {
    let whole = |second: i32| f64::from(second);
    prop_oneof![
        10 => Just(Head::Follow),
        3 => Just(Head::Still),
        2 => (-60..60_i32).prop_map(move |second| Head::By(whole(second))),
        1 => (-3.0..3.0).prop_map(Head::By),
        2 => (0..4_000_i32).prop_map(move |second| Head::To(whole(second))),
        1 => (86_380..86_400_i32).prop_map(move |second| Head::To(whole(second))),
        1 => (0..4_i32).prop_map(move |row| Head::To(300.0 * whole(row))),
        1 => Just(Head::Fast),
        2 => select(vec![10, 25, 50, 75, 95, 100]).prop_map(Head::Part),
        1 => (0..4_i32).prop_map(move |days| Head::Beyond(whole(days) * 43_200.0 + 43_205.0)),
    ]
}

fn step(gap_ms: u64, kind: &'static str, head: Head) -> Step {
    Step { gap_ms, kind, params: json!({}), qoe: json!({}), head }
}

/// A playhead as players write it: without a fraction where there is none.
#[expect(clippy::cast_possible_truncation, reason = "playheads are far below 2⁵³")]
fn number(playhead: f64) -> Value {
    if playhead.fract() == 0.0 { json!(playhead as i64) } else { json!(playhead) }
}

#[expect(clippy::cast_precision_loss, reason = "gaps are far below 2⁵³ ms")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

/// Fine enough for a playhead that moves by less than what counts as moving.
fn four_decimals(number: f64) -> f64 {
    (number * 10_000.0).round() / 10_000.0
}
