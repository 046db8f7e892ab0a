//! Reports of whole sessions, from bodies to JSON: the scenarios of the specification, and what they
//! leave out.

use serde_json::{Value, json};

use super::Report;
use crate::session::id::{Key, SessionId};
use crate::session::{Closing, Opening, Received, Session, Step, Terms, stored};
use crate::wire::{Event, Profile, Rules, Start, StoredForm};

/// Bodies need say no more than a report wants.
pub(crate) const OPEN: Rules = Rules { profile: Profile::Open, strict: false };

/// The address and the user agent that sent them.
const CLIENT: (Option<&str>, Option<&str>) = (Some("192.0.2.0"), Some("player/1"));

/// A session that hears bodies, each when it arrives by a server's clock that never stopped.
pub(crate) struct Played {
    rules: Rules,
    /// None until it was opened.
    pub(crate) session: Option<Session>,
    /// How each body was answered.
    pub(crate) statuses: Vec<u16>,
}

impl Played {
    /// Plays bodies in the order in which they arrive.
    pub(crate) fn of(bodies: &[(u64, Value)], rules: Rules) -> Self {
        let mut played = Self { rules, session: None, statuses: Vec::new() };
        played.hear_all(bodies);
        played
    }

    /// Plays further bodies.
    pub(crate) fn hear_all(&mut self, bodies: &[(u64, Value)]) {
        for (arrive_ms, body) in bodies {
            let status = self.hear(*arrive_ms, body);
            self.statuses.push(status);
        }
    }

    fn hear(&mut self, arrive_ms: u64, body: &Value) -> u16 {
        let body = serde_json::to_vec(body).unwrap();
        let Some(session) = &mut self.session else {
            let Ok(start) = Start::parse(&body, self.rules) else { return 400 };
            self.session = Some(Session::new(opening(&start), Received::at(arrive_ms, arrive_ms)));
            return 201;
        };
        let Ok(event) = Event::parse(&body, self.rules) else { return 400 };
        let step = Step::of(&event, &body);
        if session.hear(Received::at(arrive_ms, arrive_ms), step, &Terms::default()) {
            204
        } else {
            410
        }
    }

    /// Closes the session by the deadline that comes first.
    pub(crate) fn closed(self) -> Session {
        let mut session = self.session.unwrap();
        close(&mut session);
        session
    }
}

/// Closes a session by the deadline that comes first.
pub(crate) fn close(session: &mut Session) {
    let deadline = session.deadline(&Terms::default());
    session.close(Closing::at(deadline, deadline.0 + 7, deadline.0 + 7));
}

/// The report of a session that hears these bodies, each when it arrives, and is closed by the deadline that
/// then comes. Bodies that are refused leave no trace.
pub(crate) fn report_of(bodies: &[(u64, Value)]) -> Value {
    json_of(&Played::of(bodies, OPEN).closed())
}

/// The report of a session that came whole.
pub(crate) fn stored_report_of(received_ms: u64, bodies: &[Value]) -> Value {
    let body = serde_json::to_vec(bodies).unwrap();
    let session =
        stored(&body, OPEN, StoredForm::Downloaded, CLIENT, Terms::default(), |_| {}).unwrap();
    json_of(&session.received_at(received_ms, received_ms))
}

/// The report of a session, as JSON.
pub(crate) fn json_of(session: &Session) -> Value {
    serde_json::to_value(Report::of(sid(), session)).unwrap()
}

fn opening(start: &Start<'_>) -> Opening {
    let (address, user_agent) = CLIENT;
    Opening::of(start, address, user_agent)
}

fn sid() -> SessionId {
    SessionId::mint(&Key::new([1; 32]), 1, [2; 10])
}

/// The instant from which scenarios count.
const T_MS: u64 = 1_700_000_000_000;

#[test]
fn every_scenario_of_the_specification_gives_its_report() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/data/scenarios");
    let mut read = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let scenario: Value = serde_json::from_str(&text).unwrap();
        let name = scenario["name"].as_str().unwrap();
        let report = report_of_scenario(&scenario);
        same(name, &scenario["expect"], &report);
        for (path, range) in scenario["between"].as_object().into_iter().flatten() {
            let found = report.pointer(&format!("/{}", path.replace('.', "/"))).unwrap();
            let (found, [low, high]) = (found.as_f64(), [0, 1].map(|end| range[end].as_f64()));
            assert!(low <= found && found <= high, "{name}: {path} is {found:?}");
        }
        read += 1;
    }
    assert!(read >= 17);
}

fn report_of_scenario(scenario: &Value) -> Value {
    let mut events: Vec<_> = scenario["events"].as_array().unwrap().iter().collect();
    events.sort_by_key(|event| event["arrive_ms"].as_u64());
    let stamped = |event: &Value| {
        let mut body = event["body"].clone();
        let right = || T_MS.cast_signed() + event["at_ms"].as_i64().unwrap();
        body["playerTime"]["ts"] = event["ts"].as_i64().unwrap_or_else(right).into();
        body
    };
    let arrives_ms = |event: &Value| T_MS + event["arrive_ms"].as_u64().unwrap();
    if scenario["flow"] == "downloaded" {
        let bodies: Vec<_> = events.iter().map(|event| stamped(event)).collect();
        return stored_report_of(arrives_ms(events[0]), &bodies);
    }
    let bodies: Vec<_> = events.iter().map(|event| (arrives_ms(event), stamped(event))).collect();
    let played = Played::of(&bodies, Rules::default());
    for (status, event) in played.statuses.iter().zip(&events) {
        assert_eq!(event["status"], *status, "{}: {event}", scenario["name"]);
    }
    let session = played.session.as_ref().unwrap();
    let (deadline_ms, _) = session.deadline(&Terms::default());
    if deadline_ms <= T_MS + scenario["end_ms"].as_u64().unwrap() {
        json_of(&played.closed())
    } else {
        json_of(&session.running_copy())
    }
}

/// A start of recorded content of this length, at 0.
fn start(length_s: f64) -> (u64, Value) {
    let params = json!({"media.id": "c", "media.length": length_s, "media.contentType": "vod",
        "media.playerName": "p"});
    with(event(0, "sessionStart", 0.0), "params", params)
}

/// An event that is stamped so many ms after the start, and arrives at once.
fn event(at_ms: u64, event_type: &str, playhead: f64) -> (u64, Value) {
    let player_time = json!({"ts": T_MS + at_ms, "playhead": playhead});
    (T_MS + at_ms, json!({"eventType": event_type, "playerTime": player_time}))
}

/// The same event with a further member.
fn with((arrive_ms, mut body): (u64, Value), member: &str, value: Value) -> (u64, Value) {
    body[member] = value;
    (arrive_ms, body)
}

fn ad_break(at_ms: u64, playhead: f64, index: i64) -> (u64, Value) {
    let params = json!({"media.ad.podIndex": index, "media.ad.podSecond": 0});
    with(event(at_ms, "adBreakStart", playhead), "params", params)
}

fn ad(at_ms: u64, playhead: f64, id: &str) -> (u64, Value) {
    let params = json!({"media.ad.id": id, "media.ad.length": 5, "media.ad.podPosition": 1});
    with(event(at_ms, "adStart", playhead), "params", params)
}

fn chapter(at_ms: u64, playhead: f64, index: u64) -> (u64, Value) {
    let params = json!({"media.chapter.index": index, "media.chapter.offset": 0,
        "media.chapter.length": -1, "media.chapter.friendlyName": "one"});
    with(event(at_ms, "chapterStart", playhead), "params", params)
}

/// Holds a report to these members.
fn holds(bodies: &[(u64, Value)], expected: &Value) {
    same("report", expected, &report_of(bodies));
}

#[test]
fn a_report_has_the_documented_layout() {
    let mut start = start(60.0);
    start.1["params"]["analytics.trackingServer"] = "t".into();
    start.1["params"]["analytics.optOutShare"] = true.into();
    start.1["params"]["appInstallationId"] = "app".into();
    start.1["params"]["media.qoe.bitrate"] = 5.into();
    start.1["customMetadata"] = json!({"plan": "gold"});
    let bodies = [
        start,
        event(1_000, "play", 0.0),
        ad_break(11_000, 10.0, 1),
        ad(11_000, 10.0, "a"),
        event(16_500, "adComplete", 10.0),
        event(16_500, "adBreakComplete", 10.0),
        chapter(16_500, 10.0, 1),
        with(event(17_500, "stateStart", 11.0), "params", json!({"media.state.name": "Mute"})),
        event(18_500, "sessionEnd", 12.0),
    ];
    let session = Played::of(&bodies, OPEN).closed();
    let expected = concat!(
        r#"{"version":2,"sessionId":"SID","status":"closed","closeReason":"sessionEnd","#,
        r#""startTs":1700000000000,"lastEventTs":1700000018500,"durationMs":18500,"#,
        r#""receivedFirstMs":1700000000000,"receivedLastMs":1700000018500,"#,
        r#""closedMs":1700000019000,"client":{"address":"192.0.2.0","userAgent":"player/1"},"#,
        r#""eventCount":9,"lateCount":0,"duplicateCount":0,"clockJumps":0,"#,
        r#""implausiblePlayheads":0,"repeatOf":null,"#,
        r#""content":{"media.id":"c","media.length":60.0,"media.contentType":"vod","#,
        r#""media.streamType":"video","media.playerName":"p"},"#,
        r#""visitor":{"appInstallationId":"app"},"#,
        r#""analytics":{"analytics.trackingServer":"t"},"#,
        r#""customMetadata":{"plan":"gold"},"#,
        r#""privacy":{"analytics.optOutServerSideForwarding":null,"analytics.optOutShare":true},"#,
        r#""truncated":[],"#,
        r#""metrics":{"isViewed":true,"hasResume":false,"isPlayed":true,"isCompleted":false,"#,
        r#""timePlayed":12,"totalTimePlayed":17.5,"uniqueTimePlayed":12,"#,
        r#""averageMinuteAudience":0.2,"hasProgress10":true,"hasProgress25":false,"#,
        r#""hasProgress50":false,"hasProgress75":false,"hasProgress95":false,"#,
        r#""hasSegmentView":true,"segment":"[0-5]","pauseCount":0,"pauseTime":0,"#,
        r#""hasPauseImpactedStreams":false,"adBreakCount":1,"adCount":1,"adCompletes":1,"#,
        r#""adSkips":0,"adTimePlayed":5.5,"chapterCount":1,"chapterCompletes":0,"#,
        r#""chapterSkips":0,"chapterTimePlayed":2,"estimatedStreams":1,"isDownloaded":false,"#,
        r#""isFederated":false,"authorized":false,"unaccountedTime":0,"secondsSinceLastCall":0},"#,
        r#""qoe":{"bitrateAverage":0,"bitrateAverageBucket":"0-99","bitrateChangeCount":0,"#,
        r#""hasBitrateChangeImpactedStreams":false,"droppedFrames":0,"#,
        r#""hasDroppedFrameImpactedStreams":false,"bufferCount":0,"bufferTime":0,"#,
        r#""hasBufferImpactedStreams":false,"stallCount":0,"stallTime":0,"#,
        r#""hasStallImpactedStreams":false,"errorCount":0,"hasErrorImpactedStreams":false,"#,
        r#""playerSdkErrors":[],"externalErrors":[],"isDroppedBeforeStart":false,"#,
        r#""timeToStart":0,"framesPerSecond":null},"#,
        r#""adBreaks":[{"podId":"6431f4ea74e644e88fe61cbb984ab2f0","name":null,"index":1,"#,
        r#""offset":0,"adCount":1,"completed":true}],"#,
        r#""ads":[{"id":"a","name":null,"podId":"6431f4ea74e644e88fe61cbb984ab2f0","#,
        r#""podIndex":1,"podPosition":1,"length":5,"isStarted":true,"isCompleted":true,"#,
        r#""isSkipped":false,"timePlayed":5.5,"playerName":null,"advertiser":null,"#,
        r#""campaignId":null,"creativeId":null,"creativeURL":null,"siteId":null,"#,
        r#""placementId":null,"customMetadata":{"plan":"gold"}}],"#,
        r#""chapters":[{"id":"6431f4ea74e644e88fe61cbb984ab2f0","index":1,"name":"one","#,
        r#""offset":0,"length":0,"isStarted":true,"isCompleted":false,"isSkipped":false,"#,
        r#""timePlayed":2,"customMetadata":{"plan":"gold"}}],"#,
        r#""states":[{"name":"mute","isSet":true,"count":1,"time":1}]}"#,
    );
    let found = serde_json::to_string(&Report::of(sid(), &session)).unwrap();
    assert_eq!(found, expected.replace("SID", &sid().to_string()));
}

#[test]
fn facts_have_their_defaults_and_a_negative_length_is_not_known() {
    let params = json!({"media.id": "c", "media.length": -1, "media.contentType": "",
        "media.streamType": "hologram", "media.playerName": "p", "media.resume": true,
        "media.pass.auth": "TRUE"});
    let bodies = [
        with(event(0, "sessionStart", 0.0), "params", params),
        event(10, "play", 0.0),
        event(20, "ping", 500.0),
    ];
    holds(
        &bodies,
        &json!({"content": {"media.length": 0, "media.contentType": "missing_content_type",
                "media.streamType": "video"},
            "metrics": {"hasResume": true, "isViewed": false, "authorized": true,
                "averageMinuteAudience": null, "hasProgress10": false, "segment": "[0-10]"}}),
    );
    let mut audio = start(10.0);
    audio.1["params"]["media.streamType"] = "audio".into();
    holds(&[audio], &json!({"content": {"media.streamType": "audio"}}));
}

#[test]
fn a_stall_takes_three_still_pings_that_only_other_events_may_part() {
    let still = |at_ms: u64| event(at_ms, "ping", 10.0);
    let begin = [start(100.0), event(0, "play", 0.0), event(10_000, "ping", 10.0)];
    let after = |further: &[(u64, Value)], stalls: u64, stall_s: f64, played_s: f64| {
        let bodies = [&begin[..], further].concat();
        let expected = json!({"metrics": {"timePlayed": played_s},
            "qoe": {"stallCount": stalls, "stallTime": stall_s, "hasStallImpactedStreams": stalls > 0}});
        holds(&bodies, &expected);
    };
    after(&[still(20_000), still(30_000)], 0, 0.0, 30.0);
    after(&[still(20_000), still(30_000), still(40_000)], 1, 30.0, 10.0);
    // Others neither count nor interrupt, before as after.
    let error = |at_ms| event(at_ms, "error", 10.0);
    after(&[still(20_000), error(25_000), still(30_000), error(35_000)], 0, 0.0, 35.0);
    after(
        &[still(20_000), error(21_000), still(30_000), still(40_000), error(45_000)],
        1,
        35.0,
        10.0,
    );
    // What moves, pauses or is an ad ends the row, and the time before it was content.
    let (moved, pause) = (event(35_000, "ping", 10.002), event(35_000, "pauseStart", 10.0));
    after(&[still(20_000), still(30_000), moved.clone(), still(40_000)], 0, 0.0, 40.0);
    after(
        &[still(20_000), still(30_000), pause, event(36_000, "play", 10.0), still(40_000)],
        0,
        0.0,
        39.0,
    );
    let ad = [ad_break(31_000, 10.0, 1), ad(32_000, 10.0, "a"), event(33_000, "adSkip", 10.0)];
    after(&[&[still(20_000), still(30_000)][..], &ad, &[still(40_000)]].concat(), 0, 0.0, 39.0);
    // The interval in which it moves again is content, and a second row is a second stall.
    let first = [still(20_000), still(30_000), still(40_000), event(45_000, "ping", 15.0)];
    let second = [50_000, 60_000, 70_000].map(|at_ms| event(at_ms, "ping", 15.0));
    after(&first, 1, 30.0, 15.0);
    after(&[&first[..], &second].concat(), 2, 55.0, 15.0);
}

#[test]
fn a_stall_is_no_time_of_its_chapter_and_has_no_bitrate() {
    let rate = |bits: u64| json!({"media.qoe.bitrate": bits});
    let bodies = [
        with(start(100.0), "qoeData", rate(1_000_000)),
        event(0, "play", 0.0),
        chapter(0, 0.0, 1),
        event(10_000, "ping", 10.0),
        with(event(20_000, "ping", 10.0), "qoeData", rate(9_000_000)),
        event(21_000, "chapterComplete", 10.0),
        chapter(22_000, 10.0, 2),
        event(30_000, "ping", 10.0),
        event(40_000, "ping", 10.0),
        with(event(50_000, "ping", 20.0), "qoeData", rate(3_000_000)),
        event(60_000, "ping", 30.0),
        // Not a stall: a chapter that was over when that was known has its time.
        event(64_000, "ping", 30.0),
        event(65_000, "chapterSkip", 30.0),
        event(70_000, "ping", 35.0),
    ];
    holds(
        &bodies,
        &json!({"metrics": {"timePlayed": 40, "chapterTimePlayed": 35, "chapterCount": 2,
                "chapterCompletes": 1, "chapterSkips": 1},
            // 10 s of 1, 10 s of 9, 20 s of 3 Mbit/s.
            "qoe": {"bitrateAverage": 4_000, "stallTime": 30},
            "chapters": [
                {"index": 1, "timePlayed": 10, "isCompleted": true, "isSkipped": false},
                {"index": 2, "timePlayed": 25, "isCompleted": false, "isSkipped": true}]}),
    );
}

#[test]
fn ads_take_time_pauses_and_buffers_for_themselves() {
    let bodies = [
        start(100.0),
        event(0, "play", 0.0),
        event(10_000, "pauseStart", 10.0),
        ad_break(12_000, 10.0, -1),
        ad(13_000, 10.0, "a"),
        event(15_000, "bufferStart", 10.0),
        event(16_000, "play", 10.0),
        event(17_000, "pauseStart", 10.0),
        event(17_000, "pauseStart", 10.0),
        ad(18_000, 10.0, "b"),
        ad_break(20_000, 10.0, 2),
        event(21_000, "adStart", 10.0),
        event(22_000, "sessionComplete", 10.0),
        event(24_000, "ping", 10.0),
        event(25_000, "adBreakComplete", 10.0),
        event(26_000, "adStart", 10.0),
        event(27_000, "ping", 10.0),
    ];
    holds(
        &bodies,
        &json!({"metrics": {"timePlayed": 10, "adTimePlayed": 9, "totalTimePlayed": 19,
                // The pause of the content stands still while an ad is active.
                "pauseTime": 5, "pauseCount": 2, "adBreakCount": 2, "adCount": 3, "adCompletes": 0,
                "adSkips": 0, "isCompleted": true, "secondsSinceLastCall": 0},
            "qoe": {"bufferTime": 1, "bufferCount": 1},
            "adBreaks": [{"index": -1, "adCount": 2, "completed": false},
                {"index": 2, "adCount": 1, "completed": true}],
            "ads": [{"id": "a", "podIndex": -1, "timePlayed": 3, "isCompleted": false},
                {"id": "b", "podIndex": -1, "timePlayed": 2},
                {"id": null, "podIndex": 2, "timePlayed": 4, "length": null}]}),
    );
}

#[test]
fn an_ad_has_the_metadata_of_its_session_overlaid_with_its_own() {
    let mut ad = ad(2, 0.0, "a");
    ad.1["params"]["media.ad.creativeURL"] = "http://c".into();
    ad.1["params"]["media.ad.podFriendlyName"] = "not the break's".into();
    ad.1["customMetadata"] = json!({"plan": "own", "z": "1"});
    let bodies = [
        with(start(9.0), "customMetadata", json!({"plan": "gold", "a.b": "x"})),
        with(ad_break(1, 0.0, 1), "customMetadata", json!({"ignored": "yes"})),
        ad,
    ];
    let report = report_of(&bodies);
    assert_eq!(report["ads"][0]["customMetadata"], json!({"plan": "own", "a.b": "x", "z": "1"}));
    assert_eq!(report["ads"][0]["creativeURL"], "http://c");
    assert_eq!(report["adBreaks"][0]["name"], Value::Null);
    assert_eq!(report["ads"][0]["podId"], report["adBreaks"][0]["podId"]);
}

#[test]
fn quality_comes_from_quality_data_or_else_from_parameters_and_negative_is_not_known() {
    let bodies = [
        with(start(9.0), "qoeData", json!({"media.qoe.timeToStart": 1_200.4, "other": {}})),
        with(
            with(
                event(10, "play", 0.0),
                "qoeData",
                json!({"media.qoe.droppedFrames": 7.0, "media.qoe.bitrate": -1,
                    "media.qoe.timeToStart": 0}),
            ),
            "params",
            json!({"media.qoe.droppedFrames": 9, "media.qoe.framesPerSecond": 23.976}),
        ),
        with(
            event(20, "ping", 1.0),
            "qoeData",
            json!({"media.qoe.timeToStart": 99, "media.qoe.framesPerSecond": -1,
                "media.qoe.droppedFrames": -1, "media.qoe.errorID": "no error event"}),
        ),
    ];
    holds(
        &bodies,
        &json!({"qoe": {"timeToStart": 1.2, "droppedFrames": 7, "framesPerSecond": 23.976,
            "hasDroppedFrameImpactedStreams": true, "bitrateAverage": null,
            "bitrateAverageBucket": null, "errorCount": 0, "playerSdkErrors": []}}),
    );
}

#[test]
fn an_error_has_its_id_and_source_from_any_of_the_spellings() {
    let error = |at_ms, quality, params| {
        with(with(event(at_ms, "error", 0.0), "qoeData", quality), "params", params)
    };
    let bodies = [
        start(9.0),
        error(1, json!({"media.qoe.errorID": "a"}), json!({"media.errorId": "x"})),
        error(2, json!({}), json!({"media.errorId": "b", "media.errorSource": "external"})),
        error(3, json!({}), json!({"media.qoe.errorID": "c", "media.qoe.errorSource": "External"})),
        error(4, json!({"media.qoe.errorSource": "external"}), json!({"media.errorId": "a"})),
        error(5, json!({"media.qoe.errorID": ""}), json!({})),
    ];
    holds(
        &bodies,
        &json!({"qoe": {"errorCount": 5, "hasErrorImpactedStreams": true,
            "playerSdkErrors": ["a", "c"], "externalErrors": ["b", "a"]}}),
    );
}

#[test]
fn markers_are_passed_by_jumps_kept_by_rewinds_and_never_set_before_the_content_starts() {
    let markers = |events: &[(u64, Value)]| {
        let report = report_of(&[&[start(100.0)][..], events].concat());
        let names = ["10", "25", "50", "75", "95"].map(|marker| format!("hasProgress{marker}"));
        names.map(|name| report["metrics"][name].as_bool().unwrap())
    };
    let (play, ad) = (|at_ms, playhead| event(at_ms, "play", playhead), event(5, "ping", 95.0));
    assert_eq!(markers(&[ad]), [false; 5]);
    assert_eq!(markers(&[play(5, 24.9)]), [true, false, false, false, false]);
    assert_eq!(markers(&[play(5, 5.0), event(6, "ping", 60.0)]), [true, true, true, false, false]);
    let rewound = [play(5, 95.0), event(6, "ping", 0.0)];
    assert_eq!(markers(&rewound), [true; 5]);
}

#[test]
fn live_content_is_measured_from_where_it_was_first_played() {
    let mut live = start(7_200.0);
    live.1["params"]["media.contentType"] = "Linear".into();
    live.1["playerTime"]["playhead"] = 80_000.into();
    let bodies =
        [live, event(10, "play", 86_300.0), event(20, "ping", 500.0), event(30, "ping", 86_000.0)];
    let expected = json!({"metrics": {"segment": "[0-10]", "hasProgress10": false}});
    holds(&bodies, &expected);
    let far = [&bodies[..], &[event(40, "ping", 700.0)]].concat();
    holds(&far, &json!({"metrics": {"segment": "[0-15]", "hasProgress10": true}}));
}

#[test]
fn a_session_that_is_given_up_tells_for_how_long_by_the_time_that_the_server_was_up() {
    let bodies = [start(9.0), event(10, "play", 0.0), event(1_000, "ping", 1.0)];
    let mut session = Played::of(&bodies, OPEN).session.unwrap();
    let deadline = session.deadline(&Terms::default());
    assert_eq!(deadline.0, T_MS + 601_000);
    // The server was down for an hour, and noticed the deadline half a second late.
    let hour_ms = 3_600_000;
    session.close(Closing::at(deadline, T_MS + hour_ms + 601_500, T_MS + 601_500));
    let expected = json!({"closeReason": "timeoutNoEvents", "status": "closed",
        "closedMs": T_MS + hour_ms + 601_000, "receivedLastMs": T_MS + 1_000, "durationMs": 1_000,
        "metrics": {"secondsSinceLastCall": 600}});
    same("report", &expected, &json_of(&session));
    let completed = [&bodies[..], &[event(2_000, "sessionComplete", 1.0)]].concat();
    let expected =
        json!({"closeReason": "timeoutNoEvents", "metrics": {"secondsSinceLastCall": 0}});
    holds(&completed, &expected);
}

#[test]
fn a_copy_of_an_open_session_has_what_waits_and_the_session_goes_on() {
    let bodies = [start(9.0), event(10, "bufferStart", 0.0)];
    let mut session = Played::of(&bodies, OPEN).session.unwrap();
    let before = serde_json::to_string(&session).unwrap();
    let expected = json!({"status": "open", "closeReason": null, "closedMs": null, "eventCount": 2,
        "metrics": {"secondsSinceLastCall": 0, "segment": null, "isPlayed": false},
        "qoe": {"bufferCount": 1, "isDroppedBeforeStart": false}});
    same("running", &expected, &json_of(&session.running_copy()));
    assert_eq!(serde_json::to_string(&session).unwrap(), before);
    close(&mut session);
    same("closed", &json!({"qoe": {"isDroppedBeforeStart": true}}), &json_of(&session));
}

#[test]
fn a_stored_session_ends_at_its_end_and_its_time_is_not_held_to_its_receipt() {
    let day_ms = 86_400_000;
    let bodies = [
        start(9.0),
        event(10, "play", 0.0),
        event(5_010, "pauseStart", 5.0),
        event(day_ms, "ping", 5.0),
        event(5, "play", 5.0),
        event(day_ms + 1_000, "sessionEnd", 6.0),
        event(day_ms + 9_000, "sessionComplete", 9.0),
        event(day_ms + 9_000, "sessionEnd", 9.0),
    ]
    .map(|(_, body)| body);
    let expected = json!({"closeReason": "downloaded", "status": "closed", "eventCount": 6,
        "lateCount": 1, "clockJumps": 0, "durationMs": day_ms + 1_000, "closedMs": 77,
        "receivedFirstMs": 77, "receivedLastMs": 77,
        "metrics": {"isDownloaded": true, "isCompleted": false, "pauseTime": 86_394.99, "timePlayed": 6,
            "unaccountedTime": 0, "secondsSinceLastCall": 0}});
    same("report", &expected, &stored_report_of(77, &bodies));
}

/// The bodies of a stored session: the start, and others that are stamped so many ms after it.
fn stored_bodies(events: &[(i64, &str, f64)]) -> Vec<Value> {
    let others = events.iter().map(|(at_ms, event_type, playhead)| {
        let ts = T_MS.cast_signed() + at_ms;
        json!({"eventType": event_type, "playerTime": {"ts": ts, "playhead": playhead}})
    });
    std::iter::once(start(600.0).1).chain(others).collect()
}

#[test]
fn the_clock_of_a_stored_session_is_set_forward_and_back() {
    let begin = [(1_000, "play", 0.0), (51_000, "ping", 50.0)];
    let holds = |more: &[(i64, &str, f64)], expected: &Value| {
        let report = stored_report_of(1, &stored_bodies(&[&begin[..], more].concat()));
        same("report", expected, &report);
    };
    let decades_ms = 1_600_000_000_000;
    // What the playhead moved is what was played, up to a minute.
    holds(
        &[(decades_ms, "ping", 100.0), (decades_ms + 10_000, "sessionEnd", 110.0)],
        &json!({"clockJumps": 1, "durationMs": 111_000, "metrics": {"timePlayed": 110}}),
    );
    holds(
        &[(decades_ms, "ping", 200.0)],
        &json!({"clockJumps": 1, "durationMs": 111_000, "metrics": {"timePlayed": 110}}),
    );
    holds(&[(600_051_000, "ping", 50.0)], &json!({"clockJumps": 1, "durationMs": 51_000}));
    // Ten minutes may be a silence, and the playhead tells of more.
    holds(
        &[(651_000, "ping", 50.5)],
        &json!({"clockJumps": 0, "durationMs": 651_000,
            "metrics": {"timePlayed": 50.5, "unaccountedTime": 599.5}}),
    );
    holds(&[(900_000, "ping", 500.0)], &json!({"clockJumps": 0, "metrics": {"timePlayed": 899}}));
    // One that is far behind is late, a second one in a row is the clock.
    let back_ms = -3_600_000;
    holds(
        &[
            (back_ms, "ping", 60.0),
            (back_ms + 10_000, "ping", 70.0),
            (back_ms + 20_000, "ping", 80.0),
        ],
        &json!({"clockJumps": 1, "lateCount": 1, "durationMs": 81_000, "metrics": {"timePlayed": 80}}),
    );
    holds(
        &[(back_ms, "ping", 60.0), (50_999, "ping", 51.0), (back_ms, "ping", 60.0)],
        &json!({"clockJumps": 0, "lateCount": 3, "durationMs": 51_000}),
    );
    // Nothing plays, and nothing is made up.
    holds(
        &[(52_000, "pauseStart", 51.0), (172_852_001, "play", 51.0), (172_853_001, "ping", 52.0)],
        &json!({"clockJumps": 1, "durationMs": 53_000, "metrics": {"pauseTime": 0, "timePlayed": 52}}),
    );
}

/// The start, and a ping every 10 s from then on, the first with a `play`. From `set_ms` on the clock is set by
/// `by_ms`.
fn with_a_clock_set(pings: u64, set_ms: u64, by_ms: i64) -> Vec<(u64, Value)> {
    let mut bodies = vec![start(600.0), event(10, "play", 0.0)];
    for number in 1..=pings {
        let seconds = f64::from(u32::try_from(number * 10).unwrap());
        bodies.push(event(number * 10_000, "ping", seconds));
    }
    for (arrive_ms, body) in &mut bodies {
        if *arrive_ms >= T_MS + set_ms {
            let ts = body["playerTime"]["ts"].as_i64().unwrap() + by_ms;
            body["playerTime"]["ts"] = ts.max(0).into();
        }
    }
    bodies
}

#[test]
fn a_clock_that_is_set_back_takes_no_time_and_makes_none() {
    for by_ms in [-3_600_000, -70_001, -1_600_000_000_000] {
        let expected = json!({"clockJumps": 1, "lateCount": 2, "durationMs": 100_000,
            "lastEventTs": T_MS.cast_signed() + 100_000 + by_ms,
            "metrics": {"timePlayed": 99.99, "uniqueTimePlayed": 100}});
        holds(&with_a_clock_set(10, 50_000, by_ms), &expected);
    }
    // When nothing more comes, two events in ten seconds suffice, but one does not.
    let expected = json!({"clockJumps": 1, "durationMs": 60_000, "metrics": {"timePlayed": 59.99}});
    holds(&with_a_clock_set(6, 50_000, -3_600_000), &expected);
    let expected = json!({"clockJumps": 0, "durationMs": 40_000, "metrics": {"timePlayed": 39.99}});
    holds(&with_a_clock_set(5, 50_000, -3_600_000), &expected);
}

#[test]
fn a_clock_that_is_set_forward_makes_no_time() {
    for by_ms in [300_001, 3_600_000, 1_600_000_000_000] {
        let expected = json!({"clockJumps": 1, "durationMs": 100_000,
            "metrics": {"timePlayed": 99.99, "uniqueTimePlayed": 100}});
        holds(&with_a_clock_set(10, 50_000, by_ms), &expected);
    }
    // Less may be a queue that was sent late. Of a silence the playhead is believed.
    let expected = json!({"clockJumps": 0, "durationMs": 400_000,
        "metrics": {"timePlayed": 99.99, "unaccountedTime": 300}});
    holds(&with_a_clock_set(10, 50_000, 300_000), &expected);
}

#[test]
fn what_passed_while_the_clock_was_set_goes_to_what_was_in_force_then() {
    let hour_ms = 3_600_000;
    let back = |(arrive_ms, mut body): (u64, Value)| {
        body["playerTime"]["ts"] = (body["playerTime"]["ts"].as_u64().unwrap() - hour_ms).into();
        (arrive_ms, body)
    };
    let begin = [start(600.0), event(10, "play", 0.0), event(10_000, "ping", 10.0)];
    let paused = [
        event(20_000, "pauseStart", 20.0),
        event(30_000, "ping", 20.0),
        event(40_000, "play", 20.0),
        event(50_000, "ping", 30.0),
    ];
    let expected = json!({"clockJumps": 1, "durationMs": 50_000,
        "metrics": {"timePlayed": 29.99, "pauseTime": 20}});
    holds(&[&begin[..], &paused.map(back)].concat(), &expected);
    // In an ad, and when nothing more comes.
    let mut in_ad = vec![ad_break(10_000, 10.0, 1), ad(10_000, 10.0, "a")];
    in_ad[1].1["params"]["media.ad.length"] = 60.into();
    in_ad.extend((16..=24).map(|second| event(second * 1_000, "ping", 10.0)).map(back));
    in_ad.push(back(event(24_500, "adComplete", 10.0)));
    let expected = json!({"clockJumps": 1, "durationMs": 24_500,
        "metrics": {"timePlayed": 9.99, "adTimePlayed": 14.5}, "ads": [{"timePlayed": 14.5}]});
    holds(&[&begin[..], &in_ad].concat(), &expected);
}

#[test]
fn a_queue_that_is_sent_in_any_order_is_no_clock() {
    let mut bodies = with_a_clock_set(30, u64::MAX - T_MS, 0);
    // Four minutes without a network, and then all of it at once, the newest first.
    for (arrive_ms, _) in &mut bodies {
        let at_ms = *arrive_ms - T_MS;
        if (60_000..=300_000).contains(&at_ms) {
            *arrive_ms = T_MS + 300_000 + (300_000 - at_ms) / 40;
        }
    }
    bodies.sort_by_key(|(arrive_ms, _)| *arrive_ms);
    holds(&bodies, &json!({"clockJumps": 0, "durationMs": 300_000}));
}

#[test]
fn a_device_that_sleeps_has_played_what_its_playhead_moved() {
    let silent = |playhead: f64| {
        [
            start(9_000.0),
            event(0, "play", 0.0),
            event(10_000, "ping", 10.0),
            event(590_000, "ping", playhead),
        ]
    };
    let expected = |played_s: f64, unaccounted_s: f64| {
        json!({"durationMs": 590_000, "clockJumps": 0,
            "metrics": {"timePlayed": played_s, "unaccountedTime": unaccounted_s},
            "qoe": {"stallCount": 0}})
    };
    holds(&silent(10.0), &expected(10.0, 580.0));
    holds(&silent(10.5), &expected(10.5, 579.5));
    holds(&silent(299.9), &expected(299.9, 290.1));
    holds(&silent(300.0), &expected(590.0, 0.0));
    holds(&silent(9_061.0), &expected(10.0, 580.0));
    // A pause may last, a buffer does not.
    for (event_type, pause_s, buffer_s, lost_s) in
        [("pauseStart", 580, 0, 0), ("bufferStart", 0, 90, 490)]
    {
        let bodies = [
            start(9.0),
            event(0, "play", 0.0),
            event(10_000, event_type, 9.0),
            event(590_000, "play", 9.0),
        ];
        let expected = json!({"metrics": {"pauseTime": pause_s, "unaccountedTime": lost_s},
            "qoe": {"bufferTime": buffer_s}});
        holds(&bodies, &expected);
    }
    // Three still pings are no stall if one of them comes after a silence, and a silence adds nothing to one.
    let still = |at_ms: u64| event(at_ms, "ping", 10.0);
    let two = [start(99.0), event(0, "play", 0.0), still(10_000), still(20_000), still(30_000)];
    let expected = json!({"qoe": {"stallCount": 0}, "metrics": {"unaccountedTime": 91}});
    holds(&[&two[..], &[still(121_000)]].concat(), &expected);
    let expected =
        json!({"qoe": {"stallCount": 1, "stallTime": 30}, "metrics": {"unaccountedTime": 91}});
    holds(&[&two[..], &[still(40_000), still(131_000)]].concat(), &expected);
}

#[test]
fn an_ad_in_which_the_device_sleeps_plays_no_longer_than_it_is() {
    let bodies = [
        start(99.0),
        ad_break(0, 0.0, 1),
        ad(0, 0.0, "a"),
        event(2_000, "ping", 0.0),
        event(102_000, "ping", 0.0),
        event(103_000, "adComplete", 0.0),
    ];
    let expected =
        json!({"durationMs": 103_000, "metrics": {"adTimePlayed": 5, "unaccountedTime": 98}});
    holds(&bodies, &expected);
    let mut unknown = bodies.clone();
    unknown[2].1["params"]["media.ad.length"] = (-1).into();
    let expected = json!({"metrics": {"adTimePlayed": 93, "unaccountedTime": 10}});
    holds(&unknown, &expected);
}

#[test]
fn a_playhead_that_cannot_be_in_the_content_moves_no_marker_and_no_segment() {
    let mut live = start(86_400.0);
    live.1["params"]["media.contentType"] = "live".into();
    let bodies = [
        live,
        event(0, "play", 50_000.0),
        event(10_000, "ping", 50_010.0),
        event(20_000, "ping", 1.7e9),
        event(30_000, "ping", 1.7e9 + 10.0),
        event(40_000, "ping", 50_040.0),
    ];
    let expected = json!({"implausiblePlayheads": 2,
        "metrics": {"segment": "[0-5]", "hasProgress10": false, "timePlayed": 40, "uniqueTimePlayed": 20}});
    holds(&bodies, &expected);
    let recorded = [
        start(100.0),
        event(0, "play", 0.0),
        event(10_000, "ping", 1e308),
        event(20_000, "ping", 20.0),
    ];
    let expected = json!({"implausiblePlayheads": 1,
        "metrics": {"segment": "[0-5]", "hasProgress25": false, "timePlayed": 20, "uniqueTimePlayed": 10}});
    holds(&recorded, &expected);
    let near = [start(100.0), event(0, "play", 0.0), event(10_000, "ping", 160.0)];
    holds(&near, &json!({"implausiblePlayheads": 0, "metrics": {"hasProgress95": true}}));
}

#[test]
fn pings_where_the_break_began_are_no_stall() {
    let gap = |playhead: f64| {
        let mut bodies = vec![start(99.0), event(0, "play", 0.0), event(10_000, "ping", 10.0)];
        bodies.extend([
            ad_break(10_000, 10.0, 1),
            ad(10_000, 10.0, "a"),
            event(15_000, "adComplete", 10.0),
        ]);
        bodies.extend((16..20).map(|second| event(second * 1_000, "ping", playhead)));
        bodies
    };
    holds(&gap(10.0), &json!({"qoe": {"stallCount": 0}, "metrics": {"timePlayed": 14}}));
    // Elsewhere it has moved, and then stands.
    holds(
        &gap(11.0),
        &json!({"qoe": {"stallCount": 1, "stallTime": 3}, "metrics": {"timePlayed": 11}}),
    );
}

#[test]
fn a_running_report_has_no_time_that_may_yet_be_a_stall() {
    let bodies = [
        start(99.0),
        event(0, "play", 0.0),
        event(10_000, "ping", 10.0),
        event(20_000, "ping", 10.0),
    ];
    let mut session = Played::of(&bodies, OPEN).session.unwrap();
    let expected = json!({"durationMs": 20_000, "metrics": {"timePlayed": 10}});
    same("running", &expected, &json_of(&session.running_copy()));
    close(&mut session);
    same("closed", &json!({"metrics": {"timePlayed": 20}}), &json_of(&session));
}

#[test]
fn what_comes_beyond_the_limits_is_counted_and_the_report_says_so() {
    let mut bodies = vec![start(9.0)];
    for number in 0..65_u64 {
        let error = event(number, "error", 0.0);
        bodies.push(with(error, "params", json!({"media.errorId": format!("e{number}")})));
    }
    for number in 0..1_001_u64 {
        bodies.push(chapter(100 + number, 0.0, number));
    }
    let report = report_of(&bodies);
    assert_eq!(report["truncated"], json!(["playerSdkErrors", "chapters"]));
    assert_eq!(report["chapters"].as_array().unwrap().len(), 1_000);
    assert_eq!(report["metrics"]["chapterCount"], 1_001);
    assert_eq!(report["qoe"]["playerSdkErrors"].as_array().unwrap().len(), 64);
    assert_eq!(report["qoe"]["errorCount"], 65);
    let mut full = Played::of(&bodies, OPEN).session.unwrap();
    full.counts.beyond = 1;
    close(&mut full);
    assert_eq!(json_of(&full)["truncated"][0], "events");
}

#[test]
fn a_report_that_were_too_long_says_less_and_says_so() {
    let state = with(event(5, "stateStart", 0.0), "params", json!({"media.state.name": "mute"}));
    let error = with(event(6, "error", 0.0), "params", json!({"media.errorId": "e"}));
    let bodies = [start(9.0), event(1, "play", 0.0), chapter(4, 0.0, 1), state, error];
    let mut session = Played::of(&bodies, OPEN).session.unwrap();
    close(&mut session);
    let report = |bytes_max| -> (usize, Value) {
        let json = Report::of(sid(), &session).to_json(bytes_max);
        (json.len(), serde_json::from_slice(&json).unwrap())
    };
    let (whole_bytes, whole) = report(usize::MAX);
    assert_eq!((whole_bytes, &whole), (report(whole_bytes).0, &json_of(&session)));
    let (fewer_bytes, fewer) = report(whole_bytes - 1);
    assert!(fewer_bytes < whole_bytes);
    assert_eq!(fewer["truncated"], json!(["playerSdkErrors", "chapters", "states"]));
    assert_eq!((&fewer["chapters"], &fewer["states"]), (&json!([]), &json!([])));
    assert_eq!(fewer["qoe"]["playerSdkErrors"], json!([]));
    assert_eq!(fewer["content"], whole["content"]);
    let (least_bytes, least) = report(1);
    assert!(least_bytes < fewer_bytes);
    let cut = ["playerSdkErrors", "chapters", "states", "content", "visitor", "analytics"];
    let cut: Vec<_> = cut.into_iter().chain(["customMetadata"]).collect();
    assert_eq!(least["truncated"], json!(cut));
    assert_eq!(least["content"], json!({}));
    for same in ["sessionId", "closeReason", "metrics", "eventCount"] {
        assert_eq!(least[same], whole[same]);
    }
    let members = |report: &Value| report.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(members(&least), members(&whole), "the layout stays");
}

#[test]
fn a_session_with_few_events_costs_little() {
    let sample = include_str!("../../tests/it/data/session-start.json");
    let bodies = [
        (T_MS, serde_json::from_str(sample).unwrap()),
        event(100, "play", 0.0),
        event(10_000, "ping", 9.9),
        event(20_000, "ping", 19.9),
        event(30_000, "ping", 29.9),
    ];
    let session = Played::of(&bodies, OPEN).session.unwrap();
    let saved = serde_json::to_string(&session).unwrap();
    println!(
        "a session: {} bytes and {} on the heap, of these {} of facts; saved {}",
        size_of::<Session>(),
        session.heap_bytes(),
        session.opening.facts.heap_bytes(),
        saved.len(),
    );
    println!("a step: {} bytes", size_of::<Step>());
    assert!(size_of::<Session>() <= 480);
    assert!(size_of::<Step>() <= 48);
    assert!(size_of::<Session>() + session.heap_bytes() <= 1_088);
}

/// Holds what was found to every member of what is expected.
fn same(place: &str, expected: &Value, found: &Value) {
    match (expected, found) {
        (Value::Object(members), Value::Object(_)) => {
            for (key, expected) in members {
                same(&format!("{place}/{key}"), expected, &found[key]);
            }
        }
        (Value::Array(expected), Value::Array(found)) => {
            assert_eq!(expected.len(), found.len(), "{place}");
            for (index, (expected, found)) in expected.iter().zip(found).enumerate() {
                same(&format!("{place}/{index}"), expected, found);
            }
        }
        (Value::Number(expected), Value::Number(found)) => {
            let off = (expected.as_f64().unwrap() - found.as_f64().unwrap()).abs();
            assert!(off <= 1e-6, "{place}: expected {expected}, found {found}");
        }
        _ => assert_eq!(expected, found, "{place}"),
    }
}
