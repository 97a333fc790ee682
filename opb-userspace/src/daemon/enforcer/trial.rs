//! Reloads that are only looked at, and reloads and imports that are taken back unless somebody confirms them.
//!
//! What was in force before a reload is kept here. What takes an import back is in the store of the entries, and outlives the
//! daemon; one that starts reads the files in any case.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use tracing::{error, info};

use super::{Enforcer, Which, applied, build::Order, refuse_restart_only};
use crate::api::status::Subject;
use crate::api::{
    diff::Endpoints, reload::Confirmation, reload::Preview, reload::Problem, reload::TrialOf,
    reload::TrialStatus, reload::Trigger,
};
use crate::{
    compiled::hex, daemon::reader::Loaded, diff::diff, errors::one_line, node::Config,
    policy::Policy, subscribers,
};

/// What was in force before a reload that waits for its confirmation.
pub(super) struct Trial {
    pub(super) deadline: Instant,
    /// The same for people.
    pub(super) until: Timestamp,
    pub(super) files: Arc<Policy>,
    pub(super) config: Config,
}

/// What a reload would change, but for the work.
pub(in crate::daemon) struct Previewed {
    interfaces: bool,
    before: Arc<Policy>,
    order: Order,
}

impl Previewed {
    /// Compiles the other policy and compares.
    pub(in crate::daemon) fn diff(self) -> Result<Preview, Vec<Problem>> {
        let Self { interfaces, before, order } = self;
        let compiled = order.compile().map_err(|error| vec![Problem::from(error)])?;
        let changes = diff(&before, &compiled.policy, Timestamp::now());
        let endpoints = Endpoints::diff(&before, &compiled.policy);
        Ok(Preview { digest: hex(compiled.image.digest()), interfaces, changes, endpoints })
    }
}

impl Enforcer {
    /// What a preview is made from: the policy in force, and the order for the other one.
    pub(in crate::daemon) fn preview(&self, loaded: &Loaded) -> Result<Previewed, Vec<Problem>> {
        refuse_restart_only(&self.config, &loaded.config)?;
        Ok(Previewed {
            interfaces: loaded.config.interfaces != self.config.interfaces,
            before: Arc::clone(&self.compiled.policy),
            order: self.order(&loaded.files),
        })
    }

    /// Keeps what is on trial.
    pub(in crate::daemon) fn confirm(&mut self) -> Result<Confirmation, subscribers::Error> {
        let of = self.on_trial().map(|trial| trial.of);
        if let Some(of) = of {
            self.entries.confirm()?;
            self.trial = None;
            self.troubles.remove(&Subject::Trial);
            info!("{} that was on trial is confirmed", of.name());
            self.record("confirm", of.name());
            self.report();
        }
        let generation = self.compiled.image.generation();
        Ok(Confirmation { confirmed: of.is_some(), of, generation })
    }

    pub(super) fn on_trial(&self) -> Option<TrialStatus> {
        let policy = self.trial.as_ref().map(|trial| (TrialOf::Policy, trial.until));
        let import = || self.entries.trial().map(|trial| (TrialOf::Import, trial.until));
        policy.or_else(import).map(|(of, until)| TrialStatus { of, until })
    }

    /// Why there can be no reload now, if so: it would change what a policy on trial is compared with. An import does not mind.
    pub(super) fn refuse_reload(&self) -> Result<(), String> {
        if self.trial.is_some() { self.refuse_second_trial() } else { Ok(()) }
    }

    /// Why nothing else can go on trial now, if so.
    pub(super) fn refuse_second_trial(&self) -> Result<(), String> {
        self.on_trial().map_or(Ok(()), |TrialStatus { of, until }| {
            let of = of.name();
            Err(format!(
                "{of} is on trial until {until:.0}: confirm it first, or wait until it is taken back"
            ))
        })
    }

    /// Takes back what nobody has confirmed in time. Whether the status has changed.
    pub(super) fn roll_back(&mut self) -> bool {
        self.roll_back_import() || self.roll_back_reload()
    }

    fn roll_back_import(&mut self) -> bool {
        if !self.entries.is_trial_over() {
            return false;
        }
        // By the clock that nobody sets, it is time.
        let places = match self.entries.roll_back(Timestamp::MAX) {
            Ok(None) => return false,
            Ok(Some(places)) => places,
            Err(error) => {
                let error = one_line(&error);
                let trouble = format!("an import that nobody confirmed is in force: {error}");
                return self.complain(Subject::Trial, trouble);
            }
        };
        self.troubles.remove(&Subject::Trial);
        error!("{}", taken_back(places.len()));
        // What fails now is tried again every second, as for what runs out.
        let renewed = self.renew_at(&places).map(drop);
        // A rejected reload stays what `status` shows: the files are still not in force.
        if self.complain_unless(renewed) && self.last_reload.success {
            self.remember(Trigger::Rollback, None, applied(&self.compiled));
        }
        true
    }

    fn roll_back_reload(&mut self) -> bool {
        let Some(trial) = self.trial.take_if(|trial| trial.deadline <= Instant::now()) else {
            return false;
        };
        let Trial { files, config, .. } = trial;
        // It was in force before, but entries may have been added since.
        if let Err(error) = self.order(&files).build().and_then(|built| self.publish(built)) {
            return self.fail_to_roll_back(&error, files, config);
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
        self.remember(Trigger::Rollback, None, applied(&self.compiled));
        self.last_reload.success = false;
        error!("nobody has confirmed the policy in time: the one before it is in force again");
        true
    }

    fn fail_to_roll_back(&mut self, error: &str, files: Arc<Policy>, config: Config) -> bool {
        let (deadline, until) = (Instant::now(), Timestamp::now());
        self.trial = Some(Trial { deadline, until, files, config });
        self.complain(
            Subject::Trial,
            format!("a policy that nobody confirmed is in force: {error}"),
        )
    }
}

/// When something ends that is on trial for so long from now on.
pub(super) fn end(limit: Duration) -> Timestamp {
    let length = SignedDuration::try_from(limit).unwrap_or(SignedDuration::MAX);
    Timestamp::now().checked_add(length).unwrap_or(Timestamp::MAX)
}

pub(super) fn taken_back(prefixes: usize) -> String {
    format!(
        "nobody has confirmed the import in time: {prefixes} prefixes are again what they were before it"
    )
}
