//! The JSON Schemas of event bodies, made from the table that the validator reads.
//!
//! They say all that the validator checks, but for what a schema cannot say: the upper bound of the
//! playhead on `sessionStart`, that a body is sound JSON, and that `media.downloaded` is true only in an
//! array of events. A test holds both to the same verdict.
//!
//! Every validator must come to that verdict, whatever its language. So a pattern uses only what all
//! dialects of regular expressions read alike; `$` is not among it (in Python, Java and .NET it also
//! matches before a line break at the end), so it never stands alone.

use serde_json::{Map, Value, json};

use super::parameters::{
    BODY_MEMBERS, CUSTOMER_ID_MEMBERS, EventType, Kind, PARAMS, PLAYER_TIME_MEMBERS, Parameter,
    QOE, RESERVED_METADATA_PREFIXES, STATE_MEMBERS, STATE_NAME_CHARS_MAX, TS_MAX,
};
use super::{Rules, StoredForm};

/// A character that neither a state name nor a metadata key may have. It stands for the `$` that means
/// something else elsewhere: a name that has such a character is refused, wherever it stands.
const OTHER_CHARACTER: &str = "[^a-zA-Z0-9_.]";

/// The name of draft-04. It is compared letter by letter: with `https` some validators read the document by
/// another draft, and others refuse it.
pub(super) const DRAFT4: &str = "http://json-schema.org/draft-04/schema#";

/// The document for one event type in draft-04, as it is published.
pub fn document(event_type: EventType, rules: Rules) -> String {
    written(&draft4(event_type, rules))
}

/// A document as people read it.
pub(super) fn written(document: &Value) -> String {
    // Only a map whose keys are no strings cannot be written.
    let text = serde_json::to_string_pretty(document).expect("a document is JSON");
    text + "\n"
}

pub(super) fn draft4(event_type: EventType, rules: Rules) -> Value {
    let schemas = Schemas { rules, dialect: Dialect::Draft4 };
    let name = event_type.name();
    let mut definitions = schemas.shared();
    definitions.insert(name.to_owned(), schemas.event(event_type));
    json!({
        "$schema": DRAFT4,
        // A path is a whole reference: a reader resolves it against the URL that it has the document
        // from. The server stands behind proxies and does not know its own name.
        "id": format!("/api/v1/schemas/{name}"),
        "title": name,
        // In draft-04 whatever stands beside `$ref` is not looked at, so the definition says it again.
        "type": "object",
        "$ref": schemas.pointer(name),
        "definitions": definitions,
    })
}

/// Whose rules a schema is written for; all but a few words are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// The published documents. They serve single events and arrays of them alike.
    Draft4,
    /// The description of the API, which tells single events from stored sessions: draft 2020-12.
    OpenApi,
}

/// The schemas of all that a body has, under the rules that the server follows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schemas {
    pub(super) rules: Rules,
    pub(super) dialect: Dialect,
}

impl Schemas {
    /// What all event types have in common, by name.
    pub(super) fn shared(self) -> Map<String, Value> {
        let mut schemas = Map::new();
        schemas.insert("eventType".into(), any_event_type());
        schemas.insert("playerTime".into(), self.player_time());
        schemas.insert("qoeData".into(), self.quality());
        schemas.insert("customMetadata".into(), self.custom_metadata());
        schemas
    }

    /// The body of one event type.
    pub(super) fn event(self, event_type: EventType) -> Value {
        let params = self.params(event_type);
        let mut required = vec!["eventType", "playerTime"];
        if params.get("required").is_some() || params.get("anyOf").is_some() {
            required.push("params");
        }
        let member = |name: &str| match name {
            "eventType" => self.only(event_type),
            "params" => params.clone(),
            shared => json!({"$ref": self.pointer(shared)}),
        };
        let members = BODY_MEMBERS.map(|name| (name.to_owned(), member(name)));
        let mut body = object(Map::from_iter(members), &required, !self.rules.strict);
        body["description"] = event_type.meaning().into();
        body
    }

    /// The start of a stored session; the form decides whether it must say that it is one.
    pub(super) fn stored_start(self, form: StoredForm) -> Value {
        let mut start = self.event(EventType::SessionStart);
        let params = &mut start["properties"]["params"];
        params["properties"]["media.downloaded"]["const"] = true.into();
        if form == StoredForm::Sessions
            && let Some(required) = params["required"].as_array_mut()
        {
            required.push("media.downloaded".into());
        }
        start["description"] = "The start of a session that the player stored.".into();
        start
    }

    fn player_time(self) -> Value {
        let playhead = json!({
            "type": "number",
            "minimum": 0,
            "description": "Position in the content, in seconds. On sessionStart below 86400 for live \
                content (the second of the day, UTC), and below media.length for other content \
                unless that is 0 or negative.",
        });
        let mut ts = self.integer_between(0, TS_MAX);
        ts["description"] = "The player's clock, in milliseconds since the Unix epoch, UTC.".into();
        let members = Map::from_iter([("playhead".to_owned(), playhead), ("ts".to_owned(), ts)]);
        let mut player_time = object(members, &PLAYER_TIME_MEMBERS, !self.rules.strict);
        player_time["description"] = "When, and where in the content.".into();
        player_time
    }

    fn params(self, event_type: EventType) -> Value {
        let listed = || PARAMS.iter().filter(|row| row.allowed_on.contains(event_type));
        let required: Vec<_> = listed()
            .filter(|row| row.is_required(event_type, self.rules.profile))
            .map(|row| row.key)
            .collect();
        let members = listed().map(|row| self.row(row)).collect();
        let mut params = object(members, &required, !self.rules.strict);
        if event_type == EventType::StatesUpdate {
            params["anyOf"] = json!([{"required": ["statesStart"]}, {"required": ["statesEnd"]}]);
        }
        params
    }

    fn quality(self) -> Value {
        // Other quality names are documented as free, so they are whatever the rules say.
        let mut quality = object(QOE.iter().map(|row| self.row(row)).collect(), &[], true);
        quality["description"] =
            "The quality of playback. Negative numbers mean unknown; other names are free.".into();
        quality
    }

    fn custom_metadata(self) -> Value {
        let refused = json!({"not": {}});
        let mut patterns = Map::new();
        patterns.insert("^[a-zA-Z0-9_.]+$".into(), json!({"type": "string"}));
        patterns.insert(OTHER_CHARACTER.into(), refused.clone());
        if self.rules.strict {
            for prefix in RESERVED_METADATA_PREFIXES {
                patterns.insert(format!("^{}", prefix.replace('.', "\\.")), refused.clone());
            }
        }
        json!({
            "type": "object",
            "patternProperties": patterns,
            "additionalProperties": false,
            "description": "Facts of your own, text by name, on the session (sessionStart), the ad (adStart) \
                or the chapter (chapterStart). Names that begin with a. or media. are reserved.",
        })
    }

    fn row(self, row: &Parameter) -> (String, Value) {
        let mut schema = self.value(row.kind);
        schema["description"] = row.description.into();
        if row.key == "media.downloaded" && self.dialect == Dialect::OpenApi {
            schema["const"] = false.into();
        }
        (row.key.to_owned(), schema)
    }

    fn value(self, kind: Kind) -> Value {
        let members = |members: &[(&str, Kind)]| {
            let required: Vec<_> = members.iter().map(|(name, _)| *name).collect();
            let members =
                members.iter().map(|(name, kind)| ((*name).to_owned(), self.value(*kind)));
            object(members.collect(), &required, false)
        };
        match kind {
            Kind::Text => json!({"type": "string"}),
            Kind::NonEmptyText => json!({"type": "string", "minLength": 1}),
            Kind::Number => json!({"type": "number"}),
            Kind::Integer => self.integer(),
            // Bounds and no list, because not every validator finds 1.0 in [0, 1, 2].
            Kind::AuthState => self.integer_between(0, 2),
            Kind::Flag => json!({"type": "boolean"}),
            Kind::StateName => json!({
                "type": "string",
                "pattern": format!("^[a-zA-Z0-9_.]{{1,{STATE_NAME_CHARS_MAX}}}$"),
                "not": {"pattern": OTHER_CHARACTER},
            }),
            Kind::CustomerIds => {
                json!({"type": "object", "additionalProperties": members(&CUSTOMER_ID_MEMBERS)})
            }
            Kind::States => json!({"type": "array", "items": members(&STATE_MEMBERS)}),
        }
    }

    /// A number with a zero fraction.
    fn integer(self) -> Value {
        match self.dialect {
            // The draft's own `integer` refuses 20.0, which players send.
            Dialect::Draft4 => json!({"type": "number", "multipleOf": 1}),
            Dialect::OpenApi => json!({"type": "integer"}),
        }
    }

    fn integer_between(self, minimum: u64, maximum: u64) -> Value {
        let mut integer = self.integer();
        integer["minimum"] = minimum.into();
        integer["maximum"] = maximum.into();
        integer
    }

    /// The one name that the member `eventType` may have.
    fn only(self, event_type: EventType) -> Value {
        let name = event_type.name();
        match self.dialect {
            Dialect::Draft4 => {
                json!({"allOf": [{"$ref": self.pointer("eventType")}, {"enum": [name]}]})
            }
            Dialect::OpenApi => json!({"type": "string", "const": name}),
        }
    }

    pub(super) fn pointer(self, name: &str) -> String {
        match self.dialect {
            Dialect::Draft4 => format!("#/definitions/{name}"),
            Dialect::OpenApi => format!("#/components/schemas/{name}"),
        }
    }
}

fn any_event_type() -> Value {
    json!({
        "type": "string",
        "enum": EventType::ALL.map(EventType::name),
        "description": "What happened; case counts.",
    })
}

fn object(members: Map<String, Value>, required: &[&str], others: bool) -> Value {
    let mut schema = json!({"type": "object", "additionalProperties": others});
    schema["properties"] = members.into();
    // The draft does not allow an empty list.
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::super::Profile;
    use super::*;

    const RULES: Rules = Rules { profile: Profile::Adobe, strict: false };

    fn ping(rules: Rules) -> Value {
        draft4(EventType::Ping, rules)
    }

    #[test]
    fn a_document_is_what_the_specification_says() {
        let document = ping(RULES);
        assert_eq!(document["$schema"], "http://json-schema.org/draft-04/schema#");
        assert_eq!(document["id"], "/api/v1/schemas/ping");
        assert_eq!(document["type"], "object");
        assert_eq!(document["$ref"], "#/definitions/ping");
        let definitions = document["definitions"].as_object().unwrap();
        let names: Vec<_> = definitions.keys().map(String::as_str).collect();
        assert_eq!(names, ["customMetadata", "eventType", "ping", "playerTime", "qoeData"]);
        assert_eq!(definitions["eventType"]["enum"].as_array().unwrap().len(), 20);
        assert_eq!(
            definitions["playerTime"]["properties"]["ts"],
            json!({"type": "number", "multipleOf": 1, "minimum": 0, "maximum": 9_007_199_254_740_991_u64,
                "description": "The player's clock, in milliseconds since the Unix epoch, UTC."})
        );
    }

    #[test]
    fn only_strict_rules_close_the_objects_that_may_grow() {
        for strict in [false, true] {
            let document = ping(Rules { strict, ..RULES });
            let open = |pointer: &str| {
                let schema = document.pointer(&format!("/definitions{pointer}")).unwrap();
                schema["additionalProperties"].as_bool().unwrap()
            };
            for pointer in ["/ping", "/ping/properties/params", "/playerTime"] {
                assert_eq!(open(pointer), !strict, "{pointer}");
            }
            assert!(open("/qoeData"));
            assert!(!open("/customMetadata"));
        }
    }

    #[test]
    fn the_members_that_are_required_follow_the_profile() {
        let required = |event_type: EventType, profile, pointer: &str| -> Vec<String> {
            let document = draft4(event_type, Rules { profile, strict: false });
            let schema = &document["definitions"][event_type.name()];
            match schema.pointer(pointer).unwrap().get("required") {
                Some(names) => serde_json::from_value(names.clone()).unwrap(),
                None => Vec::new(),
            }
        };
        let body = ["eventType", "playerTime"];
        let body_with_params = ["eventType", "playerTime", "params"];
        assert_eq!(required(EventType::AdStart, Profile::Adobe, ""), body_with_params);
        assert_eq!(required(EventType::AdStart, Profile::Open, ""), body);
        assert_eq!(required(EventType::Play, Profile::Adobe, ""), body);
        for profile in [Profile::Adobe, Profile::Open] {
            assert_eq!(required(EventType::StatesUpdate, profile, ""), body_with_params);
        }
        assert_eq!(
            required(EventType::SessionStart, Profile::Open, "/properties/params"),
            ["media.id", "media.length", "media.contentType", "media.playerName"]
        );
    }

    #[test]
    fn each_listed_key_is_described() {
        for event_type in EventType::ALL {
            let document = draft4(event_type, RULES);
            let body = &document["definitions"][event_type.name()];
            assert!(body["description"].is_string());
            let listed = PARAMS.iter().filter(|row| row.allowed_on.contains(event_type));
            let params = body["properties"]["params"]["properties"].as_object().unwrap();
            assert_eq!(params.len(), listed.clone().count());
            for row in listed {
                assert_eq!(params[row.key]["description"], row.description);
            }
        }
    }
}
