//! What the kernel says about this process, under the names that Prometheus clients use.

use std::fs;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};
use rustix::{
    param::{clock_ticks_per_second, page_size},
    process::{Resource, getrlimit},
};

/// Read anew at each scrape.
#[derive(Debug)]
pub(super) struct ProcessFigures;

/// What `/proc/self/stat` says.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: u64,
    threads: i64,
    /// In ticks after the boot.
    started: u64,
    virtual_bytes: i64,
    resident_pages: i64,
}

impl Collector for ProcessFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        // A figure that cannot be read is left out. An alert can see that.
        let ticks = clock_ticks_per_second().max(1) as f64;
        if let Some(stat) = read("/proc/self/stat").as_deref().and_then(parse_stat) {
            let cpu = ConstCounter::new(stat.cpu_ticks as f64 / ticks);
            let help = "Processor time, of the user and of the system";
            put(&mut encoder, "process_cpu_seconds", help, &cpu)?;
            let pages = i64::try_from(page_size()).unwrap_or(4096);
            gauge(
                &mut encoder,
                "process_resident_memory_bytes",
                "Memory in use",
                stat.resident_pages.saturating_mul(pages),
            )?;
            gauge(
                &mut encoder,
                "process_virtual_memory_bytes",
                "Addresses in use",
                stat.virtual_bytes,
            )?;
            gauge(&mut encoder, "process_threads", "Threads", stat.threads)?;
            if let Some(boot) = read("/proc/stat").as_deref().and_then(boot_time) {
                let started = ConstGauge::new(boot as f64 + stat.started as f64 / ticks);
                let help = "When the process started, in seconds since 1970";
                put(&mut encoder, "process_start_time_seconds", help, &started)?;
            }
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // One of them is the folder that is being read.
            let open = i64::try_from(open.count()).unwrap_or(i64::MAX) - 1;
            gauge(&mut encoder, "process_open_fds", "Open descriptors", open)?;
        }
        if let Some(most) = getrlimit(Resource::Nofile).current {
            let most = i64::try_from(most).unwrap_or(i64::MAX);
            gauge(
                &mut encoder,
                "process_max_fds",
                "Descriptors that may be open",
                most,
            )?;
        }
        Ok(())
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: i64,
) -> Result<(), std::fmt::Error> {
    put(encoder, name, help, &ConstGauge::new(value))
}

fn put(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> Result<(), std::fmt::Error> {
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// The program's name stands in brackets and may hold anything, so only what follows the last
/// bracket is read.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    // The first of these is field 3 in `man 5 proc`.
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let at = |number: usize| fields.get(number - 3).copied();
    let cpu = |number| at(number)?.parse::<u64>().ok();
    Some(Stat {
        cpu_ticks: cpu(14)?.saturating_add(cpu(15)?),
        threads: at(20)?.parse().ok()?,
        started: at(22)?.parse().ok()?,
        virtual_bytes: at(23)?.parse().ok()?,
        resident_pages: at(24)?.parse().ok()?,
    })
}

/// Time of the boot, in seconds since 1970.
fn boot_time(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read() {
        let text = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 4711 1000000 300 18446744073709551615";
        let expected = Stat {
            cpu_ticks: 300,
            threads: 9,
            started: 4711,
            virtual_bytes: 1_000_000,
            resident_pages: 300,
        };
        assert_eq!(parse_stat(text), Some(expected));
        assert_eq!(parse_stat("7 (a) S 1"), None);
        assert_eq!(boot_time("cpu 1\nbtime 1700000000\n"), Some(1_700_000_000));
    }
}
