//! What a session left in the journal, read back for whoever asks.

use std::io;
use std::ops::{ControlFlow, RangeInclusive};
use std::sync::Arc;

use super::disk::Disk;
use super::record::Record;
use super::segment::{self, Segment};
use crate::session::id::SessionId;

/// How far into a line the id of its session may stand.
const SID_WITHIN_BYTES: usize = 160;

/// The journal, to be looked into while it is written.
#[derive(Clone)]
pub struct Archive(Arc<dyn Disk>);

impl std::fmt::Debug for Archive {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Archive")
    }
}

impl Archive {
    /// The journal in a folder.
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self(disk)
    }

    /// Calls `take` with each record of a session, and its line without the line break, in order, until it
    /// breaks. Only what was received within `span_ms` (ms since the Unix epoch by the server's clock) is
    /// looked at, and of that whole segments: this takes a while where much was received.
    ///
    /// # Errors
    /// What the system says.
    pub fn each_of(
        &self,
        id: SessionId,
        span_ms: &RangeInclusive<u64>,
        mut take: impl FnMut(&Record<'_>, &[u8]) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let segments = segment::list(&*self.0)?;
        // The last one that begins before the span may reach into it.
        let later = segments.partition_point(|segment| {
            self.begins_ms(segment).is_none_or(|begins_ms| begins_ms < *span_ms.start())
        });
        for segment in &segments[later.saturating_sub(1)..] {
            if self.begins_ms(segment).is_some_and(|begins_ms| begins_ms > *span_ms.end()) {
                break;
            }
            if self.each_in(segment, id, &mut take)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// When the first record of a segment was received; nothing if it has none that can be read.
    fn begins_ms(&self, segment: &Segment) -> Option<u64> {
        let mut lines = segment.lines(&*self.0).ok()?;
        let line = lines.next_line().ok()??;
        Record::read(line.text).ok().map(|record| record.received_ms)
    }

    fn each_in(
        &self,
        segment: &Segment,
        id: SessionId,
        take: &mut impl FnMut(&Record<'_>, &[u8]) -> ControlFlow<()>,
    ) -> io::Result<ControlFlow<()>> {
        let mut lines = match segment.lines(&*self.0) {
            // Retention has removed it since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(ControlFlow::Continue(()));
            }
            lines => lines?,
        };
        let member = format!("\"sid\":\"{id}\"");
        while let Some(line) = lines.next_line()? {
            // Most lines are of other sessions, so they are not read.
            let head = &line.text[..line.text.len().min(SID_WITHIN_BYTES)];
            if !head.windows(member.len()).any(|window| window == member.as_bytes()) {
                continue;
            }
            let Ok(record) = Record::read(line.text) else { continue };
            if segment.end_seq.is_some_and(|end_seq| record.seq >= end_seq) {
                break;
            }
            if record.content.sid() == Some(id) && take(&record, line.text).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
