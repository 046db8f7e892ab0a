//! The whole public API as one OpenAPI document, with the schemas of [`schema`](super::schema).
//!
//! It says what players may send and every answer that they may get. A new path takes its place in
//! [`paths`], a new refusal in [`REFUSALS`].

use serde_json::{Map, Value, json};

use super::schema::{DRAFT4, Dialect, Schemas, written};
use super::violations::Code;
use super::{EventType, Profile, Rules, STORED_EVENTS_MAX, StoredForm};

const INTRODUCTION: &str = "\
A media session collection server that speaks Adobe's Media Collection API. A player starts a session \
and gets the place of it in `Location`; there it posts what happens, one event a request, until \
`sessionEnd`. Whatever is answered with 201 or 204 is durable.

**Requests.** There is no authorisation. A body is read as JSON whatever its `Content-Type` says; \
`Content-Encoding: gzip` is understood, and a body that begins with the bytes of gzip without it; other \
encodings get 415. An event has at most 128 KiB, a stored \
session 16 MiB, packed or not, unless the server is set otherwise. A slash at the end of a path, or several in a row, do no harm. \
`OPTIONS` gets 204 on every path below `/api/`.

**Bodies** are sound JSON throughout, also in members that nobody knows: UTF-8 without a byte order mark, \
no lone surrogates, no number beyond a double, at most 32 levels deep, and no member named twice in the \
body or in an object directly below it. No schema can say this; a body that is not so gets 400 with the \
code `json`.

**Answers.** Every error has a body with a `message`; 400 lists every violation with its JSON pointer. A \
request is checked in this order: path and method, room, rate, encoding and size, body, for whom it is, session. \
What is no HTTP \
request at all gets a bare 400, and a head that is too large a bare 431.";

const START: &str = "\
Opens a session. Beside the schema one rule is checked: the playhead must lie in the content. It is below \
86400 for live content (`media.contentType` is `live`, `linear` or `radio`, in any case), whose playhead \
is the second of the day in UTC; for other content it is below `media.length`, unless that is 0 or \
negative, which means unknown.

An array is a stored session, as `/api/v1/downloaded` takes it. This form is deprecated; here the start must \
say `media.downloaded: true`, which a single start must not.";

const DOWNLOADED: &str = "\
Takes a whole session that the player stored, because it had no network: its `sessionStart`, then its other \
events in the order in which they happened. `media.downloaded` may be left out, or is true. All of it is kept, \
or none: a violation anywhere refuses the whole array. The session is over at once, so its id answers 410. It \
ends with its first `sessionEnd`, or else with its last event; what comes after the `sessionEnd` has no \
effect.";

const EVENT: &str = "\
Tells what happens in a session that is open. Events may arrive out of order within a few seconds; their \
`ts` puts them right. A session ends with `sessionEnd`, 10 minutes after its last event, or 30 minutes \
after its playhead last moved; then it answers 410 for good. After 404 or 410 a player starts a new \
session.";

/// The refusals that a request may meet: status, name, meaning.
const REFUSALS: [(u16, &str, &str); 11] = [
    (400, "Invalid", "The body breaks rules; `violations` names them all. Mend the player."),
    (
        403,
        "NotAllowed",
        "This server does not collect sessions for the organisation or the report suite that the body names.",
    ),
    (
        404,
        "NotFound",
        "There is nothing here: no such path, event type, or session of this server.",
    ),
    (405, "MethodNotAllowed", "The path does not take this method; `Allow` says which it takes."),
    (408, "TooSlow", "The body did not arrive in time. Try again."),
    (410, "Closed", "The session has ended. Start a new one."),
    (413, "TooLarge", "The body is too large, or a stored session has more than 100 000 events."),
    (415, "UnsupportedEncoding", "The body has a `Content-Encoding` other than gzip."),
    (
        429,
        "TooManyRequests",
        "This client, or the report suite, asks too often; nothing was kept. Wait `Retry-After` seconds, try \
         again.",
    ),
    (500, "Failed", "The server failed; nothing was kept."),
    (
        503,
        "Unavailable",
        "Not now; nothing was acknowledged. Wait `Retry-After` seconds, try again.",
    ),
];

/// What may go wrong with any request that has a body.
const POST_REFUSALS: [u16; 8] = [400, 405, 408, 413, 415, 429, 500, 503];

/// What may go wrong with a request that begins a session.
const START_REFUSALS: [u16; 9] = [400, 403, 405, 408, 413, 415, 429, 500, 503];

/// The document in OpenAPI 3.1.
pub fn document(rules: Rules) -> String {
    written(&openapi(rules))
}

pub(super) fn openapi(rules: Rules) -> Value {
    let schemas = Schemas { rules, dialect: Dialect::OpenApi };
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Mediatally",
            "summary": "Collects media sessions",
            "version": env!("CARGO_PKG_VERSION"),
            "description": format!("{INTRODUCTION}\n\n{}", rules_of_this_server(rules)),
        },
        "servers": [{
            "url": "/",
            "description": "The server that this document is from. If a proxy puts a prefix before the \
                path, add it.",
        }],
        "tags": [
            {"name": "sessions", "description": "What players post."},
            {"name": "documents", "description": "What players are held to."},
            {"name": "health", "description": "What load balancers and orchestrators ask."},
        ],
        "paths": paths(schemas),
        "components": {
            "schemas": all_schemas(schemas),
            "responses": refusals(),
            "headers": headers(),
        },
    })
}

fn rules_of_this_server(rules: Rules) -> String {
    let profile = match rules.profile {
        Profile::Adobe => "`adobe`: the documented keys are required",
        Profile::Open => "`open`: only what a report needs is required",
    };
    let unlisted = if rules.strict {
        "Names that are not listed are refused (`validation.strict`)"
    } else {
        "Names that are not listed are accepted and kept, because the API may grow; \
         `validation.strict` would refuse them"
    };
    format!("**This server** is set to the profile {profile}. {unlisted}.")
}

fn paths(schemas: Schemas) -> Value {
    json!({
        "/api/v1/sessions": {
            "post": start_session(schemas),
            "options": preflight("preflightSessions", "sessions"),
        },
        "/api/v1/sessions/{sid}/events": {
            "parameters": [{
                "name": "sid",
                "in": "path",
                "required": true,
                "description": "The id of the session: the end of its `Location`.",
                "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
            }],
            "post": send_event(schemas),
            "options": preflight("preflightEvents", "sessions"),
        },
        "/api/v1/downloaded": {
            "post": send_stored(schemas),
            "options": preflight("preflightDownloaded", "sessions"),
        },
        "/api/v1/schemas/{eventType}": {
            "parameters": [{
                "name": "eventType",
                "in": "path",
                "required": true,
                "description": "The event type; case counts.",
                "schema": {"$ref": schemas.pointer("eventType")},
            }],
            "get": get_schema("getSchema", true),
            "head": get_schema("headSchema", false),
            "options": preflight("preflightSchema", "documents"),
        },
        "/api/v1/openapi.json": {
            "get": get_openapi("getOpenapi", true),
            "head": get_openapi("headOpenapi", false),
            "options": preflight("preflightOpenapi", "documents"),
        },
        "/livez": health("Livez", "Whether the process lives", false),
        "/healthz": health("Healthz", "The same as `/livez`", false),
        "/readyz": health("Readyz", "Whether to send requests here; with `?verbose` every check, one a line", true),
    })
}

fn start_session(schemas: Schemas) -> Value {
    let mut examples = examples([EventType::SessionStart]);
    let (name, example) = stored_example("Deprecated: a stored session");
    examples.insert(name, example);
    json!({
        "operationId": "startSession",
        "tags": ["sessions"],
        "summary": "Start a session",
        "description": START,
        "requestBody": {
            "required": true,
            "content": {"application/json": {
                "schema": {"oneOf": [
                    {"$ref": schemas.pointer(EventType::SessionStart.name())},
                    stored_session(schemas, StoredForm::Sessions),
                ]},
                "examples": examples,
            }},
        },
        "responses": responses([("201", created("The session is open"))], &START_REFUSALS),
    })
}

fn send_stored(schemas: Schemas) -> Value {
    json!({
        "operationId": "sendStored",
        "tags": ["sessions"],
        "summary": "Send a session that the player stored",
        "description": DOWNLOADED,
        "requestBody": {
            "required": true,
            "content": {"application/json": {
                "schema": stored_session(schemas, StoredForm::Downloaded),
                "examples": Map::from_iter([stored_example("A stored session")]),
            }},
        },
        "responses": responses([("201", created("The session is kept"))], &START_REFUSALS),
    })
}

/// A stored session. It has no place among the components, because schemathesis cannot follow a reference to an
/// array of this kind.
pub(super) fn stored_session(schemas: Schemas, form: StoredForm) -> Value {
    let mut session = json!({
        "type": "array",
        "description": "A stored session: its start, and then its other events.",
        "minItems": 1,
        "maxItems": STORED_EVENTS_MAX,
        "prefixItems": [{"$ref": schemas.pointer(stored_start_name(form))}],
        "items": {"$ref": schemas.pointer("event")},
    });
    if form == StoredForm::Sessions {
        session["deprecated"] = true.into();
    }
    session
}

fn created(what: &str) -> Value {
    response(
        &format!(
            "{what}. The answer has no body; its `Content-Type` is `application/octet-stream`."
        ),
        [("Location", json!({"$ref": "#/components/headers/Location"}))],
    )
}

fn send_event(schemas: Schemas) -> Value {
    let accepted = response("The event is accepted.", []);
    let refusals = [&POST_REFUSALS[..], &[404, 410]].concat();
    json!({
        "operationId": "sendEvent",
        "tags": ["sessions"],
        "summary": "Send an event of an open session",
        "description": EVENT,
        "requestBody": {
            "required": true,
            "content": {"application/json": {
                "schema": {"$ref": schemas.pointer("event")},
                "examples": examples(events_of_open_sessions()),
            }},
        },
        "responses": responses([("204", accepted)], &refusals),
    })
}

fn get_schema(id: &str, body: bool) -> Value {
    let schema = json!({
        "type": "object",
        "required": ["$schema", "id", "type", "$ref", "definitions"],
        "properties": {"$schema": {"const": DRAFT4}},
    });
    json!({
        "operationId": id,
        "tags": ["documents"],
        "summary": if body { "The JSON Schema of an event type" } else { "Its headers" },
        "description": "A draft-04 document of all that the server checks of a body of that type, but for \
            what is said to be checked beside the schema.",
        "parameters": [if_none_match()],
        "responses": responses(document_or_unchanged(body.then_some(schema)), &[404, 405, 500, 503]),
    })
}

fn get_openapi(id: &str, body: bool) -> Value {
    let schema = json!({
        "type": "object",
        "required": ["openapi", "info", "paths"],
        "properties": {"openapi": {"const": "3.1.0"}},
    });
    json!({
        "operationId": id,
        "tags": ["documents"],
        "summary": if body { "This document" } else { "Its headers" },
        "description": "`mediatally openapi` writes the same.",
        "parameters": [if_none_match()],
        "responses": responses(document_or_unchanged(body.then_some(schema)), &[405, 500, 503]),
    })
}

fn if_none_match() -> Value {
    json!({
        "name": "If-None-Match",
        "in": "header",
        "description": "Versions that are known already, by their `ETag`.",
        "schema": {"type": "string"},
    })
}

fn document_or_unchanged(schema: Option<Value>) -> [(&'static str, Value); 2] {
    let headers = || {
        ["ETag", "Cache-Control"]
            .map(|name| (name, json!({"$ref": format!("#/components/headers/{name}")})))
    };
    let mut found = response("The document.", headers());
    if let Some(schema) = schema {
        found["content"] = json!({"application/json": {"schema": schema}});
    }
    [("200", found), ("304", response("`If-None-Match` names this version.", headers()))]
}

fn preflight(id: &str, tag: &str) -> Value {
    let max_age = json!({"required": true, "schema": {"type": "string", "const": "86400"}});
    let mut granted = response("Granted.", [("Access-Control-Max-Age", max_age)]);
    granted["headers"]["Access-Control-Allow-Headers"] = json!({
        "required": true,
        "description": "`Content-Type` and whatever else was asked for.",
        "schema": {"type": "string", "pattern": "^Content-Type"},
    });
    json!({
        "operationId": id,
        "tags": [tag],
        "summary": "CORS preflight",
        "responses": responses([("204", granted)], &[500]),
    })
}

fn health(name: &str, summary: &str, may_be_red: bool) -> Value {
    let operation = |method: &str, body: bool| {
        let text = |description: &str, schema: Value| {
            let mut answer = response(description, []);
            if body {
                answer["content"] = json!({"text/plain": {"schema": schema}});
            }
            answer
        };
        let verbose = |verdict: &str| {
            let pattern = format!("^(\\[[+-]\\][a-z]+ [a-z ]+\\n)+readyz check {verdict}\\n$");
            json!({"type": "string", "pattern": pattern})
        };
        let mut yes = json!({"type": "string", "const": "ok\n"});
        let mut no = None;
        if may_be_red {
            yes = json!({"anyOf": [yes, verbose("passed")]});
            let words = ["stopping\n", "recovering\n", "cannot write\n", "busy\n"];
            let why = json!({"type": "string", "enum": words});
            let why = json!({"anyOf": [why, verbose("failed")]});
            no = Some(("503", text("Not now, and why.", why)));
        }
        let answers = [("200", text("Yes.", yes))].into_iter().chain(no);
        json!({
            "operationId": format!("{method}{name}"),
            "tags": ["health"],
            "summary": summary,
            "responses": responses(answers, &[405, 500]),
        })
    };
    json!({"get": operation("get", true), "head": operation("head", false)})
}

/// Answers of an operation: its own, and the refusals that it shares with others.
fn responses<'n>(
    own: impl IntoIterator<Item = (&'n str, Value)>,
    refusals: &[u16],
) -> Map<String, Value> {
    let shared = REFUSALS.iter().filter(|(status, ..)| refusals.contains(status)).map(
        |(status, name, _)| {
            (status.to_string(), json!({"$ref": format!("#/components/responses/{name}")}))
        },
    );
    own.into_iter().map(|(status, answer)| (status.to_owned(), answer)).chain(shared).collect()
}

/// An answer with the headers that stand on every answer, and more.
fn response<'n>(description: &str, more: impl IntoIterator<Item = (&'n str, Value)>) -> Value {
    let mut headers: Map<_, _> = CORS
        .iter()
        .map(|(name, _)| {
            ((*name).to_owned(), json!({"$ref": format!("#/components/headers/{name}")}))
        })
        .collect();
    headers.extend(more.into_iter().map(|(name, header)| (name.to_owned(), header)));
    json!({"description": description, "headers": headers})
}

/// The four headers that stand on every answer.
const CORS: [(&str, &str); 4] = [
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "OPTIONS,POST,PUT"),
    ("Access-Control-Allow-Headers", "Content-Type"),
    ("Access-Control-Expose-Headers", "Location"),
];

fn headers() -> Map<String, Value> {
    let text = |description: &str, pattern: &str| {
        json!({
            "required": true,
            "description": description,
            "schema": {"type": "string", "pattern": pattern},
        })
    };
    let constant =
        |value: &str| json!({"required": true, "schema": {"type": "string", "const": value}});
    let cors = CORS.map(|(name, value)| (name, constant(value)));
    let others = [
        (
            "Location",
            text(
                "The place of the session, relative, so that it holds behind any proxy; its events go \
                 below it.",
                "^/api/v1/sessions/[0-9a-f]{64}$",
            ),
        ),
        ("Retry-After", text("When to try again, in seconds.", "^[0-9]+$")),
        ("Allow", text("The methods that the path takes.", "^[A-Z]+(,[A-Z]+)*$")),
        ("Accept-Encoding", constant("gzip")),
        ("ETag", text("Changes with the document.", "^\"[0-9a-f]{32}\"$")),
        ("Cache-Control", text("How long a cache may keep it.", "^public, max-age=[0-9]+$")),
    ];
    cors.into_iter().chain(others).map(|(name, header)| (name.to_owned(), header)).collect()
}

fn refusals() -> Map<String, Value> {
    let refusal = |(status, name, meaning): &(u16, &str, &str)| {
        let header = match status {
            405 => Some("Allow"),
            415 => Some("Accept-Encoding"),
            429 | 503 => Some("Retry-After"),
            _ => None,
        };
        let header =
            header.map(|name| (name, json!({"$ref": format!("#/components/headers/{name}")})));
        let mut refusal = response(meaning, header);
        let schema = if *status == 400 { "invalidBody" } else { "errorBody" };
        let schema = json!({"$ref": format!("#/components/schemas/{schema}")});
        refusal["content"] = json!({"application/json": {"schema": schema}});
        ((*name).to_owned(), refusal)
    };
    REFUSALS.iter().map(refusal).collect()
}

fn all_schemas(schemas: Schemas) -> Map<String, Value> {
    let mut all = schemas.shared();
    for event_type in EventType::ALL {
        all.insert(event_type.name().to_owned(), schemas.event(event_type));
    }
    let references: Vec<_> = events_of_open_sessions()
        .map(|event_type| json!({"$ref": schemas.pointer(event_type.name())}))
        .collect();
    let mapping: Map<_, _> = events_of_open_sessions()
        .map(|event_type| (event_type.name().to_owned(), schemas.pointer(event_type.name()).into()))
        .collect();
    let event = json!({
        "description": "Any event but `sessionStart`.",
        "oneOf": references,
        "discriminator": {"propertyName": "eventType", "mapping": mapping},
    });
    for form in [StoredForm::Downloaded, StoredForm::Sessions] {
        all.insert(stored_start_name(form).to_owned(), schemas.stored_start(form));
    }
    let error = json!({
        "type": "object",
        "required": ["message"],
        "properties": {"message": {"type": "string", "description": "What is wrong, for people."}},
    });
    let invalid = json!({
        "type": "object",
        "required": ["message", "violations"],
        "properties": {
            "message": {"type": "string", "description": "What is wrong, for people."},
            "violations": {
                "type": "array",
                "minItems": 1,
                "items": {"$ref": schemas.pointer("violation")},
                "description": "Everything that is wrong, in the order of the body, as far as an \
                                answer of 64 KiB goes.",
            },
            "omitted": {
                "type": "integer",
                "minimum": 1,
                "description": "How many more there are than are listed.",
            },
        },
        "examples": [{
            "message": "Request had improper format.",
            "violations": [{
                "pointer": "/params/media.length",
                "code": "type",
                "message": "expected number, got string",
            }],
        }],
    });
    let violation = json!({
        "type": "object",
        "required": ["pointer", "code", "message"],
        "properties": {
            "pointer": {
                "type": "string",
                "format": "json-pointer",
                "description": "The member (RFC 6901), or where a missing one would be. A name of \
                                more than 256 bytes is cut and ends with its length.",
            },
            "code": {
                "type": "string",
                "enum": Code::ALL,
                "description": "The keyword of JSON Schema that is broken, or `json`.",
            },
            "message": {"type": "string", "description": "What was expected, and what was found."},
        },
    });
    let others = [
        ("event", event),
        ("errorBody", error),
        ("invalidBody", invalid),
        ("violation", violation),
    ];
    all.extend(others.map(|(name, schema)| (name.to_owned(), schema)));
    all
}

/// The name of the schema of the start of a stored session.
fn stored_start_name(form: StoredForm) -> &'static str {
    match form {
        StoredForm::Downloaded | StoredForm::Accepted => "storedStart",
        StoredForm::Sessions => "storedStartThatSaysSo",
    }
}

fn events_of_open_sessions() -> impl Iterator<Item = EventType> {
    EventType::ALL.into_iter().filter(|event_type| *event_type != EventType::SessionStart)
}

fn examples(event_types: impl IntoIterator<Item = EventType>) -> Map<String, Value> {
    let example = |event_type: EventType| {
        let value = example(event_type);
        (event_type.name().to_owned(), json!({"summary": event_type.meaning(), "value": value}))
    };
    event_types.into_iter().map(example).collect()
}

fn stored_example(summary: &str) -> (String, Value) {
    ("storedSession".to_owned(), json!({"summary": summary, "value": stored()}))
}

/// A stored session as a player sends it, to either path.
fn stored() -> Value {
    let mut start = example(EventType::SessionStart);
    start["params"]["media.downloaded"] = true.into();
    let later = |event_type, second: u64| {
        let mut event = example(event_type);
        event["playerTime"] = json!({"playhead": second, "ts": 1_700_000_000_000 + second * 1_000});
        event
    };
    json!([
        start,
        later(EventType::Play, 0),
        later(EventType::Ping, 50),
        later(EventType::SessionComplete, 60),
        later(EventType::SessionEnd, 60),
    ])
}

/// A body as a player sends it. Under every set of rules it is accepted.
fn example(event_type: EventType) -> Value {
    let mut example = json!({
        "eventType": event_type.name(),
        "playerTime": {"playhead": 20, "ts": 1_700_000_020_000_u64},
    });
    let params = match event_type {
        EventType::SessionStart => {
            example["playerTime"] = json!({"playhead": 0, "ts": 1_700_000_000_000_u64});
            json!({
                "media.playerName": "sample-html5-api-player",
                "analytics.trackingServer": "analytics.example.com",
                "analytics.reportSuite": "examplersid",
                "analytics.visitorId": "example-visitor",
                "media.contentType": "VOD",
                "media.length": 60.333_333_333_333_3,
                "media.id": "VA API Sample Player",
                "visitor.marketingCloudOrgId": "0123456789ABCDEF@ExampleOrg",
                "media.name": "ClickMe",
                "media.channel": "sample-channel",
                "media.sdkVersion": "va-api-0.0.0",
                "analytics.enableSSL": false,
            })
        }
        EventType::AdBreakStart => json!({
            "media.ad.podFriendlyName": "mid-roll",
            "media.ad.podIndex": 1,
            "media.ad.podSecond": 20,
        }),
        EventType::AdStart => json!({
            "media.ad.podPosition": 1,
            "media.ad.id": "ad-1",
            "media.ad.name": "Spring sale",
            "media.ad.length": 15,
            "media.ad.playerName": "sample-html5-api-player",
        }),
        EventType::ChapterStart => json!({
            "media.chapter.index": 1,
            "media.chapter.offset": 20,
            "media.chapter.length": 20,
            "media.chapter.friendlyName": "Second act",
        }),
        EventType::StateStart | EventType::StateEnd => json!({"media.state.name": "fullScreen"}),
        EventType::StatesUpdate => json!({
            "statesStart": [{"media.state.name": "mute"}],
            "statesEnd": [{"media.state.name": "fullScreen"}],
        }),
        _ => Value::Null,
    };
    if !params.is_null() {
        example["params"] = params;
    }
    match event_type {
        EventType::AdStart => example["customMetadata"] = json!({"campaign": "spring"}),
        EventType::BitrateChange => example["qoeData"] = json!({"media.qoe.bitrate": 2_500_000}),
        EventType::Error => {
            example["qoeData"] =
                json!({"media.qoe.errorID": "E-7", "media.qoe.errorSource": "player"});
        }
        _ => {}
    }
    example
}

#[cfg(test)]
mod tests {
    use super::super::{Event, Start, parse_stored};
    use super::*;

    #[test]
    fn the_example_of_a_start_is_the_documented_sample() {
        let sample = include_str!("../../tests/it/data/session-start.json");
        let sample: Value = serde_json::from_str(sample).unwrap();
        assert_eq!(example(EventType::SessionStart), sample);
    }

    #[test]
    fn every_example_is_accepted_under_all_rules() {
        for profile in [Profile::Adobe, Profile::Open] {
            for event_type in EventType::ALL {
                let rules = Rules { profile, strict: true };
                let example = example(event_type).to_string();
                let parsed = if event_type == EventType::SessionStart {
                    Start::parse(example.as_bytes(), rules).map(|start| start.event.event_type)
                } else {
                    Event::parse(example.as_bytes(), rules).map(|event| event.event_type)
                };
                assert_eq!(parsed.unwrap(), event_type, "{example}");
            }
        }
    }

    #[test]
    fn the_example_of_a_stored_session_is_accepted_under_all_rules() {
        for profile in [Profile::Adobe, Profile::Open] {
            for form in [StoredForm::Downloaded, StoredForm::Sessions] {
                let (rules, body) = (Rules { profile, strict: true }, stored().to_string());
                parse_stored(body.as_bytes(), rules, form, |_| {}).unwrap();
            }
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_component_is_used() {
        let document = openapi(Rules::default());
        let mut used = Vec::new();
        let mut rest = vec![&document];
        while let Some(value) = rest.pop() {
            match value {
                Value::Object(members) => {
                    used.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    rest.extend(members.values());
                }
                Value::Array(items) => rest.extend(items),
                _ => {}
            }
        }
        used.sort_unstable();
        used.dedup();
        let components = document["components"].as_object().unwrap().iter();
        let mut there: Vec<_> = components
            .flat_map(|(kind, components)| {
                let names = components.as_object().unwrap().keys();
                names.map(move |name| format!("#/components/{kind}/{name}"))
            })
            .collect();
        there.sort_unstable();
        assert_eq!(used, there);
    }

    #[test]
    fn the_rules_of_this_server_are_told() {
        let told = |rules| openapi(rules)["info"]["description"].to_string();
        assert!(told(Rules { profile: Profile::Open, strict: false }).contains("`open`"));
        let strict = told(Rules { profile: Profile::Adobe, strict: true });
        assert!(strict.contains("`adobe`") && strict.contains("are refused"));
    }
}
