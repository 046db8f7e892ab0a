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

use crate::wire;

/// The parts of a report whose members are columns, in their own order.
const FLAT: [&str; 3] = ["client", "metrics", "qoe"];

/// The parts of a report whose members are parameters of the start.
const PARAMETERS: [&str; 4] = ["content", "visitor", "analytics", "privacy"];

/// Writes reports as a table.
pub(super) struct ReportTable<W: Write> {
    pub(super) table: csv::Writer<W>,
    /// The headings, once there is a report.
    columns: Vec<String>,
}

impl<W: Write> ReportTable<W> {
    pub(super) fn new(out: W) -> Self {
        Self { table: csv::Writer::from_writer(out), columns: Vec::new() }
    }

    /// Writes one report, and the headings before the first. What a later report has beyond the first is
    /// not written: the layout of reports is stable within a version.
    pub(super) fn put(&mut self, report: &[u8]) -> io::Result<()> {
        let members: Members<'_> = serde_json::from_slice(report)?;
        let mut columns = Vec::new();
        let mut values = HashMap::new();
        for (name, value) in members.0 {
            let inside = || serde_json::from_str::<Members<'_>>(value.get());
            if FLAT.contains(&&*name) {
                for (name, value) in inside()?.0 {
                    columns.push(name.to_string());
                    values.insert(name, value);
                }
            } else if PARAMETERS.contains(&&*name) {
                values.extend(inside()?.0);
            } else {
                columns.push(name.to_string());
                values.insert(name, value);
            }
        }
        if self.columns.is_empty() {
            columns.extend(wire::start_keys().map(str::to_owned));
            self.columns = columns;
            self.table.write_record(&self.columns).map_err(io_error)?;
        }
        for column in &self.columns {
            let cell = values.get(column.as_str()).map_or(Ok(Cow::Borrowed("")), |v| cell(v))?;
            self.table.write_field(cell.as_ref()).map_err(io_error)?;
        }
        self.table.write_record(None::<&[u8]>).map_err(io_error)
    }
}

/// A value as it stands in a table.
fn cell(value: &RawValue) -> io::Result<Cow<'_, str>> {
    match value.get() {
        "null" => Ok("".into()),
        text if text.starts_with('"') => Ok(serde_json::from_str::<String>(text)?.into()),
        other => Ok(other.into()),
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
        let mut table = ReportTable::new(Vec::new());
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
    }
}
