//! `completions` and `man`.

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::args::Cli;
use crate::failure::{Class, Failure, Outcome};
use crate::output::Output;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  annals completions bash > ~/.local/share/bash-completion/completions/annals")]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  annals man | man -l -\n  annals man import > annals-import.1\n  annals man groups reset"
)]
pub(crate) struct ManArgs {
    /// The subcommand; by default the page is about annals as a whole
    subcommand: Vec<String>,
}

pub(crate) fn completions(cli: &Cli, args: &CompletionsArgs) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "annals", &mut script);
    write(cli, &script)
}

pub(crate) fn man(cli: &Cli, args: &ManArgs) -> Outcome {
    let mut command = Cli::command();
    command.build();
    for name in &args.subcommand {
        let Some(subcommand) = command.get_subcommands().find(|subcommand| subcommand.get_name() == name) else {
            return Err(Failure::usage(format!("{} has no subcommand {name:?}", command.get_name())));
        };
        command = subcommand.clone();
    }
    let mut page = Vec::new();
    let rendered = Man::new(command).render(&mut page);
    rendered.map_err(|error| Failure::new(Class::Failed, format!("cannot write the page: {error}")))?;
    write(cli, &page)
}

fn write(cli: &Cli, bytes: &[u8]) -> Outcome {
    let mut out = Output::new(cli.color);
    out.bytes(bytes)?;
    out.flush()
}
