//! Programs of others that send packets out past our egress hooks.

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
                    format!("{what} of somebody else on the XDP hook of {from} has it in a device map"),
                    "what it redirects leaves by the driver, and passes the egress hook of opb unjudged",
                    format!(
                        "filter on the way in, on {from}, too; or see that it redirects no mail: --accept foreign"
                    ),
                );
            }
            // Where opb filters itself, the program is named as one that stands before ours.
            let is_named =
                self.plan.wanted.iter().any(|it| it.is_ingress() && it.interface == *from);
            if !is_certain && !is_named {
                found.add(
                    (Check::Foreign, Note),
                    from,
                    format!("{what} of somebody else stands on XDP"),
                    "if it redirects packets into an interface that is filtered on the way out, they pass unjudged; \
                     nothing in its maps says so",
                    "none, if it redirects nothing there",
                );
            }
        }
    }
}
