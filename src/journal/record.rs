//! One record ↔ one line.
//!
//! ```text
//! {"seq":7,"received_ms":1700000000000,"kind":"start","sid":"…","body":{…},"crc":"9ae0daaf"}\n
//!  └──────────── what the checksum covers, from the brace on ───────────┘
//! ```
//! `crc` is the CRC-32C of all that stands before `,"crc"`, as eight hexadecimal digits. It stands last
//! and always has the same length, so a damaged line is known without reading it as JSON.
//!
//! No line is longer than [`LINE_BYTES_MAX`]: readers take no more, and a record that would be longer cannot be made
//! ready. So whatever is appended can be read back.

use std::borrow::Cow;
use std::io::Write;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::session::id::SessionId;
use crate::session::{CloseReason, Terms};

/// What stands before the digits of the checksum.
const CRC_KEY: &[u8] = b",\"crc\":\"";

/// What stands after them, without the line break.
const CRC_END: &[u8] = b"\"}";

/// The longest line of a journal, with its line break, in bytes: a stored session of 16 MiB, or a report, and what
/// stands around it. A longer one is damage, and no reader takes it into memory.
pub const LINE_BYTES_MAX: usize = 32 << 20;

/// The longest report that a line has room for, in bytes.
pub const REPORT_BYTES_MAX: usize = LINE_BYTES_MAX - (1 << 10);

/// What stands around the members of a record at most: its place, its checksum, and the line break.
const AROUND_BYTES_MAX: usize =
    "{\"seq\":18446744073709551615,\"received_ms\":18446744073709551615,".len()
        + CRC_KEY.len()
        + 8
        + CRC_END.len()
        + 1;

/// What stands before the last value.
const BODY_KEY: &[u8] = b",\"body\":";
const REPORT_KEY: &[u8] = b",\"report\":";

/// Raised when segments change so that an older version would misread them. From 2 on each begins with `settings`.
const VERSION: u32 = 2;

/// One record of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its place: one more than the record before it; the first is 1.
    pub seq: u64,
    /// When it was received, in ms since the Unix epoch by the server's clock; falls at a pause that sets it back, and
    /// nowhere else.
    pub received_ms: u64,
    /// What it says.
    pub content: Content<'a>,
}

/// What a record says, beside its place and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// A session began.
    Start {
        /// Its id.
        sid: SessionId,
        /// The client's address, as far as the privacy settings keep it.
        client: Option<Cow<'a, str>>,
        /// The client's user agent, if the privacy settings keep it.
        user_agent: Option<Cow<'a, str>>,
        /// The body as it came but for what the privacy settings take out, without line breaks.
        body: Cow<'a, [u8]>,
    },
    /// Something happened in a session.
    Event {
        /// The session.
        sid: SessionId,
        /// The body as it came but for what the privacy settings take out, without line breaks.
        body: Cow<'a, [u8]>,
    },
    /// A stored session came whole, and ended at once.
    Batch {
        /// Its id.
        sid: SessionId,
        /// The client's address, as far as the privacy settings keep it.
        client: Option<Cow<'a, str>>,
        /// The client's user agent, if the privacy settings keep it.
        user_agent: Option<Cow<'a, str>>,
        /// The array of its events as it came but for what the privacy settings take out, without line breaks.
        body: Cow<'a, [u8]>,
    },
    /// A deadline of a session passed.
    Close {
        /// The session.
        sid: SessionId,
        /// Which deadline.
        reason: CloseReason,
    },
    /// What a session was, now that it has ended.
    Report {
        /// The session.
        sid: SessionId,
        /// The report, as JSON on one line.
        report: Cow<'a, [u8]>,
    },
    /// These terms hold for sessions from here on; in a journal without it, the default ones.
    ///
    /// Each segment begins with one that also tells the pauses so far, so that a reader needs no segment before it.
    Settings {
        /// The terms.
        terms: Terms,
        /// All the time before it that the server was down or could not write, in ms; none where an older version
        /// wrote it, which told only when the terms changed.
        paused_ms: Option<u64>,
        /// By how much stamps were set back before it, all together, in ms.
        set_back_ms: u64,
    },
    /// The server was down or could not write, its machine slept, or its clock was set; this counts against no
    /// session.
    Pause {
        /// For how long nothing could be received, as far as the stamps tell, in ms.
        down_ms: u64,
        /// By how much stamps are set back from here on, in ms: mostly 0. Nowhere else do they fall.
        set_back_ms: u64,
    },
    /// Records stood here that were erased. It stands for all of their numbers, from its own on, so that
    /// the numbers have no gap.
    Erased {
        /// How many they were; at least one.
        count: u64,
        /// When the last of them was received, in ms since the Unix epoch; none if with the first.
        until_ms: Option<u64>,
        /// When they were erased, in ms since the Unix epoch.
        erased_ms: u64,
    },
}

/// Why a line is no record.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It does not end as a record ends.
    #[error("it does not end as a record ends")]
    Incomplete,
    /// Its checksum does not fit.
    #[error("its checksum does not fit")]
    Checksum,
    /// It stands in a compressed segment that cannot be unpacked from there on.
    #[error("the rest cannot be unpacked: {0}")]
    Unreadable(String),
    /// Its checksum fits, but this version does not know what it says.
    #[error("it is no record that this version knows: {0}")]
    Unknown(String),
}

/// A record that would be longer than what a reader takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a line of the journal has at most {LINE_BYTES_MAX} bytes, and this {kind} would have {bytes}"
)]
pub struct TooLong {
    /// The kind of the record.
    pub kind: &'static str,
    /// How long its line would be at most, in bytes.
    pub bytes: usize,
}

/// The members of every kind of record, in the order in which they are written.
#[derive(Serialize, Deserialize)]
struct Members<'a> {
    kind: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    sid: Option<SessionId>,
    #[serde(borrow, skip_serializing_if = "Option::is_none", default)]
    client: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none", default)]
    user_agent: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    reason: Option<CloseReason>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    version: Option<u32>,
    /// It has its name from when it told of time-outs alone.
    #[serde(rename = "timeouts", skip_serializing_if = "Option::is_none", default)]
    terms: Option<Terms>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    paused_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    down_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    set_back_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    until_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    erased_ms: Option<u64>,
    /// Written by hand, so that it is copied only once; so is the next.
    #[serde(borrow, skip_serializing, default)]
    body: Option<&'a RawValue>,
    #[serde(borrow, skip_serializing, default)]
    report: Option<&'a RawValue>,
}

/// From this size on the last member of a record is not copied: it is written from where it is.
pub const LARGE_BYTES: usize = 64 << 10;

/// From this size on the last member is summed before the lock is taken. Combining two checksums costs about as
/// much as summing so many bytes.
const SUMMED_BYTES: usize = 16 << 10;

const MEMORY: &str = "writing to memory does not fail";

/// A record made ready outside of any lock: all of its line that does not depend on its place. Whatever its place,
/// its line is no longer than [`LINE_BYTES_MAX`].
#[derive(Debug)]
pub struct Encoded<'a> {
    /// The members before the last one, with the braces of their object.
    head: Vec<u8>,
    /// The last member, JSON as it is.
    tail: Option<Tail<'a>>,
    /// The checksum of the last value alone, if it is large enough to be summed apart.
    tail_crc: Option<u32>,
}

/// The member of a record that is copied as it is.
#[derive(Debug)]
enum Tail<'a> {
    Body(Cow<'a, [u8]>),
    Report(Cow<'a, [u8]>),
}

impl Tail<'_> {
    /// What stands before the value, and the value.
    fn parts(&self) -> (&'static [u8], &[u8]) {
        match self {
            Self::Body(body) => (BODY_KEY, body),
            Self::Report(report) => (REPORT_KEY, report),
        }
    }
}

impl<'a> Encoded<'a> {
    /// Makes a record ready. A body is written without blanks around it, as it will be read; one with a line
    /// break, which can only stand between its tokens, without any blanks.
    ///
    /// # Errors
    /// [`TooLong`]: there is no other way to a line, so none is longer than what a reader takes.
    pub fn new(content: Content<'a>) -> Result<Self, TooLong> {
        let kind = content.kind();
        let empty = Members {
            kind: Cow::Borrowed(kind),
            sid: content.sid(),
            client: None,
            user_agent: None,
            reason: None,
            version: None,
            terms: None,
            paused_ms: None,
            down_ms: None,
            set_back_ms: None,
            count: None,
            until_ms: None,
            erased_ms: None,
            body: None,
            report: None,
        };
        let (members, tail) = match content {
            Content::Start { client, user_agent, body, .. }
            | Content::Batch { client, user_agent, body, .. } => {
                (Members { client, user_agent, ..empty }, Some(Tail::Body(on_one_line(body))))
            }
            Content::Event { body, .. } => (empty, Some(Tail::Body(on_one_line(body)))),
            Content::Report { report, .. } => (empty, Some(Tail::Report(report))),
            Content::Close { reason, .. } => (Members { reason: Some(reason), ..empty }, None),
            Content::Settings { terms, paused_ms, set_back_ms } => {
                let version = paused_ms.map(|_| VERSION);
                let set_back_ms = Some(set_back_ms).filter(|ms| *ms > 0);
                (Members { version, terms: Some(terms), paused_ms, set_back_ms, ..empty }, None)
            }
            Content::Pause { down_ms, set_back_ms } => {
                let set_back_ms = Some(set_back_ms).filter(|ms| *ms > 0);
                // A version that does not know of steps back must not pass one over: to it, this lacks a member.
                let down_ms = Some(down_ms).filter(|ms| *ms > 0 || set_back_ms.is_none());
                (Members { down_ms, set_back_ms, ..empty }, None)
            }
            Content::Erased { count, until_ms, erased_ms } => {
                let (count, erased_ms) = (Some(count), Some(erased_ms));
                (Members { count, until_ms, erased_ms, ..empty }, None)
            }
        };
        let mut head = Vec::with_capacity(256);
        serde_json::to_writer(&mut head, &members).expect("text and numbers are JSON");
        let (name, value) = tail.as_ref().map_or((&b""[..], &b""[..]), Tail::parts);
        let members = head.len() - "{}".len();
        let bytes = AROUND_BYTES_MAX + members + name.len() + value.len();
        if bytes > LINE_BYTES_MAX {
            return Err(TooLong { kind, bytes });
        }
        let tail_crc = (value.len() >= SUMMED_BYTES).then(|| crc32c::crc32c(value));
        Ok(Self { head, tail, tail_crc })
    }

    /// The same of a record that the server makes by itself: it has neither a body nor a report.
    pub fn short(content: Content<'a>) -> Self {
        Self::new(content).expect("without a body and a report it has some hundred bytes")
    }

    /// The body as the line has it; nothing if the record has none.
    pub fn body(&self) -> &[u8] {
        match &self.tail {
            Some(Tail::Body(body)) => body,
            _ => &[],
        }
    }

    /// Appends the line of the record, with its line break.
    pub fn write_line(&self, buffer: &mut Vec<u8>, seq: u64, received_ms: u64) {
        let begin = buffer.len();
        write_head(buffer, seq, received_ms, &self.head);
        let mut head_crc = None;
        if let Some(tail) = &self.tail {
            let (name, value) = tail.parts();
            buffer.extend_from_slice(name);
            head_crc = self.tail_crc.map(|tail_crc| {
                crc32c::crc32c_combine(crc32c::crc32c(&buffer[begin..]), tail_crc, value.len())
            });
            buffer.extend_from_slice(value);
        }
        let crc = head_crc.unwrap_or_else(|| crc32c::crc32c(&buffer[begin..]));
        write_crc(buffer, crc);
    }
}

/// What stands before the last member.
fn write_head(buffer: &mut Vec<u8>, seq: u64, received_ms: u64, members: &[u8]) {
    write!(buffer, "{{\"seq\":{seq},\"received_ms\":{received_ms},").expect(MEMORY);
    buffer.extend_from_slice(&members[1..members.len() - 1]);
}

/// What stands after it.
fn write_crc(buffer: &mut Vec<u8>, crc: u32) {
    buffer.extend_from_slice(CRC_KEY);
    write!(buffer, "{crc:08x}").expect(MEMORY);
    buffer.extend_from_slice(CRC_END);
    buffer.push(b'\n');
}

/// A record that may be large, made ready as a whole: its last value is shared and summed, so that giving it a
/// place costs the same whatever its size.
#[derive(Debug)]
pub struct Detached {
    /// See [`Encoded`].
    head: Vec<u8>,
    /// What stands before the last value.
    name: &'static [u8],
    value: Bytes,
    value_crc: u32,
    /// The memory that it keeps from being freed, in bytes.
    held_bytes: usize,
}

impl Detached {
    /// The record of a stored session, which shares its body unless that has a line break.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn batch(
        sid: SessionId,
        client: Option<&str>,
        user_agent: Option<&str>,
        body: &Bytes,
    ) -> Result<Self, TooLong> {
        let encoded = Encoded::new(Content::Batch {
            sid,
            client: client.map(Cow::Borrowed),
            user_agent: user_agent.map(Cow::Borrowed),
            body: Cow::Borrowed(body),
        })?;
        Ok(Self::of(encoded, body))
    }

    /// The record of a report.
    ///
    /// # Errors
    /// [`TooLong`]; one of [`REPORT_BYTES_MAX`] is not.
    pub fn report(sid: SessionId, report: Vec<u8>) -> Result<Self, TooLong> {
        let report = Bytes::from(report);
        let encoded = Encoded::new(Content::Report { sid, report: Cow::Borrowed(&report) })?;
        Ok(Self::of(encoded, &report))
    }

    /// A record whose last value is a part of `source`, or was made anew.
    fn of(encoded: Encoded<'_>, source: &Bytes) -> Self {
        let Encoded { head, tail, tail_crc } = encoded;
        let (name, value) = match tail {
            Some(Tail::Body(value)) => (BODY_KEY, value),
            Some(Tail::Report(value)) => (REPORT_KEY, value),
            None => (&b""[..], Cow::Borrowed(&[][..])),
        };
        let (value, held_bytes) = match value {
            // A body with many blanks around it is held whole.
            Cow::Borrowed(part) => (source.slice_ref(part), source.len()),
            Cow::Owned(whole) => {
                let whole = Bytes::from(whole.into_boxed_slice());
                let bytes = whole.len();
                (whole, bytes)
            }
        };
        let value_crc = tail_crc.unwrap_or_else(|| crc32c::crc32c(&value));
        Self { held_bytes: held_bytes + head.len(), head, name, value, value_crc }
    }

    /// The last value as the line has it: the body, or the report.
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// The memory that it keeps from being freed, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Appends the line of the record, with its line break. A large value is left out: then this gives it, and
    /// where in the buffer it belongs.
    pub fn write_line(
        &self,
        buffer: &mut Vec<u8>,
        seq: u64,
        received_ms: u64,
    ) -> Option<(usize, Bytes)> {
        let begin = buffer.len();
        write_head(buffer, seq, received_ms, &self.head);
        buffer.extend_from_slice(self.name);
        let head_crc = crc32c::crc32c(&buffer[begin..]);
        let place = buffer.len();
        let is_large = self.value.len() >= LARGE_BYTES;
        if !is_large {
            buffer.extend_from_slice(&self.value);
        }
        let crc = crc32c::crc32c_combine(head_crc, self.value_crc, self.value.len());
        write_crc(buffer, crc);
        is_large.then(|| (place, self.value.clone()))
    }
}

impl Content<'_> {
    /// The name of the kind, as in the record.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Start { .. } => "start",
            Self::Event { .. } => "event",
            Self::Batch { .. } => "batch",
            Self::Close { .. } => "close",
            Self::Report { .. } => "report",
            Self::Settings { .. } => "settings",
            Self::Pause { .. } => "pause",
            Self::Erased { .. } => "erased",
        }
    }

    /// The session that the record is about.
    pub fn sid(&self) -> Option<SessionId> {
        match self {
            Self::Start { sid, .. }
            | Self::Event { sid, .. }
            | Self::Batch { sid, .. }
            | Self::Close { sid, .. }
            | Self::Report { sid, .. } => Some(*sid),
            Self::Settings { .. } | Self::Pause { .. } | Self::Erased { .. } => None,
        }
    }
}

impl<'a> Record<'a> {
    /// Reads a line, given without its line break.
    ///
    /// # Errors
    /// [`Damage`].
    pub fn read(line: &'a [u8]) -> Result<Self, Damage> {
        #[derive(Deserialize)]
        struct Place {
            seq: u64,
            received_ms: u64,
        }
        hold_to_checksum(line)?;
        let unknown = |error: serde_json::Error| Damage::Unknown(error.to_string());
        let place: Place = serde_json::from_slice(line).map_err(unknown)?;
        let members: Members<'a> = serde_json::from_slice(line).map_err(unknown)?;
        Ok(Self {
            seq: place.seq,
            received_ms: place.received_ms,
            content: members.into_content()?,
        })
    }

    /// The last number that it stands for: its own, but for what was erased.
    pub fn last_seq(&self) -> u64 {
        match self.content {
            Content::Erased { count, .. } => self.seq.saturating_add(count - 1),
            _ => self.seq,
        }
    }

    /// When the last record that it stands for was received, in ms since the Unix epoch.
    pub fn last_ms(&self) -> u64 {
        match self.content {
            Content::Erased { until_ms: Some(until_ms), .. } => until_ms.max(self.received_ms),
            _ => self.received_ms,
        }
    }
}

/// What stands at the front of a line, read without reading the rest as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// Its place.
    pub seq: u64,
    /// When it was received, in ms since the Unix epoch.
    pub received_ms: u64,
    /// The name of its kind.
    pub kind: &'a str,
    /// The session that it is about.
    pub sid: Option<SessionId>,
}

impl<'a> Head<'a> {
    /// The head of a line whose checksum fits; none of any other.
    pub fn of_sound(line: &'a [u8]) -> Option<Self> {
        hold_to_checksum(line).ok()?;
        Self::read(line)
    }

    /// The head of a line, sound or not, as far as it stands where it was written.
    pub fn read(line: &'a [u8]) -> Option<Self> {
        let (seq, rest) = number(line.strip_prefix(b"{\"seq\":")?)?;
        let (received_ms, rest) = number(rest.strip_prefix(b",\"received_ms\":")?)?;
        let (kind, rest) = text(rest.strip_prefix(b",\"kind\":")?)?;
        let sid = rest.strip_prefix(b",\"sid\":").and_then(text);
        let sid = sid.and_then(|(sid, _)| SessionId::from_path(sid));
        Some(Self { seq, received_ms, kind, sid })
    }
}

/// A number at the front, and what follows it.
fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = text.split_at(digits);
    Some((str::from_utf8(digits).ok()?.parse().ok()?, rest))
}

/// A text without escapes at the front, and what follows it.
fn text(json: &[u8]) -> Option<(&str, &[u8])> {
    let rest = json.strip_prefix(b"\"")?;
    let end = rest.iter().position(|byte| *byte == b'"')?;
    Some((str::from_utf8(&rest[..end]).ok()?, &rest[end + 1..]))
}

/// Whether a line, given without its line break, is as it was written.
fn hold_to_checksum(line: &[u8]) -> Result<(), Damage> {
    let trailer = CRC_KEY.len() + 8 + CRC_END.len();
    let covered = line.len().checked_sub(trailer).ok_or(Damage::Incomplete)?;
    let (covered, trailer) = line.split_at(covered);
    let digits = trailer.strip_prefix(CRC_KEY).and_then(|rest| rest.strip_suffix(CRC_END));
    let mut crc = [0; 4];
    hex::decode_to_slice(digits.ok_or(Damage::Incomplete)?, &mut crc)
        .map_err(|_| Damage::Incomplete)?;
    if u32::from_be_bytes(crc) == crc32c::crc32c(covered) { Ok(()) } else { Err(Damage::Checksum) }
}

impl<'a> Members<'a> {
    fn into_content(self) -> Result<Content<'a>, Damage> {
        let lacks = |member: &str| Damage::Unknown(format!("a {} without {member}", self.kind));
        let sid = self.sid.ok_or_else(|| lacks("sid"));
        let body = self.body.ok_or_else(|| lacks("body"));
        let body = body.map(|body| Cow::Borrowed(body.get().as_bytes()));
        match &*self.kind {
            "start" => Ok(Content::Start {
                sid: sid?,
                body: body?,
                client: self.client,
                user_agent: self.user_agent,
            }),
            "event" => Ok(Content::Event { sid: sid?, body: body? }),
            "batch" => Ok(Content::Batch {
                sid: sid?,
                body: body?,
                client: self.client,
                user_agent: self.user_agent,
            }),
            "report" => {
                let report = self.report.ok_or_else(|| lacks("report"))?;
                Ok(Content::Report { sid: sid?, report: report.get().as_bytes().into() })
            }
            "close" => Ok(Content::Close {
                sid: sid?,
                reason: self.reason.ok_or_else(|| lacks("reason"))?,
            }),
            "settings" => match self.version {
                Some(version) if version > VERSION => {
                    Err(Damage::Unknown(format!("version {version} of the journal")))
                }
                _ => Ok(Content::Settings {
                    terms: self.terms.ok_or_else(|| lacks("timeouts"))?,
                    paused_ms: self.paused_ms,
                    set_back_ms: self.set_back_ms.unwrap_or_default(),
                }),
            },
            "pause" => {
                let down_ms = self.down_ms.or(self.set_back_ms.map(|_| 0));
                let down_ms = down_ms.ok_or_else(|| lacks("down_ms"))?;
                Ok(Content::Pause { down_ms, set_back_ms: self.set_back_ms.unwrap_or_default() })
            }
            "erased" => Ok(Content::Erased {
                count: self.count.filter(|count| *count > 0).ok_or_else(|| lacks("count"))?,
                until_ms: self.until_ms,
                erased_ms: self.erased_ms.ok_or_else(|| lacks("erased_ms"))?,
            }),
            other => Err(Damage::Unknown(format!("kind {other:?}"))),
        }
    }
}

/// Removes the blanks between the tokens of sound JSON, if a line break is among them.
fn on_one_line(json: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    let json = match json {
        Cow::Borrowed(json) => Cow::Borrowed(json.trim_ascii()),
        Cow::Owned(json) => Cow::Owned(json.trim_ascii().to_vec()),
    };
    if !json.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        return json;
    }
    let (mut in_string, mut escaped) = (false, false);
    let mut kept = json.into_owned();
    kept.retain(|byte| {
        if in_string {
            in_string = escaped || *byte != b'"';
            escaped = !escaped && *byte == b'\\';
            return true;
        }
        in_string = *byte == b'"';
        !byte.is_ascii_whitespace()
    });
    Cow::Owned(kept)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::session::id::Key;

    fn sid() -> SessionId {
        SessionId::mint(&Key::new([1; 32]), 1, [2; 10])
    }

    fn line(content: Content<'_>) -> Vec<u8> {
        let mut line = Vec::new();
        Encoded::new(content).unwrap().write_line(&mut line, 7, 1_700_000_000_000);
        assert_eq!(line.pop(), Some(b'\n'));
        line
    }

    fn start(body: &str) -> Content<'_> {
        Content::Start {
            sid: sid(),
            client: Some("203.0.113.0".into()),
            user_agent: Some("a \"quoted\" player".into()),
            body: body.as_bytes().into(),
        }
    }

    #[test]
    fn a_record_is_one_line_of_json_in_a_fixed_order() {
        let text = String::from_utf8(line(start(r#"{"a": 1e5}"#))).unwrap();
        let (before, crc) = text.split_at(text.len() - 10);
        assert_eq!(
            before,
            format!(
                "{{\"seq\":7,\"received_ms\":1700000000000,\"kind\":\"start\",\"sid\":\"{}\",\
                 \"client\":\"203.0.113.0\",\"user_agent\":\"a \\\"quoted\\\" player\",\
                 \"body\":{{\"a\": 1e5}},\"crc\":\"",
                sid()
            )
        );
        assert!(crc.ends_with("\"}"));
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
    }

    #[test]
    fn a_body_with_line_breaks_becomes_one_line_and_stays_the_same_json() {
        let body = "{\r\n \"a b\" : \"c \\\" \\\\\",\n\t\"d\":[ 1 , 2 ]\n}";
        let written = line(start(body));
        assert!(!written.contains(&b'\n') && !written.contains(&b'\r'));
        let Content::Start { body: read, .. } = Record::read(&written).unwrap().content else {
            panic!("a start");
        };
        assert_eq!(&*read, br#"{"a b":"c \" \\","d":[1,2]}"#);
    }

    #[test]
    fn a_body_is_read_as_it_was_made_ready() {
        for body in [" {\"a\": 1} ", "\t{}", "\n{ }\r\n", "{}"] {
            let record = Encoded::new(start(body)).unwrap();
            let written = line(start(body));
            let Content::Start { body: read, .. } = Record::read(&written).unwrap().content else {
                panic!("a start");
            };
            assert_eq!(record.body(), &*read, "{body:?}");
        }
    }

    /// The line of a record whose last value stands apart, put together.
    fn joined(record: &Detached, seq: u64, received_ms: u64) -> Vec<u8> {
        let mut line = b"before".to_vec();
        if let Some((place, value)) = record.write_line(&mut line, seq, received_ms) {
            line.splice(place..place, value.iter().copied());
        }
        line.split_off(6)
    }

    #[test]
    fn a_large_value_is_not_copied() {
        let body = Bytes::from(format!("[{}]", "1,".repeat(LARGE_BYTES)));
        let record = Detached::batch(sid(), None, None, &body).unwrap();
        let mut line = Vec::new();
        let (place, value) = record.write_line(&mut line, 1, 2).unwrap();
        assert_eq!(value.as_ptr(), body.as_ptr());
        assert!(line[..place].ends_with(b",\"body\":") && line[place..].starts_with(b",\"crc\":"));
        let small = Detached::batch(sid(), None, None, &Bytes::from_static(b"[1]")).unwrap();
        assert!(small.write_line(&mut line, 1, 2).is_none());
    }

    #[test]
    fn blanks_around_a_body_count_because_they_are_held() {
        let body = Bytes::from(format!("{}[1]", " ".repeat(1_000)));
        assert!(Detached::batch(sid(), None, None, &body).unwrap().held_bytes() > 1_000);
        let broken = Bytes::from(format!("{}[1,\n2]", " ".repeat(1_000)));
        assert!(Detached::batch(sid(), None, None, &broken).unwrap().held_bytes() < 1_000);
    }

    #[test]
    fn what_is_no_record_is_told_apart() {
        let good = line(Content::Pause { down_ms: 5, set_back_ms: 0 });
        assert_eq!(Record::read(&good[..good.len() - 1]), Err(Damage::Incomplete));
        assert_eq!(Record::read(b""), Err(Damage::Incomplete));
        let mut flipped = good.clone();
        flipped[10] ^= 1;
        assert_eq!(Record::read(&flipped), Err(Damage::Checksum));
        let mut foreign = b"{\"seq\":1,\"received_ms\":1,\"kind\":\"new\"".to_vec();
        let crc = crc32c::crc32c(&foreign);
        write!(foreign, ",\"crc\":\"{crc:08x}\"}}").unwrap();
        assert!(matches!(Record::read(&foreign), Err(Damage::Unknown(_))));
    }

    #[test]
    fn settings_of_older_journals_take_as_many_events_as_sessions_did_then() {
        let mut line = b"{\"seq\":1,\"received_ms\":5,\"kind\":\"settings\",\"timeouts\":\
              {\"no_events_ms\":1,\"no_playhead_ms\":2,\"age_ms\":3}"
            .to_vec();
        let crc = crc32c::crc32c(&line);
        write!(line, ",\"crc\":\"{crc:08x}\"}}").unwrap();
        let terms = Terms { no_events_ms: 1, no_playhead_ms: 2, age_ms: 3, events_max: 100_000 };
        assert_eq!(
            Record::read(&line).unwrap().content,
            Content::Settings { terms, paused_ms: None, set_back_ms: 0 }
        );
    }

    #[test]
    fn settings_of_a_segment_tell_their_version_and_those_of_a_later_one_are_not_read() {
        let text =
            line(Content::Settings { terms: Terms::default(), paused_ms: Some(5), set_back_ms: 0 });
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("\"kind\":\"settings\",\"version\":2,\"timeouts\":{"), "{text}");
        assert!(text.contains("},\"paused_ms\":5,\"crc\":"), "{text}");
        let later = text.replace("\"version\":2", "\"version\":3");
        let (covered, _) = later.split_at(later.len() - 18);
        let later = format!("{covered},\"crc\":\"{:08x}\"}}", crc32c::crc32c(covered.as_bytes()));
        let read = Record::read(later.as_bytes());
        assert!(matches!(read, Err(Damage::Unknown(why)) if why.contains("version 3")));
    }

    fn any_content() -> impl Strategy<Value = Content<'static>> {
        let text = || prop::option::of(".{0,20}".prop_map(Cow::Owned));
        prop_oneof![
            (text(), text(), ".{0,30}").prop_map(|(client, user_agent, value)| {
                let body = serde_json::to_vec(&serde_json::json!({ "a": value })).unwrap();
                Content::Start { sid: sid(), client, user_agent, body: body.into() }
            }),
            ".{0,30}".prop_map(|value| {
                let body = serde_json::to_vec(&serde_json::json!({ "a": value })).unwrap();
                Content::Event { sid: sid(), body: body.into() }
            }),
            (text(), ".{0,30}").prop_map(|(user_agent, value)| {
                let body = serde_json::to_vec(&serde_json::json!([value])).unwrap();
                Content::Batch { sid: sid(), client: None, user_agent, body: body.into() }
            }),
            ".{0,30}".prop_map(|value| {
                let report = serde_json::to_vec(&serde_json::json!({ "a": value })).unwrap();
                Content::Report { sid: sid(), report: report.into() }
            }),
            Just(Content::Close { sid: sid(), reason: CloseReason::TimeoutNoEvents }),
            any::<(u64, u32, Option<u64>, u64)>().prop_map(
                |(no_events_ms, events_max, paused_ms, set_back_ms)| {
                    let terms = Terms { no_events_ms, events_max, ..Terms::default() };
                    Content::Settings { terms, paused_ms, set_back_ms }
                }
            ),
            any::<(u64, u64)>()
                .prop_map(|(down_ms, set_back_ms)| Content::Pause { down_ms, set_back_ms }),
            (1..=u64::MAX, any::<Option<u64>>(), any::<u64>()).prop_map(
                |(count, until_ms, erased_ms)| Content::Erased { count, until_ms, erased_ms }
            ),
        ]
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(content in any_content(), seq: u64, received_ms: u64) {
            let mut line = Vec::new();
            Encoded::new(content.clone()).unwrap().write_line(&mut line, seq, received_ms);
            let head = Head::of_sound(&line[..line.len() - 1]).unwrap();
            let (kind, sid) = (content.kind(), content.sid());
            prop_assert_eq!(head, Head { seq, received_ms, kind, sid });
            let record = Record::read(&line[..line.len() - 1]).unwrap();
            prop_assert_eq!(record, Record { seq, received_ms, content });
        }

        #[test]
        fn a_line_is_the_same_whether_its_value_stands_apart_or_not(
            text in ".{0,30}", repeat in prop::sample::select(vec![1, 400, 4_000]),
            blanks in "[ \n]{0,3}", seq: u64, received_ms: u64,
        ) {
            let json = serde_json::to_string(&[text.repeat(repeat)]).unwrap();
            let body = Bytes::from(format!("{blanks}{json}{blanks}"));
            let content = Content::Batch {
                sid: sid(), client: None, user_agent: Some(text.into()), body: Cow::Borrowed(&body),
            };
            let Content::Batch { user_agent, .. } = &content else { unreachable!() };
            let apart = Detached::batch(sid(), None, user_agent.as_deref(), &body).unwrap();
            let mut line = Vec::new();
            Encoded::new(content.clone()).unwrap().write_line(&mut line, seq, received_ms);
            prop_assert_eq!(&joined(&apart, seq, received_ms), &line);
            // Summed as one by whoever reads it.
            prop_assert!(Head::of_sound(&line[..line.len() - 1]).is_some());
            let report = Content::Report { sid: sid(), report: json.clone().into_bytes().into() };
            line.clear();
            Encoded::new(report).unwrap().write_line(&mut line, seq, received_ms);
            prop_assert_eq!(joined(&Detached::report(sid(), json.into_bytes()).unwrap(), seq, received_ms), line);
        }

        #[test]
        fn no_bytes_panic_and_one_flipped_bit_is_always_seen(
            bytes: Vec<u8>, content in any_content(), at: prop::sample::Index, bit in 0..8,
        ) {
            let _ = (Record::read(&bytes), Head::read(&bytes));
            let mut line = Vec::new();
            Encoded::new(content).unwrap().write_line(&mut line, 1, 1);
            line.pop();
            let at = at.index(line.len());
            line[at] ^= 1_u8 << bit;
            // Upper-case digits of the checksum are the same number.
            prop_assume!(!line[at].is_ascii_uppercase() || at < line.len() - 10);
            prop_assert!(Record::read(&line).is_err());
        }
    }
}
