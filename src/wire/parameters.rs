//! The one table of what an event may carry: every key, its type, and where it is allowed and required.
//!
//! The validator reads it, and so does whatever else speaks of keys. Types are checked, ranges are
//! not: clients send -1 for an unknown number and for post-rolls. Only `playerTime` has bounds.

use std::sync::LazyLock;

use hashbrown::HashMap;

use Kind::{CustomerIds, Flag, Integer, NonEmptyText, Number, StateName, States, Text};

/// The twenty documented event types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
#[repr(u8)]
pub enum EventType {
    /// Opens a session: intent to play, not playback.
    SessionStart,
    /// The content was played to its end.
    SessionComplete,
    /// The session is over.
    SessionEnd,
    /// A group of ads begins.
    AdBreakStart,
    /// A group of ads has ended.
    AdBreakComplete,
    /// An ad begins.
    AdStart,
    /// An ad was played to its end.
    AdComplete,
    /// An ad was skipped.
    AdSkip,
    /// A chapter begins.
    ChapterStart,
    /// A chapter was played to its end.
    ChapterComplete,
    /// A chapter was skipped.
    ChapterSkip,
    /// Playback begins or goes on.
    Play,
    /// Heartbeat; moves time and playhead.
    Ping,
    /// Playback waits for data.
    BufferStart,
    /// Playback is paused.
    PauseStart,
    /// The bitrate changed.
    BitrateChange,
    /// The player met an error.
    Error,
    /// A player state, such as full screen, begins.
    StateStart,
    /// A player state ends.
    StateEnd,
    /// Several player states begin or end.
    StatesUpdate,
}

impl EventType {
    /// Every event type, in the documented order.
    pub const ALL: [Self; 20] = [
        Self::SessionStart,
        Self::SessionComplete,
        Self::SessionEnd,
        Self::AdBreakStart,
        Self::AdBreakComplete,
        Self::AdStart,
        Self::AdComplete,
        Self::AdSkip,
        Self::ChapterStart,
        Self::ChapterComplete,
        Self::ChapterSkip,
        Self::Play,
        Self::Ping,
        Self::BufferStart,
        Self::PauseStart,
        Self::BitrateChange,
        Self::Error,
        Self::StateStart,
        Self::StateEnd,
        Self::StatesUpdate,
    ];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SessionStart => "sessionStart",
            Self::SessionComplete => "sessionComplete",
            Self::SessionEnd => "sessionEnd",
            Self::AdBreakStart => "adBreakStart",
            Self::AdBreakComplete => "adBreakComplete",
            Self::AdStart => "adStart",
            Self::AdComplete => "adComplete",
            Self::AdSkip => "adSkip",
            Self::ChapterStart => "chapterStart",
            Self::ChapterComplete => "chapterComplete",
            Self::ChapterSkip => "chapterSkip",
            Self::Play => "play",
            Self::Ping => "ping",
            Self::BufferStart => "bufferStart",
            Self::PauseStart => "pauseStart",
            Self::BitrateChange => "bitrateChange",
            Self::Error => "error",
            Self::StateStart => "stateStart",
            Self::StateEnd => "stateEnd",
            Self::StatesUpdate => "statesUpdate",
        }
    }

    /// The event type of that name; names are case-sensitive.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event_type| event_type.name() == name)
    }

    /// The name of the event type that `name` was probably meant to be.
    pub fn nearest_name(name: &str) -> Option<&'static str> {
        nearest(name, Self::ALL.map(Self::name))
    }

    /// What it tells, as a sentence.
    pub(crate) const fn meaning(self) -> &'static str {
        match self {
            Self::SessionStart => "Opens a session: intent to play, not playback.",
            Self::SessionComplete => "The content was played to its end; the session stays open.",
            Self::SessionEnd => "The session is over.",
            Self::AdBreakStart => "A group of ads begins.",
            Self::AdBreakComplete => "A group of ads has ended.",
            Self::AdStart => "An ad begins; it counts within an ad break only.",
            Self::AdComplete => "An ad was played to its end.",
            Self::AdSkip => "An ad was skipped.",
            Self::ChapterStart => "A chapter begins.",
            Self::ChapterComplete => "A chapter was played to its end.",
            Self::ChapterSkip => "A chapter was skipped.",
            Self::Play => "Playback begins or goes on.",
            Self::Ping => {
                "Heartbeat: moves time and playhead; every 10 s of content, every 1 s in ads."
            }
            Self::BufferStart => "Playback waits for data.",
            Self::PauseStart => "Playback is paused.",
            Self::BitrateChange => "The bitrate changed.",
            Self::Error => "The player met an error.",
            Self::StateStart => "A player state, such as full screen, begins.",
            Self::StateEnd => "A player state ends.",
            Self::StatesUpdate => "Several player states begin or end.",
        }
    }
}

/// A set of event types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EventSet(u32);

impl EventSet {
    pub(crate) const ALL: Self = Self((1 << EventType::ALL.len()) - 1);

    pub(crate) const NONE: Self = Self(0);

    pub(crate) const fn of(event_type: EventType) -> Self {
        Self(1 << event_type as u8)
    }

    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn but(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) const fn contains(self, event_type: EventType) -> bool {
        self.0 & Self::of(event_type).0 != 0
    }

    pub(crate) const fn has_all(self, other: Self) -> bool {
        other.but(self).0 == 0
    }

    pub(crate) const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The event types in the documented order.
    pub(crate) fn iter(self) -> impl Iterator<Item = EventType> {
        EventType::ALL.into_iter().filter(move |event_type| self.contains(*event_type))
    }
}

/// What the value of a key must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A string.
    Text,
    /// A string of at least one character.
    NonEmptyText,
    /// A number.
    Number,
    /// A number with a zero fraction; `3.0` is one.
    Integer,
    /// How far a visitor is known: 0, 1 or 2.
    AuthState,
    /// A boolean.
    Flag,
    /// The name of a player state: 1 to 64 of `a-z A-Z 0-9 _ .`.
    StateName,
    /// Declared visitor ids: name → `{"id": string, "authState": 0|1|2}`.
    CustomerIds,
    /// A list of `{"media.state.name": …}`.
    States,
}

/// Which rules decide what must be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// The documented required keys.
    #[default]
    Adobe,
    /// Only what a report needs, for people who do not use Adobe Analytics.
    Open,
}

/// In which profiles a key is required, on every event type that lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Required {
    Never,
    InAdobe,
    Always,
}

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Parameter {
    /// The name on the wire.
    pub(crate) key: &'static str,
    pub(crate) kind: Kind,
    pub(crate) allowed_on: EventSet,
    /// What it is for, as a sentence.
    pub(crate) description: &'static str,
    required: Required,
}

impl Parameter {
    const fn required(mut self) -> Self {
        self.required = Required::Always;
        self
    }

    const fn required_in_adobe(mut self) -> Self {
        self.required = Required::InAdobe;
        self
    }

    /// Whether sessions could not be followed, or their figures not computed, without its value.
    pub(crate) fn is_needed(&self) -> bool {
        self.required == Required::Always || COMPUTED_FROM.contains(&self.key)
    }

    /// Whether its value is text, or an object of ids that are.
    pub(crate) fn is_text(&self) -> bool {
        matches!(self.kind, Text | NonEmptyText | StateName | CustomerIds)
    }

    pub(crate) fn is_required(&self, event_type: EventType, profile: Profile) -> bool {
        self.allowed_on.contains(event_type)
            && match self.required {
                Required::Never => false,
                Required::InAdobe => profile == Profile::Adobe,
                Required::Always => true,
            }
    }
}

const fn parameter(
    key: &'static str,
    kind: Kind,
    allowed_on: EventSet,
    description: &'static str,
) -> Parameter {
    Parameter { key, kind, allowed_on, description, required: Required::Never }
}

const START: EventSet = EventSet::of(EventType::SessionStart);
const AD_BREAK_START: EventSet = EventSet::of(EventType::AdBreakStart);
const AD_START: EventSet = EventSet::of(EventType::AdStart);
const CHAPTER_START: EventSet = EventSet::of(EventType::ChapterStart);
const ERROR: EventSet = EventSet::of(EventType::Error);
const STATE_CHANGE: EventSet =
    EventSet::of(EventType::StateStart).and(EventSet::of(EventType::StateEnd));
const STATES_UPDATE: EventSet = EventSet::of(EventType::StatesUpdate);
const ALL_BUT_PING: EventSet = EventSet::ALL.but(EventSet::of(EventType::Ping));

/// The keys of `params`.
#[rustfmt::skip]
pub(crate) static PARAMS: &[Parameter] = &[
    // analytics
    parameter("analytics.trackingServer", Text, START, "Host of the analytics collection server the session is billed to.").required_in_adobe(),
    parameter("analytics.reportSuite", Text, START, "Report suite identifier that receives the data.").required_in_adobe(),
    parameter("analytics.enableSSL", Flag, START, "Whether data is forwarded over HTTPS."),
    parameter("analytics.visitorId", Text, START, "Custom visitor identifier (VID)."),
    parameter("analytics.aid", Text, START, "Legacy analytics visitor identifier."),
    // privacy
    parameter("analytics.optOutServerSideForwarding", Flag, START, "Viewer refused sharing with other solutions."),
    parameter("analytics.optOutShare", Flag, START, "Viewer refused federation to other customers."),
    // visitor
    parameter("visitor.marketingCloudOrgId", Text, START, "Organization identifier; doubles as publisher id for federation rules.").required_in_adobe(),
    parameter("visitor.marketingCloudUserId", Text, START, "Experience Cloud visitor id (ECID, MID)."),
    parameter("visitor.aamLocationHint", Integer, START, "Audience Manager region; absent means null."),
    parameter("visitor.customerIDs", CustomerIds, START, "Declared ids: name -> {id: string, authState: 0|1|2}."),
    parameter("appInstallationId", Text, START, "Stable id of one app on one device; lets the back end derive a visitor id."),
    // content
    parameter("media.id", NonEmptyText, START, "Unique content id.").required(),
    parameter("media.name", Text, START, "Readable content title."),
    parameter("media.length", Number, START, "Content duration in seconds; 0 means unknown; 86400 for endless live.").required(),
    parameter("media.contentType", Text, START, "Stream format, free text (vod, live, linear, ugc, dvod, song, podcast, audiobook, radio, aod …); empty is reported as missing_content_type.").required(),
    parameter("media.streamType", Text, START, "audio or video; anything else is treated as video in reports."),
    parameter("media.playerName", Text, START, "Player that renders the content.").required(),
    parameter("media.channel", Text, START, "Distribution channel, app, site or property.").required_in_adobe(),
    parameter("media.resume", Flag, START, "True when an earlier, closed playback is being continued."),
    parameter("media.downloaded", Flag, START, "Playback of stored content; such a session is posted whole."),
    parameter("media.sdkVersion", Text, START, "Version of the player application."),
    parameter("media.libraryVersion", Text, START, "Version of the tracking library."),
    // video metadata
    parameter("media.show", Text, START, "Series or program name."),
    parameter("media.season", Text, START, "Season number."),
    parameter("media.episode", Text, START, "Episode number."),
    parameter("media.assetId", Text, START, "Asset id from a metadata authority."),
    parameter("media.genre", Text, START, "Genre; several are comma separated."),
    parameter("media.firstAirDate", Text, START, "First television air date, YYYY-MM-DD advised."),
    parameter("media.firstDigitalDate", Text, START, "First digital air date, YYYY-MM-DD advised."),
    parameter("media.rating", Text, START, "Audience rating."),
    parameter("media.originator", Text, START, "Creator or studio."),
    parameter("media.network", Text, START, "Network or channel name."),
    parameter("media.showType", Text, START, "0 full episode, 1 preview, 2 clip, 3 other; other text accepted."),
    parameter("media.adLoad", Text, START, "Kind of ad load."),
    parameter("media.pass.mvpd", Text, START, "Pay-TV provider that authenticated the viewer."),
    parameter("media.pass.auth", Text, START, "Text true (any case) when authorized; otherwise leave out."),
    parameter("media.dayPart", Text, START, "Part of the day."),
    parameter("media.feed", Text, START, "Feed, such as East-HD."),
    parameter("media.streamFormat", Text, START, "Quality tier, such as HD."),
    // audio metadata
    parameter("media.artist", Text, START, "Performing artist."),
    parameter("media.album", Text, START, "Album."),
    parameter("media.label", Text, START, "Record label."),
    parameter("media.author", Text, START, "Author."),
    parameter("media.station", Text, START, "Radio station."),
    parameter("media.publisher", Text, START, "Publisher of the (audio) content."),
    // ad break
    parameter("media.ad.podFriendlyName", Text, AD_BREAK_START.and(AD_START), "Ad break name; accepted on adStart too but only adBreakStart sets it."),
    parameter("media.ad.podIndex", Integer, AD_BREAK_START, "Index of the break in the content (clients start at 0 or 1).").required_in_adobe(),
    parameter("media.ad.podSecond", Number, AD_BREAK_START, "Offset of the break in the content, seconds.").required_in_adobe(),
    // ad
    parameter("media.ad.podPosition", Integer, AD_START, "Index of the ad in its break (clients start at 0 or 1).").required_in_adobe(),
    parameter("media.ad.id", Text, AD_START, "Ad id.").required_in_adobe(),
    parameter("media.ad.name", Text, AD_START, "Readable ad title."),
    parameter("media.ad.length", Number, AD_START, "Ad duration, seconds.").required_in_adobe(),
    parameter("media.ad.playerName", Text, AD_START, "Player that renders the ad.").required_in_adobe(),
    // ad metadata
    parameter("media.ad.advertiser", Text, AD_START, "Advertised brand."),
    parameter("media.ad.campaignId", Text, AD_START, "Campaign id."),
    parameter("media.ad.creativeId", Text, AD_START, "Creative id."),
    parameter("media.ad.creativeURL", Text, AD_START, "Creative URL."),
    parameter("media.ad.siteId", Text, AD_START, "Ad site id."),
    parameter("media.ad.placementId", Text, AD_START, "Placement id."),
    // chapter
    parameter("media.chapter.index", Integer, CHAPTER_START, "Position of the chapter in the content.").required_in_adobe(),
    parameter("media.chapter.offset", Number, CHAPTER_START, "Second at which the chapter starts.").required_in_adobe(),
    parameter("media.chapter.length", Number, CHAPTER_START, "Chapter duration, seconds.").required_in_adobe(),
    parameter("media.chapter.friendlyName", Text, CHAPTER_START, "Chapter title."),
    // player state
    parameter("media.state.name", StateName, STATE_CHANGE, "Player state name; standard or custom.").required(),
    parameter("statesStart", States, STATES_UPDATE, "States that begin; at least one of statesStart and statesEnd must be present."),
    parameter("statesEnd", States, STATES_UPDATE, "States that end; handled before statesStart."),
    // error alias
    parameter("media.errorId", Text, ERROR, "Alias of qoeData media.qoe.errorID."),
    parameter("media.errorSource", Text, ERROR, "Alias of qoeData media.qoe.errorSource."),
    // quality alias
    parameter("media.qoe.bitrate", Number, ALL_BUT_PING, "Alias of the qoeData key; qoeData wins."),
    parameter("media.qoe.droppedFrames", Number, ALL_BUT_PING, "Alias of the qoeData key; qoeData wins."),
    parameter("media.qoe.framesPerSecond", Number, ALL_BUT_PING, "Alias of the qoeData key; qoeData wins."),
    parameter("media.qoe.timeToStart", Number, ALL_BUT_PING, "Alias of the qoeData key; qoeData wins."),
    parameter("media.qoe.errorID", Text, ALL_BUT_PING, "Alias of the qoeData key; qoeData wins."),
    parameter("media.qoe.errorSource", Text, ALL_BUT_PING, "Alias of the qoeData key; qoeData wins."),
];

/// The keys of `qoeData`, all optional on every event.
#[rustfmt::skip]
pub(crate) static QOE: &[Parameter] = &[
    parameter("media.qoe.bitrate", Number, EventSet::ALL, "Current bitrate, bits per second."),
    parameter("media.qoe.droppedFrames", Number, EventSet::ALL, "Frames dropped since the session began (running total)."),
    parameter("media.qoe.framesPerSecond", Number, EventSet::ALL, "Current frame rate."),
    parameter("media.qoe.timeToStart", Number, EventSet::ALL, "Milliseconds from the play request to the first frame."),
    parameter("media.qoe.errorID", Text, EventSet::ALL, "Identifier of a player error."),
    parameter("media.qoe.errorSource", Text, EventSet::ALL, "player or external; anything else counts as player."),
];

/// Keys of `params` by which a session is followed or its figures are computed, beside those that are always
/// required. All others are only repeated in the report.
const COMPUTED_FROM: [&str; 17] = [
    "media.streamType",
    "media.resume",
    "media.pass.auth",
    "media.ad.podIndex",
    "media.ad.podSecond",
    "media.chapter.index",
    "media.chapter.offset",
    "statesStart",
    "statesEnd",
    "media.errorId",
    "media.errorSource",
    "media.qoe.bitrate",
    "media.qoe.droppedFrames",
    "media.qoe.framesPerSecond",
    "media.qoe.timeToStart",
    "media.qoe.errorID",
    "media.qoe.errorSource",
];

/// The members of an event body.
pub(crate) const BODY_MEMBERS: [&str; 5] =
    ["eventType", "playerTime", "params", "qoeData", "customMetadata"];

/// The members of `playerTime`.
pub(crate) const PLAYER_TIME_MEMBERS: [&str; 2] = ["playhead", "ts"];

/// The largest `ts`: the largest integer that every JSON reader holds exactly, 2^53 - 1.
pub(crate) const TS_MAX: u64 = (1 << 53) - 1;

/// The most characters that the name of a player state has.
pub(crate) const STATE_NAME_CHARS_MAX: usize = 64;

/// The members of a declared visitor id: each is required, and there are no others.
pub(crate) const CUSTOMER_ID_MEMBERS: [(&str, Kind); 2] =
    [("id", Text), ("authState", Kind::AuthState)];

/// The members of a player state in a list: each is required, and there are no others.
pub(crate) const STATE_MEMBERS: [(&str, Kind); 1] = [("media.state.name", StateName)];

/// How keys of `customMetadata` begin that are reserved: discouraged, and refused by strict rules.
pub(crate) const RESERVED_METADATA_PREFIXES: [&str; 2] = ["a.", "media."];

/// Values of `media.contentType`, compared without case, that mean live content.
pub(crate) const LIVE_CONTENT_TYPES: [&str; 3] = ["live", "linear", "radio"];

/// The place of a key in its table, found by name.
pub(crate) struct Index(HashMap<&'static str, u8>);

impl Index {
    fn of(table: &'static [Parameter]) -> Self {
        // A set of keys is a `u128`, so a table of more rows would have to change that first.
        assert!(table.len() <= 128, "at most 128 keys a table");
        Self(table.iter().map(|parameter| parameter.key).zip(0..).collect())
    }

    /// The row of `key`, if the table lists it.
    pub(crate) fn get(&self, key: &str) -> Option<usize> {
        self.0.get(key).copied().map(usize::from)
    }
}

/// Finds the rows of [`PARAMS`].
pub(crate) static PARAMS_INDEX: LazyLock<Index> = LazyLock::new(|| Index::of(PARAMS));

/// Finds the rows of [`QOE`].
pub(crate) static QOE_INDEX: LazyLock<Index> = LazyLock::new(|| Index::of(QOE));

/// The known name that `name` was probably meant to be: the same but for case, or at most two
/// typing errors away.
pub(crate) fn nearest(
    name: &str,
    known: impl IntoIterator<Item = &'static str>,
) -> Option<&'static str> {
    /// No known name is longer; a stranger's may be, and the distance is quadratic in the length.
    const NAME_BYTES_MAX: usize = 64;
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let folded = name.to_ascii_lowercase();
    known
        .into_iter()
        .filter(|known| known.len().abs_diff(name.len()) <= 2)
        .map(|known| (strsim::osa_distance(&folded, &known.to_ascii_lowercase()), known))
        .filter(|(distance, known)| *distance <= 2 && *distance * 3 <= known.len())
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The specification's own copy of the table.
    fn specification() -> serde_json::Value {
        serde_json::from_str(include_str!("../../tests/it/data/parameters.json")).unwrap()
    }

    fn names(list: &serde_json::Value) -> BTreeSet<&str> {
        list.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
    }

    fn holds(table: &[Parameter], rows: &serde_json::Value) {
        let rows = rows.as_array().unwrap();
        assert_eq!(table.len(), rows.len());
        for (parameter, row) in table.iter().zip(rows) {
            assert_eq!(parameter.key, row["key"], "keys stand in the specification's order");
            let key = parameter.key;
            let kind = match parameter.kind {
                Text | NonEmptyText | StateName => "string",
                Number => "number",
                Integer | Kind::AuthState => "integer",
                Flag => "boolean",
                CustomerIds => "object",
                States => "array",
            };
            assert_eq!(kind, row["type"], "type of {key}");
            assert_eq!(parameter.kind == NonEmptyText, row["minLength"] == 1, "{key}");
            assert_eq!(parameter.kind == StateName, row["pattern"].is_string(), "{key}");
            let set = |holds: &dyn Fn(EventType) -> bool| -> BTreeSet<&str> {
                EventType::ALL.into_iter().filter(|e| holds(*e)).map(EventType::name).collect()
            };
            assert_eq!(
                set(&|e| parameter.allowed_on.contains(e)),
                names(&row["allowed_on"]),
                "{key}"
            );
            assert_eq!(
                set(&|e| parameter.is_required(e, Profile::Adobe)),
                names(&row["required_on"]),
                "{key}"
            );
        }
    }

    #[test]
    fn the_table_is_the_specification() {
        let specification = specification();
        holds(PARAMS, &specification["params"]);
        holds(QOE, &specification["qoeData"]);
        let listed: Vec<_> = specification["eventTypes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["name"].as_str().unwrap())
            .collect();
        assert_eq!(EventType::ALL.map(EventType::name).to_vec(), listed);
        assert_eq!(
            names(&specification["body"]["allowed"]),
            BODY_MEMBERS.into_iter().collect::<BTreeSet<_>>()
        );
        assert_eq!(
            names(&specification["playerTime"]["required"]),
            PLAYER_TIME_MEMBERS.into_iter().collect::<BTreeSet<_>>()
        );
        assert_eq!(
            names(&specification["liveContentTypes"]),
            LIVE_CONTENT_TYPES.into_iter().collect::<BTreeSet<_>>()
        );
    }

    #[test]
    fn the_open_profile_requires_what_a_report_needs_and_nothing_else() {
        let required: Vec<_> = PARAMS
            .iter()
            .filter(|p| EventType::ALL.iter().any(|e| p.is_required(*e, Profile::Open)))
            .map(|p| p.key)
            .collect();
        assert_eq!(
            required,
            [
                "media.id",
                "media.length",
                "media.contentType",
                "media.playerName",
                "media.state.name"
            ]
        );
    }

    #[test]
    fn what_figures_are_computed_from_is_in_the_table() {
        assert!(COMPUTED_FROM.iter().all(|key| PARAMS_INDEX.get(key).is_some()));
        let needed = PARAMS.iter().filter(|parameter| parameter.is_needed()).count();
        assert_eq!(needed, COMPUTED_FROM.len() + 5);
    }

    #[test]
    fn event_types_are_found_by_name_and_bit() {
        for (position, event_type) in EventType::ALL.into_iter().enumerate() {
            assert_eq!(event_type as usize, position);
            assert_eq!(EventType::from_name(event_type.name()), Some(event_type));
        }
        assert_eq!(EventType::from_name("sessionstart"), None);
    }

    #[test]
    fn a_near_name_is_found_and_a_far_one_is_not() {
        let keys = || PARAMS.iter().map(|parameter| parameter.key);
        assert_eq!(nearest("media.ID", keys()), Some("media.id"));
        assert_eq!(nearest("media.chanel", keys()), Some("media.channel"));
        assert_eq!(
            nearest("visitor.marketingCloudOrgID", keys()),
            Some("visitor.marketingCloudOrgId")
        );
        assert_eq!(nearest("something.else", keys()), None);
        assert_eq!(nearest("x", keys()), None);
        assert_eq!(nearest(&"media.id".repeat(100_000), keys()), None);
    }
}
