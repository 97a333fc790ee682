//! The keys of the node file for observation: `events`, `privacy` and `suspect`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use hyper::Uri;
use tokio_rustls::rustls::pki_types::ServerName;

use super::absolute;
use crate::document::{Decoder, Fields, Value, YamlNode};
use crate::period::Period;

/// Which records of denied packets are kept, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observe {
    pub events: EventLog,
    pub addresses: Addresses,
    /// How long events and talkers are kept in memory.
    pub retain: Duration,
    /// `None` if suspects are switched off.
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

/// Memory holds no more than a year of events, and few laws allow more.
pub(super) const LONGEST: Period = Period::from_secs(400 * 86_400);

/// Where events are written, besides the memory of the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventLog {
    /// The kernel programs record nothing.
    Off,
    Memory,
    /// The log of the daemon, one line of JSON an event.
    Journal,
    /// syslog(3), one line of JSON an event.
    Syslog,
    File(PathBuf),
}

/// How a subscriber's address is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addresses {
    Full,
    /// As the /24 or /48 around it.
    Truncate,
    /// As a pseudonym that only this node can make.
    Hash,
    /// Not at all: it never leaves the kernel program.
    None,
}

/// The limit above which a subscriber is a suspect, and the receivers of reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    /// Denied packets in a minute.
    pub per_minute: u64,
    /// The program to run; the event comes on its standard input.
    pub command: Option<PathBuf>,
    /// Where the event is posted.
    pub webhook: Option<Webhook>,
}

/// An `http://` or `https://` URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    url: Uri,
    /// Authorities that are trusted besides those of the system, as PEM.
    pub ca_file: Option<PathBuf>,
}

impl FromStr for Webhook {
    /// The error, to be shown after the URL.
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "must be an http:// or https:// URL with a host";
        let webhook = Self { url: text.parse().map_err(|_| EXPECTED)?, ca_file: None };
        let has_scheme = matches!(webhook.url.scheme_str(), Some("http" | "https"));
        if !has_scheme || webhook.host().is_empty() {
            return Err(EXPECTED);
        }
        if webhook.authority().contains('@') {
            return Err("has a user name, which would not be sent: put a secret into the path");
        }
        if webhook.is_https() && ServerName::try_from(webhook.host()).is_err() {
            return Err(
                "has a host that no certificate can name: expected a DNS name or an address",
            );
        }
        Ok(webhook)
    }
}

impl Webhook {
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.url.scheme_str() == Some("https")
    }

    /// Name or address, without the brackets of IPv6.
    #[must_use]
    pub fn host(&self) -> &str {
        self.url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.url.port_u16().unwrap_or(if self.is_https() { 443 } else { 80 })
    }

    /// Host and port as they are written.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.url.authority().map_or("", |authority| authority.as_str())
    }

    /// Path and query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.url.path_and_query().map_or("/", |path| path.as_str())
    }
}

/// Without path and query, where secrets are.
impl fmt::Display for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_https() { "https" } else { "http" };
        write!(f, "webhook {scheme}://{}", self.authority())
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
    let mut is_unread = false;
    if let Some(node) = fields.take("webhook")
        && let Some(text) = decoder.text("`webhook`", node)
    {
        match text.parse() {
            Ok(webhook) => suspect.webhook = Some(webhook),
            Err(what) => {
                is_unread = true;
                decoder.report.error(decoder.spot(node), format!("`webhook`: `{text}` {what}"));
            }
        }
    }
    if let Some(node) = fields.take("ca-file")
        && let Some(text) = decoder.text("`ca-file`", node)
    {
        let path = absolute(decoder, "ca-file", node, text);
        match &mut suspect.webhook {
            Some(webhook) if webhook.is_https() => webhook.ca_file = Some(path),
            _ if is_unread => {}
            _ => {
                let message = "`ca-file` needs a `webhook` that starts with https://";
                decoder.report.error(decoder.spot(node), message);
            }
        }
    }
    fields.finish(decoder);
    Some(suspect)
}
