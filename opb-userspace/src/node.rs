//! The node file, `/etc/opb/opb.yaml`: settings of one machine. docs/node.md describes the format.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Serialize;

mod interfaces;
mod limits;
mod observe;
mod recognise;
mod sessions;
mod start_only;

pub use interfaces::{Filter, Hook, Interface, NamePattern, Role, UnknownSource};
pub use observe::{Addresses, EventLog, Observe, Suspect, Webhook};
pub use recognise::{is_node_file, pins_line};
pub use sessions::{Client, GroupAttribute, Radius};

use crate::document::{Decoder, Diagnostics, Fields, Form, Report, Source, Spot, Value, YamlNode};
use crate::files::{Limits, NODE_FILE};
use crate::period::Period;
use crate::policy::{NODE_KEYS, POLICY_KEYS};

/// Where the pins are unless the node file says otherwise.
pub const DEFAULT_PINS: &str = "/sys/fs/bpf/opb";

/// A valid node file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub policy: PolicySource,
    /// At least one, in file order.
    pub interfaces: Vec<Interface>,
    /// The directory for data that must outlive a reboot.
    pub state: PathBuf,
    /// The socket of the local API.
    pub control: PathBuf,
    /// The address of metrics and status page. They are not served if it is `None`.
    pub http: Option<SocketAddr>,
    /// Host names by which browsers may ask for them, besides addresses, `localhost` and the name
    /// of the machine.
    pub http_names: Vec<String>,
    /// The directory on a BPF file system for objects that must outlive the daemon.
    pub pins: PathBuf,
    pub log: LogLevel,
    /// What the daemon does when its files change.
    pub watch: WatchMode,
    pub dns: Dns,
    /// Size limits of the policy's files.
    pub limits: Limits,
    /// Records of denied packets.
    pub observe: Observe,
    /// Accounting of sessions, if this node listens for it.
    pub sessions: Option<Radius>,
}

/// What the daemon does when its files change without a request to reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WatchMode {
    /// It says that they differ.
    #[default]
    Off,
    /// It reloads them.
    On,
    /// It reloads them, and rolls back unless somebody confirms in time.
    Confirm(Period),
}

/// How the hosts of relay sets are resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// If empty, those of `/etc/resolv.conf`.
    pub servers: Vec<SocketAddr>,
    /// How long an address stays allowed after it has left the answers.
    pub hold: Period,
}

impl Default for Dns {
    fn default() -> Self {
        // Most resolvers of subscribers' machines keep an old answer for less time.
        Self { servers: Vec::new(), hold: Period::from_secs(300) }
    }
}

/// The source of the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicySource {
    /// A file or directory. A relative path is relative to the node file.
    Path(PathBuf),
}

/// The level of the BPF programs' debug lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    #[default]
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Config {
    /// Reads and validates a node file, but not the policy that it names.
    pub fn load(path: &Path) -> Result<Self, Diagnostics> {
        Self::load_with_source(path).map(|(config, _)| config)
    }

    /// Like [`Self::load`]. Also returns the file as it was read.
    pub fn load_with_source(path: &Path) -> Result<(Self, Source), Diagnostics> {
        Self::read(Report::within(Limits { policy: NODE_FILE, prefixes: 0 }), path)
    }

    /// Builds the settings again from a file that another load has returned.
    pub fn from_source(source: Source) -> Result<Self, Diagnostics> {
        let path = source.path.clone();
        Self::read(Report::of(vec![source]), &path).map(|(config, _)| config)
    }

    fn read(mut report: Report, path: &Path) -> Result<(Self, Source), Diagnostics> {
        match read(&mut report, path) {
            Some(config) if !report.has_errors() => Ok((config, report.sources()[0].clone())),
            _ => Err(report.finish()),
        }
    }

    /// The entry for an interface: an exact name before any pattern, then the first pattern that
    /// matches.
    pub fn interface(&self, name: &str) -> Option<&Interface> {
        let exact = |interface: &&Interface| matches!(&interface.name, NamePattern::Exact(exact) if exact == name);
        let fits = |interface: &&Interface| interface.name.matches(name);
        self.interfaces.iter().find(exact).or_else(|| self.interfaces.iter().find(fits))
    }
}

fn read(report: &mut Report, path: &Path) -> Option<Config> {
    let (file, text) = report.read(path, Form::Yaml)?;
    let mut decoder = Decoder::new(report, file);
    let root = decoder.parse(&text)?;
    let message =
        "this looks like a policy file: expected a node file, which names it under `policy`";
    if decoder.is_other_kind(&root, (NODE_KEYS, POLICY_KEYS), message) {
        return None;
    }
    let mut fields = decoder.fields("a node file", &root)?;
    decoder.version(&root, &mut fields)?;
    let directory = path.parent().unwrap_or(Path::new(""));
    let start = decoder.spot(&root);
    let policy = policy(&mut decoder, &mut fields, directory, start);
    let interfaces = interfaces::read(&mut decoder, &mut fields, start);
    let config = Config {
        state: absolute_path(&mut decoder, &mut fields, "state", "/var/lib/opb"),
        control: absolute_path(&mut decoder, &mut fields, "control", "/run/opb/opb.sock"),
        http: http(&mut decoder, &mut fields),
        http_names: http_names(&mut decoder, &mut fields),
        pins: absolute_path(&mut decoder, &mut fields, "pins", DEFAULT_PINS),
        log: log(&mut decoder, &mut fields),
        watch: watch(&mut decoder, &mut fields),
        dns: dns(&mut decoder, &mut fields),
        limits: limits::read(&mut decoder, &mut fields),
        observe: observe::read(&mut decoder, &mut fields),
        sessions: sessions::read(&mut decoder, &mut fields),
        policy: PolicySource::Path(policy.unwrap_or_default()),
        interfaces,
    };
    fields.finish(&mut decoder);
    Some(config)
}

fn policy(
    decoder: &mut Decoder<'_>,
    fields: &mut Fields<'_, '_>,
    directory: &Path,
    start: Spot,
) -> Option<PathBuf> {
    let Some(node) = fields.take("policy") else {
        decoder.report.error(start, "`policy` is missing: the path of a policy file or directory");
        return None;
    };
    if let Value::Map(entries) = &node.value
        && let Some((key, _)) = entries.iter().find(|(key, _)| key.text == "etcd")
    {
        decoder.report.error(
            decoder.key_spot(key),
            "`etcd` is not supported yet: write the path of a policy",
        );
        return None;
    }
    let path = decoder.text("`policy`", node)?;
    if path.is_empty() {
        decoder.report.error(decoder.spot(node), "`policy` is an empty path");
    }
    Some(directory.join(path))
}

fn absolute_path(
    decoder: &mut Decoder<'_>,
    fields: &mut Fields<'_, '_>,
    key: &'static str,
    default: &str,
) -> PathBuf {
    let Some(node) = fields.take(key) else { return default.into() };
    let Some(text) = decoder.text(&format!("`{key}`"), node) else { return default.into() };
    absolute(decoder, key, node, text)
}

fn absolute(decoder: &mut Decoder<'_>, key: &str, node: &YamlNode<'_>, text: &str) -> PathBuf {
    if !text.starts_with('/') {
        decoder
            .report
            .error(decoder.spot(node), format!("`{key}` must be an absolute path, not `{text}`"));
    }
    text.into()
}

fn http(decoder: &mut Decoder<'_>, fields: &mut Fields<'_, '_>) -> Option<SocketAddr> {
    let Some(node) = fields.take("http") else { return Some((Ipv4Addr::LOCALHOST, 9625).into()) };
    match &node.value {
        Value::Text(text) if text == "off" => None,
        Value::Text(text) => match text.parse() {
            Ok(address) => Some(address),
            Err(_) => {
                let message = format!(
                    "`http` must be `off` or an address and port such as 127.0.0.1:9625, not `{text}`"
                );
                decoder.report.error(decoder.spot(node), message);
                None
            }
        },
        _ => {
            decoder.mistyped("`http`", "`off` or an address and port such as 127.0.0.1:9625", node)
        }
    }
}

fn http_names(decoder: &mut Decoder<'_>, fields: &mut Fields<'_, '_>) -> Vec<String> {
    let mut names = Vec::new();
    let Some(node) = fields.take("http-names") else { return names };
    for node in decoder.list("`http-names`", node).into_iter().flatten() {
        let Some(text) = decoder.text("a name of `http-names`", node) else { continue };
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
        if text.is_empty() || !text.chars().all(is_name) {
            let message = format!("`{text}` is not a host name (without scheme and port)");
            decoder.report.error(decoder.spot(node), message);
        }
        names.push(text.to_owned());
    }
    names
}

fn log(decoder: &mut Decoder<'_>, fields: &mut Fields<'_, '_>) -> LogLevel {
    let levels = [
        ("off", LogLevel::Off),
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    fields.take("log").and_then(|node| decoder.choice("`log`", node, &levels)).unwrap_or_default()
}

fn watch(decoder: &mut Decoder<'_>, fields: &mut Fields<'_, '_>) -> WatchMode {
    let Some(node) = fields.take("watch") else { return WatchMode::Off };
    let Some(text) = decoder.text("`watch`", node) else { return WatchMode::Off };
    let timeout =
        text.strip_prefix("confirm ").map(|time| Period::within(time.trim(), observe::LONGEST));
    match (text, timeout) {
        ("off", _) => return WatchMode::Off,
        ("on", _) => return WatchMode::On,
        (_, Some(Ok(timeout))) => return WatchMode::Confirm(timeout),
        (_, Some(Err(error))) => {
            decoder.report.error(decoder.spot(node), format!("`watch`: {error}"))
        }
        _ => decoder.report.error(
            decoder.spot(node),
            format!("`watch` must be `off`, `on` or, for example, `confirm 5m`, not `{text}`"),
        ),
    };
    WatchMode::Off
}

fn dns(decoder: &mut Decoder<'_>, fields: &mut Fields<'_, '_>) -> Dns {
    let mut dns = Dns::default();
    let Some(node) = fields.take("dns") else { return dns };
    let Some(mut fields) = decoder.fields("`dns`", node) else { return dns };
    let servers = fields.take("servers").and_then(|node| decoder.list("`servers`", node));
    for node in servers.into_iter().flatten() {
        let Some(text) = decoder.text("a name server", node) else { continue };
        match text.parse().or_else(|_| text.parse().map(|address| SocketAddr::new(address, 53))) {
            Ok(server) => dns.servers.push(server),
            Err(_) => {
                let message = format!("`{text}` is not the address of a name server");
                decoder.report.error(decoder.spot(node), message);
            }
        }
    }
    if let Some(node) = fields.take("hold")
        && let Some(text) = decoder.text("`hold`", node)
    {
        match Period::within(text, observe::LONGEST) {
            Ok(hold) => dns.hold = hold,
            Err(error) => {
                decoder.report.error(decoder.spot(node), format!("`hold`: {error}"));
            }
        }
    }
    fields.finish(decoder);
    dns
}
