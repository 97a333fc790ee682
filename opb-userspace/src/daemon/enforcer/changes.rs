//! What changes between two reloads: run-time entries, addresses of relay hosts, and whatever runs out.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::{Enforcer, actor, applied, trial::end};
use crate::api::status::Subject;
use crate::api::{
    entries::{ChangeResponse, Row, Who},
    explain::Explanation,
    reload::Trigger,
    status::EntriesStatus,
    status::HostStatus,
};
use crate::{
    errors::one_line,
    relays::{self, DnsAnswer, resolver::Task},
    subscribers::{
        Changes,
        changes::{Request, Staging},
    },
};

/// A request for changes, and where its answer goes.
pub(in crate::daemon) struct Waiting {
    pub(in crate::daemon) request: Request,
    /// How long the changes wait for their confirmation.
    pub(in crate::daemon) trial: Option<Duration>,
    pub(in crate::daemon) reply: oneshot::Sender<Result<ChangeResponse, ChangeError>>,
}

/// Why nothing has been changed.
#[derive(Clone, Debug)]
pub(in crate::daemon) enum ChangeError {
    /// Something else is on trial.
    OnTrial(String),
    /// Store or kernel do not do it.
    Failed(String),
}

impl Enforcer {
    /// Whether what is published is not what it should be.
    pub(super) fn is_image_wrong(&self) -> bool {
        self.troubles.contains_key(&Subject::Image)
    }

    /// For changes where nobody waits for an answer: what fails is tried again, and degrades the state until it is done.
    pub(super) fn complain_unless(&mut self, result: Result<(), String>) -> bool {
        let Err(error) = result else { return true };
        let trouble = format!("what has changed at run time is not in force: {error}");
        self.complain(Subject::Image, trouble);
        false
    }

    /// Answers all of `waiting` after one commit and one publication: a thousand sessions a second come in batches.
    pub(in crate::daemon) fn serve(&mut self, waiting: Vec<Waiting>) {
        let mut together = Vec::new();
        for one in waiting {
            match one.trial {
                None => together.push(one),
                // By itself: what takes it back must not take others' changes back.
                Some(limit) => {
                    self.serve_together(std::mem::take(&mut together), None);
                    self.serve_together(vec![one], Some(limit));
                }
            }
        }
        self.serve_together(together, None);
    }

    fn serve_together(&mut self, waiting: Vec<Waiting>, trial: Option<Duration>) {
        if waiting.is_empty() {
            return;
        }
        let authors: Vec<_> = waiting.iter().map(|one| one.request.author()).collect();
        let mut staging = Staging::new(&self.entries, &self.files, Timestamp::now());
        let (mut answers, replies): (Vec<_>, Vec<_>) = (waiting.into_iter())
            .map(|Waiting { request, reply, .. }| (staging.stage(request), reply))
            .unzip();
        let changes = staging.into_changes();
        let result = match trial {
            _ if changes.is_empty() => Ok(()),
            None => self.change(changes, None).map_err(ChangeError::Failed),
            Some(limit) => {
                let until = end(limit);
                answers.iter_mut().for_each(|answer| answer.trial = Some(until));
                self.change_on_trial(changes, until)
            }
        };
        for ((name, who), answer) in authors.iter().zip(&answers) {
            let outcome = match &result {
                Ok(()) => actor::counts(answer),
                Err(ChangeError::OnTrial(error) | ChangeError::Failed(error)) => {
                    format!("failed: {error}")
                }
            };
            self.record_of(name, who, outcome);
        }
        for (answer, reply) in answers.into_iter().zip(replies) {
            // Whoever asked may have given up.
            drop(reply.send(result.clone().map(|()| answer)));
        }
    }

    fn change_on_trial(&mut self, changes: Changes, until: Timestamp) -> Result<(), ChangeError> {
        self.refuse_second_trial().map_err(ChangeError::OnTrial)?;
        self.change(changes, Some(until)).map_err(ChangeError::Failed)?;
        warn!("an import is taken back at {until:.0} unless it is confirmed");
        Ok(())
    }

    /// On disk first, then in force. What cannot be put in force is taken back, and what is on trial at its time.
    fn change(&mut self, changes: Changes, trial: Option<Timestamp>) -> Result<(), String> {
        let changed: BTreeSet<_> = changes.keys().copied().collect();
        let committed = match trial {
            None => self.entries.commit(changes),
            Some(until) => self.entries.commit_on_trial(changes, until),
        };
        let back = match committed {
            Ok(back) => back,
            Err(error) => {
                if self.complain_of_store() {
                    self.report();
                }
                return Err(one_line(&error));
            }
        };
        if let Err(error) = self.renew_at(&changed) {
            if let Err(error) = self.entries.write(back) {
                let error = one_line(&error);
                let trouble = format!("entries that were refused are in the store: {error}");
                self.complain(Subject::Image, trouble);
            }
            let (map, now) = (self.entries.map(), Timestamp::now());
            self.compiled.follow(&self.files, map, &changed, now);
            return Err(error);
        }
        self.merge();
        self.report();
        Ok(())
    }

    pub(in crate::daemon) fn entries(&self) -> Vec<Row> {
        self.entries.rows(&self.files)
    }

    pub(super) fn entries_status(&self) -> EntriesStatus {
        let count = self.entries.count();
        EntriesStatus { count, orphaned: self.entries.orphaned(&self.files) }
    }

    /// What is not as it was meant, although nothing is wrong with the filter.
    pub(super) fn run_time_warnings(&self) -> Vec<String> {
        let groups = self.entries.unknown_groups(&self.files);
        let groups = groups.iter().map(|group| {
            format!("run-time entries name group `{group}`, which the policy does not have: they do nothing")
        });
        let hosts = self.hosts.status(&self.files).into_iter().filter_map(|host| {
            let HostStatus { host, addresses, error, .. } = host;
            let error = error?;
            Some(match addresses.len() {
                0 => format!("relay host {host} has no address yet: {error}"),
                _ => format!("relay host {host} keeps its last good answer: {error}"),
            })
        });
        groups.chain(hosts).collect()
    }

    /// Says of an explanation that its prefix comes from a run-time entry.
    pub(super) fn name_entry(&self, explained: &mut Explanation, in_tunnel: bool) {
        let found = self.compiled.policy.longest_match(explained.line, Timestamp::now());
        let entry = found.and_then(|(prefix, _)| self.entries.map().get(&prefix));
        // One of a group that the policy lost is not the one that holds.
        // Behind what there is to say of a tunnel.
        if let (Some(entry), Some(first)) = (entry, explained.chain.get_mut(usize::from(in_tunnel)))
            && entry.is_meaningful(&self.files)
            && entry.in_force(Timestamp::now())
        {
            let Who { uid, user, .. } = &*entry.by;
            let user = user.clone().unwrap_or_else(|| format!("user {uid}"));
            first.push_str(&format!(", a run-time entry by {user}"));
            // Of an exemption, the words are there already.
            if entry.group.is_some() {
                let until = entry.until.map(|until| format!("until {until}"));
                let until = until.as_deref().unwrap_or("for good");
                let reason = entry.reason.as_deref().unwrap_or("no reason given");
                first.push_str(&format!(" {until} ({reason})"));
            }
        }
    }

    /// Takes what has run out, out of force, and what has not after all because the clock was set back, into force again. Whether
    /// the status has changed.
    pub(super) fn expire(&mut self) -> bool {
        let now = Timestamp::now();
        let expired = self.entries.lapse(now);
        let renews = self.compiled.is_stale(now) || self.is_image_wrong();
        if !renews && expired.is_empty() {
            return false;
        }
        let result = if renews { self.renew().map(|()| true) } else { self.renew_at(&expired) };
        let was_in_force = result == Ok(true);
        if self.complain_unless(result.map(drop)) && was_in_force {
            let generation = self.compiled.image.generation();
            info!(generation, "exemptions or run-time entries have run out");
            // A rejected reload stays what `status` shows: the files are still not in force.
            if self.last_reload.success {
                self.remember(Trigger::Expiry, None, applied(&self.compiled));
            }
        }
        true
    }

    /// Takes in what name servers said of relay hosts, and makes one image for all of it.
    pub(in crate::daemon) fn resolved(&mut self, answers: Vec<(String, DnsAnswer)>) {
        let names = relays::names(&self.files);
        let mut changed = BTreeSet::new();
        for (name, answer) in answers {
            if names.contains(&name) && self.hosts.answered(&name, answer, Instant::now()) {
                changed.insert(name);
            }
        }
        if !changed.is_empty() {
            let renewed = self.take_over_hosts(&changed);
            if self.complain_unless(renewed) {
                let (generation, hosts) = (self.compiled.image.generation(), changed.len());
                info!(generation, hosts, "relay hosts have new addresses");
            }
        }
        self.report();
    }

    /// Stores what `names` stand for now, and puts it in force.
    fn take_over_hosts(&mut self, names: &BTreeSet<String>) -> Result<(), String> {
        for name in names {
            let addresses: Vec<_> = self.hosts.addresses(name).collect();
            info!("relay host {name}: {addresses:?}");
            if let Err(error) = self.entries.store().save_host(name, &addresses) {
                warn!("the addresses of {name} are not stored: {}", one_line(&error));
            }
            self.host_news.insert(name.clone(), addresses);
        }
        self.renew()
    }

    /// Lets addresses of relay hosts go that have been missing from answers for long enough.
    pub(super) fn release(&mut self) -> bool {
        let released: BTreeSet<_> = self.hosts.release(Instant::now()).into_iter().collect();
        if released.is_empty() {
            return false;
        }
        let renewed = self.take_over_hosts(&released);
        if self.complain_unless(renewed) {
            info!("addresses that relay hosts no longer have are let go");
        }
        true
    }

    /// Tells the resolver what the files want to have resolved.
    pub(super) fn ask_for_hosts(&self) {
        let names = relays::names(&self.files);
        let task = Task { names, servers: self.config.dns.servers.clone() };
        self.channels.hosts.send_if_modified(|known| {
            let changed = *known != task;
            *known = task;
            changed
        });
    }
}
