//! XDP programs of others that redirect packets past the egress hooks of opb.

use super::{
    Check, Doctor, Findings,
    Level::{Note, Problem},
};

impl Doctor<'_> {
    pub(super) fn redirects(&self, found: &mut Findings) {
        let egress: Vec<_> =
            self.plan.wanted.iter().filter(|wanted| !wanted.is_ingress()).collect();
        if egress.is_empty() {
            return;
        }
        for redirector in self.inspection.redirectors() {
            let (what, from) = (&redirector.what, &redirector.interface);
            let mut is_certain = false;
            for wanted in egress.iter().filter(|wanted| redirector.into.contains(&wanted.index)) {
                is_certain = true;
                found.add(
                    (Check::Foreign, Problem),
                    &wanted.interface,
                    format!(
                        "a device map of {what} on the XDP hook of {from}, which does not \
                         belong to opb, contains this interface"
                    ),
                    "packets that it redirects go straight to the driver and bypass the egress \
                     hook of opb",
                    format!(
                        "filter incoming packets on {from} as well; if it redirects no mail, use \
                         --accept foreign"
                    ),
                );
            }
            // On an interface that opb filters, `foreign` already reports the program.
            let is_reported =
                self.plan.wanted.iter().any(|it| it.is_ingress() && it.interface == *from);
            if !is_certain && !is_reported {
                found.add(
                    (Check::Foreign, Note),
                    from,
                    format!("{what}, which does not belong to opb, runs on the XDP hook"),
                    "if it redirects packets into an interface where opb filters outgoing \
                     packets, they bypass the filter; its maps do not show whether it does",
                    "none, if it does not redirect to such an interface",
                );
            }
        }
    }
}
