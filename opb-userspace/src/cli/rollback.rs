use opb_userspace::{
    api::reload::{Rollback as Answer, UnconfirmedKind},
    period::Period,
};

use super::{
    client::Control,
    failure::Failure,
    output::{Format, Output},
    reload::Commit,
};

/// Take back what is unconfirmed, or put an earlier policy in force
///
/// The files stay as they are. Until they are corrected, `opb status` says that they differ.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  opb rollback\n  opb rollback 3 --confirm 5m")]
pub(crate) struct Rollback {
    /// Commit to put in force again: `opb history` lists them. Without it: the one before the
    /// unconfirmed commit, at once
    number: Option<u64>,

    /// Roll back in turn unless `opb confirm` comes within this time, such as 5m
    #[arg(long, value_name = "TIME", requires = "number")]
    confirm: Option<Period>,

    /// Why the policy changes: kept in the history
    #[arg(long, value_name = "TEXT", requires = "number")]
    comment: Option<String>,

    #[command(flatten)]
    control: Control,

    #[command(flatten)]
    format: Format,
}

impl Rollback {
    pub(crate) fn execute(self) -> Result<(), Failure> {
        let Self { number, confirm, comment, control, format } = self;
        match number {
            Some(_) => Commit { number, confirm, comment }.put_in_force(&control, format),
            None => take_back(&control, format),
        }
    }
}

fn take_back(control: &Control, format: Format) -> Result<(), Failure> {
    let answer: Answer = control.post("/v1/rollback")?;
    let mut output = Output::new();
    if format.json {
        output.json(&answer)?;
    } else {
        match answer {
            Answer { rolled_back: true, kind: Some(UnconfirmedKind::Policy), .. } => {
                output.line("rolled back: the policy before is in force again")?;
            }
            Answer { rolled_back: true, .. } => output.line("rolled back: the import is undone")?,
            Answer { .. } => {}
        }
    }
    output.finish()?;
    match answer {
        Answer { rolled_back: true, .. } => Ok(()),
        _ if format.json => Err(Failure::NEGATIVE),
        Answer { error: Some(error), .. } => {
            Err(Failure::new(error).hint("the daemon tries again every second"))
        }
        _ => Err(Failure::new("nothing is unconfirmed")
            .hint("`opb rollback NUMBER` puts a commit in force; `opb history` lists them")),
    }
}
