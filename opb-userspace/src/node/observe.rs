//! What the node file says about watching: `events`, `privacy` and `suspect`.

use std::path::PathBuf;
use std::time::Duration;

use super::absolute;
use crate::policy::decode::{Decoder, Fields};
use crate::policy::yaml::Value;

/// What is written down of denied packets, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observe {
    pub events: EventLog,
    pub addresses: Addresses,
    /// How long events and talkers are kept in memory.
    pub retain: Duration,
    /// `None` if nobody is ever suspected.
    pub suspect: Option<Suspect>,
}

impl Default for Observe {
    fn default() -> Self {
        Self {
            events: EventLog::Memory,
            addresses: Addresses::Full,
            retain: Duration::from_secs(24 * 3600),
            suspect: Some(Suspect::default()),
        }
    }
}

/// Where events go besides the memory of the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventLog {
    /// The programs write nothing down.
    Off,
    Memory,
    /// The log of the daemon, one line of JSON an event.
    Journal,
    File(PathBuf),
}

/// What becomes of a subscriber's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addresses {
    Full,
    /// To the /24 or /48 that it is in.
    Truncate,
    /// To a pseudonym that only this node can make.
    Hash,
    /// It never leaves the kernel program.
    None,
}

/// When a subscriber is suspected of being infected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    /// Denied packets in a minute.
    pub per_minute: u64,
    /// What to run then; the event comes on its standard input.
    pub command: Option<PathBuf>,
}

impl Default for Suspect {
    fn default() -> Self {
        Self { per_minute: 60, command: None }
    }
}

pub(super) fn read(decoder: &mut Decoder<'_>, fields: &mut Fields<'_, '_>) -> Observe {
    let mut observe = Observe::default();
    if let Some(node) = fields.take("events") {
        match &node.value {
            Value::Text(text) if text == "off" => observe.events = EventLog::Off,
            Value::Text(text) if text == "on" => observe.events = EventLog::Memory,
            Value::Text(text) if text == "journal" => observe.events = EventLog::Journal,
            Value::Text(text) if text.starts_with('/') => {
                observe.events = EventLog::File(text.to_string().into());
            }
            Value::Text(text) => {
                let message = format!(
                    "`events` must be `on`, `off`, `journal` or an absolute path, not `{text}`"
                );
                decoder.report.error(decoder.spot(node), message);
            }
            _ => {
                let expected = "`on`, `off`, `journal` or an absolute path";
                decoder.mistyped::<()>("`events`", expected, node);
            }
        }
    }
    if let Some(node) = fields.take("privacy")
        && let Some(mut fields) = decoder.fields("`privacy`", node)
    {
        let choices = [
            ("full", Addresses::Full),
            ("truncate", Addresses::Truncate),
            ("hash", Addresses::Hash),
            ("none", Addresses::None),
        ];
        if let Some(node) = fields.take("addresses")
            && let Some(choice) = decoder.choice("`addresses`", node, &choices)
        {
            observe.addresses = choice;
        }
        if let Some(node) = fields.take("retain")
            && let Some(text) = decoder.text("`retain`", node)
        {
            match text.parse::<jiff::SignedDuration>().ok().and_then(|it| it.try_into().ok()) {
                Some(retain) if retain >= Duration::from_secs(1) => observe.retain = retain,
                _ => {
                    let message =
                        format!("`retain` must be a duration such as 24h or 30m, not `{text}`");
                    decoder.report.error(decoder.spot(node), message);
                }
            }
        }
        fields.finish(decoder);
    }
    if let Some(node) = fields.take("suspect") {
        observe.suspect = suspect(decoder, node);
    }
    observe
}

fn suspect(decoder: &mut Decoder<'_>, node: &crate::policy::yaml::Node<'_>) -> Option<Suspect> {
    if matches!(&node.value, Value::Text(text) if text == "off") {
        return None;
    }
    let mut suspect = Suspect::default();
    let mut fields = decoder.fields("`suspect`", node)?;
    if let Some(node) = fields.take("per-minute")
        && let Some(count) = decoder.integer("`per-minute`", node)
    {
        match u64::try_from(count) {
            Ok(count) if count > 0 => suspect.per_minute = count,
            _ => {
                let message = format!("`per-minute` must be at least 1, not {count}");
                decoder.report.error(decoder.spot(node), message);
            }
        }
    }
    if let Some(node) = fields.take("command")
        && let Some(text) = decoder.text("`command`", node)
    {
        suspect.command = Some(absolute(decoder, "command", node, text));
    }
    fields.finish(decoder);
    Some(suspect)
}
