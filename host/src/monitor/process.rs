//! Resources of the process, read from Linux' `/proc`. On other systems there are none.
//!
//! The names are those of Prometheus' client libraries:
//! <https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>.

use std::fs;
use std::path::Path;

use super::exposition::{Exposition, FamilyKind, Labels, Number};

/// Ticks a second of the times in `/proc`. The kernel converts its own ticks to this rate
/// (`USER_HZ`), which is 100 on x86-64 and ARM.
const TICKS: f64 = 100.0;

/// Resources of the process. What cannot be read is none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessStats {
    /// User and system time, in seconds.
    pub cpu_seconds: Option<f64>,
    /// The start, in seconds since 1970.
    pub start_seconds: Option<f64>,
    /// Memory that is not swapped out, in bytes.
    pub resident_bytes: Option<u64>,
    /// Address space, in bytes. Most of it is reserved for guests and never used.
    pub virtual_bytes: Option<u64>,
    /// Private, writable memory, in bytes: what `ulimit -d` limits.
    pub data_bytes: Option<u64>,
    /// Memory that the process may use, in bytes: the machine's, or its control group's if that is
    /// less.
    pub memory_limit_bytes: Option<u64>,
    /// Limit of the address space, in bytes; none if it is unlimited.
    pub virtual_limit_bytes: Option<u64>,
    /// Open file descriptors.
    pub open_files: Option<u64>,
    /// Limit of open file descriptors (`ulimit -n`).
    pub open_files_max: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
}

impl ProcessStats {
    /// Reads the resources of this process. Takes a few tenths of a millisecond, and longer with
    /// thousands of open files.
    pub fn read() -> Self {
        let own = Path::new("/proc/self");
        let text = |name: &str| fs::read_to_string(own.join(name)).unwrap_or_default();
        let mut stats = Self::parse(&text("stat"), &text("status"), &text("limits"));
        let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
        let boot = number_after(&boot, "btime ");
        stats.start_seconds = match (boot, stats.start_seconds) {
            (Some(boot), Some(since)) => Some(boot as f64 + since),
            _ => None,
        };
        // One of them is the folder itself, which is open while it is counted.
        stats.open_files = fs::read_dir(own.join("fd"))
            .ok()
            .map(|files| files.count().saturating_sub(1) as u64);
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let machine = number_after(&memory, "MemTotal:").map(|kib| kib * 1_024);
        stats.memory_limit_bytes = machine
            .into_iter()
            .chain(group_limit(&text("cgroup")))
            .min();
        stats
    }

    /// Parses the files of a process. `start_seconds` is since the machine's boot.
    fn parse(stat: &str, status: &str, limits: &str) -> Self {
        // The second field is the program's name in parentheses, which may have spaces.
        let fields: Vec<_> = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace().collect())
            .unwrap_or_default();
        // proc_pid_stat(5) counts from 1, and two fields were cut off.
        let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
        let cpu = ticks(14).zip(ticks(15));
        let bytes = |name: &str| number_after(status, name).map(|kib| kib * 1_024);
        Self {
            cpu_seconds: cpu.map(|(user, system)| (user + system) / TICKS),
            start_seconds: ticks(22).map(|ticks| ticks / TICKS),
            resident_bytes: bytes("VmRSS:"),
            virtual_bytes: bytes("VmSize:"),
            data_bytes: bytes("VmData:"),
            virtual_limit_bytes: number_after(limits, "Max address space"),
            open_files_max: number_after(limits, "Max open files"),
            threads: number_after(status, "Threads:"),
            ..Self::default()
        }
    }

    /// Writes the families. A family without a number is left out.
    pub fn expose(&self, to: &mut Exposition) {
        let whole = |number: Option<u64>| number.map(Number::Whole);
        let real = |number: Option<f64>| number.map(Number::Real);
        for (kind, name, help, number) in [
            (
                FamilyKind::Counter,
                "process_cpu_seconds_total",
                "CPU time of the host, in user and in system mode.",
                real(self.cpu_seconds),
            ),
            (
                FamilyKind::Gauge,
                "process_start_time_seconds",
                "Start of the host, in seconds since 1970.",
                real(self.start_seconds),
            ),
            (
                FamilyKind::Gauge,
                "process_resident_memory_bytes",
                "Memory of the host that is not swapped out.",
                whole(self.resident_bytes),
            ),
            (
                FamilyKind::Gauge,
                "process_virtual_memory_bytes",
                "Address space of the host. Most of it is reserved for guests and never used.",
                whole(self.virtual_bytes),
            ),
            (
                FamilyKind::Gauge,
                "process_virtual_memory_max_bytes",
                "Limit of the address space (ulimit -v). Left out if it is unlimited.",
                whole(self.virtual_limit_bytes),
            ),
            (
                FamilyKind::Gauge,
                "process_open_fds",
                "Open file descriptors: connections, the database, files.",
                whole(self.open_files),
            ),
            (
                FamilyKind::Gauge,
                "process_max_fds",
                "Limit of open file descriptors (ulimit -n).",
                whole(self.open_files_max),
            ),
            (
                FamilyKind::Gauge,
                "stepwell_process_data_bytes",
                "Private, writable memory of the host (ulimit -d).",
                whole(self.data_bytes),
            ),
            (
                FamilyKind::Gauge,
                "stepwell_process_threads",
                "Threads of the host.",
                whole(self.threads),
            ),
            (
                FamilyKind::Gauge,
                "stepwell_memory_limit_bytes",
                "Memory that the host may use: the machine's, or its control group's if that is less.",
                whole(self.memory_limit_bytes),
            ),
        ] {
            if let Some(number) = number {
                to.family(kind, name, help)
                    .sample(&Labels::default(), number);
            }
        }
    }
}

/// Returns the number that follows the name of a line, if it is one.
fn number_after(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Returns the limit of the process' control group (version 2), if it has one. `groups` is the
/// text of `/proc/self/cgroup`.
fn group_limit(groups: &str) -> Option<u64> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let file = Path::new("/sys/fs/cgroup").join(path).join("memory.max");
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_proc_are_understood() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194560 900 0 0 0 250 150 0 0 20 0 9 0 12345 1 2";
        let status =
            "Name:\tx\nVmSize:\t  2048 kB\nVmRSS:\t    64 kB\nVmData:\t 8 kB\nThreads:\t9\n";
        let limits = "Limit  Soft Limit  Hard Limit  Units\n\
            Max open files            1024                 4096                 files\n\
            Max address space         unlimited            unlimited            bytes\n";
        assert_eq!(
            ProcessStats::parse(stat, status, limits),
            ProcessStats {
                cpu_seconds: Some(4.0),
                start_seconds: Some(123.45),
                resident_bytes: Some(65_536),
                virtual_bytes: Some(2_097_152),
                data_bytes: Some(8_192),
                open_files_max: Some(1_024),
                threads: Some(9),
                ..ProcessStats::default()
            }
        );
        assert_eq!(ProcessStats::parse("", "", ""), ProcessStats::default());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_resources() {
        let stats = ProcessStats::read();
        let within = |number: Option<u64>, limit: Option<u64>| {
            number.is_some_and(|number| number > 0 && limit.is_none_or(|limit| number <= limit))
        };
        assert!(
            within(stats.resident_bytes, stats.virtual_bytes)
                && within(stats.open_files, stats.open_files_max)
                && within(stats.threads, None)
                && within(stats.memory_limit_bytes, None)
                && stats.cpu_seconds.is_some(),
            "{stats:?}"
        );
        let now = crate::clock::Clock::System.now().as_micros() as f64 / 1e6;
        let age = now - stats.start_seconds.expect("is known");
        assert!((-2.0..36_000.0).contains(&age), "{age}: {stats:?}");
    }
}
