//! Reports of whole sessions, from bodies to JSON: the scenarios of the specification, and what they
//! leave out.

use serde_json::{Value, json};

use super::Report;
use crate::session::id::{Key, SessionId};
use crate::session::{Closing, Opening, Session, Step, Terms, stored};
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
            self.session = Some(Session::new(opening(&start), arrive_ms, arrive_ms));
            return 201;
        };
        let Ok(event) = Event::parse(&body, self.rules) else { return 400 };
        let step = Step::of(&event, &body);
        if session.hear(arrive_ms, arrive_ms, step, &Terms::default()) { 204 } else { 410 }
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
        same(name, &scenario["expect"], &report_of_scenario(&scenario));
        read += 1;
    }
    assert!(read >= 17);
}

fn report_of_scenario(scenario: &Value) -> Value {
    let mut events: Vec<_> = scenario["events"].as_array().unwrap().iter().collect();
    events.sort_by_key(|event| event["arrive_ms"].as_u64());
    let stamped = |event: &Value| {
        let mut body = event["body"].clone();
        body["playerTime"]["ts"] = (T_MS + event["at_ms"].as_u64().unwrap()).into();
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
        r#"{"version":1,"sessionId":"SID","status":"closed","closeReason":"sessionEnd","#,
        r#""startTs":1700000000000,"lastEventTs":1700000018500,"durationMs":18500,"#,
        r#""receivedFirstMs":1700000000000,"receivedLastMs":1700000018500,"#,
        r#""closedMs":1700000019000,"client":{"address":"192.0.2.0","userAgent":"player/1"},"#,
        r#""eventCount":9,"lateCount":0,"duplicateCount":0,"clockJumps":0,"#,
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
        r#""isFederated":false,"authorized":false,"secondsSinceLastCall":0},"#,
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
    let days_ms = 3 * 86_400_000;
    let bodies = [
        start(9.0),
        event(10, "play", 0.0),
        event(days_ms, "pauseStart", 5.0),
        event(5, "play", 5.0),
        event(days_ms + 1_000, "sessionEnd", 6.0),
        event(days_ms + 9_000, "sessionComplete", 9.0),
        event(days_ms + 9_000, "sessionEnd", 9.0),
    ]
    .map(|(_, body)| body);
    let expected = json!({"closeReason": "downloaded", "status": "closed", "eventCount": 5,
        "lateCount": 1, "clockJumps": 0, "durationMs": days_ms + 1_000, "closedMs": 77,
        "receivedFirstMs": 77, "receivedLastMs": 77,
        "metrics": {"isDownloaded": true, "isCompleted": false, "pauseTime": 0, "timePlayed": 259_200.99,
            "secondsSinceLastCall": 0}});
    same("report", &expected, &stored_report_of(77, &bodies));
}

#[test]
fn a_clock_that_is_set_back_may_make_the_duration_negative_and_no_time() {
    let mut set_back = event(3_000, "ping", 2.0);
    set_back.1["playerTime"]["ts"] = 1_000_000.into();
    let mut after = event(4_000, "ping", 3.0);
    after.1["playerTime"]["ts"] = 1_001_000.into();
    let bodies = [start(9.0), event(1_000, "play", 0.0), event(2_000, "ping", 1.0)];
    // Within one window they would be sorted.
    let late = [set_back, after].map(|(arrive_ms, body)| (arrive_ms + 9_000, body));
    let expected = json!({"clockJumps": 1, "durationMs": -1_699_998_999_000_i64,
        "metrics": {"timePlayed": 2}});
    holds(&[&bodies[..], &late].concat(), &expected);
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
    assert!(size_of::<Session>() <= 352);
    assert!(size_of::<Step>() <= 48);
    assert!(size_of::<Session>() + session.heap_bytes() <= 960);
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
