//! Metrics for Prometheus. docs/metrics.md lists them.

mod sessions;

use prometheus::{
    Encoder as _, Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use super::Totals;
use crate::api::status::{FilesState, HostState, State, Status, Subject};
use crate::{kernel::CounterRow, text};

/// The content type of [`render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics as text. Built for each scrape, so that removed groups and interfaces disappear.
pub fn render(status: &Status, totals: &Totals) -> Result<String, prometheus::Error> {
    let page = Metrics { registry: Registry::new() };
    page.counters(totals)?;
    page.policy(status)?;
    page.bypasses(status)?;
    page.interfaces(status)?;
    page.checks(status)?;
    page.refused(totals)?;
    page.relays(status)?;
    page.sessions(status, totals.radius.as_deref())?;
    let mut text = Vec::new();
    TextEncoder::new().encode(&page.registry.gather(), &mut text)?;
    let mut text = String::from_utf8_lossy(&text).into_owned();
    text.extend(totals.radius.as_deref().map(sessions::latencies));
    Ok(text)
}

struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Adds the counters that are not zero. The counter map bounds their number: groups or
    /// interfaces × directions × verdicts × reasons.
    fn counters(&self, totals: &Totals) -> Result<(), prometheus::Error> {
        let groups = ["opb_packets_total", "opb_bytes_total"];
        self.rows(groups, "group", &totals.by_group)?;
        let interfaces = ["opb_interface_packets_total", "opb_interface_bytes_total"];
        self.rows(interfaces, "interface", &totals.by_interface)?;
        for (name, help, value) in [
            ("opb_events_total", "Denied packets for which an event was written.", totals.events),
            (
                "opb_events_lost_total",
                "Denied packets without an event, because of rate limits or a full ring.",
                totals.lost,
            ),
            (
                "opb_talkers_evicted_total",
                "Denied subscribers that lost their slot in the kernel's table, or found none.",
                totals.evicted,
            ),
            (
                "opb_event_log_lost_total",
                "Events that could not be written to the destination in the node file.",
                totals.unwritten,
            ),
            (
                "opb_change_events_lost_total",
                "Requested changes without an event: too many within a second. The log has them.",
                totals.unrecorded,
            ),
            (
                "opb_suspects_total",
                "Subscribers reported as suspects since the daemon started.",
                totals.suspects,
            ),
        ] {
            let counter = IntCounter::new(name, help)?;
            counter.inc_by(value);
            self.registry.register(Box::new(counter))?;
        }
        self.alarms(totals)?;
        self.gauge("opb_talkers", "Denied subscribers in memory now.", totals.talkers as i64)
    }

    fn alarms(&self, totals: &Totals) -> Result<(), prometheus::Error> {
        let help = "Reports of suspects to a command or a webhook, by outcome.";
        let alarms = self.counter_vec("opb_alarms_total", help, &["to", "outcome"])?;
        for alarm in &totals.alarms {
            let count = |outcome, count| {
                alarms.with_label_values(&[alarm.to.as_str(), outcome]).inc_by(count);
            };
            count("delivered", alarm.delivered);
            count("failed", alarm.failed);
            count("dropped", alarm.dropped);
        }
        Ok(())
    }

    fn rows(
        &self,
        [packets, bytes]: [&str; 2],
        of: &str,
        rows: &[CounterRow],
    ) -> Result<(), prometheus::Error> {
        let labels = [of, "direction", "verdict", "reason"];
        let help = |what, of| format!("{what} by verdict and {of}.");
        let packets = self.counter_vec(packets, &help("Packets", of), &labels)?;
        let bytes = self.counter_vec(bytes, &help("Bytes of packets", of), &labels)?;
        for row in rows {
            // The name of an interface may have any byte but `/` and spaces.
            let of = text::line(row.of.as_deref().unwrap_or("-"));
            let labels = [&*of, row.direction.name(), row.verdict.name(), row.reason.name()];
            packets.with_label_values(&labels).inc_by(row.packets);
            bytes.with_label_values(&labels).inc_by(row.bytes);
        }
        Ok(())
    }

    fn policy(&self, status: &Status) -> Result<(), prometheus::Error> {
        let policy = &status.policy;
        self.gauge(
            "opb_policy_generation",
            "Generation of the policy in force.",
            policy.generation as i64,
        )?;
        self.gauge(
            "opb_image_bytes",
            "Size of the policy image in force.",
            policy.image_bytes as i64,
        )?;
        self.gauge(
            "opb_policy_last_reload_success",
            "Whether the policy files match the enforced policy.",
            i64::from(status.last_reload.success),
        )?;
        self.gauge(
            "opb_policy_last_reload_timestamp_seconds",
            "When a policy was last read.",
            status.last_reload.time.as_second(),
        )?;
        self.gauge(
            "opb_enforcing",
            "Whether the state is enforcing, not degraded.",
            i64::from(matches!(status.state, State::Enforcing)),
        )?;
        self.gauge(
            "opb_store_writable",
            "Whether run-time entries can be changed.",
            i64::from(status.store.writable),
        )?;
        self.gauge(
            "opb_store_lost",
            "Whether the store has lost changes and nobody has acknowledged that.",
            i64::from(status.store.lost),
        )?;
        let files = self.gauge_vec(
            "opb_files",
            "Whether the files are the same as what is in force, differ, or are not valid.",
            &["state"],
        )?;
        for (state, name) in FilesState::NAMES {
            files.with_label_values(&[name]).set(i64::from(status.files == state));
        }
        let info =
            self.gauge_vec("opb_policy_info", "Digest of the policy in force.", &["digest"])?;
        info.with_label_values(&[&policy.digest]).set(1);
        let prefixes =
            self.gauge_vec("opb_prefixes", "Prefixes of a group.", &["group", "family"])?;
        for group in &policy.groups {
            let count = |family, count| {
                prefixes.with_label_values(&[group.name.as_str(), family]).set(count)
            };
            count("ipv4", group.prefixes_v4 as i64);
            count("ipv6", group.prefixes_v6 as i64);
        }
        Ok(())
    }

    fn bypasses(&self, status: &Status) -> Result<(), prometheus::Error> {
        let help =
            "When an emergency bypass ends, by group; `*` for all groups, 0 if there is none.";
        let until = self.gauge_vec("opb_bypass_until_timestamp_seconds", help, &["group"])?;
        // Always there, so that its absence means something else.
        until.with_label_values(&["*"]).set(0);
        for bypass in &status.bypasses {
            let group = bypass.group.as_deref().unwrap_or("*");
            until.with_label_values(&[group]).set(bypass.until.as_second());
        }
        Ok(())
    }

    fn interfaces(&self, status: &Status) -> Result<(), prometheus::Error> {
        let attached = self.gauge_vec(
            "opb_interface_attached",
            "Interfaces with a program on them.",
            &["interface", "role", "hook", "mode"],
        )?;
        for interface in &status.interfaces {
            let (hook, mode) = hook_and_mode(&interface.hook);
            let name = text::line(&interface.name);
            attached.with_label_values(&[&*name, &interface.role, hook, mode]).set(1);
        }
        let detachments = IntCounter::new(
            "opb_detachments_total",
            "Programs that were detached by others since the daemon started.",
        )?;
        detachments.inc_by(status.detachments);
        self.registry.register(Box::new(detachments))
    }

    fn checks(&self, status: &Status) -> Result<(), prometheus::Error> {
        let help = "Whether a part of the daemon works.";
        let checks = self.gauge_vec("opb_check_ok", help, &["check"])?;
        for check in &status.checks {
            checks.with_label_values(&[&check.name]).set(i64::from(check.ok));
            if check.name == "enforcer" {
                let help = "Seconds since the thread that talks to the kernel last finished a job.";
                let age = Gauge::new("opb_enforcer_heartbeat_age_seconds", help)?;
                age.set(check.age.unwrap_or_default());
                self.registry.register(Box::new(age))?;
            }
        }
        Ok(())
    }

    fn refused(&self, totals: &Totals) -> Result<(), prometheus::Error> {
        let help = "Connections and requests that were refused or ended because of a limit.";
        let refused = self.counter_vec("opb_http_refused_total", help, &["listener", "why"])?;
        for &(listener, why, count) in &totals.refused {
            refused.with_label_values(&[listener, why]).inc_by(count);
        }
        Ok(())
    }

    fn relays(&self, status: &Status) -> Result<(), prometheus::Error> {
        let unresolved = status.hosts.iter().filter(|it| it.state == HostState::Unresolved);
        self.gauge(
            "opb_relay_hosts_unresolved",
            "Relay hosts that never had an address: the last question failed.",
            unresolved.count() as i64,
        )?;
        let lost = status.problems.iter().filter(|it| it.about == Subject::Relays);
        self.gauge(
            "opb_groups_without_relay",
            "Groups that reach no relay, because none of their relay hosts has an address.",
            lost.count() as i64,
        )?;
        let help = "Addresses of relay hosts that were not used because the host has too many.";
        let addresses = IntCounter::new("opb_relay_addresses_refused_total", help)?;
        addresses.inc_by(status.hosts.iter().map(|host| host.refused).sum());
        self.registry.register(Box::new(addresses))
    }

    fn gauge(&self, name: &str, help: &str, value: i64) -> Result<(), prometheus::Error> {
        let gauge = IntGauge::new(name, help)?;
        gauge.set(value);
        self.registry.register(Box::new(gauge))
    }

    fn gauge_vec(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, prometheus::Error> {
        let gauge = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.registry.register(Box::new(gauge.clone()))?;
        Ok(gauge)
    }

    fn counter_vec(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.registry.register(Box::new(counter.clone()))?;
        Ok(counter)
    }
}

/// The labels `hook` and `mode` for a hook's name.
fn hook_and_mode(hook: &str) -> (&str, &str) {
    match hook {
        "xdp" => ("xdp", "native"),
        "xdp-generic" => ("xdp", "generic"),
        "clsact" => ("tc", "clsact"),
        _ => ("tc", "tcx"),
    }
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
