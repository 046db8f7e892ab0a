//! Reports as the lines of a table: a column for each fact and figure.
//!
//! The parts `client`, `metrics` and `qoe` give their members as columns; `content`, `visitor`, `analytics`
//! and `privacy` give one for each parameter that a session start may have. Lists and custom metadata are
//! JSON. What is null or was not said is empty.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::escape;
use crate::report::Report;
use crate::session::id::{Key, SessionId};
use crate::session::{Opening, Received, Session};
use crate::wire::{self, Profile, Rules, Start};

/// The parts of a report whose members are columns, in their own order.
const FLAT: [&str; 3] = ["client", "metrics", "qoe"];

/// The parts of a report whose members are parameters of the start.
const PARAMETERS: [&str; 4] = ["content", "visitor", "analytics", "privacy"];

/// Writes reports as a table.
pub(super) struct ReportTable<W: Write> {
    pub(super) table: csv::Writer<W>,
    /// The headings, once there is a report.
    columns: Vec<String>,
    /// How text is written.
    text: CellText,
}

/// How text stands in a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CellText {
    /// With an apostrophe before what a spreadsheet would compute.
    NoFormulas,
    /// Without.
    AsItIs,
}

impl CellText {
    /// A text as it stands in a cell; control characters are visible in any case.
    pub(super) fn of(self, text: &str) -> Cow<'_, str> {
        match self {
            Self::NoFormulas => escape::cell(text),
            Self::AsItIs => escape::visible_cell(text),
        }
    }
}

impl<W: Write> ReportTable<W> {
    /// Writes the headings.
    pub(super) fn new(out: W, text: CellText) -> io::Result<Self> {
        let layout = empty_report();
        let members: Members<'_> = serde_json::from_slice(&layout)?;
        let facts = members.cells()?.into_iter().map(|(name, _)| name.into_owned());
        let parameters = wire::start_keys().map(str::to_owned);
        let parts = |name: &String| !wire::start_keys().any(|key| key == name);
        let columns: Vec<_> = facts.filter(parts).chain(parameters).collect();
        let mut table = csv::Writer::from_writer(out);
        table.write_record(&columns).map_err(io_error)?;
        Ok(Self { table, columns, text })
    }

    /// Writes one report. What another version has beyond the layout of this one is not written.
    pub(super) fn put(&mut self, report: &[u8]) -> io::Result<()> {
        let members: Members<'_> = serde_json::from_slice(report)?;
        let values: HashMap<_, _> = members.cells()?.into_iter().collect();
        for column in &self.columns {
            let cell = values
                .get(column.as_str())
                .map_or(Ok(Cow::Borrowed("")), |v| cell(v, self.text))?;
            self.table.write_field(cell.as_ref()).map_err(io_error)?;
        }
        self.table.write_record(None::<&[u8]>).map_err(io_error)
    }
}

/// The report of a session that said as little as it may; it has the layout of all.
fn empty_report() -> Vec<u8> {
    const START: &[u8] =
        br#"{"eventType":"sessionStart","playerTime":{"playhead":0,"ts":0},"params":{
        "media.id":"-","media.length":0,"media.contentType":"","media.playerName":""}}"#;
    let rules = Rules { profile: Profile::Open, strict: false };
    let start = Start::parse(START, rules).expect("it has what is required");
    let session = Session::new(Opening::of(&start, None, None), Received::at(0, 0));
    let id = SessionId::mint(&Key::new([0; Key::BYTES]), 0, [0; 10]);
    serde_json::to_vec(&Report::of(id, &session)).expect("text and finite numbers are JSON")
}

/// A value as it stands in a table. Numbers and what is JSON are no text.
fn cell(value: &RawValue, text: CellText) -> io::Result<Cow<'_, str>> {
    match value.get() {
        "null" => Ok("".into()),
        string if string.starts_with('"') => {
            let value = serde_json::from_str::<Cow<'_, str>>(string)?;
            Ok(text.of(&value).into_owned().into())
        }
        other => Ok(escape::json(other)),
    }
}

/// What a table says of the disk.
pub(super) fn io_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

/// The members of an object, in their order.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Each value that is a cell, in the order of the report.
    fn cells(self) -> io::Result<Vec<(Cow<'a, str>, &'a RawValue)>> {
        let mut cells = Vec::new();
        for (name, value) in self.0 {
            if FLAT.contains(&&*name) || PARAMETERS.contains(&&*name) {
                cells.extend(serde_json::from_str::<Self>(value.get())?.0);
            } else {
                cells.push((name, value));
            }
        }
        Ok(cells)
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;

        impl<'de> Visitor<'de> for Each {
            type Value = Members<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                    members.push((name, map.next_value()?));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fact_and_figure_has_its_column() {
        let mut table = ReportTable::new(Vec::new(), CellText::NoFormulas).unwrap();
        let first = r#"{"version":1,"sessionId":"s","closeReason":null,"client":{"address":"a, \"b\""},
            "content":{"media.id":"film"},"visitor":{"analytics.visitorId":"v"},"analytics":{},
            "customMetadata":{"k":"v"},"privacy":{},"metrics":{"timePlayed":1.5,"isPlayed":true},"qoe":{},
            "ads":[]}"#;
        let second = r#"{"version":1,"sessionId":"t","later":1,"metrics":{"isPlayed":false}}"#;
        table.put(first.as_bytes()).unwrap();
        table.put(second.as_bytes()).unwrap();
        let text = String::from_utf8(table.table.into_inner().unwrap()).unwrap();
        let mut rows = csv::Reader::from_reader(text.as_bytes());
        let names = rows.headers().unwrap().clone();
        let rows: Vec<_> = rows.records().map(Result::unwrap).collect();
        let of = |row: usize, column: &str| {
            rows[row].get(names.iter().position(|name| name == column).unwrap()).unwrap().to_owned()
        };
        for (column, value) in [
            ("version", "1"),
            ("sessionId", "s"),
            ("closeReason", ""),
            ("address", "a, \"b\""),
            ("timePlayed", "1.5"),
            ("isPlayed", "true"),
            ("customMetadata", r#"{"k":"v"}"#),
            ("ads", "[]"),
            ("media.id", "film"),
            ("media.channel", ""),
            ("analytics.visitorId", "v"),
        ] {
            assert_eq!(of(0, column), value, "{column}");
        }
        assert_eq!(of(1, "sessionId"), "t");
        assert_eq!(of(1, "isPlayed"), "false");
        assert!(names.iter().all(|name| name != "later"));
        let distinct: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
        assert_eq!(
            names.iter().take(4).collect::<Vec<_>>(),
            ["version", "sessionId", "status", "closeReason"]
        );
    }

    #[test]
    fn text_of_outsiders_is_no_formula_and_hides_nothing() {
        let report = r#"{"version":1,"sessionId":"s","client":{"userAgent":"+1+1"},
            "content":{"media.id":"=1+1","media.name":"a\u0000\u001b[2J\u202e","media.length":-5},
            "customMetadata":{"k":"=1RLO"},"metrics":{"timePlayed":-1.5}}"#;
        let report = report.replace("RLO", "\u{202e}");
        for (text, id, agent) in
            [(CellText::NoFormulas, "'=1+1", "'+1+1"), (CellText::AsItIs, "=1+1", "+1+1")]
        {
            let mut table = ReportTable::new(Vec::new(), text).unwrap();
            table.put(report.as_bytes()).unwrap();
            let written = String::from_utf8(table.table.into_inner().unwrap()).unwrap();
            let mut rows = csv::Reader::from_reader(written.as_bytes());
            let names = rows.headers().unwrap().clone();
            let row = rows.records().next().unwrap().unwrap();
            let of = |column| row.get(names.iter().position(|name| name == column).unwrap());
            assert_eq!((of("media.id"), of("userAgent")), (Some(id), Some(agent)));
            assert_eq!(of("media.name"), Some("a\\u0000\\u001b[2J\\u202e"));
            assert_eq!((of("media.length"), of("timePlayed")), (Some("-5"), Some("-1.5")));
            assert_eq!(of("customMetadata"), Some(r#"{"k":"=1\u202e"}"#));
        }
    }
}
