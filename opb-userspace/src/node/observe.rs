//! Observation of denied packets: `events`, `privacy` and `suspect` of the node file.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use hyper::Uri;

use super::absolute;
use crate::document::{Decoder, Fields, Value, YamlNode};
use crate::period::Period;

/// What is recorded of denied packets, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observe {
    pub events: EventLog,
    pub addresses: Addresses,
    /// How long events and talkers are kept in memory.
    pub retain: Duration,
    /// `None` if nobody is suspected.
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

/// More than a year of events fits neither memory nor most privacy laws.
pub(super) const LONGEST: Period = Period::from_secs(400 * 86_400);

/// Where events are written, besides the memory of the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventLog {
    /// The programs record nothing.
    Off,
    Memory,
    /// The log of the daemon, one line of JSON an event.
    Journal,
    /// syslog(3), one line of JSON an event.
    Syslog,
    File(PathBuf),
}

/// How a subscriber's address is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addresses {
    Full,
    /// As its /24 or /48.
    Truncate,
    /// As a pseudonym that only this node can compute.
    Hash,
    /// Not at all: it never leaves the BPF program.
    None,
}

/// When a subscriber is suspected of being infected, and whom to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    /// Denied packets in a minute.
    pub per_minute: u64,
    /// A program to run, with the event on its standard input.
    pub command: Option<PathBuf>,
    /// A URL to which the event is posted.
    pub webhook: Option<Webhook>,
}

/// An `http://` URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook(Uri);

impl FromStr for Webhook {
    /// The end of a sentence that begins with the URL.
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url: Uri = text.parse().map_err(|_| "is not a URL")?;
        match (url.scheme_str(), url.host()) {
            (Some("http"), Some(host)) if !host.is_empty() => {}
            (Some("https"), _) => {
                return Err("needs TLS, which the daemon does not speak: \
                            post to a proxy on this machine, or use `command` with curl");
            }
            _ => return Err("is no URL that starts with http:// and a host"),
        }
        match url.authority() {
            Some(authority) if authority.as_str().contains('@') => {
                Err("has a user name, which would not be sent: put a secret into the path")
            }
            _ => Ok(Self(url)),
        }
    }
}

impl Webhook {
    /// Name or address, without the brackets of IPv6.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.port_u16().unwrap_or(80)
    }

    /// Host and port as they are written.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.0.authority().map_or("", |authority| authority.as_str())
    }

    /// Path and query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.0.path_and_query().map_or("/", |path| path.as_str())
    }
}

/// Without path and query, where secrets are.
impl fmt::Display for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "webhook http://{}", self.authority())
    }
}

impl Default for Suspect {
    fn default() -> Self {
        Self { per_minute: 60, command: None, webhook: None }
    }
}

pub(super) fn read(decoder: &mut Decoder<'_>, fields: &mut Fields<'_, '_>) -> Observe {
    let mut observe = Observe::default();
    if let Some(node) = fields.take("events") {
        match &node.value {
            Value::Text(text) if text == "off" => observe.events = EventLog::Off,
            Value::Text(text) if text == "on" => observe.events = EventLog::Memory,
            Value::Text(text) if text == "journal" => observe.events = EventLog::Journal,
            Value::Text(text) if text == "syslog" => observe.events = EventLog::Syslog,
            Value::Text(text) if text.starts_with('/') => {
                observe.events = EventLog::File(text.to_string().into());
            }
            Value::Text(text) => {
                let message = format!(
                    "`events` must be `on`, `off`, `journal`, `syslog` or an absolute path, not `{text}`"
                );
                decoder.report.error(decoder.spot(node), message);
            }
            _ => {
                let expected = "`on`, `off`, `journal`, `syslog` or an absolute path";
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
            match Period::within(text, LONGEST) {
                Ok(retain) => observe.retain = retain.duration(),
                Err(error) => {
                    decoder.report.error(decoder.spot(node), format!("`retain`: {error}"));
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

fn suspect(decoder: &mut Decoder<'_>, node: &YamlNode<'_>) -> Option<Suspect> {
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
    if let Some(node) = fields.take("webhook")
        && let Some(text) = decoder.text("`webhook`", node)
    {
        match text.parse() {
            Ok(webhook) => suspect.webhook = Some(webhook),
            Err(what) => {
                decoder.report.error(decoder.spot(node), format!("`webhook`: `{text}` {what}"));
            }
        }
    }
    fields.finish(decoder);
    Some(suspect)
}
