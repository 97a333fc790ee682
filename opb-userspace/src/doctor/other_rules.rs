//! Rules of nftables and iptables that deny the mail port beside opb.

use super::{Check, Doctor, Findings, Level::Note};
use crate::api::explain::OtherRules;

impl Doctor<'_> {
    /// Reports rules of others. None of them keeps opb from filtering, so all are notes.
    pub(super) fn other_rules(&self, rules: OtherRules, found: &mut Findings) {
        let check = (Check::OtherRules, Note);
        for rule in rules.rules {
            let seen = match rules.more {
                0 => "this rule may deny TCP port 25 to forwarded packets".to_owned(),
                more => format!(
                    "this rule, and {more} that are not listed, may deny TCP port 25 to forwarded \
                     packets"
                ),
            };
            found.add(
                check,
                rule,
                seen,
                "mail that opb passes may be blocked all the same; opb does not count it",
                "remove the rule if opb replaces it; `nft -a list ruleset` or `iptables-save` \
                 shows it",
            );
        }
        for why in rules.unknown {
            found.add(
                check,
                "node",
                format!("unknown whether other rules deny TCP port 25: {why}"),
                "if a customer reports blocked mail that opb passes, the cause may be such a rule",
                "run the doctor as root, with `nft` (package nftables) and `iptables-legacy-save` \
                 (package iptables) installed",
            );
        }
    }
}
