//! Metrics of sessions and of the accounting listener.

use std::fmt::Write as _;

use prometheus::IntCounter;

use super::Metrics;
use crate::{
    api::status::Status,
    radius::statistics::{LIMITS, Statistics},
};

impl Metrics {
    pub(super) fn sessions(
        &self,
        status: &Status,
        radius: Option<&Statistics>,
    ) -> Result<(), prometheus::Error> {
        // Without a listener, there are no sessions.
        let Some(radius) = radius else { return Ok(()) };
        let help = "Sessions. Unsure: not mentioned since the daemon started.";
        let sessions = self.gauge_vec("opb_sessions", help, &["state"])?;
        for (state, count) in [("live", status.sessions.live), ("unsure", status.sessions.unsure)] {
            sessions.with_label_values(&[state]).set(count as i64);
        }
        let help = "Addresses and prefixes of sessions.";
        self.gauge("opb_session_addresses", help, status.sessions.addresses as i64)?;
        let help = "RADIUS packets by what became of them.";
        let requests = self.counter_vec("opb_radius_requests_total", help, &["result"])?;
        for (result, count) in radius.fates() {
            requests.with_label_values(&[result]).inc_by(count);
        }
        let refused = IntCounter::new(
            "opb_session_addresses_refused_total",
            "Addresses and prefixes in accounting requests that no session may own.",
        )?;
        refused.inc_by(radius.refused());
        self.registry.register(Box::new(refused))
    }
}

/// The histogram of latencies, in the text format: the library has none whose counts can be set.
pub(super) fn latencies(radius: &Statistics) -> String {
    const NAME: &str = "opb_radius_response_seconds";
    let (upto, all, sum) = radius.latencies();
    let mut text = format!(
        "# HELP {NAME} Time from an accounting request to its response, when it is in force.\n\
         # TYPE {NAME} histogram\n"
    );
    // Writing to a string does not fail.
    for (limit, count) in LIMITS.iter().zip(upto) {
        let _ = writeln!(text, "{NAME}_bucket{{le=\"{limit}\"}} {count}");
    }
    let _ = writeln!(text, "{NAME}_bucket{{le=\"+Inf\"}} {all}");
    let _ = writeln!(text, "{NAME}_sum {sum}\n{NAME}_count {all}");
    text
}
