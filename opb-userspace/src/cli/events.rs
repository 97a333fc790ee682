use super::{
    client::{Control, with_query},
    failure::Failure,
    output::{Format, Output},
};
use opb_common::outcome::{Direction, Reason, Verdict};
use opb_userspace::api::{events::Event, events::EventsQuery, events::Kind, events::Page};

/// Seconds that a request waits for new events.
const WAIT: u64 = 20;

/// Show denied packets, suspects and changes, recent or as they come
///
/// Denied packets are a sample, because the kernel limits the rate. `opb counters` is exact.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  opb events --follow --group flets-dynamic")]
pub(crate) struct Events {
    /// Continue with new events until interrupted
    #[arg(long)]
    follow: bool,

    /// Show only events of this group
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,

    #[command(flatten)]
    control: Control,

    #[command(flatten)]
    format: Format,
}

impl Events {
    pub(crate) fn execute(self) -> Result<(), Failure> {
        let mut page = self.ask(0, 0)?;
        self.show(&page)?;
        loop {
            let has_more = page.next < page.last;
            if !has_more && !self.follow {
                return Ok(());
            }
            page = self.ask(page.next, if has_more { 0 } else { WAIT })?;
            if page.missed > 0 {
                super::failure::warn([format!("{} events were missed", page.missed)]);
            }
            self.show(&page)?;
        }
    }

    fn ask(&self, after: u64, wait: u64) -> Result<Page, Failure> {
        let query = EventsQuery { after, group: self.group.clone(), wait };
        self.control.get(&with_query("/v1/events", &query)?)
    }

    fn show(&self, page: &Page) -> Result<(), Failure> {
        let mut output = Output::new();
        for event in &page.events {
            if self.format.json {
                output.json(event)?;
            } else {
                output.line(line(event))?;
            }
        }
        output.finish()
    }
}

fn line(event: &Event) -> String {
    let Event { time, group, interface, port, .. } = event;
    let subscriber = if event.subscriber.is_empty() { "-" } else { &event.subscriber };
    match event.kind {
        Kind::Suspect => {
            let packets = event.packets.unwrap_or_default();
            format!(
                "{time:.0} suspect {subscriber} group {group}: {packets} packets denied within a \
                 minute"
            )
        }
        Kind::Relay => {
            let addresses: Vec<_> = event.addresses.iter().map(ToString::to_string).collect();
            format!("{time:.0} relay host {}: {}", event.host, addresses.join(", "))
        }
        Kind::Change => {
            let by = event.by.as_ref().map(ToString::to_string).unwrap_or_default();
            format!("{time:.0} {} by {by}: {}", event.action, event.outcome)
        }
        Kind::Denied => {
            let peer = if event.peer.is_empty() { "-" } else { &event.peer };
            let inner = match event.inner.as_str() {
                "" => String::new(),
                inner => format!(" (inner {inner})"),
            };
            let verdict = event.verdict.map_or("-", Verdict::name);
            let direction = event.direction.map_or("-", Direction::name);
            let reason = event.reason.map_or("-", Reason::name);
            format!(
                "{time:.0} {verdict} {subscriber}{inner} {peer} port {port} {direction} on \
                 {interface}, group {group} ({reason})"
            )
        }
    }
}
