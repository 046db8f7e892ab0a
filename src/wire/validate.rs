//! The rules of an event body: a tree becomes typed, or every violation is named.
//!
//! One walk in document order finds both, so what is accepted and what is explained cannot differ.

use std::borrow::Cow;
use std::fmt;
use std::ops::ControlFlow;

use hashbrown::HashSet;

use super::parameters::{
    self, CUSTOMER_ID_MEMBERS, EventSet, EventType, Kind, PARAMS, PARAMS_INDEX,
    PLAYER_TIME_MEMBERS, Parameter, Profile, QOE, QOE_INDEX, STATE_MEMBERS, STATE_NAME_CHARS_MAX,
    TS_MAX,
};
use super::parse::{Member, Node};
use super::unlisted::{Section, Unlisted};
use super::violations::{Code, Pointer, Quoted, TEXT_BYTES_MAX, Violations, cut};
use super::{
    Content, CustomMetadata, Event, NotStored, Params, PlayerTime, Playhead, Rules,
    STORED_EVENTS_MAX, Start, Stored, StoredForm, is_array, parse, read,
};

/// How many names of a body strict rules compare with the known ones. A comparison with the whole table takes some
/// microseconds; a hostile body could hold twenty thousand names, and one of a stored session millions.
const HINTS_MAX: usize = 32;

/// How many unlisted names of an event are pointed out; the others are counted.
const UNLISTED_MAX: usize = 32;

/// Live content has the second of the day for a playhead.
const SECONDS_OF_A_DAY: f64 = 86_400.0;

/// Holds the body of a session start to the rules.
///
/// # Errors
/// Every violation, in document order.
pub(super) fn session_start(root: Node<'_>, rules: Rules) -> Result<Start<'_>, Violations> {
    let (mut found, mut hints) = (Violations::default(), HINTS_MAX);
    match walk(root, rules, Endpoint::Sessions, &Pointer::Root, &mut found, &mut hints) {
        Some((event, Some(content))) => Ok(Start { event, content }),
        _ => Err(found),
    }
}

/// Holds the body of an event of an open session to the rules.
///
/// # Errors
/// Every violation, in document order.
pub(super) fn event(root: Node<'_>, rules: Rules) -> Result<Event<'_>, Violations> {
    let (mut found, mut hints) = (Violations::default(), HINTS_MAX);
    let event = walk(root, rules, Endpoint::Events, &Pointer::Root, &mut found, &mut hints);
    event.map(|(event, _)| event).ok_or(found)
}

/// Holds the body of a stored session to the rules, and hands on its events.
///
/// # Errors
/// Every violation, in document order, or that it is too long.
pub(super) fn stored<'a>(
    body: &'a [u8],
    rules: Rules,
    form: StoredForm,
    mut take: impl FnMut(Stored<'a>),
) -> Result<(), NotStored> {
    let (mut found, mut hints) = (Violations::default(), HINTS_MAX);
    if !is_array(body) {
        let root = read(body).map_err(NotStored::Invalid)?;
        found.add(&Pointer::Root, Code::Type, format_args!("{}", expected("array", &root)));
        return Err(NotStored::Invalid(found));
    }
    let mut events = 0;
    let read = parse::each_item(body, form == StoredForm::Accepted, |item| {
        let place = Pointer::Root.item(events);
        let endpoint = if events == 0 { Endpoint::StoredFirst(form) } else { Endpoint::Stored };
        events += 1;
        if events > STORED_EVENTS_MAX {
            return ControlFlow::Break(());
        }
        let item = match item {
            Ok(item) => item,
            Err(overfull) => {
                found.add(&place, Code::Json, format_args!("{overfull}"));
                return ControlFlow::Continue(());
            }
        };
        match walk(item, rules, endpoint, &place, &mut found, &mut hints) {
            Some((event, Some(content))) if events == 1 => {
                take(Stored::Start(Start { event, content }));
            }
            Some((event, _)) => take(Stored::Event(event)),
            None => {}
        }
        ControlFlow::Continue(())
    });
    if let Err(unsound) = read {
        return Err(NotStored::Invalid(Violations::unreadable(unsound.to_string())));
    }
    if events == 0 {
        let message = format_args!("expected at least one event, the sessionStart");
        found.add(&Pointer::Root, Code::MinItems, message);
    }
    match (events > STORED_EVENTS_MAX, found.count()) {
        (true, _) => Err(NotStored::TooMany),
        (false, 0) => Ok(()),
        (false, _) => Err(NotStored::Invalid(found)),
    }
}

/// Where a body was posted, which decides what type of event it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    /// Where sessions begin.
    Sessions,
    /// The events of one session.
    Events,
    /// The first place in a stored session.
    StoredFirst(StoredForm),
    /// A later place there.
    Stored,
}

impl Endpoint {
    /// Whether a session starts there.
    fn is_for_starts(self) -> bool {
        matches!(self, Self::Sessions | Self::StoredFirst(_))
    }
}

/// Holds what stands at one place to the rules of an event; nothing if it breaks any. Of the names that it
/// has, strict rules compare so many more with the known ones as `hints` says.
fn walk<'a>(
    root: Node<'a>,
    rules: Rules,
    endpoint: Endpoint,
    place: &Pointer<'_>,
    found: &mut Violations,
    hints: &mut usize,
) -> Option<(Event<'a>, Option<Content>)> {
    let violations_before = found.count();
    let members = match root {
        Node::Object(members) => members,
        other => {
            found.add(place, Code::Type, format_args!("{}", expected("object", &other)));
            return None;
        }
    };
    let otherwise = endpoint.is_for_starts().then_some(EventType::SessionStart);
    let mut walk = Walk {
        rules,
        endpoint,
        event_type: declared_type(&members).or(otherwise),
        content: content_of(&members),
        found,
        hints,
        player_time: None,
        params: Params::default(),
        quality: Params::default(),
        custom_metadata: CustomMetadata::default(),
        unlisted: Vec::new(),
        unlisted_counts: [0; Section::ALL.len()],
    };
    walk.body(place, members);
    if walk.found.count() > violations_before {
        return None;
    }
    let event = Event {
        event_type: walk.event_type?,
        player_time: walk.player_time?,
        params: walk.params,
        quality: walk.quality,
        custom_metadata: walk.custom_metadata,
        unlisted: walk.unlisted,
        unlisted_counts: walk.unlisted_counts,
    };
    Some((event, walk.content))
}

/// The event type that a body says it has, whether it may have it here or not: a `play` that was
/// posted to the wrong place is told so, and not that it lacks what a session start needs.
fn declared_type(members: &[Member<'_>]) -> Option<EventType> {
    match member(members, "eventType")? {
        Node::Text(name) => EventType::from_name(name),
        _ => None,
    }
}

/// Live or recorded, looked up ahead because the playhead may stand before the parameters.
fn content_of(members: &[Member<'_>]) -> Option<Content> {
    let Some(Node::Object(params)) = member(members, "params") else {
        return None;
    };
    let Some(Node::Text(content_type)) = member(params, "media.contentType") else {
        return None;
    };
    let is = |live_type: &&str| content_type.eq_ignore_ascii_case(live_type);
    if parameters::LIVE_CONTENT_TYPES.iter().any(is) {
        return Some(Content::Live);
    }
    let Some(Node::Number(length)) = member(params, "media.length") else { return None };
    Some(Content::Recorded { length_s: length.as_f64().filter(|length_s| *length_s > 0.0) })
}

fn member<'n, 'a>(members: &'n [Member<'a>], name: &str) -> Option<&'n Node<'a>> {
    members.iter().find(|(found, _)| found == name).map(|(_, node)| node)
}

/// One walk through one body.
struct Walk<'a, 'f> {
    rules: Rules,
    endpoint: Endpoint,
    /// None if nobody knows it: then no rule speaks of its parameters.
    event_type: Option<EventType>,
    content: Option<Content>,
    found: &'f mut Violations,
    hints: &'f mut usize,
    player_time: Option<PlayerTime>,
    params: Params<'a>,
    quality: Params<'a>,
    custom_metadata: CustomMetadata<'a>,
    unlisted: Vec<Unlisted<'a>>,
    unlisted_counts: [u32; Section::ALL.len()],
}

impl<'a> Walk<'a, '_> {
    fn body(&mut self, root: &Pointer<'_>, mut members: Vec<Member<'a>>) {
        let names_before = self.unlisted.len();
        let mut present = Present::default();
        let mut others = Names::default();
        for (name, node) in &mut members {
            let place = root.member(name);
            let known = parameters::BODY_MEMBERS.iter().position(|known| known == name);
            if !known.is_none_or(|row| present.is_first(row)) {
                self.repeated(&place);
                continue;
            }
            match known.map(|row| parameters::BODY_MEMBERS[row]) {
                Some("eventType") => self.event_type(&place, node),
                Some("playerTime") => self.player_time(&place, taken(node)),
                Some("params") => self.params(&place, taken(node)),
                Some("qoeData") => self.quality(&place, taken(node)),
                Some("customMetadata") => self.custom_metadata(&place, taken(node)),
                _ => {
                    if let Node::OtherObject { repeated: Some(repeated) } = node {
                        self.repeated(&place.member(repeated));
                    }
                    self.unlisted(Section::Body, root, &mut others, name);
                }
            }
        }
        for (row, name) in parameters::BODY_MEMBERS.iter().enumerate() {
            if present.has(row) {
                continue;
            }
            let mut missing = |message| self.missing(root, name, message, names_before);
            match *name {
                "eventType" => {
                    missing(format_args!("required: one of the twenty documented names"));
                }
                "playerTime" => missing(format_args!("required: an object with playhead and ts")),
                "params" => self.missing_params(root, names_before),
                _ => {}
            }
        }
    }

    /// `params` are not there, which is a violation if any of them is required.
    fn missing_params(&mut self, root: &Pointer<'_>, names_before: usize) {
        let Some(event_type) = self.event_type else { return };
        if event_type == EventType::StatesUpdate {
            let message = format_args!("required on statesUpdate, with statesStart or statesEnd");
            return self.missing(root, "params", message, names_before);
        }
        let keys = RequiredKeys { event_type, profile: self.rules.profile };
        if keys.iter().next().is_some() {
            let message = format_args!("required on {}, with {keys}", event_type.name());
            self.missing(root, "params", message, names_before);
        }
    }

    fn event_type(&mut self, place: &Pointer<'_>, node: &Node<'_>) {
        let Node::Text(name) = node else {
            return self.mistyped(place, "string", node);
        };
        let known = EventType::from_name(name);
        let is_start = known == Some(EventType::SessionStart);
        match (known, self.endpoint) {
            (Some(_), endpoint) if endpoint.is_for_starts() == is_start => {}
            (Some(_), Endpoint::Events) => self.found.add(
                place,
                Code::Enum,
                format_args!(
                    "expected an event of an open session; \"sessionStart\" opens one and goes to \
                     /api/v1/sessions"
                ),
            ),
            (Some(_), Endpoint::Stored) => self.found.add(
                place,
                Code::Enum,
                format_args!(
                    "expected an event other than \"sessionStart\": a stored session has one, its first event"
                ),
            ),
            (Some(other), Endpoint::Sessions) => self.found.add(
                place,
                Code::Const,
                format_args!(
                    "expected \"sessionStart\", which opens a session; \"{}\" goes to \
                     /api/v1/sessions/{{sid}}/events of a session that is open",
                    other.name()
                ),
            ),
            (Some(other), Endpoint::StoredFirst(_)) => self.found.add(
                place,
                Code::Const,
                format_args!(
                    "expected \"sessionStart\", with which a stored session begins, got \"{}\"",
                    other.name()
                ),
            ),
            (None, _) => {
                // Each comparison with all names takes a microsecond.
                let nearest = if self.found.is_full() { None } else { EventType::nearest_name(name) };
                let (name, hint) = (Quoted(name), DidYouMean(nearest));
                self.found.add(place, Code::Enum, format_args!("{name} is no event type{hint}"));
            }
        }
    }

    fn player_time(&mut self, place: &Pointer<'_>, node: Node<'a>) {
        let Some(members) = self.object(place, node) else {
            return;
        };
        let names_before = self.unlisted.len();
        let mut present = Present::default();
        let mut others = Names::default();
        let (mut playhead, mut ts) = (None, None);
        for (name, node) in &members {
            let known = PLAYER_TIME_MEMBERS.iter().position(|known| known == name);
            let member_place = place.member(name);
            if !known.is_none_or(|row| present.is_first(row)) {
                self.repeated(&member_place);
                continue;
            }
            match known.map(|row| PLAYER_TIME_MEMBERS[row]) {
                Some("playhead") => playhead = self.playhead(&member_place, node),
                Some("ts") => ts = self.ts(&member_place, node),
                _ => self.unlisted(Section::PlayerTime, place, &mut others, name),
            }
        }
        for (row, name) in PLAYER_TIME_MEMBERS.iter().enumerate() {
            if !present.has(row) {
                let meaning = match *name {
                    "playhead" => "required: the position in the content, in seconds",
                    _ => "required: the player's clock, in milliseconds since 1970 (UTC)",
                };
                self.missing(place, name, format_args!("{meaning}"), names_before);
            }
        }
        self.player_time = playhead.zip(ts).map(|(playhead, ts)| PlayerTime { playhead, ts });
    }

    fn playhead(&mut self, place: &Pointer<'_>, node: &Node<'_>) -> Option<Playhead> {
        let Node::Number(number) = node else {
            self.mistyped(place, "number", node);
            return None;
        };
        let playhead = number.as_f64().filter(|playhead| playhead.is_finite())?;
        if playhead < 0.0 {
            let message = format_args!("expected at least 0, got {number}");
            self.found.add(place, Code::Minimum, message);
            return None;
        }
        let content = self.content.filter(|_| self.event_type == Some(EventType::SessionStart));
        match content {
            Some(Content::Live) if playhead >= SECONDS_OF_A_DAY => {
                let message = format_args!(
                    "expected less than 86400, because the playhead of live content is the second of \
                     the day (UTC), got {number}"
                );
                self.found.add(place, Code::Maximum, message);
                return None;
            }
            Some(Content::Recorded { length_s: Some(length_s) }) if playhead >= length_s => {
                let length = Decimal(length_s);
                let message =
                    format_args!("expected less than media.length ({length}), got {number}");
                self.found.add(place, Code::Maximum, message);
                return None;
            }
            _ => {}
        }
        Some(Playhead(playhead))
    }

    fn ts(&mut self, place: &Pointer<'_>, node: &Node<'_>) -> Option<u64> {
        let Node::Number(number) = node else {
            self.mistyped(place, "integer", node);
            return None;
        };
        let Some(ts) = integer(number) else {
            self.found.add(place, Code::Type, format_args!("expected integer, got {number}"));
            return None;
        };
        if ts < 0 {
            self.found.add(place, Code::Minimum, format_args!("expected at least 0, got {number}"));
            return None;
        }
        match u64::try_from(ts) {
            Ok(ts) if ts <= TS_MAX => Some(ts),
            _ => {
                let message = format_args!("expected at most {TS_MAX} (2^53 - 1), got {number}");
                self.found.add(place, Code::Maximum, message);
                None
            }
        }
    }

    fn params(&mut self, place: &Pointer<'_>, node: Node<'a>) {
        let Some(mut members) = self.object(place, node) else {
            return;
        };
        let names_before = self.unlisted.len();
        let mut present = Present::default();
        let mut others = Names::default();
        let mut listed = Vec::with_capacity(members.len().min(PARAMS.len()));
        let event_type = self.event_type;
        let allowed =
            |parameter: &Parameter| event_type.is_some_and(|e| parameter.allowed_on.contains(e));
        for (name, node) in &mut members {
            let row = PARAMS_INDEX.get(name).filter(|row| allowed(&PARAMS[*row]));
            let Some(row) = row else {
                if event_type.is_none() {
                    if !others.insert(name) {
                        self.repeated(&place.member(name));
                    }
                    continue;
                }
                self.unlisted(Section::Params, place, &mut others, name);
                continue;
            };
            let member_place = place.member(name);
            if !present.is_first(row) {
                self.repeated(&member_place);
                continue;
            }
            let parameter = &PARAMS[row];
            self.value(&member_place, parameter.kind, node);
            if let ("media.downloaded", Node::Flag(downloaded)) = (parameter.key, &*node) {
                self.downloaded(&member_place, *downloaded);
            }
            listed.push((parameter.key, taken(node)));
        }
        for (row, parameter) in PARAMS.iter().enumerate() {
            if let Some(event_type) = event_type
                && parameter.is_required(event_type, self.rules.profile)
                && !present.has(row)
            {
                let why = WhyRequired { parameter, event_type };
                self.missing(place, parameter.key, format_args!("{why}"), names_before);
            }
        }
        if self.endpoint == Endpoint::StoredFirst(StoredForm::Sessions)
            && event_type == Some(EventType::SessionStart)
            && !listed.iter().any(|(key, _)| *key == "media.downloaded")
        {
            let place = place.member("media.downloaded");
            self.found.add(
                &place,
                Code::Required,
                format_args!(
                    "required: only stored content is posted as an array, and says so with true"
                ),
            );
        }
        if event_type == Some(EventType::StatesUpdate)
            && !listed.iter().any(|(key, _)| matches!(*key, "statesStart" | "statesEnd"))
        {
            let message = format_args!("one of statesStart and statesEnd is required");
            self.found.add(place, Code::AnyOf, message);
        }
        self.params = Params(listed);
    }

    /// Content that is played as it comes is posted event by event, stored content whole.
    fn downloaded(&mut self, place: &Pointer<'_>, downloaded: bool) {
        let is_stored = match self.endpoint {
            Endpoint::Sessions => false,
            Endpoint::StoredFirst(_) => true,
            // No session starts there.
            Endpoint::Events | Endpoint::Stored => return,
        };
        if downloaded != is_stored {
            let message = if is_stored {
                "expected true: an array is the whole session of stored content"
            } else {
                "expected false or nothing: downloaded content is posted whole, as an array of its events"
            };
            self.found.add(place, Code::Const, format_args!("{message}"));
        }
    }

    fn quality(&mut self, place: &Pointer<'_>, node: Node<'a>) {
        let Some(mut members) = self.object(place, node) else {
            return;
        };
        let mut present = Present::default();
        let mut others = Names::default();
        let mut listed = Vec::with_capacity(members.len().min(QOE.len()));
        for (name, node) in &mut members {
            let member_place = place.member(name);
            match QOE_INDEX.get(name) {
                Some(row) if present.is_first(row) => {
                    self.value(&member_place, QOE[row].kind, node);
                    listed.push((QOE[row].key, taken(node)));
                }
                // Other quality names are documented as free, so they are not pointed out.
                None if others.insert(name) => {}
                _ => self.repeated(&member_place),
            }
        }
        self.quality = Params(listed);
    }

    fn custom_metadata(&mut self, place: &Pointer<'_>, node: Node<'a>) {
        let Some(members) = self.object(place, node) else {
            return;
        };
        let mut keys = Names::default();
        for (key, node) in &members {
            let member_place = place.member(key);
            if !keys.insert(key) {
                self.repeated(&member_place);
                continue;
            }
            if !is_name(key) {
                let message = format_args!(
                    "expected a key of a-z, A-Z, 0-9, _ and . (at least one character)"
                );
                self.found.add(&member_place, Code::PropertyNames, message);
            } else if is_reserved(key) {
                if self.rules.strict {
                    let message = format_args!("keys that begin with a. or media. are reserved");
                    self.found.add(&member_place, Code::PropertyNames, message);
                } else {
                    self.point_out(Section::CustomMetadata, key);
                }
            }
            if !matches!(node, Node::Text(_)) {
                self.mistyped(&member_place, "string", node);
            }
        }
        drop(keys);
        self.custom_metadata = CustomMetadata(members);
    }

    /// Holds one value to its documented type.
    fn value(&mut self, place: &Pointer<'_>, kind: Kind, node: &Node<'_>) {
        if let Node::Overfull { .. } = node {
            let message =
                format_args!("has more members than a valid event of this length can have");
            return self.found.add(place, Code::Json, message);
        }
        let fits = match (kind, node) {
            (Kind::Text, Node::Text(_))
            | (Kind::Flag, Node::Flag(_))
            | (Kind::Number, Node::Number(_)) => true,
            (Kind::NonEmptyText, Node::Text(text)) => {
                if text.is_empty() {
                    let message = format_args!("expected at least one character");
                    self.found.add(place, Code::MinLength, message);
                }
                true
            }
            (Kind::StateName, Node::Text(name)) => {
                if !is_name(name) || name.len() > STATE_NAME_CHARS_MAX {
                    let got = Quoted(name);
                    let message =
                        format_args!("expected 1 to 64 of a-z, A-Z, 0-9, _ and ., got {got}");
                    self.found.add(place, Code::Pattern, message);
                }
                true
            }
            (Kind::Integer | Kind::AuthState, Node::Number(number)) => {
                match integer(number) {
                    None => {
                        self.found.add(
                            place,
                            Code::Type,
                            format_args!("expected integer, got {number}"),
                        );
                    }
                    Some(state) if kind == Kind::AuthState && !(0..=2).contains(&state) => {
                        let message = format_args!("expected 0, 1 or 2, got {number}");
                        self.found.add(place, Code::Enum, message);
                    }
                    Some(_) => {}
                }
                true
            }
            (Kind::CustomerIds, Node::Object(ids)) => {
                for (name, id) in ids {
                    self.members(&place.member(name), id, &CUSTOMER_ID_MEMBERS);
                }
                true
            }
            (Kind::States, Node::List(states)) => {
                for (index, state) in states.iter().enumerate() {
                    self.members(&place.item(index), state, &STATE_MEMBERS);
                }
                true
            }
            _ => false,
        };
        if !fits {
            let wanted = match kind {
                Kind::Text | Kind::NonEmptyText | Kind::StateName => "string",
                Kind::Number => "number",
                Kind::Integer | Kind::AuthState => "integer",
                Kind::Flag => "boolean",
                Kind::CustomerIds => "object",
                Kind::States => "array",
            };
            self.mistyped(place, wanted, node);
        }
    }

    /// An object below a parameter, whose members are all required and no others allowed.
    fn members(&mut self, place: &Pointer<'_>, node: &Node<'_>, known: &[(&'static str, Kind)]) {
        let Node::Object(members) = node else {
            return self.mistyped(place, "object", node);
        };
        for (name, node) in members {
            let member_place = place.member(name);
            if let Some((_, kind)) = known.iter().find(|(known, _)| known == name) {
                self.value(&member_place, *kind, node);
            } else {
                let message = format_args!("not known here");
                self.found.add(&member_place, Code::AdditionalProperties, message);
            }
        }
        for (name, _) in known {
            if member(members, name).is_none() {
                self.found.add(&place.member(name), Code::Required, format_args!("required"));
            }
        }
    }

    fn object(&mut self, place: &Pointer<'_>, node: Node<'a>) -> Option<Vec<Member<'a>>> {
        match node {
            Node::Object(members) => Some(members),
            other => {
                self.mistyped(place, "object", &other);
                None
            }
        }
    }

    fn mistyped(&mut self, place: &Pointer<'_>, wanted: &str, node: &Node<'_>) {
        let message = format_args!("{}", expected(wanted, node));
        self.found.add(place, Code::Type, message);
    }

    /// Points out a name that the table does not list at `place`; strict rules refuse it.
    #[expect(clippy::ptr_arg, reason = "what borrows from the body goes on to do so")]
    fn unlisted<'n>(
        &mut self,
        section: Section,
        place: &Pointer<'_>,
        others: &mut Names<'n>,
        name: &'n Cow<'a, str>,
    ) {
        if !others.insert(name) {
            return self.repeated(&place.member(name));
        }
        if self.rules.strict {
            let hinted = *self.hints > 0;
            *self.hints = self.hints.saturating_sub(1);
            let nearest = if hinted { self.nearest(section, name) } else { None };
            let on = self.event_type.map_or("any event", EventType::name);
            let message = format_args!("not listed on {on}{}", DidYouMean(nearest));
            self.found.add(&place.member(name), Code::AdditionalProperties, message);
        }
        self.point_out(section, name);
    }

    #[expect(clippy::ptr_arg, reason = "what borrows from the body goes on to do so")]
    fn point_out(&mut self, section: Section, name: &Cow<'a, str>) {
        let count = &mut self.unlisted_counts[section as usize];
        *count = count.saturating_add(1);
        if self.unlisted.len() < UNLISTED_MAX {
            self.unlisted.push(Unlisted { section, name: shown(name) });
        }
    }

    /// The known name that was probably meant.
    fn nearest(&self, section: Section, name: &str) -> Option<&'static str> {
        section.nearest(self.event_type.map_or(EventSet::NONE, EventSet::of), name)
    }

    fn repeated(&mut self, place: &Pointer<'_>) {
        self.found.add(place, Code::Json, format_args!("stands twice in the same object"));
    }

    /// A missing member; a name near it in the same object (pointed out since `names_before`) was
    /// probably meant to be it.
    fn missing(
        &mut self,
        place: &Pointer<'_>,
        name: &'static str,
        message: fmt::Arguments<'_>,
        names_before: usize,
    ) {
        let place = place.member(name);
        let is_meant = |found: &&Unlisted<'_>| {
            // One comparison spares that with the whole table.
            parameters::nearest(&found.name, [name]).is_some()
                && self.nearest(found.section, &found.name) == Some(name)
        };
        let near = if self.found.is_full() {
            None
        } else {
            self.unlisted[names_before..].iter().find(is_meant)
        };
        match near.map(|near| Quoted(&near.name)) {
            None => self.found.add(&place, Code::Required, message),
            Some(near) => {
                let message = format_args!("{message}; is {near} meant to be it?");
                self.found.add(&place, Code::Required, message);
            }
        }
    }
}

/// The node, which nobody looks at again.
fn taken<'a>(node: &mut Node<'a>) -> Node<'a> {
    std::mem::replace(node, Node::Null)
}

/// A name as it is pointed out, cut where it grows long.
fn shown<'a>(name: &Cow<'a, str>) -> Cow<'a, str> {
    if name.len() <= TEXT_BYTES_MAX {
        name.clone()
    } else {
        Cow::Owned(cut(name, TEXT_BYTES_MAX).into_owned())
    }
}

/// The keys that an event of this type must have.
struct RequiredKeys {
    event_type: EventType,
    profile: Profile,
}

impl RequiredKeys {
    fn iter(&self) -> impl Iterator<Item = &'static str> {
        let required =
            |parameter: &&Parameter| parameter.is_required(self.event_type, self.profile);
        PARAMS.iter().filter(required).map(|parameter| parameter.key)
    }
}

impl fmt::Display for RequiredKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, key) in self.iter().enumerate() {
            let before = if place == 0 { "" } else { ", " };
            write!(formatter, "{before}{key}")?;
        }
        Ok(())
    }
}

struct WhyRequired {
    parameter: &'static Parameter,
    event_type: EventType,
}

impl fmt::Display for WhyRequired {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { parameter, event_type } = self;
        let description = parameter.description.trim_end_matches('.');
        write!(formatter, "required on {}: {description}", event_type.name())?;
        if parameter.is_required(*event_type, Profile::Open) {
            return Ok(());
        }
        formatter.write_str(" (a server set to validation.profile = \"open\" does not require it)")
    }
}

/// A number without an exponent, unless it is so large or small that it would fill a message with zeros.
struct Decimal(f64);

impl fmt::Display for Decimal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if (1e-6..1e15).contains(&self.0) {
            write!(formatter, "{}", self.0)
        } else {
            write!(formatter, "{:e}", self.0)
        }
    }
}

/// Names of one object that are in no table, to tell one that stands twice. Nearly always there are few of them,
/// and they take no memory of their own.
#[derive(Default)]
struct Names<'n> {
    first: [&'n str; FIRST_NAMES],
    count: usize,
    others: HashSet<&'n str>,
}

/// How many names are looked through one by one.
const FIRST_NAMES: usize = 8;

impl<'n> Names<'n> {
    /// Notes a name; false when it was there before.
    fn insert(&mut self, name: &'n str) -> bool {
        if self.first[..self.count].contains(&name) {
            return false;
        }
        match self.first.get_mut(self.count) {
            Some(free) => {
                *free = name;
                self.count += 1;
                true
            }
            None => self.others.insert(name),
        }
    }
}

/// The members of a table or list that one object has.
#[derive(Default)]
struct Present(u128);

impl Present {
    /// Notes a member; false when it was there before.
    fn is_first(&mut self, row: usize) -> bool {
        let first = !self.has(row);
        self.0 |= 1 << row;
        first
    }

    fn has(&self, row: usize) -> bool {
        self.0 >> row & 1 == 1
    }
}

/// The value of a number with a zero fraction. A larger one than fits saturates: it is an integer
/// all the same, and every bound lies far below.
#[expect(clippy::cast_possible_truncation, reason = "the cast saturates, which is meant")]
fn integer(number: &serde_json::Number) -> Option<i128> {
    match (number.as_i128(), number.as_f64()) {
        (Some(integer), _) => Some(integer),
        (None, Some(float)) if float.fract() == 0.0 => Some(float as i128),
        _ => None,
    }
}

/// One or more of the characters that a metadata key and a state name are made of.
pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.')
}

fn is_reserved(metadata_key: &str) -> bool {
    parameters::RESERVED_METADATA_PREFIXES.iter().any(|prefix| metadata_key.starts_with(prefix))
}

/// What was expected, and the type of what was found.
struct Expected<'w> {
    wanted: &'w str,
    got: &'static str,
}

fn expected<'w>(wanted: &'w str, node: &Node<'_>) -> Expected<'w> {
    Expected { wanted, got: node.type_name() }
}

impl fmt::Display for Expected<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "expected {}, got {}", self.wanted, self.got)
    }
}

struct DidYouMean(Option<&'static str>);

impl fmt::Display for DidYouMean {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |name| write!(formatter, "; did you mean \"{name}\"?"))
    }
}
