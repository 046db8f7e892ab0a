//! What the process takes of the machine, under the names that every Prometheus client gives it.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;

use super::now::Names;

/// The process at one time.
#[derive(Debug)]
pub(super) struct Process {
    cpu_seconds: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    open_fds: u64,
    /// None if there is no limit.
    max_fds: Option<u64>,
    /// In seconds since the Unix epoch.
    started: f64,
    threads: u64,
}

impl Process {
    /// Asks the system; nothing where it does not tell.
    #[cfg(target_os = "linux")]
    #[expect(clippy::cast_precision_loss, reason = "ticks of centuries are exact")]
    pub(super) fn now() -> Option<Self> {
        use procfs::CurrentSI;

        let process = procfs::process::Process::myself().ok()?;
        let stat = process.stat().ok()?;
        let seconds = |ticks: u64| ticks as f64 / procfs::ticks_per_second() as f64;
        let booted = procfs::KernelStats::current().ok()?.btime;
        let max_fds = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Some(Self {
            cpu_seconds: seconds(stat.utime + stat.stime),
            resident_bytes: stat.rss * procfs::page_size(),
            virtual_bytes: stat.vsize,
            open_fds: u64::try_from(process.fd_count().ok()?).unwrap_or(u64::MAX),
            max_fds,
            started: booted as f64 + seconds(stat.starttime),
            threads: u64::try_from(stat.num_threads).unwrap_or_default(),
        })
    }

    /// Elsewhere there is no `/proc`.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn now() -> Option<Self> {
        None
    }
}

impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut names = Names(encoder);
        let help = "Processor time that the process has used";
        names.counter("process_cpu", help, Some(&Unit::Seconds), &self.cpu_seconds)?;
        let help = "Memory of the process that is in the machine's memory";
        names.gauge("process_resident_memory", help, Some(&Unit::Bytes), &self.resident_bytes)?;
        let help = "Addresses that the process has asked for";
        names.gauge("process_virtual_memory", help, Some(&Unit::Bytes), &self.virtual_bytes)?;
        names.gauge("process_open_fds", "Files and sockets that are open", None, &self.open_fds)?;
        let help = "Files and sockets that may be open";
        match &self.max_fds {
            Some(max_fds) => names.gauge("process_max_fds", help, None, max_fds)?,
            None => names.gauge("process_max_fds", help, None, &f64::INFINITY)?,
        }
        let help = "When the process began, as Unix time";
        names.gauge("process_start_time", help, Some(&Unit::Seconds), &self.started)?;
        names.gauge("process_threads", "Threads of the process", None, &self.threads)
    }
}
