use std::path::{Path, PathBuf};

use opb_userspace::{
    api::commits::{Commit, CommitFile, CommitRow, CommitText},
    document::Form,
};

use super::{
    client::Control,
    failure::Failure,
    output::{Format, Output},
};

/// List the policies that were in force
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  opb history")]
pub(crate) struct History {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    control: Control,

    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Show(Show),
}

/// Show the files of a commit
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  opb history show 3\n  opb history show 3 --file pools.txt")]
struct Show {
    /// Commit, as `opb history` lists it
    number: u64,

    /// Write this file alone, as it was read. The end of its path is enough
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,

    #[command(flatten)]
    control: Control,

    #[command(flatten)]
    format: Format,
}

impl History {
    pub(crate) fn execute(self) -> Result<(), Failure> {
        if let Some(Command::Show(show)) = self.command {
            return show.execute();
        }
        let rows: Vec<CommitRow> = self.control.get("/v1/commits")?;
        let mut output = Output::new();
        if self.format.json {
            rows.iter().try_for_each(|row| output.json(row))?;
        } else {
            output.table(
                ["commit", "time", "state", "by", "digest", "comment"],
                rows.iter().map(row),
            )?;
        }
        output.finish()
    }
}

fn row(CommitRow { state, commit }: &CommitRow) -> [String; 6] {
    let by = match &commit.by {
        Some(by) => by.to_string(),
        None => format!("({})", commit.trigger.name()),
    };
    let comment = commit.comment.clone().unwrap_or_default();
    let repeats = commit.repeats.map(|number| format!("rollback to {number}"));
    let comment = [repeats.unwrap_or_default(), comment];
    let comment: Vec<_> = comment.into_iter().filter(|part| !part.is_empty()).collect();
    [
        commit.number.to_string(),
        format!("{:.0}", commit.time),
        state.name().to_owned(),
        by,
        commit.digest.clone(),
        comment.join(": "),
    ]
}

impl Show {
    fn execute(self) -> Result<(), Failure> {
        let Self { number, file, control, format } = self;
        let rows: Vec<CommitRow> = control.get("/v1/commits")?;
        let Some(found) = rows.iter().find(|row| row.commit.number == number) else {
            return Err(Failure::invalid(format!("there is no commit {number}"))
                .hint("`opb history` lists those that are kept"));
        };
        let mut output = Output::new();
        match file {
            Some(path) => {
                let index = find(&found.commit, &path)?;
                output.raw(&content(&control, number, index)?)?;
            }
            None if format.json => output.json(found)?,
            None => describe(&mut output, &control, found)?,
        }
        output.finish()
    }
}

fn find(commit: &Commit, path: &Path) -> Result<usize, Failure> {
    let fits = |file: &CommitFile| file.path.ends_with(path);
    let mut fitting = (0..commit.files.len()).filter(|&index| fits(&commit.files[index]));
    match (fitting.next(), fitting.next()) {
        (Some(index), None) => Ok(index),
        (None, _) => {
            let paths = commit.files.iter().map(|file| file.path.display().to_string());
            let paths: Vec<_> = paths.collect();
            Err(Failure::invalid(format!("the commit has no file {}", path.display()))
                .hint(format!("it has {}", paths.join(", "))))
        }
        (Some(_), Some(_)) => {
            Err(Failure::invalid(format!("the commit has several files {}", path.display()))
                .hint("give more of the path"))
        }
    }
}

fn content(control: &Control, number: u64, index: usize) -> Result<String, Failure> {
    let answer: CommitText =
        control.get(&format!("/v1/commits/file?number={number}&index={index}"))?;
    Ok(answer.text)
}

/// Prints YAML files, and names the lists of prefixes.
fn describe(output: &mut Output, control: &Control, found: &CommitRow) -> Result<(), Failure> {
    let CommitRow { state, commit } = found;
    let by = commit.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
    output.line(format_args!(
        "commit {}: {}, {:.0} ({}{by}), digest {}",
        commit.number,
        state.name(),
        commit.time,
        commit.trigger.name(),
        commit.digest
    ))?;
    if let Some(comment) = &commit.comment {
        output.line(format_args!("comment: {comment}"))?;
    }
    for (index, CommitFile { path, form, bytes, .. }) in commit.files.iter().enumerate() {
        output.line(format_args!("\n# {} ({bytes} bytes)", path.display()))?;
        if *form == Form::Yaml {
            output.line(content(control, commit.number, index)?.trim_end())?;
        }
    }
    Ok(())
}
