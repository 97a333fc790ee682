//! Rules of `softwires`, the ISP's own tunnels.

use super::{EXEMPT, Entry, owner};
use crate::document::Report;
use crate::policy::{
    Prefix,
    file::{Draft, SoftwireDraft},
    model::Softwire,
};

pub(super) fn warn(report: &mut Report, draft: &Draft, entries: &[Entry]) {
    for softwire in &draft.softwires {
        for (endpoint, spot) in &softwire.endpoints {
            let name = &softwire.name.text;
            let widest = if endpoint.is_ipv6() { 48 } else { 24 };
            if endpoint.length() < widest {
                let message = format!("{endpoint} of softwire `{name}` is wider than /{widest}");
                report.warning(*spot, message).note(
                    "a tunnel to any address in it is judged by its outer address, not by the inner one",
                );
            }
            let around = endpoint.ancestors().find_map(|it| Some((it, owner(entries, it)?)));
            if let Some((inside, owner)) = around
                && let Some(group) = draft.groups.get(owner as usize)
            {
                let group = &group.name.text;
                let message = format!(
                    "{endpoint} of softwire `{name}` is inside {inside} of group `{group}`"
                );
                report.warning(*spot, message).note("an endpoint is not a subscriber");
            }
        }
        unused(report, softwire, entries);
    }
}

/// The lines of a softwire have outer addresses of the same family as its endpoints.
fn unused(report: &mut Report, softwire: &SoftwireDraft, entries: &[Entry]) {
    for (family, is_ipv6) in [("IPv4", false), ("IPv6", true)] {
        let is_family = |prefix: &Prefix| prefix.is_ipv6() == is_ipv6;
        let has_endpoint = softwire.endpoints.iter().any(|(prefix, _)| is_family(prefix));
        let mut subscribers = entries.iter().filter(|entry| entry.owner != EXEMPT);
        if has_endpoint && !subscribers.any(|entry| is_family(&entry.prefix)) {
            let name = &softwire.name.text;
            let message = format!(
                "no group has {family} prefixes, which lines of softwire `{name}` have outside"
            );
            report
                .warning(softwire.name.spot, message)
                .note("its packets are judged by their inner addresses alone");
        }
    }
}

pub(super) fn build(draft: SoftwireDraft) -> Softwire {
    let SoftwireDraft { name, endpoints } = draft;
    let mut endpoints: Vec<Prefix> = endpoints.into_iter().map(|(prefix, _)| prefix).collect();
    endpoints.sort_unstable();
    endpoints.dedup();
    Softwire { name: name.text, endpoints }
}
