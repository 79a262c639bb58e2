//! A Kafka to forward to: one that is running, or one that the project's own script starts for as long as the example runs.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use annals::mirror::KafkaConfig;

use crate::story::Failure;

/// The variable that names a cluster, for the example as for the mirror's own configuration.
const SERVERS: &str = "KAFKA_BOOTSTRAP_SERVERS";

pub(crate) struct Broker {
    pub(crate) config: KafkaConfig,
    pub(crate) servers: String,
    /// Where the script keeps what it has started.
    dir: Option<String>,
}

impl Broker {
    /// The cluster that the `KAFKA_*` variables name, or one that is started now.
    pub(crate) fn find() -> Result<Self, Failure> {
        if let Ok(servers) = std::env::var(SERVERS) {
            return Ok(Self { config: KafkaConfig::from_env()?, servers, dir: None });
        }
        let script = script();
        let mut command = Command::new(&script);
        command.args(["start", "--parent"]).arg(std::process::id().to_string()).stderr(Stdio::inherit());
        let output =
            command.output().map_err(|error| Failure::Unusable(format!("cannot run {}: {error}", script.display())))?;
        if !output.status.success() {
            return Err(Failure::Unusable(format!(
                "no Kafka could be started (it needs Java 17 and Maven); name a cluster with {SERVERS}=host:port instead"
            )));
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line =
            |name: &str| text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned()));
        let servers = line("bootstrap").ok_or_else(|| Failure::Unusable(format!("the script has said {text:?}")))?;
        Ok(Self { config: KafkaConfig::new(&servers), servers, dir: line("dir") })
    }

    /// What a child process has to be told to find it.
    pub(crate) fn variables(&self) -> [(&'static str, String); 1] {
        [(SERVERS, self.servers.clone())]
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(dir) = &self.dir {
            // Should it fail: the script ends what it has started with its parent.
            let _ = Command::new(script()).args(["stop", dir]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

fn script() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests").join("kafka").join("broker")
}
