//! What a session left in the journal, read back for whoever asks.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::disk::{Disk, Space, unless_missing};
use super::record::Record;
use super::segment::{self, Segment};
use crate::session::id::SessionId;
use crate::telemetry::labels::{Form, Label};
use crate::telemetry::now::Files;

/// How far into a line the id of its session may stand.
const SID_WITHIN_BYTES: usize = 160;

/// After how many lines it is asked whether somebody still wants to know.
const LINES_BETWEEN_ASKING: u64 = 4_096;

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
    /// breaks or nobody `wants` to know any more. Nothing is looked for in segments that ended before
    /// `from_ms` (ms since the Unix epoch by the server's clock); all others are read, which takes a while
    /// where much was received. What is damaged is passed over.
    ///
    /// # Errors
    /// What the system says.
    pub fn each_of(
        &self,
        id: SessionId,
        from_ms: u64,
        wants: impl Fn() -> bool,
        mut take: impl FnMut(&Record<'_>, &[u8]) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let segments = segment::list(&*self.0)?;
        let first_ms = |segment: &Segment| segment.first_received_ms(&*self.0);
        let mut has_begun = false;
        for (row, segment) in segments.iter().enumerate() {
            if !wants() {
                break;
            }
            // Where stamps were set back, the next segment does not tell how late it was in this one. Then those of
            // a session may go on below its first one, so once one segment is read, all others are.
            let is_older = |ends_ms: u64| {
                ends_ms < from_ms && first_ms(segment).is_none_or(|began_ms| began_ms <= ends_ms)
            };
            if !has_begun && segments[row + 1..].iter().find_map(first_ms).is_some_and(is_older) {
                continue;
            }
            has_begun = true;
            if self.each_in(segment, id, &wants, &mut take)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// How many segments there are, and how large all files of the journal.
    ///
    /// # Errors
    /// What the system says.
    pub fn files(&self) -> io::Result<Files> {
        let mut files = Files::default();
        for (name, bytes) in self.0.list()? {
            files.bytes += bytes;
            if let Some(is_compressed) = segment::is_compressed(&name) {
                let form = if is_compressed { Form::Compressed } else { Form::Open };
                files.segments[form.row()] += 1;
            }
        }
        Ok(files)
    }

    /// How much room there is; nothing if nobody knows.
    ///
    /// # Errors
    /// What the system says.
    pub fn space(&self) -> io::Result<Option<Space>> {
        self.0.space()
    }

    fn each_in(
        &self,
        segment: &Segment,
        id: SessionId,
        wants: &impl Fn() -> bool,
        take: &mut impl FnMut(&Record<'_>, &[u8]) -> ControlFlow<()>,
    ) -> io::Result<ControlFlow<()>> {
        let Some(mut lines) = unless_missing(segment.lines(&*self.0))? else {
            // Retention has removed it since it was listed.
            return Ok(ControlFlow::Continue(()));
        };
        let member = format!("\"sid\":\"{id}\"");
        loop {
            let line = match lines.next_line() {
                Ok(Some(line)) => line,
                Ok(None) => break,
                // The rest of it cannot be unpacked.
                Err(_) if segment.compressed => break,
                Err(error) => return Err(error),
            };
            if line.number.is_multiple_of(LINES_BETWEEN_ASKING) && !wants() {
                return Ok(ControlFlow::Break(()));
            }
            // Most lines are of other sessions, so they are not read.
            let head = &line.text[..line.text.len().min(SID_WITHIN_BYTES)];
            if !head.windows(member.len()).any(|window| window == member.as_bytes()) {
                continue;
            }
            let Ok(record) = Record::read(line.text) else { continue };
            if segment.ends_before(record.seq) {
                break;
            }
            if record.content.sid() == Some(id) && take(&record, line.text).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
