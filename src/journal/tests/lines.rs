//! What is written can be read back, however much outsiders say.

use std::io::Write as _;

use super::*;
use crate::journal::disk::Disk as _;
use crate::journal::record::{LINE_BYTES_MAX, REPORT_BYTES_MAX, TooLong};
use crate::session::{HEAP_BYTES_MAX, Received, Session, growth_bytes};

/// The most that a session's report has, whatever its player said; a message of a broker takes it too.
const REPORT_MOST_BYTES: usize = 16 << 20;

/// The one line of a journal that has only it.
fn read_back(line: &[u8]) -> (u64, u64, Content<'static>) {
    let disk = SimDisk::default();
    let mut file = disk.create(&segment::open_name(1)).unwrap();
    file.append(line).unwrap();
    let segment = &segment::list(&disk).unwrap()[0];
    let mut lines = segment.lines(&disk).unwrap();
    let found = lines.next_line().unwrap().unwrap();
    assert!(found.complete, "a reader takes all of it");
    let Record { seq, received_ms, content } = Record::read(found.text).unwrap();
    let content = owned(content);
    assert!(lines.next_line().unwrap().is_none());
    (seq, received_ms, content)
}

fn sid() -> SessionId {
    SessionId::mint(&Key::new([1; 32]), 1, [2; 10])
}

/// Records of every kind whose last value, if they have one, has so many bytes; all else in them is as long as it
/// can be.
fn largest(bytes: usize) -> Vec<Content<'static>> {
    let sid = sid();
    let value = || -> std::borrow::Cow<'static, [u8]> {
        format!("\"{}\"", "x".repeat(bytes - 2)).into_bytes().into()
    };
    let client = || Some("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255".into());
    let user_agent = || Some("\u{1}".repeat(1 << 10).into());
    let (count, erased_ms) = (u64::MAX, u64::MAX);
    let max = u64::MAX;
    let terms = Terms { no_events_ms: max, no_playhead_ms: max, age_ms: max, events_max: u32::MAX };
    vec![
        Content::Start { sid, client: client(), user_agent: user_agent(), body: value() },
        Content::Event { sid, body: value() },
        Content::Batch { sid, client: client(), user_agent: user_agent(), body: value() },
        Content::Report { sid, report: value() },
        Content::Close { sid, reason: CloseReason::TimeoutNoPlayhead },
        Content::Settings { terms, paused_ms: Some(u64::MAX), set_back_ms: u64::MAX },
        Content::Pause { down_ms: u64::MAX, set_back_ms: u64::MAX },
        Content::Erased { count, until_ms: Some(u64::MAX), erased_ms },
    ]
}

/// A record of each kind is either no longer than what readers take, at the last place that there is, or it cannot
/// be made ready.
#[test]
fn the_largest_record_of_every_kind_is_read_back_and_no_larger_one_can_be_made() {
    let ready = |content: &Content<'static>| {
        let (seq, received_ms) = (u64::MAX, u64::MAX);
        let encoded = Encoded::new(content.clone())?;
        let mut line = Vec::new();
        encoded.write_line(&mut line, seq, received_ms);
        assert!(line.len() <= LINE_BYTES_MAX);
        assert_eq!(read_back(&line), (seq, received_ms, content.clone()));
        // Large ones may be written without being copied.
        let apart = match content {
            Content::Batch { sid, client, user_agent, body } => {
                let (client, user_agent) = (client.as_deref(), user_agent.as_deref());
                Detached::batch(*sid, client, user_agent, &body.to_vec().into())?
            }
            Content::Report { sid, report } => Detached::report(*sid, report.to_vec())?,
            _ => return Ok(line.len()),
        };
        let mut joined = Vec::new();
        let (place, value) = apart.write_line(&mut joined, seq, received_ms).unwrap();
        joined.splice(place..place, value.iter().copied());
        assert!(joined == line);
        Ok::<_, TooLong>(line.len())
    };
    for (kind, content) in largest(1 << 20).into_iter().enumerate() {
        let bytes = ready(&content).unwrap();
        if bytes < 1 << 20 {
            assert!(bytes < 1 << 10, "{content:?}");
            continue;
        }
        let fits = (1 << 20) + LINE_BYTES_MAX - bytes;
        assert_eq!(ready(&largest(fits)[kind]), Ok(LINE_BYTES_MAX));
        let too_long = Encoded::new(largest(fits + 1).swap_remove(kind)).unwrap_err();
        assert_eq!(too_long, TooLong { kind: content.kind(), bytes: LINE_BYTES_MAX + 1 });
        // What may come, and what is written of a session, is less.
        let allowed = crate::http::STORED_BYTES_LIMIT.as_usize();
        let most = if content.kind() == "report" { REPORT_BYTES_MAX } else { allowed };
        assert!(most <= fits, "{}", content.kind());
    }
    let sid = sid();
    assert!(Detached::report(sid, vec![b'1'; REPORT_BYTES_MAX]).is_ok());
    assert!(Detached::report(sid, vec![b'1'; LINE_BYTES_MAX]).is_err());
    assert!(Detached::batch(sid, None, None, &vec![b'1'; LINE_BYTES_MAX].into()).is_err());
}

/// What a player says a lot of, and how often.
#[derive(Clone, Debug)]
struct Flood {
    event_type: &'static str,
    key: &'static str,
    /// One character as it stands in a body.
    character: &'static str,
    /// How long the text is in a body, in bytes.
    bytes: usize,
    events: usize,
}

/// The events that say something, each with a key whose value may have any length.
const SAYING: [(&str, &str); 9] = [
    ("adBreakStart", "media.ad.podFriendlyName"),
    ("adStart", "media.ad.name"),
    ("adStart", "customMetadata"),
    ("chapterStart", "media.chapter.friendlyName"),
    ("chapterStart", "customMetadata"),
    ("error", "media.errorId"),
    ("stateStart", "media.state.name"),
    ("statesUpdate", "statesStart"),
    ("ping", "customMetadata"),
];

/// Characters that grow when they are escaped or unescaped.
const CHARACTERS: [&str; 5] = [r"\u0001", "\\\"", r"\n", "a", "é"];

fn any_flood() -> impl Strategy<Value = Flood> {
    let saying = prop::sample::select(SAYING.to_vec());
    let character = prop::sample::select(CHARACTERS.to_vec());
    let amount = prop_oneof![
        (0..200_usize, 1..1_200_usize),
        (1_000..20_000_usize, 1..200_usize),
        (60_000..130_000_usize, 1..60_usize),
    ];
    (saying, character, amount).prop_map(|((event_type, key), character, (bytes, events))| Flood {
        event_type,
        key,
        character,
        bytes,
        events,
    })
}

impl Flood {
    fn body(&self, number: usize, start: &str) -> String {
        let text = self.character.repeat((self.bytes / self.character.len()).max(1));
        let own = format!(
            "\"media.ad.podIndex\":{number},\"media.ad.podSecond\":0,\
            \"media.chapter.index\":{number},\"media.qoe.bitrate\":{number}"
        );
        let member = match self.key {
            "customMetadata" => {
                format!(
                    "\"params\":{{{start}{own}}},\"customMetadata\":{{\"k{number}\":\"{text}\"}}"
                )
            }
            "media.state.name" => format!("\"params\":{{\"media.state.name\":\"s{number}\"}}"),
            "statesStart" => {
                let names: Vec<_> = (0..self.bytes / 30)
                    .map(|name| format!("{{\"media.state.name\":\"{number}.{name}\"}}"))
                    .collect();
                format!("\"params\":{{\"statesStart\":[{}]}}", names.join(","))
            }
            key => format!("\"params\":{{{start}{own},\"{key}\":\"{number}{text}\"}}"),
        };
        let event_type = if start.is_empty() { self.event_type } else { "sessionStart" };
        format!(
            r#"{{"eventType":"{event_type}","playerTime":{{"ts":{number},"playhead":{}}},{member}}}"#,
            number * 7 % 1_000
        )
    }
}

/// What a start must say in the open profile.
const NEEDED: &str =
    r#""media.id":"a","media.length":0,"media.contentType":"vod","media.playerName":"p","#;

/// Lets a session hear floods one after the other, and holds it to its bounds at every step.
fn flooded(start: &Flood, floods: &[Flood]) -> Session {
    let rules = Rules { profile: Profile::Open, strict: false };
    let body = Flood { key: "customMetadata", ..start.clone() }.body(0, NEEDED);
    let start = crate::wire::Start::parse(body.as_bytes(), rules).unwrap();
    let opening = Opening::of(&start, Some("192.0.2.0"), Some("\u{1}\u{1}player"));
    let opening_bytes = opening.heap_bytes();
    let mut session = Session::new(opening, Received::at(1_000, 1_000));
    assert_eq!(session.heap_bytes(), opening_bytes, "the room that was kept is what it takes");
    let terms = Terms::default();
    let (mut number, mut now_ms) = (0, 1_000);
    for flood in floods {
        for _ in 0..flood.events {
            number += 1;
            now_ms += 900;
            let body = flood.body(number, "");
            let event = Event::parse(body.as_bytes(), rules).unwrap();
            let step = Step::of(&event, body.as_bytes());
            let most = session.heap_bytes() + growth_bytes(&step);
            assert!(session.hear(Received::at(now_ms, now_ms), step, &terms));
            assert!(session.heap_bytes() <= most, "{flood:?}");
            assert!(session.heap_bytes() <= HEAP_BYTES_MAX, "{}", session.heap_bytes());
        }
    }
    let before = session.heap_bytes();
    let saved = serde_json::to_string(&session).unwrap();
    assert!(saved.len() <= LINE_BYTES_MAX, "a checkpoint has it on one line too");
    let mut read: Session = serde_json::from_str(&saved).unwrap();
    assert_eq!(read.heap_bytes(), before);
    for session in [&mut session, &mut read] {
        session.close(crate::session::Closing {
            reason: CloseReason::TimeoutNoEvents,
            up_ms: now_ms,
            closed_ms: now_ms,
        });
    }
    assert!(session.heap_bytes() <= before, "to end takes nothing");
    let json = Report::of(sid(), &session).to_json(REPORT_BYTES_MAX);
    assert!(json.len() <= REPORT_MOST_BYTES, "{}", json.len());
    assert!(json == Report::of(sid(), &read).to_json(REPORT_BYTES_MAX));
    assert!(
        json == serde_json::to_vec(&Report::of(sid(), &session)).unwrap(),
        "nothing is cut off"
    );
    let mut line = Vec::new();
    let content = Content::Report { sid: sid(), report: json.into() };
    Encoded::new(content.clone()).unwrap().write_line(&mut line, 1, 1);
    assert!(read_back(&line).2 == content);
    session
}

/// Everything that can be said, as long as it can be, in the characters that grow most.
#[test]
fn the_largest_report_is_far_shorter_than_a_line() {
    for character in [r"\u0001", "\\\"", "a"] {
        let flood = |(event_type, key): (&'static str, &'static str), bytes, events| Flood {
            event_type,
            key,
            character,
            bytes,
            events,
        };
        let start = flood(SAYING[2], 130_000, 1);
        let large = SAYING.map(|saying| flood(saying, 64_000, 50));
        let session = flooded(&start, &large);
        // Little as they say, a thousand of each, with the metadata of the start repeated.
        let start = flood(SAYING[2], 900, 1);
        let many = SAYING.map(|saying| flood(saying, 1_500, 1_001));
        let lists = flooded(&start, &many);
        println!("{character}: {} and {} bytes held", session.heap_bytes(), lists.heap_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_player_says_its_session_can_be_written_and_read_back(
        start in any_flood(), floods in prop::collection::vec(any_flood(), 1..5),
    ) {
        flooded(&start, &floods);
    }
}

/// A journal of an older version may hold a stored event that is refused today.
#[test]
fn a_stored_session_that_was_accepted_once_is_folded_whatever_is_accepted_today() {
    let members: Vec<_> = (0..30_000).map(|number| format!("\"member{number}\":0")).collect();
    let start = BODY.strip_suffix(b"}").unwrap();
    let mut body = b"[".to_vec();
    body.extend(start.iter().filter(|byte| **byte != b'\n'));
    write!(body, ",\"more\":{{{}}}}}]", members.join(",")).unwrap();
    let rules = Rules { profile: Profile::Open, strict: false };
    let terms = Terms::default();
    let form = StoredForm::Downloaded;
    assert!(stored(&body, rules, form, (None, None), terms, |_| {}).is_err());
    let disk = SimDisk::default();
    let mut file = disk.create(&segment::open_name(1)).unwrap();
    let mut line = Vec::new();
    let content = Content::Batch { sid: sid(), client: None, user_agent: None, body: body.into() };
    Encoded::new(content).unwrap().write_line(&mut line, 1, 1_000);
    file.append(&line).unwrap();
    file.sync().unwrap();
    let rig = Rig::on(disk, Clock::manual(1_000_000)).unwrap();
    assert_eq!((rig.recovered.damaged, rig.recovered.records), (0, 1));
    assert!(rig.live.ended(sid()).is_some());
}
