//! Reloads: what the files say is checked here, compiled by whoever asked for the reload, and put in force here.
//!
//! A reload goes back and forth: [`Enforcer::begin`] says what is to be compiled, somebody else compiles it, and
//! [`Enforcer::finish`] puts it in force, or begins again if another image has come into force meanwhile.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{error, info, warn};

use super::{
    Enforcer, Which, actor, applied,
    build::{Built, Order},
    refuse_restart_only,
    trial::{self, Trial},
};
use crate::api::{
    entries::Who, reload::Problem, reload::ReloadOutcome, reload::Trigger, status::LastReload,
};
use crate::daemon::reader::Loaded;

/// So often an image is compiled while changes go on. The next one is compiled while they wait.
const TRIES: u32 = 3;

/// Who wants a reload.
#[derive(Clone)]
pub(in crate::daemon) struct Asked {
    pub(in crate::daemon) trigger: Trigger,
    pub(in crate::daemon) who: Option<Arc<Who>>,
    /// Within which time it has to be confirmed.
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

/// What the files say, or why they cannot be used.
pub(in crate::daemon) type Loading = Result<Loaded, Vec<Problem>>;

impl Enforcer {
    /// Begins to put in force what the files say now. Whatever is wrong leaves everything as it is.
    pub(in crate::daemon) fn begin(&mut self, asked: Asked, loaded: Loading) -> Next {
        match loaded {
            Ok(loaded) => self.try_again(Reload { asked, loaded, tries: 0 }),
            Err(errors) => self.conclude(asked, ReloadOutcome::Rejected { errors }),
        }
    }

    fn try_again(&mut self, reload: Reload) -> Next {
        if let Err(errors) = self.check(&reload) {
            return self.conclude(reload.asked, ReloadOutcome::Rejected { errors });
        }
        if self.is_new(&reload.loaded) || self.is_image_wrong() {
            let order = self.order_to_publish(&reload.loaded.files);
            let reload = Reload { tries: reload.tries + 1, ..reload };
            return Next::Build(Box::new(reload), order);
        }
        // No image is made. The files may still differ in what does not matter to the image.
        let policy = Arc::make_mut(&mut self.compiled.policy);
        policy.warnings.clone_from(&reload.loaded.files.warnings);
        policy.files.clone_from(&reload.loaded.files.files);
        self.adopt(reload, false)
    }

    pub(in crate::daemon) fn finish(
        &mut self,
        reload: Box<Reload>,
        built: Result<Built, String>,
    ) -> Next {
        let is_new = self.is_new(&reload.loaded);
        match self.publish_for(&reload, built) {
            Ok(true) => self.adopt(*reload, is_new),
            Ok(false) => self.try_again(*reload),
            Err(errors) => self.conclude(reload.asked, ReloadOutcome::Rejected { errors }),
        }
    }

    /// Whether the image is in force. It is not if it was compiled for nothing.
    fn publish_for(
        &mut self,
        reload: &Reload,
        built: Result<Built, String>,
    ) -> Result<bool, Vec<Problem>> {
        // Something else may be on trial by now.
        self.check(reload)?;
        let problem = |error: String| vec![Problem::from(error)];
        let files = &reload.loaded.files;
        if self.publish_built(built.map_err(problem)?, files).map_err(problem)? {
            return Ok(true);
        }
        if reload.tries < TRIES {
            return Ok(false);
        }
        let built = self.order(files).build().map_err(problem)?;
        self.publish(built).map_err(problem)?;
        Ok(true)
    }

    fn check(&self, Reload { asked, loaded, .. }: &Reload) -> Result<(), Vec<Problem>> {
        let refused = match asked.confirm {
            Some(_) => self.refuse_second_trial(),
            None => self.refuse_reload(),
        };
        refused.map_err(|error| vec![Problem::from(error)])?;
        refuse_restart_only(&self.config, &loaded.config)
    }

    fn is_new(&self, loaded: &Loaded) -> bool {
        loaded.digest != self.compiled.image.digest()
    }

    /// Takes over what the files say beside the image, which is in force.
    fn adopt(&mut self, Reload { asked, loaded, .. }: Reload, new_policy: bool) -> Next {
        let Loaded { config, files, watch, .. } = loaded;
        let new_interfaces = config.interfaces != self.config.interfaces;
        let files = std::mem::replace(&mut self.files, files);
        let config = std::mem::replace(&mut self.config, config);
        self.watch = watch;
        self.hosts.set_hold(self.config.dns.hold.duration());
        self.ask_for_hosts();
        if new_interfaces {
            self.cover(Which::All);
        }
        if !new_policy && !new_interfaces {
            return self.conclude(asked, ReloadOutcome::Unchanged);
        }
        if let Some(limit) = asked.confirm {
            let until = trial::end(limit);
            warn!("this policy is taken back at {until:.0} unless it is confirmed");
            self.trial = Some(Trial { deadline: Instant::now() + limit, until, files, config });
        }
        self.conclude(asked, applied(&self.compiled))
    }

    fn conclude(&mut self, asked: Asked, outcome: ReloadOutcome) -> Next {
        match &outcome {
            ReloadOutcome::Unchanged => info!("reload: nothing has changed"),
            ReloadOutcome::Applied { generation, digest } => {
                info!(generation, digest, "reload: applied");
                self.warn_of_policy();
            }
            ReloadOutcome::Rejected { errors } => {
                error!("reload: rejected; the policy that was in force stays in force");
                errors.iter().for_each(|problem| error!("{}", problem.text));
            }
        }
        if let Some(who) = &asked.who {
            self.record_of("reload", who, actor::outcome(&outcome).to_owned());
        }
        self.remember(asked.trigger, asked.who.as_deref(), outcome.clone());
        self.report();
        Next::Done(outcome)
    }

    pub(super) fn remember(&mut self, trigger: Trigger, by: Option<&Who>, outcome: ReloadOutcome) {
        let (time, success) = (jiff::Timestamp::now(), !outcome.is_rejected());
        self.last_reload = LastReload { time, trigger, success, by: by.cloned(), outcome };
    }
}
