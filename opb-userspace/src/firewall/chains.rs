//! Chains of rules, whatever tool they come from, and the rules in them that deny port 25 to
//! packets that the node forwards.

use std::collections::{BTreeMap, BTreeSet};

/// Chains by a name that is unique among all of them.
#[derive(Debug, Default)]
pub(super) struct Ruleset(pub(super) BTreeMap<String, Chain>);

#[derive(Debug, Default)]
pub(super) struct Chain {
    /// `None`: only jumps lead here.
    pub(super) base: Option<Base>,
    pub(super) rules: Vec<Rule>,
}

/// A chain on a hook of the kernel.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) hook: String,
    /// The name of its policy in messages, if that drops packets.
    pub(super) dropping: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Rule {
    /// The rule in messages.
    pub(super) name: String,
    /// Whether the first packet of a connection never matches.
    pub(super) is_for_established: bool,
    pub(super) steps: Vec<Step>,
}

/// What a rule does, and to which ports.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) ports: Ports,
    pub(super) action: Action,
}

/// Which ports a condition names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ports {
    /// None: it matches packets of any port.
    Any,
    /// Port 25, at least.
    Mail,
    /// Not port 25, or not TCP.
    Other,
}

#[derive(Debug)]
pub(super) enum Action {
    Deny,
    Accept,
    /// A jump to the chain of that name.
    Visit(String),
}

/// What is known of the conditions of one rule.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Conditions {
    pub(super) is_other_protocol: bool,
    /// Whether the destination ports include port 25, if the rule names any.
    pub(super) destination: Option<bool>,
    pub(super) source: Option<bool>,
}

impl Conditions {
    pub(super) fn ports(self) -> Ports {
        match self {
            Self { is_other_protocol: true, .. } => Ports::Other,
            Self { destination: Some(true), .. } | Self { source: Some(true), .. } => Ports::Mail,
            Self { destination: Some(false), .. } => Ports::Other,
            // A client's port can be any.
            Self { destination: None, .. } => Ports::Any,
        }
    }

    /// Adds a condition on a port.
    pub(super) fn add(port: &mut Option<bool>, includes: bool) {
        *port = Some(port.unwrap_or(true) && includes);
    }
}

/// Names of rules that may deny port 25.
#[derive(Debug, Default)]
pub(super) struct Denials(pub(super) BTreeSet<String>);

impl Denials {
    /// Finds the rules in `ruleset`. A rule counts if it, or a jump on the way to it, names port
    /// 25; other conditions and earlier rules are ignored, which is why it only *may* deny.
    pub(super) fn find(&mut self, ruleset: &Ruleset) {
        for (name, chain) in &ruleset.0 {
            let Some(base) = &chain.base else { continue };
            if !is_on_the_way(&base.hook) {
                continue;
            }
            self.visit(ruleset, name, false, &base.hook, &mut BTreeSet::new());
            if let Some(policy) = &base.dropping
                && !may_accept(ruleset, name, &mut BTreeSet::new())
            {
                self.0.insert(policy.clone());
            }
        }
    }

    /// Visits each chain at most twice: with and without a condition on the port before it.
    fn visit<'a>(
        &mut self,
        ruleset: &'a Ruleset,
        name: &'a str,
        is_mail: bool,
        hook: &str,
        seen: &mut BTreeSet<(&'a str, bool)>,
    ) {
        let mut open = vec![(name, is_mail)];
        while let Some((name, is_mail)) = open.pop() {
            let Some(chain) = ruleset.0.get(name).filter(|_| seen.insert((name, is_mail))) else {
                continue;
            };
            for rule in &chain.rules {
                for step in rule.steps.iter().filter(|step| step.ports != Ports::Other) {
                    let is_mail = is_mail || step.ports == Ports::Mail;
                    match &step.action {
                        Action::Deny if is_mail => {
                            self.0.insert(format!("{} (hook {hook})", rule.name));
                        }
                        Action::Visit(target) => open.push((target.as_str(), is_mail)),
                        Action::Deny | Action::Accept => {}
                    }
                }
            }
        }
    }
}

/// Whether some rule may accept the first packet of a connection to port 25.
fn may_accept<'a>(ruleset: &'a Ruleset, name: &'a str, seen: &mut BTreeSet<&'a str>) -> bool {
    let mut open = vec![name];
    while let Some(name) = open.pop() {
        let Some(chain) = ruleset.0.get(name).filter(|_| seen.insert(name)) else { continue };
        for rule in chain.rules.iter().filter(|rule| !rule.is_for_established) {
            for step in rule.steps.iter().filter(|step| step.ports != Ports::Other) {
                match &step.action {
                    Action::Accept => return true,
                    Action::Visit(target) => open.push(target),
                    Action::Deny => {}
                }
            }
        }
    }
    false
}

/// Whether forwarded packets pass a hook, by the name that nftables or iptables has for it.
fn is_on_the_way(hook: &str) -> bool {
    const HOOKS: [&str; 5] = ["prerouting", "forward", "postrouting", "ingress", "egress"];
    HOOKS.iter().any(|known| hook.eq_ignore_ascii_case(known))
}
