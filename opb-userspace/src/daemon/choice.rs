//! What a start puts in force: the policy that was in force when the last daemon ended, whatever
//! happened to the files since. Only the first start on a node takes the files.

use std::{path::PathBuf, sync::Arc};

use jiff::Timestamp;
use tracing::{error, info, warn};

use super::{
    files::Watch,
    load::{Hang, Loaded, load_again},
};
use crate::{
    api::{commits::Commit, status::FilesState},
    commits::{self, Commits, Deadline},
    compiled::LoadError,
    document::Diagnostics,
    errors::one_line,
    node::{Config, PolicySource},
};

/// A policy to put in force, and the state around it.
pub(super) struct Choice {
    pub(super) loaded: Loaded,
    pub(super) commits: Commits,
    /// Whether `loaded` is not among the commits yet.
    pub(super) is_new: bool,
    /// If `loaded` is unconfirmed: what its rollback restores, and when.
    pub(super) unconfirmed: Option<(Loaded, Deadline)>,
    pub(super) files: FilesState,
    pub(super) watch: Watch,
}

/// Why a commit is not put in force.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Commits(#[from] commits::Error),
    #[error(transparent)]
    Invalid(#[from] Diagnostics),
}

/// Reads the commits. `config` has been read from `node`, and `files` are what it names. If they
/// hang, a commit comes into force without them.
pub(super) fn choose(
    config: &Config,
    node: PathBuf,
    mut files: Result<Result<Loaded, Diagnostics>, Hang>,
) -> Result<Result<Choice, LoadError>, Hang> {
    let mut commits = Commits::open(&config.state).unwrap_or_else(|error| {
        error!("the policy comes from the files: {}", one_line(&error));
        Commits::lost(&config.state, error)
    });
    roll_back_overdue(&mut commits);
    let PolicySource::Path(policy) = &config.policy;
    let unseen = Watch::unseen(vec![node, policy.clone()]);
    let valid = files.as_mut().ok().and_then(|files| files.as_mut().ok());
    let watch = valid.and_then(|loaded| loaded.watch.take()).unwrap_or(unseen);
    let valid = files.as_ref().ok().and_then(|files| files.as_ref().ok());
    if let Some(why) = commits.substitute() {
        error!("the policy in force may not be the one before: {why}");
    }
    let last = last(&mut commits, config, valid).unwrap_or_else(|error| {
        error!("the policy comes from the files: {}", one_line(&error));
        commits.note_substitute(&error);
        None
    });
    let Some((loaded, unconfirmed)) = last else {
        let loaded = match files? {
            Ok(loaded) => loaded,
            Err(invalid) => return Ok(Err(invalid.into())),
        };
        let files = FilesState::Same;
        let unconfirmed = None;
        return Ok(Ok(Choice { loaded, commits, is_new: true, unconfirmed, files, watch }));
    };
    let (files, watch) = compare(&loaded, files.as_ref().ok(), &commits, watch);
    Ok(Ok(Choice { loaded, commits, is_new: false, unconfirmed, files, watch }))
}

/// A deadline that passed while no daemon ran.
fn roll_back_overdue(commits: &mut Commits) {
    match commits.unconfirmed() {
        Some((commit, deadline)) if deadline.has_passed() => {
            error!("commit {} was not confirmed: it is rolled back", commit.number);
            commits.roll_back(Timestamp::now());
        }
        Some((commit, Deadline { confirm_by, .. })) => {
            let number = commit.number;
            warn!("commit {number} is rolled back at {confirm_by:.0} unless it is confirmed");
        }
        None => {}
    }
}

type Last = (Loaded, Option<(Loaded, Deadline)>);

/// What was in force when the last daemon ended. `None` if there was none.
fn last(
    commits: &mut Commits,
    config: &Config,
    files: Option<&Loaded>,
) -> Result<Option<Last>, Unusable> {
    let read = |commits: &Commits, commit: &Commit| match files {
        // Usually. Then there is nothing to read again.
        Some(files) if files.snapshot.is_of(commit) => Ok(files.again()),
        _ => Ok::<_, Unusable>(load_again(Arc::new(commits.keeper().read(commit)?), config)?),
    };
    let Some(confirmed) = commits.confirmed() else { return Ok(None) };
    let before = read(commits, confirmed)?;
    let unconfirmed = commits.unconfirmed().map(|(commit, deadline)| {
        let loaded = read(commits, commit);
        (commit.number, loaded, deadline.clone())
    });
    match unconfirmed {
        None => Ok(Some((before, None))),
        Some((_, Ok(loaded), deadline)) => Ok(Some((loaded, Some((before, deadline))))),
        Some((number, Err(error), _)) => {
            error!("commit {number} is rolled back: {}", one_line(&error));
            commits.roll_back(Timestamp::now());
            Ok(Some((before, None)))
        }
    }
}

/// How the files differ from `loaded`, and from when on they count as changed.
fn compare(
    loaded: &Loaded,
    files: Option<&Result<Loaded, Diagnostics>>,
    commits: &Commits,
    mut watch: Watch,
) -> (FilesState, Watch) {
    let number = commits.confirmed().map_or(0, |commit| commit.number);
    let Some(files) = files else {
        warn!("the files cannot be read: commit {number} is in force");
        // As after a rollback: nobody knows whether they have changed.
        watch.forget();
        return (FilesState::Unknown, watch);
    };
    let Ok(files) = files else {
        warn!("the files are not valid: commit {number} is in force");
        return (FilesState::Invalid, watch);
    };
    if files.compared_with(loaded.digest, &loaded.config) == FilesState::Same {
        return (FilesState::Same, watch);
    }
    info!("the files differ from commit {number}, which is in force until the next reload");
    if !were_left(files, commits) {
        // With `watch: on`, what changed while no daemon ran is read like any other change.
        watch.overlook();
    }
    (FilesState::Differ, watch)
}

/// Whether the files have what was rolled back, or what `opb rollback NUMBER` took out of force:
/// they have not changed since, and a restart must not undo that.
fn were_left(files: &Loaded, commits: &Commits) -> bool {
    let is_repeat = commits.confirmed().is_some_and(|commit| commit.repeats.is_some());
    let has_files = |commit: &Commit| files.snapshot.is_of(commit);
    commits.rolled_back().is_some_and(has_files)
        || is_repeat && commits.rows().iter().any(|row| has_files(&row.commit))
}
