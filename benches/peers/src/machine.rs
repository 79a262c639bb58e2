//! What the figures were measured on, as far as the system tells.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::contender::Result;

pub(crate) struct Machine {
    pub(crate) facts: Vec<(&'static str, String)>,
    /// The block device's counters, where the system shows them.
    device_stat: Option<PathBuf>,
}

impl Machine {
    pub(crate) fn look(dir: &Path) -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let device = fs::metadata(dir)?.dev();
        let sys = whole_device(device);
        let device_stat = sys.as_ref().map(|sys| sys.join("stat")).filter(|stat| stat.exists());
        let cache = sys.and_then(|sys| fs::read_to_string(sys.join("queue/write_cache")).ok());
        let facts = vec![
            ("cores", cores.to_string()),
            ("processor", field("/proc/cpuinfo", "model name").unwrap_or_else(unknown)),
            ("memory", field("/proc/meminfo", "MemTotal").unwrap_or_else(unknown)),
            ("kernel", fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(|_| unknown(), trimmed)),
            ("load average at the start", load_average()),
            ("file system", file_system(device).unwrap_or_else(unknown)),
            ("device write cache", cache.map_or_else(unknown, trimmed)),
            ("device's write + fdatasync, 4 KiB in place", fdatasync_rate(dir)?),
        ];
        Ok(Self { facts, device_stat })
    }

    /// How many cache flushes the device has been sent since it was attached: what tells a durable
    /// acknowledgement from one that only says so. Other processes count in, so it is a lower bound to look at,
    /// not a figure.
    pub(crate) fn flushes(&self) -> Option<u64> {
        // The 16th field; absent before Linux 5.5.
        fs::read_to_string(self.device_stat.as_ref()?).ok()?.split_whitespace().nth(15)?.parse().ok()
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

/// Of one, five and 15 minutes. Above the number of cores, somebody else was measured, too: contenders of many threads
/// then get more of the processor than those of few.
pub(crate) fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_else(|_| unknown());
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

fn trimmed(text: String) -> String {
    text.trim().to_owned()
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The kernel's directory of the device; flushes are counted for a whole device, not for its partitions.
fn whole_device(device: u64) -> Option<PathBuf> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let sys = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    if sys.join("partition").exists() { sys.parent().map(Path::to_owned) } else { Some(sys) }
}

/// Type and options of the file system that holds the device's files.
fn file_system(device: u64) -> Option<String> {
    let id = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|line| line.split_whitespace().nth(2) == Some(id.as_str()))?;
    let mut fields = line.split_once(" - ")?.1.split_whitespace();
    let kind = fields.next()?;
    Some(format!("{kind} ({})", fields.nth(1)?))
}

/// The rate that bounds every durable figure of this run.
fn fdatasync_rate(dir: &Path) -> Result<String> {
    let path = dir.join("fdatasync");
    let file = File::create(&path)?;
    let block = [7; 4096];
    file.write_all_at(&block, 0)?;
    file.sync_all()?;
    let started = Instant::now();
    let mut done = 0;
    while started.elapsed() < Duration::from_millis(200) {
        file.write_all_at(&block, 0)?;
        file.sync_data()?;
        done += 1;
    }
    let rate = f64::from(done) / started.elapsed().as_secs_f64();
    fs::remove_file(path)?;
    Ok(format!("{:.1} k/s", rate / 1e3))
}
