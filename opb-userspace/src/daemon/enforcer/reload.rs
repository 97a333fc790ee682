//! Reloads: the files are checked here, compiled on the thread of the requester, and put in force
//! here.
//!
//! A reload goes back and forth: [`Enforcer::begin`] says what to compile, the requester compiles
//! it, and [`Enforcer::finish`] puts it in force, or begins again if another image came into force
//! meanwhile.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tracing::{error, info, warn};

use super::{
    Enforcer,
    active::Publication,
    build::{BuildError, Built, Order},
    coverage::Which,
    journal,
    reloads::{RestartOnly, confirm_by},
    unconfirmed::UnconfirmedExists,
};
use crate::{
    api::{
        commits::Commit,
        entries::Who,
        reload::{Problem, ReloadOutcome, Trigger},
    },
    commits::{self, Deadline},
    compiled::hex,
    daemon::{
        changed::Changed,
        load::{Hang, Loaded},
    },
    document::Diagnostics,
    errors::one_line,
};

/// How often an image is compiled while changes go on. After that, changes wait for it.
const TRIES: u32 = 3;

/// A request to reload.
#[derive(Clone)]
pub(in crate::daemon) struct Asked {
    pub(in crate::daemon) trigger: Trigger,
    pub(in crate::daemon) who: Option<Arc<Who>>,
    /// The confirmation timeout, if one was requested.
    pub(in crate::daemon) confirm: Option<Duration>,
    /// What the user says about it.
    pub(in crate::daemon) comment: Option<String>,
}

impl Asked {
    /// Nobody asked: the daemon does it by itself.
    pub(in crate::daemon) fn by_itself(trigger: Trigger) -> Self {
        Self { trigger, who: None, confirm: None, comment: None }
    }
}

/// A reload that waits for its image.
pub(in crate::daemon) struct Reload {
    asked: Asked,
    loaded: Loaded,
    tries: u32,
    /// The unconfirmed commit on the disk: before the policy is in force, so that no crash can make
    /// it a confirmed one.
    recorded: Option<(u64, Deadline)>,
}

/// How a reload goes on.
pub(in crate::daemon) enum Next {
    Done(ReloadOutcome),
    Build(Box<Reload>, Order),
}

/// Why a reload changes nothing.
#[derive(Debug, thiserror::Error)]
pub(in crate::daemon) enum ReloadError {
    #[error(transparent)]
    Files(#[from] Diagnostics),
    #[error(transparent)]
    Hang(#[from] Hang),
    #[error(transparent)]
    RestartOnly(#[from] RestartOnly),
    #[error(transparent)]
    Unconfirmed(#[from] UnconfirmedExists),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Commits(#[from] commits::Error),
}

impl ReloadError {
    /// Everything that is wrong, as the API shows it.
    pub(in crate::daemon) fn problems(&self) -> Vec<Problem> {
        match self {
            Self::Files(diagnostics) => diagnostics.errors().map(Problem::from).collect(),
            Self::RestartOnly(settings) => settings.problems(),
            Self::Hang(_) | Self::Unconfirmed(_) | Self::Build(_) | Self::Commits(_) => {
                vec![one_line(self).into()]
            }
        }
    }
}

impl Enforcer {
    /// Begins to put the files in force as they are now. After an error, everything stays as it is.
    pub(in crate::daemon) fn begin(
        &mut self,
        asked: Asked,
        loaded: Result<Loaded, ReloadError>,
    ) -> Next {
        match loaded {
            Ok(loaded) => self.try_again(Reload { asked, loaded, tries: 0, recorded: None }),
            Err(error) => self.reject(asked, &error),
        }
    }

    fn try_again(&mut self, reload: Reload) -> Next {
        if let Err(error) = self.check(&reload) {
            return self.give_up(reload, &error);
        }
        if self.is_new(&reload.loaded) || self.active.is_stale() {
            let order = self.order_to_publish(&reload.loaded.files);
            let reload = Reload { tries: reload.tries + 1, ..reload };
            return Next::Build(Box::new(reload), order);
        }
        self.active.adopt_notes(&reload.loaded.files);
        self.conclude_with(reload, Changed::No)
    }

    pub(in crate::daemon) fn finish(
        &mut self,
        mut reload: Box<Reload>,
        built: Result<Built, BuildError>,
    ) -> Next {
        let policy = self.is_new(&reload.loaded).into();
        match self.publish_for(&mut reload, built) {
            Ok(Publication::InForce) => self.conclude_with(*reload, policy),
            Ok(Publication::Outdated) => self.try_again(*reload),
            Err(error) => self.give_up(*reload, &error),
        }
    }

    fn publish_for(
        &mut self,
        reload: &mut Reload,
        built: Result<Built, BuildError>,
    ) -> Result<Publication, ReloadError> {
        // Another commit may be unconfirmed by now.
        self.check(reload)?;
        let built = built?;
        if self.is_new(&reload.loaded) {
            self.record_unconfirmed(reload)?;
        }
        let files = &reload.loaded.files;
        if self.publish_built(files, built)? == Publication::InForce {
            return Ok(Publication::InForce);
        }
        if reload.tries < TRIES {
            return Ok(Publication::Outdated);
        }
        self.publish_now(files)?;
        Ok(Publication::InForce)
    }

    /// Writes the commit to the disk if it will be unconfirmed. Without that, a crash would confirm
    /// it.
    fn record_unconfirmed(&mut self, reload: &mut Reload) -> Result<(), commits::Error> {
        let (Some(timeout), None) = (reload.asked.confirm, &reload.recorded) else {
            return Ok(());
        };
        if let Some(refused) = reload.loaded.refused.take() {
            return Err(refused);
        }
        let deadline = Deadline::after(timeout, confirm_by(timeout));
        let commit = commit(&reload.asked, &reload.loaded);
        let number = self.commits.add_unconfirmed(commit, deadline.clone())?;
        reload.recorded = Some((number, deadline));
        Ok(())
    }

    fn check(&self, reload: &Reload) -> Result<(), ReloadError> {
        let Reload { asked, loaded, .. } = reload;
        match asked.confirm {
            Some(_) => self.check_nothing_unconfirmed()?,
            None => self.check_no_policy_unconfirmed()?,
        }
        Ok(self.reloads.check_restart_only(&loaded.config)?)
    }

    fn is_new(&self, loaded: &Loaded) -> bool {
        loaded.digest != self.active.image().digest()
    }

    /// The policy of `reload` is in force; `policy` tells whether it is another than before.
    fn conclude_with(&mut self, mut reload: Reload, policy: Changed) -> Next {
        let interfaces =
            Changed::from(reload.loaded.config.interfaces != self.reloads.config().interfaces);
        let changed = policy | interfaces;
        if changed == Changed::Yes
            && let Err(error) = self.record_unconfirmed(&mut reload)
        {
            return self.give_up(reload, &error.into());
        }
        let Reload { asked, mut loaded, recorded, .. } = reload;
        let commit = commit(&asked, &loaded);
        let refused = loaded.refused();
        let Loaded { config, files, watch, snapshot, .. } = loaded;
        let is_known = self.commits.confirmed().is_some_and(|commit| snapshot.is_of(commit));
        let before = self.reloads.adopt(config, files, watch);
        self.follow_config(interfaces);
        match recorded {
            Some((_, deadline)) => {
                let confirm_by = deadline.confirm_by;
                self.reloads.await_confirmation(&deadline, before);
                warn!("this policy is rolled back at {confirm_by:.0} unless it is confirmed");
            }
            None if changed == Changed::Yes || !is_known => {
                self.commits.add(commit, refused);
            }
            None => {}
        }
        let _ = self.note_commits();
        let outcome = match changed {
            Changed::Yes => self.active.outcome(),
            Changed::No => ReloadOutcome::Unchanged,
        };
        self.conclude(asked, outcome)
    }

    /// After another node file has been adopted.
    pub(super) fn follow_config(&mut self, interfaces: Changed) {
        self.hosts.set_hold(self.reloads.config().dns.hold.duration());
        self.request_hosts();
        if interfaces == Changed::Yes {
            // The caller reports.
            let _ = self.cover(Which::All);
        }
    }

    /// After an error: everything stays as it is.
    fn give_up(&mut self, reload: Reload, error: &ReloadError) -> Next {
        if let Some((number, _)) = reload.recorded {
            self.commits.withdraw(number);
        }
        self.reject(reload.asked, error)
    }

    fn reject(&mut self, asked: Asked, error: &ReloadError) -> Next {
        self.conclude(asked, ReloadOutcome::Rejected { errors: error.problems() })
    }

    fn conclude(&mut self, asked: Asked, outcome: ReloadOutcome) -> Next {
        match &outcome {
            ReloadOutcome::Unchanged => info!("reload: nothing has changed"),
            ReloadOutcome::Applied { generation, digest } => {
                info!(generation, digest, "reload: applied");
                self.log_policy_warnings();
            }
            ReloadOutcome::Rejected { errors } => {
                error!("reload: rejected; the policy that was in force stays in force");
                errors.iter().for_each(|problem| error!("{}", problem.text));
            }
        }
        if matches!(asked.trigger, Trigger::Request | Trigger::Signal) && !outcome.is_rejected() {
            self.commits.accept();
            let _ = self.note_commits();
        }
        if let Some(who) = &asked.who {
            self.journal.record("reload", who, journal::outcome(&outcome));
        }
        self.reloads.record(asked.trigger, asked.who.as_deref(), outcome.clone());
        self.report();
        Next::Done(outcome)
    }
}

/// The commit of a reload, without a number.
pub(super) fn commit(asked: &Asked, loaded: &Loaded) -> Commit {
    Commit {
        number: 0,
        time: Timestamp::now(),
        trigger: asked.trigger,
        by: asked.who.as_deref().cloned(),
        comment: asked.comment.clone(),
        repeats: loaded.repeats,
        digest: hex(loaded.digest),
        rolled_back: None,
        files: loaded.snapshot.files().to_vec(),
    }
}
