//! nftables flow tables that bypass the filter.

use std::collections::BTreeSet;

use super::{
    Check, Doctor, Findings,
    Level::{Note, Problem},
};
use crate::kernel::FlowTable;

impl Doctor<'_> {
    /// Reports flow tables: their flows leave the normal forwarding path after the first packets.
    pub(super) fn flow_tables(&self, found: &mut Findings) {
        let names: BTreeSet<&str> =
            self.plan.wanted.iter().map(|wanted| wanted.interface.as_str()).collect();
        for table in &self.inspection.flow_tables {
            for name in &names {
                let Some(how) = self.bypass(table, name) else { continue };
                let (level, consequence) = match (how, self.needs.later_packets) {
                    (Bypass::None, _) => (
                        Note,
                        "none: XDP and TC ingress run before the flow table, TC egress after it",
                    ),
                    (_, false) => (
                        Note,
                        "the flow table bypasses the filter after the first packet; no group \
                         inspects later packets, so only counters are lower",
                    ),
                    (_, true) => (
                        Problem,
                        "the flow table bypasses the filter after the first packet, and some \
                         group inspects later packets (`match: any` or `downstream`); established \
                         connections also continue after a policy change",
                    ),
                };
                let seen = match how {
                    Bypass::Hardware => "offloads its flows to hardware (`flags offload`)",
                    Bypass::Above => "is on a device below this interface, and forwards without it",
                    Bypass::None => "has this interface among its devices, in software",
                };
                let seen = format!("flow table {} of table {} {seen}", table.name, table.table);
                let action = match level {
                    Note => "none".to_owned(),
                    Problem => format!(
                        "filter on the devices of the flow table ({}), without `flags offload`; \
                         or keep TCP of the filtered ports out of it",
                        table.devices.join(", ")
                    ),
                };
                found.add((Check::FlowTable, level), *name, seen, consequence, action);
            }
        }
    }

    /// Returns how flows of `table` bypass the hooks of an interface. `None`: they are unrelated.
    fn bypass(&self, table: &FlowTable, interface: &str) -> Option<Bypass> {
        if table.devices.iter().any(|device| device == interface) {
            return Some(if table.hardware { Bypass::Hardware } else { Bypass::None });
        }
        self.is_above(interface, &table.devices, 8).then_some(Bypass::Above)
    }

    /// Whether packets of `interface` go through one of `devices` below it.
    fn is_above(&self, interface: &str, devices: &[String], depth: usize) -> bool {
        let all = &self.inspection.devices;
        let Some(device) = all.iter().find(|device| device.name == interface) else { return false };
        // The kernel does not show the device of a PPPoE session: assume the worst.
        if device.kind.as_deref() == Some("ppp") {
            return true;
        }
        let below = all.iter().filter(|other| {
            device.below == Some(other.index) && device.kind.as_deref() != Some("veth")
                || other.master == Some(device.index)
        });
        depth > 0
            && below.into_iter().any(|other| {
                devices.contains(&other.name) || self.is_above(&other.name, devices, depth - 1)
            })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bypass {
    None,
    Hardware,
    /// The table is on a device below.
    Above,
}
