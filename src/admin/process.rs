//! What the system says of this process.
//!
//! # Promises
//! - What cannot be read is absent, never zero.

use std::fs;

/// What `/proc/self` has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Process {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) virtual_bytes: Option<u64>,
    pub(super) open_fds: Option<usize>,
    pub(super) max_fds: Option<u64>,
    pub(super) start_seconds: Option<f64>,
}

impl Process {
    /// As it is now.
    pub(super) fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        Self {
            open_fds: fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1)),
            max_fds: limit.current,
            ..Self::of(
                &stat,
                &boot,
                rustix::param::clock_ticks_per_second(),
                rustix::param::page_size() as u64,
            )
        }
    }

    /// From the texts of `/proc/self/stat` (proc_pid_stat(5)) and `/proc/stat`.
    fn of(stat: &str, boot: &str, ticks: u64, page: u64) -> Self {
        // The name of the program stands in parentheses and may hold anything.
        let after_name = stat.rsplit_once(") ").map_or("", |(_, after)| after);
        let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
        // The first of them is the third of the line.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let seconds = |count: u64| count as f64 / ticks.max(1) as f64;
        let boot = boot.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok());
        Self {
            cpu_seconds: field(14).zip(field(15)).map(|(user, system)| seconds(user + system)),
            virtual_bytes: field(23),
            resident_bytes: field(24).map(|pages| pages * page),
            start_seconds: field(22).zip(boot).map(|(start, boot)| boot + seconds(start)),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_any_name() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 13 14 15 16 17 18 1000 8192 3 21";

        let process = Process::of(stat, "cpu 1 2\nbtime 100\n", 100, 4096);

        assert_eq!(process.cpu_seconds, Some(3.0));
        assert_eq!((process.virtual_bytes, process.resident_bytes), (Some(8192), Some(3 * 4096)));
        assert_eq!(process.start_seconds, Some(110.0));
    }

    #[test]
    fn what_cannot_be_read_is_absent() {
        let process = Process::of("", "", 100, 4096);

        assert_eq!((process.cpu_seconds, process.start_seconds, process.resident_bytes), (None, None, None));
    }
}
