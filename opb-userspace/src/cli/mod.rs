//! The command line: one file for each command, and what they share.

mod bypass;
mod check;
mod client;
mod confirm;
mod counters;
mod detach;
mod diff;
mod doctor;
mod events;
mod explain;
mod failure;
mod help;
mod history;
mod import;
mod log;
#[cfg(test)]
mod manual;
mod output;
mod pins;
mod policy;
mod reload;
mod replay;
mod rollback;
mod run;
mod session;
mod status;
mod subscriber;
mod upload;
mod top;

use std::process::ExitCode;

use clap::{
    CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum, error::ErrorKind,
};
use opb_common::outcome::Direction;

use self::failure::Failure;

/// Block outbound port 25 in the kernel's packet path
#[derive(Debug, Parser)]
#[command(name = "opb", version, disable_help_subcommand = true)]
#[command(after_help = "`opb COMMAND --help` describes a command and gives an example.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(check::Check),
    Run(run::Run),
    Detach(detach::Detach),
    Bypass(bypass::Bypass),
    Status(status::Status),
    Reload(reload::Reload),
    Confirm(confirm::Confirm),
    Rollback(rollback::Rollback),
    History(history::History),
    Diff(diff::Diff),
    Import(import::Import),
    Doctor(doctor::Doctor),
    #[command(subcommand)]
    Subscriber(subscriber::Subscriber),
    #[command(subcommand)]
    Session(session::Session),
    Explain(explain::Explain),
    Replay(replay::Replay),
    Counters(counters::Counters),
    Events(events::Events),
    Top(top::Top),
}

/// Parses the arguments, runs the command and returns the exit code.
pub(crate) fn main() -> ExitCode {
    match parse().and_then(Command::execute) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Parses the arguments. Prints help or version itself, and then returns [`Failure::DONE`].
fn parse() -> Result<Command, Failure> {
    let parsed = help::grouped(Arguments::command())
        .try_get_matches()
        .and_then(|matches| Arguments::from_arg_matches(&matches));
    let error = match parsed {
        Ok(Arguments { command }) => return Ok(command),
        Err(error) => error,
    };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            error.print().map_err(failure::output)?;
            Err(Failure::DONE)
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Err(Failure::invalid("no command is given").hint("`opb --help` lists the commands"))
        }
        _ => {
            let text = error.render().to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            let text = text.split("\n\nFor more information").next().unwrap_or(text).trim_end();
            Err(Failure::invalid(text).hint("`--help` lists the options"))
        }
    }
}

impl Command {
    fn execute(self) -> Result<(), Failure> {
        match self {
            Self::Check(command) => command.execute(),
            Self::Run(command) => command.execute(),
            Self::Detach(command) => command.execute(),
            Self::Bypass(command) => command.execute(),
            Self::Status(command) => command.execute(),
            Self::Reload(command) => command.execute(),
            Self::Confirm(command) => command.execute(),
            Self::Rollback(command) => command.execute(),
            Self::History(command) => command.execute(),
            Self::Diff(command) => command.execute(),
            Self::Import(command) => command.execute(),
            Self::Doctor(command) => command.execute(),
            Self::Subscriber(command) => command.execute(),
            Self::Session(command) => command.execute(),
            Self::Explain(command) => command.execute(),
            Self::Replay(command) => command.execute(),
            Self::Counters(command) => command.execute(),
            Self::Events(command) => command.execute(),
            Self::Top(command) => command.execute(),
        }
    }
}

/// A direction, as an argument.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Way {
    #[default]
    Upstream,
    Downstream,
}

impl From<Way> for Direction {
    fn from(way: Way) -> Self {
        match way {
            Way::Upstream => Self::Upstream,
            Way::Downstream => Self::Downstream,
        }
    }
}
