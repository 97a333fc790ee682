//! Reloads that are only looked at, and reloads that are taken back unless somebody confirms them.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tracing::{error, info, warn};

use super::{Enforcer, Subject, Which, applied, problems, refuse_restart_only};
use crate::{
    daemon::report::{Confirmation, Preview, Problem, ReloadOutcome, Trigger},
    diff::diff,
    errors::one_line,
    node::{Config, PolicySource},
    policy::Policy,
};

/// What was in force before a reload that waits for its confirmation.
pub(super) struct Trial {
    deadline: Instant,
    /// The same for people.
    pub(super) until: Timestamp,
    files: Policy,
    config: Config,
}

impl Enforcer {
    /// What a reload would change, or why it would be rejected.
    pub(in crate::daemon) fn preview(&self) -> Result<Preview, Vec<Problem>> {
        let config = Config::load(&self.path).map_err(|found| problems(found.errors()))?;
        refuse_restart_only(&self.config, &config)?;
        let PolicySource::Path(path) = &config.policy;
        let files =
            Policy::load(std::slice::from_ref(path)).map_err(|found| problems(found.errors()))?;
        let compiled = self.compile(&files).map_err(|error| vec![one_line(&error).into()])?;
        let interfaces = config.interfaces != self.config.interfaces;
        let changes = diff(&self.compiled.policy, &compiled.policy, Timestamp::now());
        Ok(Preview { digest: crate::compiled::hex(compiled.image.digest()), interfaces, changes })
    }

    /// Reloads, and takes it back after `limit` unless [`Self::confirm`] is called before.
    pub(in crate::daemon) fn reload_on_trial(&mut self, limit: Duration) -> ReloadOutcome {
        let (files, config) = (self.files.clone(), self.config.clone());
        let outcome = self.reload(Trigger::Request);
        if matches!(outcome, ReloadOutcome::Applied { .. }) {
            let length = SignedDuration::try_from(limit).unwrap_or(SignedDuration::MAX);
            let until = Timestamp::now().checked_add(length).unwrap_or(Timestamp::MAX);
            warn!("this policy is taken back at {until:.0} unless it is confirmed");
            self.trial = Some(Trial { deadline: Instant::now() + limit, until, files, config });
            self.report();
        }
        outcome
    }

    /// Keeps what is on trial.
    pub(in crate::daemon) fn confirm(&mut self) -> Confirmation {
        let confirmed = self.trial.take().is_some();
        if confirmed {
            info!("the policy is confirmed");
            self.report();
        }
        Confirmation { confirmed, generation: self.compiled.image.generation() }
    }

    /// Why there can be no reload now, if so.
    pub(super) fn refuse_on_trial(&self) -> Result<(), Vec<Problem>> {
        match &self.trial {
            None => Ok(()),
            Some(Trial { until, .. }) => Err(vec![
                format!(
                    "a policy is on trial until {until:.0}: confirm it first, or wait until it is taken back"
                )
                .into(),
            ]),
        }
    }

    /// Takes back what nobody has confirmed in time. Whether the status has changed.
    pub(super) fn roll_back(&mut self) -> bool {
        let Some(trial) = self.trial.take_if(|trial| trial.deadline <= Instant::now()) else {
            return false;
        };
        let Trial { files, config, .. } = trial;
        let compiled = match self.compile(&files) {
            Ok(compiled) => compiled,
            // It was in force before, but entries may have been added since.
            Err(error) => return self.fail_to_roll_back(&one_line(&error), files, config),
        };
        if let Err(error) = self.publish(compiled) {
            return self.fail_to_roll_back(&one_line(&error), files, config);
        }
        let new_interfaces = config.interfaces != self.config.interfaces;
        (self.files, self.config) = (files, config);
        self.hosts.set_hold(self.config.dns.hold.duration());
        self.troubles.remove(&Subject::Trial);
        if new_interfaces {
            self.cover(Which::All);
        }
        self.ask_for_hosts();
        // The files still say what was taken back: they are read again when they change, or when somebody says so.
        self.watch.forget();
        self.remember(Trigger::Rollback, applied(&self.compiled));
        self.last_reload.success = false;
        error!("nobody has confirmed the policy in time: the one before it is in force again");
        true
    }

    fn fail_to_roll_back(&mut self, error: &str, files: Policy, config: Config) -> bool {
        let (deadline, until) = (Instant::now(), Timestamp::now());
        self.trial = Some(Trial { deadline, until, files, config });
        self.complain(
            Subject::Trial,
            format!("a policy that nobody confirmed is in force: {error}"),
        )
    }
}
