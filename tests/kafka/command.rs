//! `annals mirror`, as a person uses it, beside a program that writes.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use annals::{Log, Record, TopicSettings};

use crate::support::{Broker, PATIENCE, until};

fn command(dir: &Path, config: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_annals"));
    command.arg("-d").arg(dir).args(["mirror", "--config"]).arg(config).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn text(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

async fn ended(child: Child) -> (i32, String, String) {
    let wait = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    text(&tokio::time::timeout(PATIENCE, wait).await.expect("it ends").unwrap())
}

/// Nothing is left of it, also when the test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn config(dir: &Path, lines: &str) -> std::path::PathBuf {
    let path = dir.join("mirror.toml");
    std::fs::write(&path, lines).unwrap();
    path
}

#[tokio::test]
async fn it_forwards_beside_the_program_that_writes_until_it_is_told_to_end() {
    let Some(broker) = Broker::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (data, prefix) = (dir.path().join("log"), broker.unique("cli"));
    let log = Log::open(&data).await.unwrap();
    let orders = log.create_raw_topic("orders", TopicSettings::default().partitions(2)).await.unwrap();
    let target = format!("{prefix}.orders");
    let lines = format!(
        "[kafka]\nbootstrap_servers = \"nowhere.invalid:1\"\n[mirror]\nname = \"cli\"\ntopics = \"orders\"\nprefix = \"{prefix}.\"\n\
         checkpoint_topic = \"{prefix}.places\"\ncreate_topics = {{}}\n"
    );
    let file = config(dir.path(), &lines);
    let run = |more: &[&str]| {
        let mut command = command(&data, &file, more);
        // A variable wins over the file.
        command.env("KAFKA_BOOTSTRAP_SERVERS", broker.bootstrap()).spawn().unwrap()
    };
    let mut written = 0;
    let mut write = async |count: u32| {
        for _ in 0..count {
            orders.produce(Record::new(written.to_string().into()).key(format!("key {written}"))).await.unwrap();
            written += 1;
        }
        written as usize
    };
    for _ in 0..2 {
        let all = write(20).await;
        let (code, out, err) = ended(run(&["--until-caught-up"])).await;
        assert_eq!((code, &*err), (0, ""), "{out}");
        assert!(out.contains("20 records forwarded"), "{out}");
        assert_eq!(broker.dump(&target).await.len(), all);
    }
    for signal in ["-INT", "-TERM"] {
        let child = run(&[]);
        let all = write(20).await as i64;
        // Each transaction has marks of its own: so many records at least.
        until("it has forwarded", async || broker.end(&target, 0) + broker.end(&target, 1) >= all).await;
        until("all are there", async || broker.dump(&target).await.len() == all as usize).await;
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let (code, out, err) = ended(child).await;
        assert_eq!((code, &*err), (0, ""), "{out}");
        assert!(out.contains("records forwarded"), "{out}");
    }
    // Nothing was written to the log by any of them.
    assert_eq!(log.topics().unwrap().len(), 1);
}

#[tokio::test]
async fn it_says_what_is_wrong_and_answers_with_an_exit_code() {
    let Some(broker) = Broker::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (data, prefix) = (dir.path().join("log"), broker.unique("cli-wrong"));
    let log = Log::open(&data).await.unwrap();
    let orders = log.create_raw_topic("orders", TopicSettings::default()).await.unwrap();
    orders.produce(Record::new("a".into())).await.unwrap();
    let lines = format!(
        "[kafka]\nbootstrap_servers = \"{}\"\n[mirror]\ntopics = [\"orders\"]\nprefix = \"{prefix}.\"\ncheckpoint_topic = \"{prefix}\"\n",
        broker.bootstrap()
    );
    // The topic is not there, and is not to be made: what is left is no success.
    let file = config(dir.path(), &lines);
    let child = command(&data, &file, &["--until-caught-up"]).spawn().unwrap();
    let (code, out, err) = ended(child).await;
    assert_ne!(code, 0, "{out} {err}");
    assert!(err.contains(&format!("{prefix}.orders")), "{err}");
    // A second one ends the first, which says so.
    let lines = lines.replace("prefix =", "create_topics = {}\nprefix =");
    let file = config(dir.path(), &lines);
    let mut first = Running(command(&data, &file, &[]).spawn().unwrap());
    let target = format!("{prefix}.orders");
    until("the first is at work", async || {
        broker.partitions(&target) == Some(1) && broker.dump(&target).await.len() == 1
    })
    .await;
    let (code, out, err) = ended(command(&data, &file, &["--until-caught-up"]).spawn().unwrap()).await;
    assert_eq!((code, &*err), (0, ""), "{out}");
    orders.produce(Record::new("b".into())).await.unwrap();
    let mut said = String::new();
    let (sent, stderr) = (std::sync::mpsc::channel(), first.0.stderr.take().unwrap());
    std::thread::spawn(move || {
        let mut stderr = stderr;
        let mut said = String::new();
        stderr.read_to_string(&mut said).unwrap();
        let _ = sent.0.send(said);
    });
    until("the first has ended", async || {
        said.extend(sent.1.try_recv().ok());
        first.0.try_wait().unwrap().is_some() && !said.is_empty()
    })
    .await;
    assert_eq!(first.0.wait().unwrap().code(), Some(1), "{said}");
    assert!(said.contains("annals: "), "{said}");
}
