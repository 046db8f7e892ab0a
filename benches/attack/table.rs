//! The table that is printed.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytesize::ByteSize;

use crate::players::Played;
use crate::server::Outcome;
use crate::tally::Tally;

/// How many of a hundred requests of normal players may be refused.
const REFUSED_PERCENT_MAX: u64 = 1;

/// What an attack did.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) seconds: u64,
    pub(crate) players: Played,
    pub(crate) outcome: Outcome,
    pub(crate) tally: Arc<Tally>,
}

/// The rows so far.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// Prints the head.
    pub(crate) fn begin() -> Self {
        println!(
            "\n| attack | seconds | uploaded | peak RSS | players refused | probe p50 / p99 | p99 against quiet | \
             attack was answered | notes |"
        );
        println!("|---|---|---|---|---|---|---|---|---|");
        Self { rows: Vec::new() }
    }

    /// Prints one more row.
    pub(crate) fn add(&mut self, row: Row) {
        let quiet = self.rows.first().unwrap_or(&row).players.probe_at(99);
        let (p50, p99) = (row.players.probe_at(50), row.players.probe_at(99));
        let (asked, refused) = row.players.refused();
        let times = p99.as_secs_f64() / quiet.as_secs_f64().max(1e-6);
        println!(
            "| {} | {} | {} | {} | {refused} / {asked} | {} / {} | {times:.1} × | {} | {} |",
            row.name,
            row.seconds,
            bytes(row.tally.uploaded.load(Ordering::Relaxed)),
            bytes(row.outcome.peak_bytes),
            milliseconds(p50),
            milliseconds(p99),
            row.tally.answers,
            row.notes(),
        );
        let _ = std::io::stdout().flush();
        self.rows.push(row);
    }

    /// What must not be.
    pub(crate) fn failures(&self, peak_max: ByteSize) -> Vec<String> {
        self.rows.iter().flat_map(|row| row.failures(peak_max)).collect()
    }
}

impl Row {
    fn notes(&self) -> String {
        let mut notes: Vec<_> = self.outcome.death.iter().cloned().collect();
        if self.players.refused().1 > 0 {
            notes.push(format!("players: {}", self.players.answers));
        }
        let largest = self.tally.largest_answer.load(Ordering::Relaxed);
        if largest > 0 {
            notes.push(format!("largest answer {}", bytes(largest as u64)));
        }
        for check in &*self.tally.checks.lock() {
            notes.push(format!("{}: {} of {} failed", check.what, check.failed, check.asked));
        }
        notes.join("; ")
    }

    fn failures(&self, peak_max: ByteSize) -> Vec<String> {
        let name = self.name;
        let mut failures = Vec::new();
        if let Some(death) = &self.outcome.death {
            failures.push(format!("{name}: the server {death}"));
        }
        if self.outcome.peak_bytes > peak_max.as_u64() {
            let peak = bytes(self.outcome.peak_bytes);
            failures.push(format!("{name}: the server took {peak}, more than {peak_max}"));
        }
        let (asked, refused) = self.players.refused();
        if is_too_many(refused, asked) {
            failures.push(format!("{name}: {refused} of {asked} requests of players were refused"));
        }
        for check in &*self.tally.checks.lock() {
            if is_too_many(check.failed, check.asked) {
                let (what, failed, asked) = (check.what, check.failed, check.asked);
                failures.push(format!("{name}: {what}: {failed} of {asked} failed"));
            }
        }
        failures
    }
}

fn is_too_many(refused: u64, asked: u64) -> bool {
    refused * 100 > asked * REFUSED_PERCENT_MAX
}

#[expect(clippy::cast_precision_loss, reason = "people read it")]
fn bytes(count: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.into_iter().find(|(power, _)| count >> power > 0) {
        Some((power, unit)) => format!("{:.1} {unit}", count as f64 / (1_u64 << power) as f64),
        None => format!("{count} B"),
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}
