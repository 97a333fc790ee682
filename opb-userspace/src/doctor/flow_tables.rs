//! Flow tables of nftables.

use std::collections::BTreeSet;

use super::{
    Check, Doctor, Findings,
    Level::{Note, Problem},
};
use crate::kernel::FlowTable;

impl Doctor<'_> {
    /// Flows in a flow table leave the usual path after their first packets.
    pub(super) fn flow_tables(&self, found: &mut Findings) {
        let names: BTreeSet<&str> =
            self.plan.wanted.iter().map(|wanted| wanted.interface.as_str()).collect();
        for table in &self.inspection.flow_tables {
            for name in &names {
                let Some(how) = self.bypass(table, name) else { continue };
                let (level, consequence) = match (how, self.wishes.later_packets) {
                    (Bypass::None, _) => (
                        Note,
                        "nothing is missed: XDP and TC ingress come before the table, TC egress behind it",
                    ),
                    (_, false) => (
                        Note,
                        "packets of offloaded flows do not meet opb; the first of each connection does, and no \
                         group judges others. Counters are those of first packets",
                    ),
                    (_, true) => (
                        Problem,
                        "packets of offloaded flows do not meet opb: `match: any` and `downstream` miss what \
                         follows the first packets, and connections from before a change stay",
                    ),
                };
                let seen = match how {
                    Bypass::Hardware => "takes its flows into hardware (`flags offload`)",
                    Bypass::Above => {
                        "is on a device below, and forwards without the devices above it"
                    }
                    Bypass::None => "has it among its devices, in software",
                };
                let seen = format!("flow table {} of table {} {seen}", table.name, table.table);
                let action = match level {
                    Note => "none".to_owned(),
                    Problem => format!(
                        "filter on the devices of the table ({}), without `flags offload`; or keep TCP of the \
                         filtered ports out of it",
                        table.devices.join(", ")
                    ),
                };
                found.add((Check::FlowTable, level), *name, seen, consequence, action);
            }
        }
    }

    /// How flows of `table` pass the hooks of an interface; nothing if they have nothing to do with it.
    fn bypass(&self, table: &FlowTable, interface: &str) -> Option<Bypass> {
        if table.devices.iter().any(|device| device == interface) {
            return Some(if table.hardware { Bypass::Hardware } else { Bypass::None });
        }
        self.is_above(interface, &table.devices, 8).then_some(Bypass::Above)
    }

    /// Whether packets of `interface` travel through one of `devices` below it.
    fn is_above(&self, interface: &str, devices: &[String], depth: usize) -> bool {
        let all = &self.inspection.devices;
        let Some(device) = all.iter().find(|device| device.name == interface) else { return false };
        // Nothing says on which device a PPPoE session is.
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
