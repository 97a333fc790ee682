//! Rules of nftables and iptables that may deny the mail that opb passes, for answers to people.
//! They are read when somebody asks, off the enforcer's thread, and are kept for a while: a tool
//! that hangs costs these answers a few seconds, and nothing else.

use std::{sync::Arc, time::Duration};

use opb_common::outcome::{Direction, Verdict};
use tokio::{sync::Mutex, time::Instant};

use super::threads::Threads;
use crate::{
    api::explain::{Explanation, OtherRules, Query},
    firewall,
};

/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(30);

/// Reads the rules, one reading at a time. Clones share the last one.
#[derive(Clone)]
pub(super) struct OtherRulesReader {
    threads: Threads,
    known: Arc<Mutex<Option<(Instant, OtherRules)>>>,
}

impl OtherRulesReader {
    pub(super) fn new() -> Self {
        Self { threads: Threads::new("rules"), known: Arc::default() }
    }

    /// Adds the rules to an explanation of a packet to or from port 25 that opb passes.
    pub(super) async fn complete(&self, query: &Query, explanation: &mut Explanation) {
        let port = match query.direction {
            Direction::Upstream => query.dport,
            Direction::Downstream => query.sport,
        };
        let passes = matches!(explanation.verdict, Verdict::Pass | Verdict::WouldDrop);
        if passes && port.is_none_or(|port| port == firewall::MAIL) {
            let rules = self.read().await;
            explanation.other_rules = Some(rules).filter(|rules| !rules.is_empty());
        }
    }

    async fn read(&self) -> OtherRules {
        // Requests that wait here find the answer of the first.
        let mut known = self.known.lock().await;
        if let Some((time, rules)) = &*known
            && time.elapsed() < KEPT
        {
            return rules.clone();
        }
        let limit = firewall::LIMIT + firewall::GRACE;
        let read = self.threads.run(limit, || firewall::other_rules(firewall::LIMIT)).await;
        let rules = read.unwrap_or_else(|_| firewall::hanging());
        *known = Some((Instant::now(), rules.clone()));
        rules
    }
}
