//! The broker that is measured on.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rdkafka::ClientConfig;

use crate::Result;

pub(crate) struct Broker {
    pub(crate) servers: String,
    dir: Option<String>,
}

impl Broker {
    pub(crate) fn find() -> Result<Self> {
        if let Ok(servers) = std::env::var("KAFKA_BOOTSTRAP_SERVERS") {
            return Ok(Self { servers, dir: None });
        }
        let parent = std::process::id().to_string();
        let output = script().args(["start", "--parent", &parent]).stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err("no broker could be started; name one with KAFKA_BOOTSTRAP_SERVERS=host:port".into());
        }
        let text = String::from_utf8(output.stdout)?;
        let line =
            |name: &str| text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned()));
        Ok(Self { servers: line("bootstrap").ok_or("the script names no broker")?, dir: line("dir") })
    }

    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.servers);
        config
    }

    /// A name that no other measurement has.
    pub(crate) fn unique(&self, name: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        format!("{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(dir) = &self.dir {
            // It ends with this process in any case.
            let _ended = script().args(["stop", dir]).stdout(Stdio::null()).status();
        }
    }
}

fn script() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/kafka/broker"))
}
