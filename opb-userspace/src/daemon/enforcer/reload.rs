//! Reloads: the files are checked here, compiled on the thread of the requester, and put in force
//! here.
//!
//! A reload goes back and forth: [`Enforcer::begin`] says what to compile, the requester compiles
//! it, and [`Enforcer::finish`] puts it in force, or begins again if another image came into force
//! meanwhile.

use std::{sync::Arc, time::Duration};

use tracing::{error, info, warn};

use super::{
    Enforcer,
    active::Publication,
    build::{BuildError, Built, Order},
    coverage::Which,
    journal,
    reloads::RestartOnly,
    unconfirmed::UnconfirmedExists,
};
use crate::{
    api::{
        entries::Who,
        reload::{Problem, ReloadOutcome, Trigger},
    },
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
}

/// A reload that waits for its image.
pub(in crate::daemon) struct Reload {
    asked: Asked,
    loaded: Loaded,
    tries: u32,
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
}

impl ReloadError {
    /// Everything that is wrong, as the API shows it.
    pub(in crate::daemon) fn problems(&self) -> Vec<Problem> {
        match self {
            Self::Files(diagnostics) => diagnostics.errors().map(Problem::from).collect(),
            Self::RestartOnly(settings) => settings.problems(),
            Self::Hang(_) | Self::Unconfirmed(_) | Self::Build(_) => vec![one_line(self).into()],
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
            Ok(loaded) => self.try_again(Reload { asked, loaded, tries: 0 }),
            Err(error) => self.reject(asked, &error),
        }
    }

    fn try_again(&mut self, reload: Reload) -> Next {
        if let Err(error) = self.check(&reload) {
            return self.reject(reload.asked, &error);
        }
        if self.is_new(&reload.loaded) || self.active.is_stale() {
            let order = self.order_to_publish(&reload.loaded.files);
            let reload = Reload { tries: reload.tries + 1, ..reload };
            return Next::Build(Box::new(reload), order);
        }
        self.active.adopt_notes(&reload.loaded.files);
        self.adopt(reload, Changed::No)
    }

    pub(in crate::daemon) fn finish(
        &mut self,
        reload: Box<Reload>,
        built: Result<Built, BuildError>,
    ) -> Next {
        let policy = self.is_new(&reload.loaded).into();
        match self.publish_for(&reload, built) {
            Ok(Publication::InForce) => self.adopt(*reload, policy),
            Ok(Publication::Outdated) => self.try_again(*reload),
            Err(error) => self.reject(reload.asked, &error),
        }
    }

    fn publish_for(
        &mut self,
        reload: &Reload,
        built: Result<Built, BuildError>,
    ) -> Result<Publication, ReloadError> {
        // Another commit may be unconfirmed by now.
        self.check(reload)?;
        let files = &reload.loaded.files;
        if self.publish_built(files, built?)? == Publication::InForce {
            return Ok(Publication::InForce);
        }
        if reload.tries < TRIES {
            return Ok(Publication::Outdated);
        }
        self.publish_now(files)?;
        Ok(Publication::InForce)
    }

    fn check(&self, Reload { asked, loaded, .. }: &Reload) -> Result<(), ReloadError> {
        match asked.confirm {
            Some(_) => self.check_nothing_unconfirmed()?,
            None => self.check_no_policy_unconfirmed()?,
        }
        Ok(self.reloads.check_restart_only(&loaded.config)?)
    }

    fn is_new(&self, loaded: &Loaded) -> bool {
        loaded.digest != self.active.image().digest()
    }

    /// Takes over the rest of the files. Their image is in force; `policy` tells whether it is
    /// another policy than before.
    fn adopt(&mut self, Reload { asked, loaded, .. }: Reload, policy: Changed) -> Next {
        let interfaces =
            Changed::from(loaded.config.interfaces != self.reloads.config().interfaces);
        let before = self.reloads.adopt(loaded);
        self.follow_config(interfaces);
        if policy | interfaces == Changed::No {
            return self.conclude(asked, ReloadOutcome::Unchanged);
        }
        if let Some(timeout) = asked.confirm {
            let confirm_by = self.reloads.await_confirmation(timeout, before);
            warn!("this policy is rolled back at {confirm_by:.0} unless it is confirmed");
        }
        self.conclude(asked, self.active.outcome())
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
        if let Some(who) = &asked.who {
            self.journal.record("reload", who, journal::outcome(&outcome));
        }
        self.reloads.record(asked.trigger, asked.who.as_deref(), outcome.clone());
        self.report();
        Next::Done(outcome)
    }
}
