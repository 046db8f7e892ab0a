use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const ADOBE: Rules = Rules { profile: Profile::Adobe, strict: false };
const STRICT: Rules = Rules { profile: Profile::Adobe, strict: true };
const OPEN: Rules = Rules { profile: Profile::Open, strict: false };

/// A body with all that is required.
fn minimal() -> Value {
    json!({
        "eventType": "sessionStart",
        "playerTime": {"playhead": 0, "ts": 1_700_000_000_000_u64},
        "params": {
            "analytics.trackingServer": "t", "analytics.reportSuite": "r",
            "visitor.marketingCloudOrgId": "o", "media.id": "id", "media.length": 60,
            "media.contentType": "vod", "media.playerName": "p", "media.channel": "c",
        },
    })
}

/// The minimal body, changed.
fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut body = minimal();
    change(&mut body);
    body
}

fn without(body: &mut Value, object: &str, name: &str) {
    body.pointer_mut(object).unwrap().as_object_mut().unwrap().remove(name).unwrap();
}

fn refused_text(body: &str, rules: Rules) -> Vec<(String, Code)> {
    match Start::parse(body.as_bytes(), rules) {
        Ok(_) => Vec::new(),
        Err(found) => found.listed().iter().map(|v| (v.pointer.clone(), v.code)).collect(),
    }
}

/// The violations of a body, without their messages.
fn refused(body: &Value, rules: Rules) -> Vec<(String, Code)> {
    refused_text(&body.to_string(), rules)
}

fn one(pointer: &str, code: Code) -> Vec<(String, Code)> {
    vec![(pointer.to_owned(), code)]
}

fn messages(body: &Value, rules: Rules) -> Vec<String> {
    let text = body.to_string();
    let found = Start::parse(text.as_bytes(), rules).unwrap_err();
    found.listed().iter().map(|violation| violation.message.to_string()).collect()
}

#[test]
fn the_documented_sample_is_accepted_in_every_profile() {
    let body = include_bytes!("../../tests/it/data/session-start.json");
    for rules in [ADOBE, STRICT, OPEN] {
        let start = Start::parse(body, rules).unwrap();
        assert_eq!(start.event.player_time.ts, 1_700_000_000_000);
        assert_eq!(start.event.params.text("media.id"), Some("VA API Sample Player"));
        assert_eq!(start.content, Content::Recorded { length_s: Some(60.333_333_333_333_3) });
        assert!(start.event.unlisted.is_empty());
    }
}

#[test]
fn each_required_key_is_required_and_the_open_profile_requires_fewer() {
    for key in ["media.id", "media.length", "media.contentType", "media.playerName"] {
        let body = with(|body| without(body, "/params", key));
        let expected = one(&format!("/params/{key}"), Code::Required);
        assert_eq!(refused(&body, ADOBE), expected);
        assert_eq!(refused(&body, OPEN), expected);
    }
    for key in [
        "analytics.trackingServer",
        "analytics.reportSuite",
        "visitor.marketingCloudOrgId",
        "media.channel",
    ] {
        let body = with(|body| without(body, "/params", key));
        assert_eq!(refused(&body, ADOBE), one(&format!("/params/{key}"), Code::Required));
        assert_eq!(refused(&body, OPEN), []);
        assert!(messages(&body, ADOBE)[0].contains("validation.profile = \"open\""));
    }
    for name in ["eventType", "playerTime", "params"] {
        let body = with(|body| without(body, "", name));
        assert_eq!(refused(&body, ADOBE), one(&format!("/{name}"), Code::Required));
    }
    for name in ["playhead", "ts"] {
        let body = with(|body| without(body, "/playerTime", name));
        assert_eq!(refused(&body, ADOBE), one(&format!("/playerTime/{name}"), Code::Required));
    }
}

#[test]
fn null_is_never_a_value() {
    for name in ["eventType", "playerTime", "params", "qoeData", "customMetadata"] {
        let body = with(|body| body[name] = Value::Null);
        assert_eq!(refused(&body, ADOBE), one(&format!("/{name}"), Code::Type));
    }
    let body = with(|body| body["params"]["media.name"] = Value::Null);
    assert_eq!(refused(&body, ADOBE), one("/params/media.name", Code::Type));
}

#[test]
fn the_event_type_must_open_a_session() {
    let typed = |event_type: Value| with(|body| body["eventType"] = event_type);
    assert_eq!(refused(&typed(json!(1)), ADOBE), one("/eventType", Code::Type));
    assert_eq!(refused(&typed(json!("sessionstart")), ADOBE), one("/eventType", Code::Enum));
    assert!(
        messages(&typed(json!("sesionStart")), ADOBE)[0].contains("did you mean \"sessionStart\"")
    );
    // A body in the wrong place is told so, not that it lacks what a session start needs.
    let play = json!({"eventType": "play", "playerTime": {"playhead": 0, "ts": 0}});
    assert_eq!(refused(&play, ADOBE), one("/eventType", Code::Const));
    assert!(messages(&play, ADOBE)[0].contains("/api/v1/sessions/{sid}/events"));
}

#[test]
fn the_playhead_is_bounded_by_the_content() {
    let at = |content_type: &str, length: Value, playhead: Value| {
        let body = with(|body| {
            body["params"]["media.contentType"] = json!(content_type);
            body["params"]["media.length"] = length;
            body["playerTime"]["playhead"] = playhead;
        });
        refused(&body, ADOBE)
    };
    let too_large = one("/playerTime/playhead", Code::Maximum);
    for live in ["live", "LIVE", "Linear", "radio"] {
        assert_eq!(at(live, json!(60), json!(86_399.999)), []);
        assert_eq!(at(live, json!(60), json!(86_400)), too_large);
    }
    for recorded in ["vod", "", "livestream"] {
        assert_eq!(at(recorded, json!(60.5), json!(60.499)), []);
        assert_eq!(at(recorded, json!(60.5), json!(60.5)), too_large);
        for unknown in [json!(0), json!(-1), json!(-0.0)] {
            assert_eq!(at(recorded, unknown, json!(1e9)), []);
        }
    }
    assert_eq!(at("vod", json!(60), json!(-0.001)), one("/playerTime/playhead", Code::Minimum));
    assert_eq!(at("vod", json!(60), json!("0")), one("/playerTime/playhead", Code::Type));
    // The bound of live content does not depend on its length.
    let body = with(|body| {
        body["params"]["media.contentType"] = json!("live");
        without(body, "/params", "media.length");
        body["playerTime"]["playhead"] = json!(90_000);
    });
    assert_eq!(refused(&body, ADOBE).len(), 2);
    // Without a sound length no bound is known, and only the length is at fault.
    assert_eq!(at("vod", json!("60"), json!(1e9)), one("/params/media.length", Code::Type));
}

#[test]
fn the_time_is_a_whole_number_of_ms_within_53_bits() {
    let ts = |ts: &str| {
        let text = minimal().to_string().replace("1700000000000", ts);
        refused_text(&text, ADOBE)
    };
    for good in ["0", "-0", "20.0", "1.7e12", "9007199254740991"] {
        assert_eq!(ts(good), [], "{good}");
    }
    assert_eq!(ts("-1"), one("/playerTime/ts", Code::Minimum));
    for large in ["9007199254740992", "18446744073709551616", "1e300"] {
        assert_eq!(ts(large), one("/playerTime/ts", Code::Maximum), "{large}");
    }
    for other in ["1.5", "\"1\"", "true"] {
        assert_eq!(ts(other), one("/playerTime/ts", Code::Type), "{other}");
    }
}

#[test]
fn known_keys_have_their_documented_type() {
    let param = |key: &str, value: Value| {
        let body = with(|body| body["params"][key] = value);
        refused(&body, ADOBE)
    };
    let wrong = |key: &str| one(&format!("/params/{key}"), Code::Type);
    assert_eq!(param("media.name", json!(1)), wrong("media.name"));
    assert_eq!(param("media.resume", json!("true")), wrong("media.resume"));
    assert_eq!(param("media.resume", json!(true)), []);
    assert_eq!(param("visitor.aamLocationHint", json!(9.0)), []);
    assert_eq!(param("visitor.aamLocationHint", json!(9.5)), wrong("visitor.aamLocationHint"));
    assert_eq!(param("media.id", json!("")), one("/params/media.id", Code::MinLength));
    assert_eq!(param("media.contentType", json!("")), []);
    assert_eq!(param("media.qoe.bitrate", json!("fast")), wrong("media.qoe.bitrate"));
    assert_eq!(param("media.downloaded", json!(false)), []);
    assert_eq!(
        param("media.downloaded", json!(true)),
        one("/params/media.downloaded", Code::Const)
    );
    // A key of another event type is unlisted here, and unchecked.
    assert_eq!(param("media.ad.length", json!("long")), []);
}

#[test]
fn declared_visitor_ids_are_checked_to_the_last_member() {
    let ids = |ids: Value| {
        let body = with(|body| body["params"]["visitor.customerIDs"] = ids);
        refused(&body, ADOBE)
    };
    let place = |rest: &str| format!("/params/visitor.customerIDs{rest}");
    assert_eq!(ids(json!({})), []);
    assert_eq!(
        ids(json!({"crm": {"id": "7", "authState": 2}, "x/y": {"id": "", "authState": 0.0}})),
        []
    );
    assert_eq!(ids(json!([])), one(&place(""), Code::Type));
    assert_eq!(ids(json!({"crm": "7"})), one(&place("/crm"), Code::Type));
    assert_eq!(
        ids(json!({"a/b": {"id": 7, "authState": 3, "more": 1}})),
        [
            (place("/a~1b/authState"), Code::Enum),
            (place("/a~1b/id"), Code::Type),
            (place("/a~1b/more"), Code::AdditionalProperties),
        ]
    );
    assert_eq!(
        ids(json!({"crm": {}})),
        [(place("/crm/id"), Code::Required), (place("/crm/authState"), Code::Required)]
    );
}

#[test]
fn quality_data_is_checked_where_it_is_known_and_free_elsewhere() {
    let quality = |quality: Value, rules| {
        let body = with(|body| body["qoeData"] = quality);
        refused(&body, rules)
    };
    let good =
        json!({"media.qoe.bitrate": -1, "media.qoe.framesPerSecond": 23.5, "aKey": {"any": []}});
    assert_eq!(quality(good.clone(), ADOBE), []);
    assert_eq!(quality(good, STRICT), []);
    assert_eq!(
        quality(json!({"media.qoe.errorID": 5}), ADOBE),
        one("/qoeData/media.qoe.errorID", Code::Type)
    );
}

#[test]
fn custom_metadata_is_flat_text_under_plain_names() {
    let metadata = |metadata: Value, rules| {
        let body = with(|body| body["customMetadata"] = metadata);
        refused(&body, rules)
    };
    let place = |key: &str| format!("/customMetadata/{key}");
    assert_eq!(metadata(json!({"a_B.9": "", "x": "é\u{0}"}), STRICT), []);
    for bad in ["bad-key", "", "é", "a b"] {
        assert_eq!(metadata(json!({bad: "x"}), ADOBE), one(&place(bad), Code::PropertyNames));
    }
    for value in [json!(1), json!(true), json!(null), json!({}), json!([])] {
        assert_eq!(metadata(json!({"k": value}), ADOBE), one(&place("k"), Code::Type));
    }
    for reserved in ["a.media", "media.id"] {
        assert_eq!(metadata(json!({reserved: "x"}), ADOBE), []);
        assert_eq!(
            metadata(json!({reserved: "x"}), STRICT),
            one(&place(reserved), Code::PropertyNames)
        );
    }
}

#[test]
fn unlisted_names_are_pointed_out_and_refused_only_when_strict() {
    let body = with(|body| {
        body["extra"] = json!({"a": [1]});
        body["playerTime"]["tss"] = json!(1);
        body["params"]["media.chanel"] = json!(7);
    });
    let text = body.to_string();
    let start = Start::parse(text.as_bytes(), ADOBE).unwrap();
    let nearest =
        |u: &Unlisted<'_>| u.section.nearest(EventSet::of(EventType::SessionStart), &u.name);
    let unlisted = start.event.unlisted.iter();
    let mut names: Vec<_> = unlisted.map(|u| (u.section.pointer_to(&u.name), nearest(u))).collect();
    names.sort_unstable();
    let at = |pointer: &str, nearest| (pointer.to_owned(), nearest);
    let channel = at("/params/media.chanel", Some("media.channel"));
    assert_eq!(names, [at("/extra", None), channel, at("/playerTime/tss", None)]);
    assert_eq!(start.event.unlisted_counts, [1, 1, 1, 0]);
    let mut violations = refused(&body, STRICT);
    violations.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(
        violations,
        ["/extra", "/params/media.chanel", "/playerTime/tss"]
            .map(|pointer| (pointer.to_owned(), Code::AdditionalProperties))
    );
}

#[test]
fn a_missing_key_is_found_under_a_name_near_it() {
    let body = with(|body| {
        without(body, "/params", "media.channel");
        body["params"]["media.Channel"] = json!("c");
    });
    assert!(messages(&body, ADOBE)[0].contains("is \"media.Channel\" meant to be it?"));
}

#[test]
fn a_member_named_twice_is_refused_where_a_reader_could_take_either() {
    let text = minimal().to_string();
    let twice = |from: &str, to: &str| refused_text(&text.replacen(from, to, 1), ADOBE);
    let json = |pointer: &str| one(pointer, Code::Json);
    assert_eq!(
        twice("{\"eventType\"", "{\"eventType\":\"play\",\"eventType\"")[1..],
        json("/eventType")
    );
    assert_eq!(twice("\"ts\":", "\"ts\":1,\"ts\":"), json("/playerTime/ts"));
    assert_eq!(
        twice("\"media.id\":", "\"media.id\":\"x\",\"media.id\":"),
        json("/params/media.id")
    );
    assert_eq!(
        twice("\"media.id\":", "\"x\":1,\"media.id\":\"i\",\"x\":2,\"\":"),
        json("/params/x")
    );
    assert_eq!(
        twice("\"media.id\":", "\"media.i\\u0064\":\"x\",\"media.id\":"),
        json("/params/media.id")
    );
    assert_eq!(twice("{\"eventType\"", "{\"x\":1,\"x\":2,\"eventType\""), json("/x"));
    let inside = "{\"x\":{\"y\":1,\"y\":2},\"eventType\"";
    assert_eq!(twice("{\"eventType\"", inside), json("/x/y"));
    let deeper = "{\"x\":[{\"y\":1,\"y\":2}],\"eventType\"";
    assert_eq!(twice("{\"eventType\"", deeper), [], "one level down, not two");
    assert_eq!(
        twice("{\"eventType\"", "{\"qoeData\":{\"y\":1,\"y\":2},\"eventType\""),
        json("/qoeData/y")
    );
    assert_eq!(
        twice("{\"eventType\"", "{\"customMetadata\":{\"y\":\"\",\"y\":\"\"},\"eventType\""),
        json("/customMetadata/y")
    );
}

#[test]
fn every_violation_is_listed_in_document_order() {
    let body = r#"{"customMetadata":{"bad-key":1},"params":{"media.length":"60","zzz":1,"media.id":""},
        "playerTime":{"ts":-1,"playhead":true},"eventType":7,"extra":1}"#;
    assert_eq!(
        refused_text(body, Rules { profile: Profile::Open, strict: true }),
        [
            ("/customMetadata/bad-key", Code::PropertyNames),
            ("/customMetadata/bad-key", Code::Type),
            ("/params/media.length", Code::Type),
            ("/params/zzz", Code::AdditionalProperties),
            ("/params/media.id", Code::MinLength),
            ("/params/media.contentType", Code::Required),
            ("/params/media.playerName", Code::Required),
            ("/playerTime/ts", Code::Minimum),
            ("/playerTime/playhead", Code::Type),
            ("/eventType", Code::Type),
            ("/extra", Code::AdditionalProperties),
        ]
        .map(|(pointer, code)| (pointer.to_owned(), code))
    );
}

#[test]
fn what_is_no_object_is_told_so_at_the_root() {
    for body in ["[]", "[[1]]", "null", "1", "\"x\"", "true"] {
        assert_eq!(refused_text(body, ADOBE), one("", Code::Type), "{body}");
    }
    for body in ["", "{", "{]", "\u{feff}{}", "{\"a\":1e999}", "{\"a\":\"\\ud800\"}"] {
        assert_eq!(refused_text(body, ADOBE), one("", Code::Json), "{body}");
    }
}

#[test]
fn a_body_of_nothing_but_names_is_told_off_within_bounds() {
    let names: Vec<_> = (0..20_000).map(|n| format!("\"k{n}\":1")).collect();
    for object in ["params", "customMetadata", "playerTime"] {
        let body = format!("{{\"{object}\":{{{}}}}}", names.join(","));
        let found = Start::parse(body.as_bytes(), STRICT).unwrap_err();
        assert!(found.listed().len() > 300, "{}", found.listed().len());
        assert!(found.listed().len() + found.omitted() >= 20_000);
        assert!(serde_json::to_string(&found).unwrap().len() <= ANSWER_BYTES_MAX);
    }
}

/// Names of one and two bytes, each once.
fn shortest_names() -> Vec<String> {
    let chars: Vec<char> = (' '..='\u{7F}').filter(|char| !matches!(char, '"' | '\\')).collect();
    let one = chars.iter().map(char::to_string);
    let two = chars.iter().flat_map(|a| chars.iter().map(move |b| format!("{a}{b}")));
    std::iter::once(String::new()).chain(one).chain(two).collect()
}

#[test]
fn no_valid_event_has_more_members_than_are_kept() {
    const BYTES_MAX: usize = 128 << 10;
    let names = shortest_names();
    let object = |value: &str, bytes: usize| {
        let mut object = String::from("{");
        for name in &names {
            if object.len() + name.len() + value.len() + 6 > bytes {
                break;
            }
            object.extend(["\"", name, "\":", value, ","]);
        }
        object.truncate(object.trim_end_matches(',').len());
        object + "}"
    };
    let event = |more: &str| {
        let event = format!(
            r#"{{"eventType":"statesUpdate","playerTime":{{"playhead":0,"ts":0}},"params":{{"statesStart":[]}},{more}}}"#
        );
        assert!(event.len() <= BYTES_MAX, "{}", event.len());
        let refused = Event::parse(event.as_bytes(), OPEN).err();
        assert_eq!(refused, None, "{} bytes", event.len());
    };
    let inner = |object: &str| object[1..object.len() - 1].to_owned();
    let space = BYTES_MAX - 150;
    event(&inner(&object("0", space)));
    // Half of the names beside the sections, half in one.
    event(&format!("\"qoeData\":{},{}", object("0", space / 2), inner(&object("0", space / 2))));
    for bytes in [100, 700, space / 2] {
        // As many objects as fit, each with the shortest names.
        let one = object("0", bytes);
        let mut objects = String::new();
        for name in &names {
            if objects.len() + one.len() + name.len() + 4 > space {
                break;
            }
            objects.extend(["\"", name, "\":", &one, ","]);
        }
        event(objects.trim_end_matches(','));
    }
    event(&inner(&object(r#"{"":0}"#, space)));
    // A list that no rule looks into, because a ping has no parameters.
    let zeros = "0,".repeat(BYTES_MAX / 2 - 100);
    let ping = format!(
        r#"{{"eventType":"ping","playerTime":{{"playhead":0,"ts":0}},"params":{{"statesStart":[{zeros}0]}}}}"#
    );
    assert!(Event::parse(ping.as_bytes(), OPEN).is_ok());
    // Ids that repeat a member as often as fits.
    let id = r#""id":"","#.repeat((BYTES_MAX - 1_000) / 8);
    let start = with(|body| body["params"]["visitor.customerIDs"] = json!({"a": {"authState": 0}}));
    let start = start.to_string().replace(r#"{"authState""#, &format!("{{{id}\"authState\""));
    assert!(start.len() <= BYTES_MAX);
    assert_eq!(refused_text(&start, ADOBE), []);
}

#[test]
fn an_event_that_has_more_members_than_any_valid_one_is_refused_at_its_place() {
    let states = |event_type: &str, item: &str, bytes: usize| {
        let items = vec![item; bytes / (item.len() + 1)].join(",");
        format!(
            r#"{{"eventType":"{event_type}","playerTime":{{"playhead":0,"ts":0}},"params":{{"statesStart":[{items}]}}}}"#
        )
    };
    for item in ["0", "{}", r#"{"":0}"#, "[[0]]"] {
        let body = states("statesUpdate", item, 100_000);
        let refused: Vec<_> = Event::parse(body.as_bytes(), OPEN).unwrap_err().listed().to_vec();
        assert_eq!((&*refused[0].pointer, refused[0].code), ("/params/statesStart", Code::Json));
        assert_eq!(refused.len(), 1);
    }
    let ping = r#"{"eventType":"ping","playerTime":{"playhead":0,"ts":0}"#;
    let same = r#","":0"#.repeat(100_000);
    let found = Event::parse(format!("{ping}{same}}}").as_bytes(), OPEN).unwrap_err();
    let places: Vec<_> = found.listed().iter().map(|one| (&*one.pointer, one.code)).collect();
    assert_eq!(places, [("", Code::Json)]);
    let names: Vec<_> = (0..30_000).map(|n| format!("\"{n}\":0")).collect();
    let names = names.join(",");
    let body = format!("[{},{ping},{names}}},{ping},\"playerTime\":0}}]", minimal());
    let refused = parse_stored(body.as_bytes(), ADOBE, StoredForm::Downloaded, |_| {});
    let Err(NotStored::Invalid(found)) = refused else { panic!("taken") };
    let places: Vec<_> = found.listed().iter().map(|one| (&*one.pointer, one.code)).collect();
    assert_eq!(places, [("/1", Code::Json), ("/2/playerTime", Code::Json)]);
}

#[test]
fn no_usual_message_is_cut() {
    let body = json!({"eventType": "sessionStart", "playerTime": {}, "params": {}});
    let listed = messages(&body, ADOBE);
    let without_params = messages(&json!({"eventType": "sessionStart"}), ADOBE);
    for message in listed.iter().chain(&without_params) {
        assert!(!message.ends_with(" bytes)"), "{message}");
    }
    for event in events() {
        let bare = json!({"eventType": event["eventType"], "params": {}}).to_string();
        let Err(found) = Event::parse(bare.as_bytes(), ADOBE) else { continue };
        assert!(found.listed().iter().all(|one| !one.message.ends_with(" bytes)")), "{found:?}");
    }
    let long = with(|body| {
        body["params"]["media.length"] = json!(1e300);
        body["playerTime"]["playhead"] = json!(1e301);
    });
    assert_eq!(messages(&long, ADOBE), ["expected less than media.length (1e300), got 1e+301"]);
}

#[test]
fn a_long_name_is_pointed_out_by_its_beginning() {
    let body = with(|body| body["x".repeat(100_000)] = json!(1)).to_string();
    let start = Start::parse(body.as_bytes(), ADOBE).unwrap();
    let name = &start.event.unlisted[0].name;
    assert!(name.len() <= 256 && name.ends_with("xx… (100000 bytes)"), "{name}");
}

/// Any JSON value, of a few levels.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(any_name(), inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// A name: mostly a known one, so that generated bodies come near to good ones.
fn any_name() -> impl Strategy<Value = String> {
    let known: Vec<_> = parameters::PARAMS.iter().chain(parameters::QOE).map(|p| p.key).collect();
    let members = [&parameters::BODY_MEMBERS[..], &parameters::PLAYER_TIME_MEMBERS].concat();
    prop_oneof![
        4 => prop::sample::select(known).prop_map(str::to_owned),
        2 => prop::sample::select(members).prop_map(str::to_owned),
        1 => ".{0,8}",
    ]
}

/// The minimal body with some members anywhere set to anything.
fn any_near_body() -> impl Strategy<Value = Value> {
    let objects = ["", "/playerTime", "/params", "/qoeData", "/customMetadata"];
    let change = (prop::sample::select(objects.to_vec()), any_name(), any_json());
    prop::collection::vec(change, 0..4).prop_map(|changes| {
        let mut body = minimal();
        body["qoeData"] = json!({});
        body["customMetadata"] = json!({});
        for (object, name, value) in changes {
            if let Some(Value::Object(members)) = body.pointer_mut(object) {
                members.insert(name, value);
            }
        }
        body
    })
}

proptest! {
    #[test]
    fn no_bytes_panic(body: Vec<u8>, strict: bool) {
        let _ = Start::parse(&body, Rules { profile: Profile::Adobe, strict });
    }

    #[test]
    fn a_damaged_body_is_never_accepted_unless_it_is_sound(
        body in any_near_body(), place: prop::sample::Index, byte: u8,
    ) {
        let mut bytes = body.to_string().into_bytes();
        let place = place.index(bytes.len());
        bytes[place] = byte;
        if Start::parse(&bytes, OPEN).is_ok() {
            prop_assert!(serde_json::from_slice::<Value>(&bytes).is_ok());
        }
    }

    #[test]
    fn a_refusal_names_places_that_exist_or_are_missing(body in any_near_body(), strict: bool) {
        let text = body.to_string();
        let Err(found) = Start::parse(text.as_bytes(), Rules { profile: Profile::Adobe, strict }) else {
            return Ok(());
        };
        prop_assert!(!found.listed().is_empty());
        for violation in found.listed() {
            let missing = matches!(violation.code, Code::Required);
            prop_assert_eq!(body.pointer(&violation.pointer).is_none(), missing, "{:?}", violation);
        }
    }

    #[test]
    fn what_strict_rules_accept_the_usual_rules_accept_too(body in any_near_body()) {
        let text = body.to_string();
        if Start::parse(text.as_bytes(), STRICT).is_ok() {
            prop_assert!(Start::parse(text.as_bytes(), ADOBE).is_ok());
        }
        if Start::parse(text.as_bytes(), ADOBE).is_ok() {
            prop_assert!(Start::parse(text.as_bytes(), OPEN).is_ok());
        }
    }

    #[test]
    fn listed_parameters_are_kept_as_they_came(body in any_near_body()) {
        let text = body.to_string();
        if let Ok(start) = Start::parse(text.as_bytes(), OPEN) {
            for (key, value) in start.event.params.iter() {
                prop_assert_eq!(&body["params"][key], &serde_json::to_value(value).unwrap());
            }
            let metadata = serde_json::to_value(&start.event.custom_metadata).unwrap();
            prop_assert_eq!(&body["customMetadata"], &metadata);
        }
    }
}

/// A sound event of each type but `sessionStart`, with what it requires.
fn events() -> Vec<Value> {
    let params = |event_type: EventType| match event_type {
        EventType::AdBreakStart => json!({"media.ad.podIndex": -1, "media.ad.podSecond": 0.5}),
        EventType::AdStart => json!({"media.ad.id": "ad", "media.ad.length": 15,
            "media.ad.podPosition": 1.0, "media.ad.playerName": "p"}),
        EventType::ChapterStart => json!({"media.chapter.index": 1, "media.chapter.offset": 0,
            "media.chapter.length": 60}),
        EventType::StateStart | EventType::StateEnd => json!({"media.state.name": "mute"}),
        EventType::StatesUpdate => json!({"statesStart": [{"media.state.name": "mute"}]}),
        _ => Value::Null,
    };
    let event = |event_type: EventType| {
        let mut event = json!({"eventType": event_type.name(),
            "playerTime": {"playhead": 0, "ts": 0}});
        if !params(event_type).is_null() {
            event["params"] = params(event_type);
        }
        event
    };
    EventType::ALL[1..].iter().map(|event_type| event(*event_type)).collect()
}

fn refused_event(body: &Value, rules: Rules) -> Vec<(String, Code)> {
    match Event::parse(body.to_string().as_bytes(), rules) {
        Ok(_) => Vec::new(),
        Err(found) => found.listed().iter().map(|v| (v.pointer.clone(), v.code)).collect(),
    }
}

#[test]
fn each_event_type_is_taken_with_what_it_requires_and_refused_without() {
    assert_eq!(events().len(), 19);
    for event in events() {
        for rules in [ADOBE, STRICT, OPEN] {
            assert_eq!(refused_event(&event, rules), [], "{event}");
        }
        assert_eq!(refused(&event, ADOBE), one("/eventType", Code::Const), "it opens no session");
        for member in ["playerTime", "params"] {
            let mut without = event.clone();
            if without.as_object_mut().unwrap().remove(member).is_some() {
                let expected = one(&format!("/{member}"), Code::Required);
                assert_eq!(refused_event(&without, ADOBE), expected, "{without}");
            }
        }
        let Some(params) = event.get("params").and_then(Value::as_object) else { continue };
        for key in params.keys().filter(|key| *key != "statesStart") {
            let mut without = event.clone();
            without["params"].as_object_mut().unwrap().remove(key);
            let expected = one(&format!("/params/{key}"), Code::Required);
            assert_eq!(refused_event(&without, ADOBE), expected);
            let open = if key == "media.state.name" { expected } else { Vec::new() };
            assert_eq!(refused_event(&without, OPEN), open);
        }
    }
}

#[test]
fn a_session_start_is_no_event_of_an_open_session() {
    assert_eq!(refused_event(&minimal(), ADOBE), one("/eventType", Code::Enum));
}

#[test]
fn an_event_of_no_known_type_is_told_so_and_not_what_its_parameters_lack() {
    let event = json!({"eventType": "pley", "playerTime": {"playhead": -1, "ts": 0},
        "params": {"media.id": 1}});
    let expected =
        [("/eventType".to_owned(), Code::Enum), ("/playerTime/playhead".to_owned(), Code::Minimum)];
    for rules in [ADOBE, STRICT] {
        assert_eq!(refused_event(&event, rules), expected);
    }
    let untyped = json!({"playerTime": {"playhead": 0, "ts": 0}});
    assert_eq!(refused_event(&untyped, ADOBE), one("/eventType", Code::Required));
    let twice = r#"{"eventType":1,"playerTime":{"playhead":0,"ts":0},"params":{"a":1,"a":2}}"#;
    let found = Event::parse(twice.as_bytes(), ADOBE).unwrap_err();
    assert_eq!(found.listed().len(), 2);
    assert_eq!(found.listed()[1].pointer, "/params/a");
}

#[test]
fn only_a_session_start_has_a_bound_for_its_playhead() {
    let event =
        json!({"eventType": "ping", "playerTime": {"playhead": 1e9, "ts": 0}, "params": {}});
    assert_eq!(refused_event(&event, STRICT), []);
}

#[test]
fn a_ping_has_no_parameters() {
    let event = json!({"eventType": "ping", "playerTime": {"playhead": 0, "ts": 0},
        "params": {"media.qoe.bitrate": "not looked at"}});
    assert_eq!(refused_event(&event, ADOBE), []);
    let expected = one("/params/media.qoe.bitrate", Code::AdditionalProperties);
    assert_eq!(refused_event(&event, STRICT), expected);
}

#[test]
fn a_states_update_names_states_that_begin_or_end() {
    let update = |params: Value| json!({"eventType": "statesUpdate", "playerTime": {"playhead": 0, "ts": 0}, "params": params});
    assert_eq!(refused_event(&update(json!({})), OPEN), one("/params", Code::AnyOf));
    assert_eq!(refused_event(&update(json!({"statesEnd": []})), ADOBE), []);
    let bad = update(json!({"statesStart": [{"media.state.name": "a b"}, {}, {"x": 1}, 7]}));
    let expected = [
        ("/params/statesStart/0/media.state.name".to_owned(), Code::Pattern),
        ("/params/statesStart/1/media.state.name".to_owned(), Code::Required),
        ("/params/statesStart/2/x".to_owned(), Code::AdditionalProperties),
        ("/params/statesStart/2/media.state.name".to_owned(), Code::Required),
        ("/params/statesStart/3".to_owned(), Code::Type),
    ];
    assert_eq!(refused_event(&bad, ADOBE), expected);
    let body =
        update(json!({"statesStart": [{"media.state.name": "a"}, {"media.state.name": "b"}]}));
    let text = body.to_string();
    let event = Event::parse(text.as_bytes(), ADOBE).unwrap();
    assert_eq!(event.params.state_names("statesStart").collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(event.params.state_names("statesEnd").count(), 0);
}

/// What a stored session breaks; nothing if it is taken, with all of its events.
fn refused_stored(body: &Value, form: StoredForm) -> Vec<(String, Code)> {
    let (text, mut taken) = (body.to_string(), 0);
    match parse_stored(text.as_bytes(), ADOBE, form, |_| taken += 1) {
        Ok(()) => {
            assert_eq!(taken, body.as_array().unwrap().len());
            Vec::new()
        }
        Err(NotStored::Invalid(found)) => {
            found.listed().iter().map(|v| (v.pointer.clone(), v.code)).collect()
        }
        Err(NotStored::TooMany) => panic!("that many?"),
    }
}

const FORMS: [StoredForm; 2] = [StoredForm::Downloaded, StoredForm::Sessions];

#[test]
fn a_stored_session_is_its_start_and_then_its_events() {
    let start = with(|body| body["params"]["media.downloaded"] = json!(true));
    let mut all = vec![start.clone()];
    all.extend(events());
    for form in FORMS {
        assert_eq!(refused_stored(&json!(all), form), []);
        assert_eq!(refused_stored(&json!([start]), form), []);
        assert_eq!(refused_stored(&json!([]), form), one("", Code::MinItems));
        assert_eq!(refused_stored(&start, form), one("", Code::Type));
        assert_eq!(refused_stored(&json!([start, 7]), form), one("/1", Code::Type));
        let twice = json!([start, start]);
        assert_eq!(refused_stored(&twice, form), one("/1/eventType", Code::Enum));
        let no_start = json!([events()[5]]);
        assert_eq!(refused_stored(&no_start, form), one("/0/eventType", Code::Const));
    }
}

#[test]
fn every_violation_of_a_stored_session_is_listed_with_its_place() {
    let start = with(|body| body["params"]["media.length"] = json!("60"));
    let mut ad = events().into_iter().find(|event| event["eventType"] == "adStart").unwrap();
    without(&mut ad, "/params", "media.ad.id");
    let ping = json!({"eventType": "ping", "playerTime": {"playhead": 0, "ts": 0}});
    let body = json!([start, ping, ad, {"eventType": "pley"}]);
    let expected: Vec<_> = [
        ("/0/params/media.length", Code::Type),
        ("/2/params/media.ad.id", Code::Required),
        ("/3/eventType", Code::Enum),
        ("/3/playerTime", Code::Required),
    ]
    .map(|(pointer, code)| (pointer.to_owned(), code))
    .to_vec();
    assert_eq!(refused_stored(&body, StoredForm::Downloaded), expected);
}

#[test]
fn a_stored_session_says_that_it_is_where_the_form_wants_it() {
    let flagged = |flag: Value| json!([with(|body| body["params"]["media.downloaded"] = flag)]);
    let place = "/0/params/media.downloaded";
    for form in FORMS {
        assert_eq!(refused_stored(&flagged(json!(true)), form), []);
        assert_eq!(refused_stored(&flagged(json!(false)), form), one(place, Code::Const));
        assert_eq!(refused_stored(&flagged(json!("true")), form), one(place, Code::Type));
    }
    let silent = json!([minimal()]);
    assert_eq!(refused_stored(&silent, StoredForm::Downloaded), []);
    assert_eq!(refused_stored(&silent, StoredForm::Sessions), one(place, Code::Required));
}

#[test]
fn names_of_each_event_are_pointed_out_up_to_a_bound_and_all_are_counted() {
    let mut events = vec![minimal()];
    for names in [1, 40, 1] {
        let mut ping = json!({"eventType": "ping", "playerTime": {"playhead": 0, "ts": 0}});
        (0..names).for_each(|number| ping[format!("name{number}")] = json!(1));
        ping["customMetadata"] = json!({"a.reserved": "x", "own": "y"});
        events.push(ping);
    }
    let (body, mut seen) = (json!(events).to_string(), Vec::new());
    let form = StoredForm::Downloaded;
    parse_stored(body.as_bytes(), ADOBE, form, |stored| match stored {
        Stored::Start(start) => assert!(start.event.unlisted.is_empty()),
        Stored::Event(event) => seen.push((event.unlisted.len(), event.unlisted_counts)),
    })
    .unwrap();
    assert_eq!(seen, [(2, [1, 0, 0, 1]), (32, [40, 0, 0, 1]), (2, [1, 0, 0, 1])]);
}

#[test]
fn of_many_names_one_that_stands_twice_is_found_wherever_it_stands() {
    for count in [2, 8, 9, 10, 30] {
        for twice in 0..count {
            let names: Vec<_> = (0..count).chain([twice]).map(|n| format!("\"n{n}\":0")).collect();
            let ping = format!(
                r#"{{"eventType":"ping","playerTime":{{"playhead":0,"ts":0}},"qoeData":{{{}}}}}"#,
                names.join(",")
            );
            let refused = Event::parse(ping.as_bytes(), ADOBE).unwrap_err();
            let pointer = &refused.listed()[0].pointer;
            assert_eq!((refused.count(), pointer), (1, &format!("/qoeData/n{twice}")));
        }
    }
}

#[test]
fn a_name_that_stands_in_the_wrong_place_is_known_where_it_belongs() {
    let place = |name| Listed::of(name).map(|listed| listed.place);
    assert_eq!(place("playerTime"), Some("body"));
    assert_eq!(place("ts"), Some("playerTime"));
    assert_eq!(place("media.ad.name"), Some("params"));
    assert_eq!(place("media.shwo"), None);
    let on: Vec<_> = Listed::of("media.ad.name").unwrap().on.iter().collect();
    assert_eq!(on, [EventType::AdStart]);
}

#[test]
fn a_stored_session_is_sound_as_a_whole_and_bounded() {
    let start = minimal().to_string();
    for unsound in
        [format!("[{start},"), format!("[{start}] x"), format!(r#"[{start},{{"a":1e999}}]"#)]
    {
        let refused = parse_stored(unsound.as_bytes(), ADOBE, StoredForm::Downloaded, |_| {});
        let Err(NotStored::Invalid(found)) = refused else { panic!("{unsound}") };
        assert_eq!((found.listed().len(), found.listed()[0].code), (1, Code::Json));
    }
    let ping = r#",{"eventType":"ping","playerTime":{"playhead":0,"ts":0}}"#;
    for (events, fits) in [(STORED_EVENTS_MAX, true), (STORED_EVENTS_MAX + 1, false)] {
        let body = format!("[{start}{}]", ping.repeat(events - 1));
        let parsed = parse_stored(body.as_bytes(), ADOBE, StoredForm::Downloaded, |_| {});
        assert_eq!(parsed.is_ok(), fits, "{events}");
    }
}
