//! The enforcer: files, compiler and kernel, on a thread of its own, one step after the other.
//!
//! [`reloads`] is the state of the files, [`kept`] what the disk has of policies, [`active`] the policy in force ([`build`] makes its
//! images, [`delta`] its small changes, [`mod@group_ids`] hands on the ids of groups), [`coverage`]
//! the state of the interfaces, [`store`] that of the disk. [`fault`] is anything that is wrong for
//! a while, [`journal`] what becomes events. The other modules are the enforcer's work on all of
//! them: [`reload`], [`unconfirmed`] commits, emergency [`bypass`]es, [`changes`] at run time,
//! [`sessions`], relay [`hosts`], and the
//! [`status`].

mod active;
mod build;
mod bypass;
mod changes;
mod coverage;
mod delta;
mod fault;
mod group_ids;
mod hosts;
mod journal;
mod kept;
mod preview;
mod reload;
mod reloads;
mod sessions;
mod status;
mod store;
mod unconfirmed;

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use jiff::Timestamp;
use opb_common::settings::Settings;
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use self::{
    active::{Active, Publication, Sources},
    coverage::{Coverage, Which},
    fault::Fault,
    journal::Journal,
    kept::Unsaved,
    reloads::Reloads,
    sessions::Sweep,
    store::StoreCare,
    unconfirmed::RollbackError,
};
pub(super) use self::{
    build::{BuildError, Built, Order},
    changes::{ChangeError, Waiting},
    reload::{Asked, Next, ReloadError},
    reloads::Look,
};
use super::{Error, changed::Changed, choice::Choice};
use crate::{
    api::{
        counters::{By, CounterLine},
        explain::{Explanation, Query},
        reload::Trigger,
        status::Status,
    },
    commits::Commits,
    errors::one_line,
    explain::{QueryError, explain},
    image::GroupIds,
    kernel::{self, ActiveBypass, Kernel, Logs},
    node::{Addresses, EventLog, LogLevel, Observe},
    policy::{Policy, Prefix},
    relays::{Hosts, resolver::Task},
    subscribers::{Entries, UnconfirmedImport},
    telemetry::Sample,
};

/// Owns the kernel's state and everything it is made from.
pub(super) struct Enforcer {
    kernel: Kernel,
    coverage: Coverage,
    reloads: Reloads,
    commits: Commits,
    unsaved: Fault<Unsaved>,
    entries: Entries,
    store: StoreCare,
    sweep: Sweep,
    hosts: Hosts,
    active: Active,
    rollback: Fault<RollbackError>,
    journal: Journal,
    /// The emergency bypasses that the journal knows.
    bypasses: Vec<ActiveBypass>,
    since: Timestamp,
    channels: Channels,
}

/// Where the enforcer publishes what happens.
pub(super) struct Channels {
    pub(super) status: watch::Sender<Option<Status>>,
    /// Debug lines of the programs, for a task with a runtime to read them on.
    pub(super) logs: mpsc::UnboundedSender<Logs>,
    /// The relay hosts to resolve.
    pub(super) hosts: watch::Sender<Task>,
}

impl Enforcer {
    /// Puts a policy in force, in place of what an earlier daemon may have left in the kernel.
    pub(super) fn start(choice: Choice, channels: Channels) -> Result<Self, Error> {
        let Choice { mut loaded, mut commits, is_new, unconfirmed, files, watch } = choice;
        let config = &loaded.config;
        // Before the store is made: a start that fails leaves nothing.
        kernel::check_pins(&config.pins)?;
        let mut entries = Entries::open(&config.state)?;
        prepare(&mut entries)?;
        if config.sessions.is_none()
            && let Err(error) = entries.forget_sessions()
        {
            tracing::warn!("the sessions of earlier stay on the disk: {}", one_line(&error));
        }
        let hosts = Hosts::new(entries.store().hosts()?, config.dns.hold.duration());
        let mut kernel = Kernel::open(&config.pins, level(config.log))?;
        kernel.set_observation(observation_settings(&config.observe));
        let sources = Sources { files: &loaded.files, entries: &entries, hosts: &hosts };
        let (active, adoption) = Active::start(&mut kernel, sources)?;
        if is_new {
            loaded.keep(&commits.keeper());
            let commit = reload::commit(&Asked::by_itself(Trigger::Start), &loaded);
            commits.add(commit, loaded.refused());
        }
        let mut enforcer = Self {
            kernel,
            coverage: Coverage::new(),
            reloads: Reloads::new(loaded, unconfirmed, (files, watch), active.outcome()),
            commits,
            unsaved: Fault::default(),
            entries,
            store: StoreCare::default(),
            sweep: Sweep::default(),
            hosts,
            active,
            rollback: Fault::default(),
            journal: Journal::default(),
            bypasses: Vec::new(),
            since: Timestamp::now(),
            channels,
        };
        enforcer.log_policy_warnings();
        let _ = enforcer.cover(Which::All);
        if let Some(adoption) = adoption {
            enforcer.active.adopt(&mut enforcer.kernel, adoption)?;
        }
        enforcer.request_hosts();
        let _ = enforcer.store.look_after(&mut enforcer.entries)
            | enforcer.note_commits()
            | enforcer.follow_bypasses(None);
        enforcer.report();
        Ok(enforcer)
    }

    /// Every second: follows what changes without a request.
    pub(super) fn resync(&mut self) {
        let changed = self.store.look_after(&mut self.entries)
            | self.sync_commits()
            | self.roll_back()
            | self.expire()
            | self.end_silent_sessions()
            | self.release()
            | self.follow_bypasses(None)
            | self.active.merge(&mut self.kernel);
        let hooks = self.coverage.check_hooks(&self.kernel);
        if hooks == Changed::Yes {
            // Before anything is repaired: packets pass unfiltered there.
            self.report();
        }
        if changed | hooks | self.cover(Which::Missing) == Changed::Yes {
            self.report();
        }
    }

    /// Files to look at. `None` while that is no use.
    pub(super) fn watched(&self) -> Option<Vec<PathBuf>> {
        self.reloads.watched()
    }

    /// Follows interfaces that come and go.
    pub(super) fn follow_interfaces(&mut self) {
        if self.cover(Which::Missing) == Changed::Yes {
            self.report();
        }
    }

    /// The verdict of the policy in force. It comes from the image that was compared with the
    /// kernel's before that was frozen: reading the kernel's again would take longer, the larger
    /// the policy is.
    pub(super) fn explain(&self, query: &Query) -> Result<Explanation, QueryError> {
        let Self { active, .. } = self;
        let (image, overlay, policy) = (active.image(), active.overlay(), active.policy());
        let (bypassed, now) = (self.bypassed(), Timestamp::now());
        let mut explained = explain(query, image, overlay, policy, &bypassed, now)?;
        self.name_entry(&mut explained, query.outer_src.is_some());
        Ok(explained)
    }

    pub(super) fn counters(&self, by: By) -> Vec<CounterLine> {
        let ids = self.active.image().group_ids();
        let rows = match by {
            By::Group => self.kernel.counters(ids),
            By::Interface => self.kernel.interface_counters(),
        };
        rows.into_iter().map(|row| status::counter_line(by, row, ids)).collect()
    }

    /// Counters, group ids, and the news since the last sample.
    pub(super) fn sample(&mut self) -> Sample {
        let group_ids = self.group_ids();
        let (actions, hosts) = self.journal.take();
        Sample {
            by_group: self.kernel.counters(&group_ids),
            by_interface: self.kernel.interface_counters(),
            group_ids,
            hosts,
            actions,
            unrecorded: self.journal.dropped(),
        }
    }

    pub(super) fn group_ids(&self) -> GroupIds {
        self.active.image().group_ids().clone()
    }

    /// The reading end of events and talkers.
    pub(super) fn observations(&self) -> Result<kernel::Observations, kernel::Error> {
        self.kernel.observations()
    }

    fn cover(&mut self, which: Which) -> Changed {
        let rejects = self.active.policy().rejects();
        let changed = self.coverage.cover(which, self.reloads.config(), rejects, &mut self.kernel);
        if changed == Changed::Yes {
            self.forward_logs();
        }
        changed
    }

    /// Hands on the debug lines of newly loaded programs.
    fn forward_logs(&mut self) {
        match self.kernel.logs() {
            Ok(logs) => logs.into_iter().for_each(|log| drop(self.channels.logs.send(log))),
            Err(error) => warn!("{}", one_line(&error)),
        }
    }

    fn log_policy_warnings(&self) {
        self.active.policy().warnings.iter().for_each(|warning| warn!("{warning}"));
    }

    fn order(&self, files: &Arc<Policy>) -> Order {
        self.active.order(Sources { files, entries: &self.entries, hosts: &self.hosts })
    }

    fn order_to_publish(&mut self, files: &Arc<Policy>) -> Order {
        let Self { active, entries, hosts, .. } = self;
        active.order_to_publish(Sources { files, entries, hosts })
    }

    fn publish_built(
        &mut self,
        files: &Arc<Policy>,
        built: Built,
    ) -> Result<Publication, BuildError> {
        let Self { active, kernel, entries, hosts, .. } = self;
        active.publish_built(kernel, Sources { files, entries, hosts }, built)
    }

    /// Compiles and publishes `files` while everything else waits.
    fn publish_now(&mut self, files: &Arc<Policy>) -> Result<(), BuildError> {
        let Self { active, kernel, entries, hosts, .. } = self;
        active.renew(kernel, Sources { files, entries, hosts })
    }

    /// Publishes a new generation of the present files.
    fn renew(&mut self) -> Result<(), BuildError> {
        let Self { active, kernel, reloads, entries, hosts, .. } = self;
        active.renew(kernel, Sources { files: reloads.policy(), entries, hosts })
    }

    /// Publishes the changed entries at `changed`.
    fn renew_at(&mut self, changed: &BTreeSet<Prefix>) -> Result<Changed, BuildError> {
        let Self { active, kernel, reloads, entries, hosts, .. } = self;
        active.renew_at(kernel, Sources { files: reloads.policy(), entries, hosts }, changed)
    }
}

/// Brings the entries of an earlier daemon up to date before they come into force.
fn prepare(entries: &mut Entries) -> Result<(), Error> {
    if entries.is_overdue() {
        match entries.roll_back(Timestamp::MAX) {
            Ok(None) => {}
            Ok(Some(places)) => error!("{}", unconfirmed::rolled_back(places.len())),
            // The daemon retries every second, and the state says so.
            Err(error) => warn!("an import is not rolled back: {}", one_line(&error)),
        }
    }
    if let Some(UnconfirmedImport { confirm_by, .. }) = entries.unconfirmed() {
        warn!("an import is unconfirmed: it is rolled back at {confirm_by:.0} unless confirmed");
    }
    let expired = entries.lapse(Timestamp::now()).len();
    if expired > 0 {
        info!("{expired} run-time entries have run out meanwhile");
    }
    Ok(())
}

/// What the programs record.
fn observation_settings(observe: &Observe) -> Settings {
    match (&observe.events, observe.addresses) {
        (EventLog::Off, _) => Settings::default(),
        (_, Addresses::None) => Settings::OBSERVE.with(Settings::NO_ADDRESSES),
        _ => Settings::OBSERVE,
    }
}

fn level(level: LogLevel) -> Option<tracing::Level> {
    match level {
        LogLevel::Off => None,
        LogLevel::Error => Some(tracing::Level::ERROR),
        LogLevel::Warn => Some(tracing::Level::WARN),
        LogLevel::Info => Some(tracing::Level::INFO),
        LogLevel::Debug => Some(tracing::Level::DEBUG),
        LogLevel::Trace => Some(tracing::Level::TRACE),
    }
}
