//! Real Kafka for tests: the brokers that `tests/kafka/broker` starts, and what they hold. See tests/kafka/README.md.
//!
//! Other test binaries use it as `#[path = "kafka/support/mod.rs"] mod support;`.
#![allow(dead_code, unused_imports, reason = "each test binary uses its part")]

pub(crate) mod admin;
mod dump;
mod proxy;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use rdkafka::ClientConfig;

pub(crate) use dump::{Dumped, Isolation};
pub(crate) use proxy::{Api, Fault, Proxy};

/// How long a test waits for what must come, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kafka/broker");
/// The script's exit code where there is no Kafka to be had.
const IMPOSSIBLE: i32 = 3;

/// What the brokers are started with: one broker that everybody may use, unless more is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    brokers: u32,
    arguments: Vec<String>,
}

impl Options {
    pub(crate) fn new() -> Self {
        Self { brokers: 1, arguments: Vec::new() }
    }

    pub(crate) fn brokers(mut self, brokers: u32) -> Self {
        self.brokers = brokers;
        self
    }

    /// Listeners with TLS: one for everybody, one that demands a certificate.
    pub(crate) fn tls(self) -> Self {
        self.argument("--tls")
    }

    /// A listener with SASL, for `admin`, `writer`, `reader` and `nobody`: see [`password`].
    pub(crate) fn sasl(self) -> Self {
        self.argument("--sasl")
    }

    /// SASL, and users who may not do everything: what their names say. Without SASL all is allowed.
    pub(crate) fn acl(self) -> Self {
        self.argument("--acl")
    }

    /// A listener behind this proxy.
    pub(crate) fn behind(self, proxy: &Proxy) -> Self {
        self.argument("--proxied").argument(&proxy.port().to_string())
    }

    /// A property of the brokers.
    pub(crate) fn property(self, name: &str, value: &str) -> Self {
        self.argument("--property").argument(&format!("{name}={value}"))
    }

    fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }
}

/// The password of a user of the SASL listener.
pub(crate) fn password(user: &str) -> String {
    format!("{user}-secret")
}

/// A cluster of real brokers. Ended when it is dropped, and when the process ends, in whatever way.
#[derive(Debug)]
pub(crate) struct Broker {
    /// The lines that the script has printed.
    lines: BTreeMap<String, String>,
    brokers: u32,
    /// Only who has started brokers of their own may break them.
    turn: Option<Turn>,
}

impl Broker {
    /// Brokers for one test alone, which may break them. Two tests at a time have some: others wait here.
    ///
    /// Says so and answers `None` where there is no Kafka to be had; in continuous integration that is a failure.
    pub(crate) fn start(options: Options) -> Option<Self> {
        let turn = Turn::wait();
        Self::run(options, Some(turn))
    }

    /// The broker of all tests of this process. Nobody may break it.
    pub(crate) fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Broker>> = OnceLock::new();
        SHARED.get_or_init(|| Self::run(Options::new(), None)).as_ref()
    }

    fn run(options: Options, turn: Option<Turn>) -> Option<Self> {
        let mut command = script(&["start", "--parent", &std::process::id().to_string()]);
        command.args(["--brokers", &options.brokers.to_string()]).args(&options.arguments);
        let output = command.output().unwrap();
        if output.status.code() == Some(IMPOSSIBLE) || is_foreign(&output) && turn.is_some() {
            let said = String::from_utf8_lossy(&output.stderr);
            let hint =
                said.trim().lines().last().unwrap_or("the broker that ANNALS_TEST_KAFKA names must not be broken");
            assert!(std::env::var_os("CI").is_none(), "tests against Kafka must run here: {hint}");
            // Past the test harness, which would keep it to itself.
            let _ = writeln!(std::io::stderr(), "SKIPPED, no Kafka: {hint}");
            return None;
        }
        let said = checked("start", &output);
        let lines = said.lines().filter_map(|line| line.split_once('='));
        let lines = lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Some(Self { lines, brokers: options.brokers, turn })
    }

    /// A line that the script has printed, such as `ca`.
    pub(crate) fn line(&self, name: &str) -> &str {
        self.lines.get(name).unwrap_or_else(|| panic!("the brokers were started without what has {name}"))
    }

    /// Where their data is, if they were started here.
    pub(crate) fn dir(&self) -> Option<&str> {
        self.lines.get("dir").map(String::as_str)
    }

    /// Where they listen to everybody: `host:port`, separated by commas.
    pub(crate) fn bootstrap(&self) -> &str {
        self.line("bootstrap")
    }

    pub(crate) fn tls_bootstrap(&self) -> &str {
        self.line("tls_bootstrap")
    }

    /// Where they demand the certificate of a client.
    pub(crate) fn mutual_tls_bootstrap(&self) -> &str {
        self.line("mutual_tls_bootstrap")
    }

    pub(crate) fn sasl_bootstrap(&self) -> &str {
        self.line("sasl_bootstrap")
    }

    /// Where they want SASL over TLS.
    pub(crate) fn sasl_tls_bootstrap(&self) -> &str {
        self.line("sasl_tls_bootstrap")
    }

    /// Who has signed the certificates.
    pub(crate) fn ca(&self) -> &Path {
        Path::new(self.line("ca"))
    }

    /// Somebody who has not.
    pub(crate) fn other_ca(&self) -> &Path {
        Path::new(self.line("other_ca"))
    }

    pub(crate) fn client_certificate(&self) -> &Path {
        Path::new(self.line("client_certificate"))
    }

    pub(crate) fn client_key(&self) -> &Path {
        Path::new(self.line("client_key"))
    }

    /// The same key, under the password `client-secret`.
    pub(crate) fn client_key_encrypted(&self) -> &Path {
        Path::new(self.line("client_key_encrypted"))
    }

    /// What a client of this cluster is told at least.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.bootstrap());
        config
    }

    /// kill -9, of all brokers.
    pub(crate) fn kill(&self) {
        self.broken_by("kill", None);
    }

    /// kill -9, of one.
    pub(crate) fn kill_one(&self, id: u32) {
        self.broken_by("kill", Some(id));
    }

    /// Starts what does not run, and waits until it serves.
    pub(crate) fn restart(&self) {
        self.broken_by("restart", None);
    }

    /// Ends all brokers in good order.
    pub(crate) fn stop_cleanly(&self) {
        for id in 1..=self.brokers {
            self.broken_by("stop", Some(id));
        }
    }

    /// Ends one in good order.
    pub(crate) fn stop_one_cleanly(&self, id: u32) {
        self.broken_by("stop", Some(id));
    }

    /// No broker answers any more; connections stay.
    pub(crate) fn pause(&self) {
        self.broken_by("pause", None);
    }

    pub(crate) fn pause_one(&self, id: u32) {
        self.broken_by("pause", Some(id));
    }

    /// They go on after a pause.
    pub(crate) fn resume(&self) {
        self.broken_by("resume", None);
    }

    pub(crate) fn resume_one(&self, id: u32) {
        self.broken_by("resume", Some(id));
    }

    fn broken_by(&self, command: &str, id: Option<u32>) {
        assert!(self.turn.is_some(), "{command}: only who has started the brokers may do this");
        let id = id.map(|id| id.to_string());
        let arguments: Vec<&str> = [command, self.line("dir")].into_iter().chain(id.as_deref()).collect();
        checked(command, &script(&arguments).output().unwrap());
    }

    /// Runs one of Kafka's own tools, and answers with what it has printed.
    pub(crate) fn tool(&self, name: &str, arguments: &[&str]) -> String {
        let output = script(&["tool", name]).args(arguments).output().unwrap();
        checked(name, &output)
    }

    /// A name that no other topic, group or transaction has.
    pub(crate) fn unique(&self, name: &str) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let began = UNIX_EPOCH.elapsed().unwrap().as_secs();
        format!("{name}-{began:x}-{:x}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
    }

    /// The last lines that each broker has written.
    fn last_words(&self) -> String {
        let Some(dir) = self.dir() else { return String::new() };
        let logs = |id| {
            let files = std::fs::read_dir(format!("{dir}/node-{id}")).into_iter().flatten().flatten();
            let files = files.map(|file| file.path());
            files.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("log-")))
        };
        let mut paths: Vec<PathBuf> = (1..=self.brokers).flat_map(logs).collect();
        paths.sort();
        let mut words = String::new();
        for path in paths {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            words += &format!("--- {}\n{}\n", path.display(), lines[lines.len().saturating_sub(15)..].join("\n"));
        }
        words
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let Some(dir) = self.dir() else { return };
        if std::thread::panicking() {
            eprintln!("{}", self.last_words());
        }
        for command in ["kill", "stop"] {
            // The script has said what is wrong, and sees to it that nothing outlives this process.
            let _ = script(&[command, dir]).status();
        }
    }
}

fn is_foreign(output: &Output) -> bool {
    String::from_utf8_lossy(&output.stdout).lines().any(|line| line == "external=1")
}

fn script(arguments: &[&str]) -> Command {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut command = Command::new(SCRIPT);
    command.args(arguments).stdin(Stdio::null());
    // On a disk, and where the libraries are found again.
    command.env("TMPDIR", scratch).env("CARGO_TARGET_DIR", scratch.parent().unwrap());
    command
}

fn checked(what: &str, output: &Output) -> String {
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what}: {}\n{said}{complained}", output.status);
    said.into_owned()
}

/// So many clusters beside the shared one are enough for a small machine.
const CLUSTERS_MAX: usize = 2;

/// The right to have a cluster of one's own.
#[derive(Debug)]
struct Turn;

static BUSY: Mutex<usize> = Mutex::new(0);
static FREE: Condvar = Condvar::new();

impl Turn {
    fn wait() -> Self {
        let busy = BUSY.lock().unwrap_or_else(PoisonError::into_inner);
        *FREE.wait_while(busy, |busy| *busy == CLUSTERS_MAX).unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *BUSY.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        FREE.notify_one();
    }
}

/// Waits until something is so; fails with `what` if it takes too long.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// [`until`] for threads.
pub(crate) fn blocking_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
