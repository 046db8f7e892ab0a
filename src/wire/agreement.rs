//! The law that the validator and the published schemas come to the same verdict.

use std::cell::Cell;

use jsonschema::{ValidationError, Validator};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};

use super::parameters::{BODY_MEMBERS, PARAMS, PLAYER_TIME_MEMBERS, Parameter, QOE};
use super::*;

#[test]
fn validator_and_schema_agree() {
    agree_under(Rules { profile: Profile::Adobe, strict: false });
}

#[test]
fn validator_and_schema_agree_in_the_open_profile() {
    agree_under(Rules { profile: Profile::Open, strict: false });
}

#[test]
fn validator_and_schema_agree_when_strict() {
    agree_under(Rules { profile: Profile::Adobe, strict: true });
}

#[test]
fn validator_and_schema_agree_when_strict_in_the_open_profile() {
    agree_under(Rules { profile: Profile::Open, strict: true });
}

/// Holds both to the same verdict on generated bodies of each event type.
fn agree_under(rules: Rules) {
    let api = openapi::openapi(rules);
    for event_type in EventType::ALL {
        let document = schema::draft4(event_type, rules);
        let judges = [
            Judge::new(jsonschema::draft4::new(&document), BESIDE_DRAFT4),
            // A reader that takes no notice of `$schema` judges by the draft that it knows best.
            Judge::new(jsonschema::draft202012::new(&undrafted(&document)), BESIDE_DRAFT4),
            Judge::new(jsonschema::draft202012::new(&described(event_type, &api)), BESIDE_OPENAPI),
        ];
        let (accepted, refused) = (Cell::new(0), Cell::new(0));
        let defaults = Config::default();
        let mut runner = TestRunner::new(Config {
            cases: defaults.cases / 2,
            source_file: Some(file!()),
            ..defaults
        });
        let outcome = runner.run(&any_body(event_type), |body| {
            let found = Found::by_the_validator(event_type, &body, rules);
            for judge in &judges {
                let counter = if judge.agrees(&found, &body)? { &accepted } else { &refused };
                counter.set(counter.get() + 1);
            }
            Ok(())
        });
        let (accepted, refused) = (accepted.get(), refused.get());
        let name = event_type.name();
        outcome.unwrap_or_else(|failure| panic!("{name} under {rules:?}: {failure}"));
        assert!(
            accepted.min(refused) * 10 >= accepted + refused,
            "{accepted} accepted and {refused} refused is no test of {name} under {rules:?}",
        );
    }
}

/// Chance alone seldom meets the one wrong value of one key among sixty.
#[test]
fn validator_and_schema_agree_on_each_key_at_every_corner() {
    let rules = Rules::default();
    let api = openapi::openapi(rules);
    for event_type in EventType::ALL {
        let document = schema::draft4(event_type, rules);
        let judges = [
            Judge::new(jsonschema::draft4::new(&document), BESIDE_DRAFT4),
            Judge::new(jsonschema::draft202012::new(&described(event_type, &api)), BESIDE_OPENAPI),
        ];
        let agree = |body: &Value| {
            let found = Found::by_the_validator(event_type, body, rules);
            for judge in &judges {
                judge.agrees(&found, body).unwrap();
            }
        };
        let mut runner = TestRunner::deterministic();
        let good = good_body(event_type).new_tree(&mut runner).expect("a body").current();
        let params = PARAMS.iter().filter(|row| row.allowed_on.contains(event_type));
        let places = params.map(|row| ("params", row.key)).chain([
            ("playerTime", "playhead"),
            ("playerTime", "ts"),
            ("qoeData", "media.qoe.bitrate"),
            ("customMetadata", "key"),
        ]);
        for (section, key) in places {
            for value in corner_values() {
                let mut body = good.clone();
                body[section][key] = value;
                agree(&body);
            }
        }
        for text in corner_texts() {
            let mut body = good.clone();
            body["customMetadata"] = json!({text.clone(): "value"});
            agree(&body);
            body["eventType"] = text.into();
            agree(&body);
        }
    }
}

#[test]
fn validator_and_description_agree_on_stored_sessions() {
    let mut runner = TestRunner::deterministic();
    let mut good =
        |event_type| good_body(event_type).new_tree(&mut runner).expect("a body").current();
    let start = |flag: Option<Value>| {
        let mut start: Value =
            serde_json::from_str(include_str!("../../tests/it/data/session-start.json")).unwrap();
        if let Some(flag) = flag {
            start["params"]["media.downloaded"] = flag;
        }
        start
    };
    let marked = start(Some(json!(true)));
    let mut bodies = vec![json!([]), json!({}), marked.clone(), json!([7]), json!([marked, null])];
    for flag in
        [None, Some(json!(true)), Some(json!(false)), Some(json!("true")), Some(Value::Null)]
    {
        bodies.push(json!([start(flag.clone())]));
        bodies.push(json!([start(flag), good(EventType::Play), good(EventType::SessionEnd)]));
    }
    let mut bare = marked.clone();
    bare.as_object_mut().unwrap().remove("params");
    bodies.push(json!([bare]));
    for event_type in EventType::ALL {
        let event = good(event_type);
        bodies.push(json!([event]));
        bodies.push(json!([event, marked]));
        bodies.push(json!([marked, event]));
        bodies
            .push(json!([marked, good(EventType::Ping), event, {"eventType": event_type.name()}]));
        bodies.push(json!([marked, event, event, good(EventType::Ping)]));
    }
    for strict in [false, true] {
        for profile in [Profile::Adobe, Profile::Open] {
            let rules = Rules { profile, strict };
            let api = openapi::openapi(rules);
            for form in [StoredForm::Downloaded, StoredForm::Sessions] {
                let schemas = schema::Schemas { rules, dialect: schema::Dialect::OpenApi };
                let mut schema = openapi::stored_session(schemas, form);
                schema["components"] = api["components"].clone();
                let schema = jsonschema::draft202012::new(&schema).expect("a sound schema");
                let accepts = |body: &&Value| {
                    let is_right = schema.is_valid(body);
                    let parsed = parse_stored(body.to_string().as_bytes(), rules, form, |_| {});
                    assert_eq!(parsed.is_ok(), is_right, "{form:?}: {parsed:?} of {body}");
                    is_right
                };
                let accepted = bodies.iter().filter(accepts).count();
                assert!(accepted > 30 && bodies.len() - accepted > 30, "{accepted}");
            }
        }
    }
}

#[test]
fn what_no_schema_can_say_is_checked_beside_it() {
    let rules = Rules::default();
    let schema = schema::draft4(EventType::SessionStart, rules);
    let schema = jsonschema::draft4::new(&schema).expect("a sound schema");
    let sample: Value =
        serde_json::from_str(include_str!("../../tests/it/data/session-start.json")).unwrap();
    for (pointer, member, value) in [
        ("/playerTime", "playhead", json!(61)),
        ("/params", "media.downloaded", json!(true)),
        ("", "unlisted", json!([[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]])),
    ] {
        let mut body = sample.clone();
        body.pointer_mut(pointer).unwrap()[member] = value;
        assert!(schema.is_valid(&body), "{body}");
        assert!(Start::parse(body.to_string().as_bytes(), rules).is_err(), "{body}");
    }
}

/// The document without what tells its draft.
fn undrafted(document: &Value) -> Value {
    let mut document = document.clone();
    document.as_object_mut().unwrap().retain(|name, _| !matches!(name.as_str(), "$schema" | "id"));
    document
}

/// What the description of the API says of the bodies of one type.
fn described(event_type: EventType, api: &Value) -> Value {
    let place = format!("#/components/schemas/{}", event_type.name());
    json!({"$ref": place, "components": {"schemas": api["components"]["schemas"]}})
}

/// The rules of the validator that a schema does not say, by their place and code.
type Beside = &'static [(&'static str, Code)];

const BESIDE_DRAFT4: Beside =
    &[("/playerTime/playhead", Code::Maximum), ("/params/media.downloaded", Code::Const)];

const BESIDE_OPENAPI: Beside = &[("/playerTime/playhead", Code::Maximum)];

/// What the validator finds in a body of a certain type.
#[derive(Debug)]
enum Found {
    Nothing,
    AnotherType,
    Violations(Violations),
}

impl Found {
    fn by_the_validator(event_type: EventType, body: &Value, rules: Rules) -> Self {
        let text = body.to_string();
        let parsed = if event_type == EventType::SessionStart {
            Start::parse(text.as_bytes(), rules).map(|start| start.event.event_type)
        } else {
            Event::parse(text.as_bytes(), rules).map(|event| event.event_type)
        };
        match parsed {
            Ok(parsed) if parsed == event_type => Self::Nothing,
            Ok(_) => Self::AnotherType,
            Err(violations) => Self::Violations(violations),
        }
    }

    fn is_right(&self, beside: Beside) -> bool {
        let is_beside =
            |violation: &Violation| beside.contains(&(violation.pointer.as_str(), violation.code));
        match self {
            Self::Nothing => true,
            Self::AnotherType => false,
            Self::Violations(violations) => violations.listed().iter().all(is_beside),
        }
    }
}

/// A published schema, and the rules that it does not say.
struct Judge {
    schema: Validator,
    beside: Beside,
}

impl Judge {
    fn new(schema: Result<Validator, ValidationError<'_>>, beside: Beside) -> Self {
        Self { schema: schema.expect("a sound schema"), beside }
    }

    /// Whether both say that the body is right; an error unless they say the same.
    fn agrees(&self, found: &Found, body: &Value) -> Result<bool, TestCaseError> {
        let is_right = found.is_right(self.beside);
        let judged = self.schema.validate(body);
        if judged.is_ok() == is_right {
            return Ok(is_right);
        }
        let message =
            format!("the validator finds {found:?}, the schema says {judged:?}, of {body}");
        Err(TestCaseError::fail(message))
    }
}

/// A body of that type: mostly right, with no more than a few changes.
fn any_body(event_type: EventType) -> impl Strategy<Value = Value> {
    let changes = prop::collection::vec(any_change(event_type), 0..4);
    (good_body(event_type), changes).prop_map(|(mut body, changes)| {
        for change in changes {
            change.apply(&mut body);
        }
        body
    })
}

/// A body that every set of rules accepts.
fn good_body(event_type: EventType) -> impl Strategy<Value = Value> {
    let time = (select(vec![json!(0), json!(-0.0), json!(12.5), json!(86_399.9), json!(1e9)]),)
        .prop_flat_map(|(playhead,)| {
            let ts = select(vec![
                json!(0),
                json!(20.0),
                json!(1_700_000_000_000_u64),
                json!(1.7e12),
                json!(9_007_199_254_740_991_u64),
            ]);
            (Just(playhead), ts)
        });
    let params = good_members(PARAMS, move |row| {
        let required = row.is_required(event_type, Profile::Adobe);
        row.allowed_on.contains(event_type).then_some(required)
    });
    let quality = good_members(QOE, |_| Some(false));
    let metadata = prop::collection::btree_map("[a-zA-Z0-9_][a-zA-Z0-9_.]{1,8}", ".{0,4}", 0..3);
    let parts =
        (time, params, any::<bool>(), prop::option::of(quality), prop::option::of(metadata));
    parts.prop_map(move |((playhead, ts), mut params, starts, quality, metadata)| {
        let lists = ["statesStart", "statesEnd"];
        if event_type == EventType::StatesUpdate
            && !lists.iter().any(|list| params.contains_key(*list))
        {
            // One of the two is required.
            params.insert(lists[usize::from(starts)].to_owned(), json!([]));
        }
        let mut body = json!({
            "eventType": event_type.name(),
            "playerTime": {"playhead": playhead, "ts": ts},
        });
        if !params.is_empty() || starts {
            body["params"] = Value::Object(params);
        }
        if let Some(quality) = quality {
            body["qoeData"] = Value::Object(quality);
        }
        if let Some(metadata) = metadata {
            // Reserved prefixes are left to the changes.
            body["customMetadata"] = metadata
                .into_iter()
                .map(|(key, value)| (key.replace('.', "_"), Value::String(value)))
                .collect();
        }
        body
    })
}

/// Members of a table with values of their documented type; `wanted` says which may and must be there.
fn good_members(
    table: &'static [Parameter],
    wanted: impl Fn(&Parameter) -> Option<bool>,
) -> impl Strategy<Value = Map<String, Value>> {
    let rows: Vec<_> = table
        .iter()
        .filter_map(|row| wanted(row).map(|required| (row, required)))
        .map(|(row, required)| {
            let member = good_value(row.kind).prop_map(|value| Some((row.key, value)));
            if required {
                member.boxed()
            } else {
                prop_oneof![1 => member, 4 => Just(None)].boxed()
            }
        })
        .collect();
    rows.prop_map(|members| {
        members.into_iter().flatten().map(|(key, value)| (key.to_owned(), value)).collect()
    })
}

fn good_value(kind: parameters::Kind) -> BoxedStrategy<Value> {
    use parameters::Kind;
    let state_name = "[a-zA-Z0-9_.]{1,64}";
    match kind {
        Kind::Text => ".{0,6}".prop_map(Value::from).boxed(),
        Kind::NonEmptyText => ".{1,6}".prop_map(Value::from).boxed(),
        Kind::Number => {
            any::<f64>().prop_map(Value::from).prop_filter("finite", Value::is_number).boxed()
        }
        Kind::Integer => prop_oneof![
            any::<i64>().prop_map(Value::from),
            (-9..9_i32).prop_map(|number| json!(f64::from(number))),
            select(vec![json!(1e300), json!(-1e16), json!(u64::MAX), json!(4.0)]),
        ]
        .boxed(),
        Kind::AuthState => {
            select(vec![json!(0), json!(1), json!(2), json!(1.0), json!(-0.0)]).boxed()
        }
        Kind::Flag => any::<bool>().prop_map(Value::from).boxed(),
        Kind::StateName => state_name.prop_map(Value::from).boxed(),
        Kind::CustomerIds => {
            let id = (".{0,4}", good_value(Kind::AuthState))
                .prop_map(|(id, state)| json!({"id": id, "authState": state}));
            prop::collection::btree_map(".{0,4}", id, 0..3)
                .prop_map(|ids| ids.into_iter().collect())
                .boxed()
        }
        Kind::States => {
            let state = state_name.prop_map(|name| json!({"media.state.name": name}));
            prop::collection::vec(state, 0..3).prop_map(Value::from).boxed()
        }
    }
}

/// Something done to a body, mostly so that it is right no longer.
#[derive(Clone, Debug)]
enum Change {
    /// Puts a value in the place of any other, the body itself included.
    Replace(Index, Value),
    /// Takes away any member or item.
    Remove(Index),
    /// Adds a member to any object.
    Add(Index, String, Value),
    /// Sets a member of one of the documented objects.
    Set(&'static str, String, Value),
    /// Gives any member another name.
    Rename(Index, &'static str),
}

fn any_change(event_type: EventType) -> impl Strategy<Value = Change> {
    let sections = ["", "/playerTime", "/params", "/qoeData", "/customMetadata"];
    let value = || prop_oneof![3 => corner_value(), 1 => good_value_of_any_kind()];
    prop_oneof![
        3 => (any::<Index>(), value()).prop_map(|(place, value)| Change::Replace(place, value)),
        2 => any::<Index>().prop_map(Change::Remove),
        2 => (any::<Index>(), any_name(event_type), value())
            .prop_map(|(place, name, value)| Change::Add(place, name, value)),
        3 => (select(sections.to_vec()), any_name(event_type), value())
            .prop_map(|(section, name, value)| Change::Set(section, name, value)),
        1 => (corner_text(), corner_text())
            .prop_map(|(key, value)| Change::Set("/customMetadata", key, value.into())),
        1 => (any::<Index>(), select(vec!["\n", "\r\n", "é", "-", "A", " "]))
            .prop_map(|(place, suffix)| Change::Rename(place, suffix)),
    ]
}

impl Change {
    fn apply(self, body: &mut Value) {
        match self {
            Self::Replace(place, value) => {
                let pointer = chosen(place, body, |_| true);
                *body.pointer_mut(&pointer).unwrap() = value;
            }
            Self::Remove(place) => {
                let pointer = chosen(place, body, |_| true);
                let (parent, name) = split(&pointer);
                match body.pointer_mut(parent) {
                    Some(Value::Object(members)) => drop(members.remove(&unescaped(name))),
                    Some(Value::Array(items)) => drop(items.remove(name.parse().unwrap())),
                    // The body itself cannot be taken away.
                    _ => {}
                }
            }
            Self::Add(place, name, value) => {
                if body.is_object() {
                    let pointer = chosen(place, body, Value::is_object);
                    body.pointer_mut(&pointer).unwrap()[name] = value;
                }
            }
            Self::Set(section, name, value) => {
                if body.is_object() && !section.is_empty() && body.pointer(section).is_none() {
                    body[&section[1..]] = json!({});
                }
                if let Some(Value::Object(members)) = body.pointer_mut(section) {
                    members.insert(name, value);
                }
            }
            Self::Rename(place, suffix) => {
                let pointer = chosen(place, body, |_| true);
                let (parent, name) = split(&pointer);
                if let Some(Value::Object(members)) = body.pointer_mut(parent)
                    && let Some(value) = members.remove(&unescaped(name))
                {
                    members.insert(unescaped(name) + suffix, value);
                }
            }
        }
    }
}

/// A pointer to one of the values in a body that `wanted` wants.
fn chosen(place: Index, body: &Value, wanted: fn(&Value) -> bool) -> String {
    let places = places(body, wanted);
    places[place.index(places.len())].clone()
}

/// Pointers to every value in a body that `wanted` wants.
fn places(body: &Value, wanted: fn(&Value) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = vec![(String::new(), body)];
    while let Some((pointer, value)) = rest.pop() {
        match value {
            Value::Object(members) => rest.extend(members.iter().map(|(name, value)| {
                (format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1")), value)
            })),
            Value::Array(items) => {
                let items = items.iter().enumerate();
                rest.extend(items.map(|(index, value)| (format!("{pointer}/{index}"), value)));
            }
            _ => {}
        }
        if wanted(value) {
            found.push(pointer);
        }
    }
    found
}

fn split(pointer: &str) -> (&str, &str) {
    pointer.rsplit_once('/').unwrap_or(("nowhere", ""))
}

fn unescaped(name: &str) -> String {
    name.replace("~1", "/").replace("~0", "~")
}

/// A name: listed for the type, listed for another, listed somewhere else, or nobody's.
fn any_name(event_type: EventType) -> impl Strategy<Value = String> {
    let of_type = PARAMS.iter().filter(|row| row.allowed_on.contains(event_type));
    let of_type: Vec<_> = of_type.map(|row| row.key).chain(QOE.iter().map(|row| row.key)).collect();
    let of_any: Vec<_> = PARAMS.iter().map(|row| row.key).collect();
    let members =
        [&BODY_MEMBERS[..], &PLAYER_TIME_MEMBERS, &["id", "authState", "media.state.name"]]
            .concat();
    prop_oneof![
        3 => select(of_type).prop_map(str::to_owned),
        1 => select(of_any).prop_map(str::to_owned),
        2 => select(members).prop_map(str::to_owned),
        2 => corner_text(),
        1 => ".{0,8}",
    ]
}

/// Texts at the edge of what a name, a state or an event type may be.
fn corner_texts() -> Vec<String> {
    let texts = r#"["", "a", "a\n", "\n", "a\r\n", "a\nb", "\na", "a\u2028", "a\u0085", "\u0000", "a\u0000",
        " ", "a b", "a-b", "é", "ａ", "٣", "K", "ſ", "ı", "😀", "_", ".", "..", "^", "$", "a$", "a.", "a.b",
        "A.b", "ab", "media.", "media.x", "mediaXx", "media", "xmedia.x", "xa.b", "\ufeffa", "e\u0301",
        "toString", "__proto__", "constructor", "live", "vod", "0", "1", "true",
        "sessionstart", "Play", "play\n", "sessionStart "]"#;
    let mut texts: Vec<String> = serde_json::from_str(texts).expect("a list of strings");
    texts.extend(EventType::ALL.map(|event_type| event_type.name().to_owned()));
    for count in [63, 64, 65] {
        texts.extend(["a", ".", "é", "😀"].map(|unit| unit.repeat(count)));
        texts.push("a".repeat(count) + "\n");
    }
    texts
}

/// Numbers at the edge of a bound, of the integers, or of what a double holds.
fn corner_numbers() -> Vec<Value> {
    let numbers = "[0, -0.0, -1, 1, 2, 3, 1.0, 2.0, 3.0, 20.0, 0.5, 1.5, -0.5, 5e-324, -5e-324, 1e-300,
        1e300, -1e300, 1.7976931348623157e308, 1.0000000000000002, 2.0000000000000004, 0.9999999999999999,
        4503599627370495.5, 1000000000000000.5, 9007199254740991, 9007199254740992, 9007199254740993,
        9007199254740991.0, 9007199254740992.0, -9007199254740993, -9223372036854775808, 1e16,
        18446744073709551615, 18446744073709551616, 86400, 86399.999]";
    serde_json::from_str(numbers).expect("a list of numbers")
}

/// Values at the edge of what some rule allows.
fn corner_values() -> Vec<Value> {
    let others = r#"[null, true, false, [], {}, [null], [[]], [{}], ["a"], [{"media.state.name": "a"}],
        [{"media.state.name": "a\n"}], [{"media.state.name": 1}], [{"media.state.name": "a", "b": 1}],
        {"media.state.name": "a"}, {"id": "a", "authState": 1}, {"crm": {"id": "a", "authState": 1.0}},
        {"crm": {"id": "a", "authState": 3}}, {"crm": {"id": "a", "authState": 0.5}},
        {"crm": {"id": "a", "authState": -1}}, {"crm": {"id": 1, "authState": 1}}, {"crm": {"id": "a"}},
        {"crm": {"id": "a", "authState": true}}, {"crm": {"id": "a", "authState": "1"}},
        {"crm": {"id": "a", "authState": 1, "more": 1}}, {"crm": null}, {"crm": []},
        {"playhead": 0, "ts": 0}, {"statesStart": []}, {"statesEnd": null}, {"a": {"b": [1, {"c": null}]}}]"#;
    let mut values: Vec<Value> = serde_json::from_str(others).expect("a list of values");
    values.extend(corner_numbers());
    values.extend(corner_texts().into_iter().map(Value::from));
    values
}

fn corner_text() -> impl Strategy<Value = String> {
    select(corner_texts())
}

fn corner_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => select(corner_values()),
        1 => any::<f64>().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
    ]
}

/// A value that some key may have.
fn good_value_of_any_kind() -> impl Strategy<Value = Value> {
    let kinds: Vec<_> = PARAMS.iter().map(|row| row.kind).collect();
    select(kinds).prop_flat_map(good_value)
}
