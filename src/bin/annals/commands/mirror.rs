//! `mirror`.

use std::path::PathBuf;

use crate::args::Cli;
use crate::failure::Outcome;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The file has a section [kafka], with how to reach the cluster, and a section [mirror], with what to forward; docs/CONFIGURATION.md lists
the keys. The usual variables, such as KAFKA_BOOTSTRAP_SERVERS and KAFKA_SASL_PASSWORD, win over the file.

The log is opened read-only, also beside the program that writes to it. The mirror keeps its place in Kafka and goes on there when it is
run again; a second one of the same name ends the first. What it has not forwarded yet is not held back from retention: for that run
the mirror in the program itself.

It runs until Ctrl-C or SIGTERM, and then commits what it has begun. This needs a build with --features cli,kafka.

Examples:
  annals -d data mirror --config mirror.toml --check
  annals -d data mirror --config mirror.toml --until-caught-up
  KAFKA_BOOTSTRAP_SERVERS=kafka-1:9092 annals -d data mirror --config mirror.toml")]
pub(crate) struct MirrorArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Say what is wrong with the configuration, without connecting, and end
    #[arg(long, conflicts_with = "until_caught_up")]
    check: bool,
    /// End once all that is in the log is in Kafka
    #[arg(long)]
    until_caught_up: bool,
}

#[cfg(not(feature = "kafka"))]
pub(crate) fn run(_: &Cli, args: &MirrorArgs) -> Outcome {
    let MirrorArgs { config: _, check: _, until_caught_up: _ } = args;
    Err(crate::failure::Failure::usage(
        "this build of annals knows nothing of Kafka; build one with `cargo install annals --features cli,kafka`",
    ))
}

#[cfg(feature = "kafka")]
pub(crate) fn run(cli: &Cli, args: &MirrorArgs) -> Outcome {
    forwarding::run(cli, args)
}

#[cfg(feature = "kafka")]
mod forwarding {
    use std::future::{Future, poll_fn};
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll};
    use std::time::Duration;

    use annals::mirror::{ErrorClass, KafkaConfig, Mirror, MirrorConfig, MirrorError, MirrorStatus};
    use tokio::sync::broadcast::error::RecvError;

    use super::MirrorArgs;
    use crate::args::Cli;
    use crate::clock::Stopwatch;
    use crate::commands::progress::Progress;
    use crate::commands::waiting::{terminated, wait_for};
    use crate::failure::{Class, Failure, Outcome, warn};
    use crate::open::open_for_reading;
    use crate::output::{ColorWhen, Output};
    use crate::units::{grouped, rate, shown_rate, shown_size};

    /// How often the line of progress is written anew.
    const LOOK: Duration = Duration::from_millis(200);

    pub(super) fn run(cli: &Cli, args: &MirrorArgs) -> Outcome {
        let (kafka, config) = read(args).map_err(|failure| failure.about(&args.config.display().to_string()))?;
        let mut out = Output::new(cli.color);
        if args.check {
            let topics: Vec<&str> = config.topics().collect();
            out.line(format!("the configuration is in order: it forwards {}", topics.join(", ")))?;
            return out.flush();
        }
        let log = open_for_reading(cli)?;
        let mirror = Mirror::builder(&log).config(&config).to(kafka);
        let summary = wait_for(async {
            // It listens from here on, whatever the cluster does.
            let stop = terminated()?;
            forward(mirror.spawn()?, args.until_caught_up, stop, cli.color).await
        })??;
        log.blocking_close()?;
        out.line(summary)?;
        out.flush()
    }

    /// The configuration, checked.
    fn read(args: &MirrorArgs) -> Outcome<(KafkaConfig, MirrorConfig)> {
        let text = std::fs::read_to_string(&args.config).map_err(|error| {
            let class = match error.kind() {
                std::io::ErrorKind::NotFound => Class::NotFound,
                std::io::ErrorKind::InvalidData => Class::Usage,
                _ => Class::Failed,
            };
            Failure::new(class, format!("cannot read the configuration: {error}"))
        })?;
        let kafka = KafkaConfig::from_toml(&text)?.with_env()?;
        kafka.validate()?;
        let config = MirrorConfig::from_toml(&text)?;
        if config.topics().next().is_none() {
            return Err(Failure::usage(
                "`mirror.topics` is not there; a list of names, and of patterns such as \"orders.*\", is allowed",
            ));
        }
        Ok((kafka, config))
    }

    /// What there is to do next.
    enum Event {
        Met(MirrorError),
        Look,
        /// Everything is in Kafka.
        CaughtUp,
        /// Somebody wants it to end.
        Stop,
        /// It has ended by itself.
        Ended(annals::Result<()>),
    }

    /// Forwards until somebody wants it to end, or there is nothing left to do. Answers what it has done.
    async fn forward(
        mirror: Mirror,
        until_caught_up: bool,
        stop: impl Future<Output = ()>,
        color: ColorWhen,
    ) -> Outcome<String> {
        let progress = Progress::of_bytes(None);
        let stopwatch = Stopwatch::start();
        let mut errors = mirror.errors();
        let mut stop = pin!(stop);
        {
            let mut caught_up: Pin<Box<dyn Future<Output = annals::Result<()>> + '_>> = match until_caught_up {
                true => Box::pin(mirror.caught_up()),
                false => Box::pin(std::future::pending()),
            };
            let mut ended = pin!(mirror.ended());
            let mut looks = tokio::time::interval(LOOK);
            loop {
                let mut met = pin!(async {
                    loop {
                        match errors.recv().await {
                            Ok(met) => return met,
                            Err(RecvError::Lagged(_)) => {}
                            // It has ended, which is found out elsewhere.
                            Err(RecvError::Closed) => std::future::pending().await,
                        }
                    }
                });
                let next = |cx: &mut Context<'_>| {
                    // Errors first: what it has ended with is told once, and what came before that is told, too.
                    if let Poll::Ready(met) = met.as_mut().poll(cx) {
                        return Poll::Ready(Event::Met(met));
                    }
                    if let Poll::Ready(result) = ended.as_mut().poll(cx) {
                        return Poll::Ready(Event::Ended(result));
                    }
                    if stop.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(Event::Stop);
                    }
                    match caught_up.as_mut().poll(cx) {
                        Poll::Ready(Ok(())) => return Poll::Ready(Event::CaughtUp),
                        Poll::Ready(Err(error)) => return Poll::Ready(Event::Ended(Err(error))),
                        Poll::Pending => {}
                    }
                    looks.poll_tick(cx).map(|_| Event::Look)
                };
                match poll_fn(next).await {
                    Event::Met(met) => tell(&progress, &met, color),
                    Event::Look => {
                        let status = mirror.status();
                        progress.at(status.forwarded_bytes, || line(&status, stopwatch.elapsed()));
                    }
                    Event::CaughtUp | Event::Stop => break,
                    Event::Ended(result) => {
                        drop(progress);
                        result?;
                        break;
                    }
                }
            }
        }
        let paused = mirror.status().partitions.into_iter().find_map(|partition| {
            let error = partition.paused?;
            Some((format!("topic {}, partition {} is not forwarded", partition.topic, partition.partition), error))
        });
        // Some seconds at most, while what it has begun is committed.
        let status = mirror.status();
        mirror.stop().await?;
        match paused {
            // Whoever waits for all of it must not take this for the end.
            Some((what, error)) if until_caught_up => Err(Failure::from(error).about(&what)),
            _ => Ok(line(&status, stopwatch.elapsed())),
        }
    }

    fn line(status: &MirrorStatus, elapsed: Duration) -> String {
        let rate = shown_rate(rate(status.forwarded, elapsed));
        let mut line = format!("{} records forwarded, {rate}", grouped(status.forwarded));
        if status.passed_over > 0 {
            line += &format!("; {} passed over", grouped(status.passed_over));
        }
        if status.lag_records() > 0 {
            line += &format!("; {} to go, {}", grouped(status.lag_records()), shown_size(status.lag_bytes()));
        }
        let paused = status.partitions.iter().filter(|partition| partition.paused.is_some()).count();
        if paused > 0 {
            line += &format!("; {paused} partitions paused");
        }
        line
    }

    fn tell(progress: &Progress, met: &MirrorError, color: ColorWhen) {
        let message = match &met.partition {
            Some((topic, partition)) => format!("topic {topic}, partition {partition}: {}", met.error),
            None => met.error.to_string(),
        };
        // What it ends with is the failure of the command.
        if met.class != ErrorClass::Fatal {
            progress.aside(|| warn(&message, color));
        }
    }
}
