//! Checks that do not depend on an interface: files, pins, kernel, memory and the daemon.

use super::{
    Check, Doctor, Findings,
    Level::{self, Note, Problem},
};
use crate::api::status::{HostState, HostStatus, Status, Subject, Trouble};
use crate::{
    compiled::{Compiled, LoadError},
    errors::one_line,
    kernel::{Inspection, Need},
    node::PolicySource,
};

impl Doctor<'_> {
    pub(super) fn files(&self, policy: &Result<Compiled, LoadError>, found: &mut Findings) {
        let PolicySource::Path(path) = &self.config.policy;
        if let Err(error) = policy {
            found.add(
                (Check::Files, Problem),
                path.display().to_string(),
                format!("invalid policy: {}", one_line(error)),
                "a start of the daemon or a reload would fail; the policy in force stays in force",
                "`opb check` shows every error with its place",
            );
        }
    }

    /// Checks pins, kernel and memory.
    pub(super) fn system(&self, policy: Option<&Compiled>, found: &mut Findings) {
        let Inspection { release, lacks, pins, memory, .. } = self.inspection;
        if let Some(error) = pins {
            found.add(
                (Check::Pins, Problem),
                self.config.pins.display().to_string(),
                one_line(error),
                "the daemon cannot start; if one runs, filtering ends when it ends",
                "mount -t bpf bpf /sys/fs/bpf (systemd does it at boot), or set `pins` to a \
                 directory on a BPF file system",
            );
        }
        for need in lacks {
            let (level, consequence, action) = lacking(*need);
            let seen = format!("{} missing", need.name());
            found.add(
                (Check::Kernel, level),
                format!("Linux {release}"),
                seen,
                consequence,
                action,
            );
        }
        // During a swap, the old and the new image exist together.
        let image = policy.map_or(0, |compiled| compiled.image.bytes() as u64);
        let wanted = 2 * image + STATISTICS;
        let limits = [
            memory.locked.map(|bytes| ("RLIMIT_MEMLOCK".to_owned(), bytes)),
            memory.group.as_ref().map(|(path, left)| (path.display().to_string(), *left)),
        ];
        for (place, left) in limits.into_iter().flatten().filter(|(_, left)| *left < wanted) {
            found.add(
                (Check::Memory, Problem),
                place,
                format!("{left} bytes are left for BPF maps"),
                format!(
                    "a change of a policy of this size needs up to {wanted} bytes: it may fail, \
                     and the policy in force stays in force"
                ),
                "raise the limit in the service's unit: `MemoryMax=`, or `LimitMEMLOCK=` before \
                 Linux 5.11",
            );
        }
    }

    pub(super) fn daemon(&self, found: &mut Findings) {
        let check = |level| (Check::Daemon, level);
        let status = match self.daemon {
            Ok(status) => status,
            Err(why) => {
                let consequence = if self.inspection.ours.is_empty() {
                    "nothing is filtered"
                } else {
                    "the kernel continues to enforce the last policy; expiry, new interfaces, \
                     relay hosts and changes wait for a daemon"
                };
                let place = self.config.control.display().to_string();
                return found.add(check(Problem), place, why, consequence, "start it: `opb run`");
            }
        };
        let place = || format!("process {}", status.pid);
        // A roll-back is not in the outcome: the problems below have it.
        if status.last_reload.outcome.is_rejected() {
            found.add(
                check(Problem),
                place(),
                "the last reload was rejected",
                "the files may differ from the policy in force",
                "read `last reload` in `opb status`, correct the files, then run `opb reload`",
            );
        }
        relays(status, found);
        // Other checks report these: interfaces with the state of the kernel, relays above.
        let ours =
            |trouble: &&Trouble| ![Subject::Interface, Subject::Relays].contains(&trouble.about);
        for trouble in status.problems.iter().filter(ours) {
            let consequence = "the state of the daemon is `degraded`";
            let action = match trouble.about {
                Subject::Files => "`opb reload --dry-run` shows what the files would change",
                _ => "docs/troubleshooting.md has the same words; the daemon's log has more",
            };
            found.add(check(Problem), place(), &trouble.text, consequence, action);
        }
        let of_hosts: Vec<_> = unresolved(status).filter_map(HostStatus::warning).collect();
        for text in status.warnings.iter().filter(|text| !of_hosts.contains(text)) {
            let consequence = "the daemon warns about it and enforces the policy";
            found.add(check(Note), place(), text, consequence, "none is urgent");
        }
    }
}

/// Relay hosts that never had an address, and the groups that reach no relay because of them.
fn relays(status: &Status, found: &mut Findings) {
    let action = "`opb check --resolve` shows where the files name the host: correct the name, or \
                  the name servers (`dns` in the node file), or list the relay's `addresses`";
    for host in unresolved(status) {
        let error = host.error.as_deref().unwrap_or("no answer");
        let seen = format!("the relay host has no address: {error}");
        let consequence = "mail to this relay is denied like mail to any other server";
        found.add((Check::Relays, Problem), &host.host, seen, consequence, action);
    }
    for trouble in status.problems.iter().filter(|trouble| trouble.about == Subject::Relays) {
        let consequence = "its subscribers cannot send mail through any relay; the state of the \
                           daemon is `degraded`";
        let place = format!("process {}", status.pid);
        found.add((Check::Relays, Problem), place, &trouble.text, consequence, action);
    }
}

fn unresolved(status: &Status) -> impl Iterator<Item = &HostStatus> {
    status.hosts.iter().filter(|host| host.state == HostState::Unresolved)
}

/// Bytes of maps besides the images: counters, events and talkers.
const STATISTICS: u64 = 16 << 20;

fn lacking(need: Need) -> (Level, &'static str, &'static str) {
    const NEWER: &str = "use a newer kernel: docs/compatibility.md lists the tested ones";
    match need {
        Need::XdpPrograms | Need::TcPrograms | Need::MapsOfMaps | Need::RingBuffers => {
            (Problem, "the BPF programs cannot be loaded", NEWER)
        }
        Need::Tcx => (
            Note,
            "`hook: tc` and filters of outgoing packets use clsact: other tools can remove such a \
             filter, and the daemon does not notice",
            NEWER,
        ),
        Need::Jit => (
            Problem,
            "the kernel interprets the programs: each packet costs several times as much",
            "sysctl net.core.bpf_jit_enable=1",
        ),
        Need::Btf => (
            Note,
            "no effect on filtering; bpftool shows less about programs and maps",
            "use a kernel with CONFIG_DEBUG_INFO_BTF, if you want these details",
        ),
    }
}
