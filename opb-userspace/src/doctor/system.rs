//! What does not depend on an interface: files, pins, kernel, memory, the daemon.

use super::{
    Check, Doctor, Findings,
    Level::{self, Note, Problem},
};
use crate::api::status::{Subject, Trouble};
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
                format!("the policy is not valid: {}", one_line(error)),
                "a daemon that starts refuses it, and a reload is rejected; what is in force stays",
                "`opb check` names every error with its place",
            );
        }
    }

    /// What does not depend on an interface.
    pub(super) fn system(&self, policy: Option<&Compiled>, found: &mut Findings) {
        let Inspection { release, lacks, pins, memory, .. } = self.inspection;
        if let Some(error) = pins {
            found.add(
                (Check::Pins, Problem),
                self.config.pins.display().to_string(),
                one_line(error),
                "a daemon does not start; one that runs holds the filter, which would end with it",
                "mount -t bpf bpf /sys/fs/bpf (systemd does it at boot), or name a directory on one as `pins`",
            );
        }
        for need in lacks {
            let (level, consequence, action) = lacking(*need);
            let seen = format!("{} not there", need.name());
            found.add(
                (Check::Kernel, level),
                format!("Linux {release}"),
                seen,
                consequence,
                action,
            );
        }
        // Old and new image are there together during a swap.
        let image = policy.map_or(0, |compiled| compiled.image.bytes() as u64);
        let wanted = 2 * image + BOOKS;
        let limits = [
            memory.locked.map(|bytes| ("RLIMIT_MEMLOCK".to_owned(), bytes)),
            memory.group.as_ref().map(|(path, left)| (path.display().to_string(), *left)),
        ];
        for (place, left) in limits.into_iter().flatten().filter(|(_, left)| *left < wanted) {
            found.add(
                (Check::Memory, Problem),
                place,
                format!("{left} bytes are left for maps in the kernel"),
                format!(
                    "a policy of this size needs up to {wanted} bytes while it is replaced: the kernel may \
                     refuse it, and what is in force stays"
                ),
                "raise the limit: `LimitMEMLOCK=` before Linux 5.11, `MemoryMax=` since, in the service's unit",
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
                    "the kernel goes on enforcing the last policy; expiry, new interfaces, relay hosts and \
                     changes stand still"
                };
                let place = self.config.control.display().to_string();
                return found.add(check(Problem), place, why, consequence, "start it: `opb run`");
            }
        };
        let place = || format!("process {}", status.pid);
        if !status.last_reload.success {
            found.add(
                check(Problem),
                place(),
                "the last reload was rejected",
                "the files say something else than what is in force",
                "`opb check` names the errors; then `opb reload`",
            );
        }
        // Those of interfaces are found below, with what the kernel says.
        let ours = |trouble: &&Trouble| trouble.about != Subject::Interface;
        for trouble in status.problems.iter().filter(ours) {
            let consequence = "the daemon calls itself degraded";
            found.add(check(Problem), place(), &trouble.text, consequence, "see its log");
        }
        for text in &status.warnings {
            let consequence = "the daemon warns of it, and enforces";
            found.add(check(Note), place(), text, consequence, "none at once");
        }
    }
}

/// Bytes of maps beside the images: counters, events, talkers.
const BOOKS: u64 = 16 << 20;

fn lacking(need: Need) -> (Level, &'static str, &'static str) {
    const NEWER: &str = "a newer kernel: docs/compatibility.md says which are tested";
    match need {
        Need::XdpPrograms | Need::TcPrograms | Need::MapsOfMaps | Need::RingBuffers => {
            (Problem, "the programs do not load", NEWER)
        }
        Need::Tcx => (
            Note,
            "`hook: tc`, and all that goes out, is a filter on clsact: other tools can remove it, and the daemon \
             does not notice",
            NEWER,
        ),
        Need::Jit => (
            Problem,
            "programs are interpreted: every packet costs several times as much",
            "sysctl net.core.bpf_jit_enable=1",
        ),
        Need::Btf => (
            Note,
            "opb does without; bpftool shows less of its programs and maps",
            "a kernel with CONFIG_DEBUG_INFO_BTF",
        ),
    }
}
