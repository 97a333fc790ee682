//! The node file, `/etc/opb/opb.yaml`: what is particular to one machine. docs/node.md describes the format.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Serialize;

mod limits;
mod observe;
mod recognise;

pub use observe::{Addresses, EventLog, Observe, Suspect, Webhook};
pub use recognise::is_node_file;

use crate::files::{Limits, NODE_FILE};
use crate::period::Period;
use crate::policy::Diagnostics;
use crate::policy::decode::{Decoder, Fields};
use crate::policy::source::{Form, Report, Spot};
use crate::policy::yaml::{Node, Value};

/// Linux keeps interface names in 16 bytes, the last of which is NUL.
const NAME_BYTES: usize = 15;

/// A valid node file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub policy: PolicySource,
    /// At least one, in file order.
    pub interfaces: Vec<Interface>,
    /// The directory for what must outlive a reboot.
    pub state: PathBuf,
    /// The socket of the local API.
    pub control: PathBuf,
    /// Where metrics and the status page are served; nowhere if absent.
    pub http: Option<SocketAddr>,
    /// Names by which that may be asked for, beside addresses, `localhost` and the name of the machine.
    pub http_names: Vec<String>,
    /// The directory in a BPF file system for what must outlive the daemon.
    pub pins: PathBuf,
    pub log: LogLevel,
    /// Whether the files are read again by themselves when they change.
    pub watch: bool,
    pub dns: Dns,
    /// How large the files of the policy may be.
    pub limits: Limits,
    /// What is written down of denied packets.
    pub observe: Observe,
}

/// How the hosts of relay sets are resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Those of `/etc/resolv.conf` if there are none here.
    pub servers: Vec<SocketAddr>,
    /// How long an address stays allowed that answers no longer name.
    pub hold: Period,
}

impl Default for Dns {
    fn default() -> Self {
        // Longer than most resolvers of subscribers' machines remember an old answer.
        Self { servers: Vec::new(), hold: Period::from_secs(300) }
    }
}

/// Where the policy comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicySource {
    /// A file or directory; a relative path in the node file is relative to the node file.
    Path(PathBuf),
}

/// One entry of `interfaces`, which may stand for many interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub name: NamePattern,
    pub role: Role,
    pub filter: Filter,
    pub hook: Hook,
    pub unknown_source: UnknownSource,
}

/// An interface name, or a pattern with `*`, `?` or `[…]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamePattern {
    Exact(String),
    Glob(glob::Pattern),
}

/// What is on the other side of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Subscriber,
    Core,
}

/// Which of the two rules an interface enforces; at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter {
    pub upstream: bool,
    pub downstream: bool,
}

/// How programs are attached. XDP sees only what comes in: where the file says `xdp`, what goes out is filtered in TC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    #[default]
    Auto,
    Xdp,
    XdpGeneric,
    Tc,
    Clsact,
}

/// What happens to mail traffic of a source that the policy does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownSource {
    #[default]
    Pass,
    Drop,
}

/// How much the kernel programs say.
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
    /// Reads and validates a node file; the policy that it names is not touched.
    pub fn load(path: &Path) -> Result<Self, Diagnostics> {
        let mut report = Report::within(Limits { policy: NODE_FILE, prefixes: 0 });
        match read(&mut report, path) {
            Some(config) if !report.has_errors() => Ok(config),
            _ => Err(report.finish()),
        }
    }

    /// The entry that an interface belongs to: an exact name before any pattern, then the first pattern that fits.
    pub fn interface(&self, name: &str) -> Option<&Interface> {
        let exact = |interface: &&Interface| matches!(&interface.name, NamePattern::Exact(exact) if exact == name);
        let fits = |interface: &&Interface| interface.name.matches(name);
        self.interfaces.iter().find(exact).or_else(|| self.interfaces.iter().find(fits))
    }
}

impl Interface {
    /// Whether packets that come in through the interface are judged.
    pub fn filters_ingress(&self) -> bool {
        match self.role {
            Role::Subscriber => self.filter.upstream,
            Role::Core => self.filter.downstream,
        }
    }

    /// Whether packets that go out through the interface are judged.
    pub fn filters_egress(&self) -> bool {
        match self.role {
            Role::Subscriber => self.filter.downstream,
            Role::Core => self.filter.upstream,
        }
    }
}

impl NamePattern {
    pub fn as_str(&self) -> &str {
        match self {
            Self::Exact(name) => name,
            Self::Glob(pattern) => pattern.as_str(),
        }
    }

    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Glob(pattern) => pattern.matches(name),
        }
    }
}

fn read(report: &mut Report, path: &Path) -> Option<Config> {
    let (file, text) = report.read(path, Form::Yaml)?;
    let mut decoder = Decoder::new(report, file);
    let root = decoder.parse(&text)?;
    let mut fields = decoder.fields("a node file", &root)?;
    decoder.version(&root, &mut fields)?;
    let directory = path.parent().unwrap_or(Path::new(""));
    let start = decoder.spot(&root);
    let policy = policy(&mut decoder, &mut fields, directory, start);
    let interfaces = interfaces(&mut decoder, &mut fields, start);
    let config = Config {
        state: absolute_path(&mut decoder, &mut fields, "state", "/var/lib/opb"),
        control: absolute_path(&mut decoder, &mut fields, "control", "/run/opb/opb.sock"),
        http: http(&mut decoder, &mut fields),
        http_names: http_names(&mut decoder, &mut fields),
        pins: absolute_path(&mut decoder, &mut fields, "pins", "/sys/fs/bpf/opb"),
        log: log(&mut decoder, &mut fields),
        watch: watch(&mut decoder, &mut fields),
        dns: dns(&mut decoder, &mut fields),
        limits: limits::read(&mut decoder, &mut fields),
        observe: observe::read(&mut decoder, &mut fields),
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

fn interfaces(
    decoder: &mut Decoder<'_>,
    fields: &mut Fields<'_, '_>,
    start: Spot,
) -> Vec<Interface> {
    let mut interfaces: Vec<Interface> = Vec::new();
    let Some(node) = fields.take("interfaces") else {
        decoder
            .report
            .error(start, "`interfaces` is missing: without any, nothing would be filtered");
        return interfaces;
    };
    let Some(list) = decoder.list("`interfaces`", node) else { return interfaces };
    if list.is_empty() {
        decoder
            .report
            .error(decoder.spot(node), "`interfaces` is empty: nothing would be filtered");
    }
    let mut named: Vec<(NamePattern, Spot)> = Vec::new();
    for node in list {
        let Some((name, spot, interface)) = interface(decoder, node) else { continue };
        if let Some((_, first)) = named.iter().find(|(known, _)| *known == name) {
            let message = format!("interface `{}` is listed twice", name.as_str());
            decoder.report.error(spot, message).see("first listed", *first);
        } else {
            named.push((name, spot));
        }
        interfaces.extend(interface);
    }
    interfaces
}

/// An entry of `interfaces`. Its name is known even if the rest is not valid.
fn interface(
    decoder: &mut Decoder<'_>,
    node: &Node<'_>,
) -> Option<(NamePattern, Spot, Option<Interface>)> {
    let mut fields = decoder.fields("an interface", node)?;
    let start = decoder.spot(node);
    let name_node = fields.take("name");
    if name_node.is_none() {
        decoder.report.error(start, "an interface must have a `name`");
    }
    let name = name_node.and_then(|node| name(decoder, node));
    let roles = [("subscriber", Role::Subscriber), ("core", Role::Core)];
    let role = match fields.take("role") {
        Some(node) => decoder.choice("`role`", node, &roles),
        None => {
            decoder.report.error(start, "an interface must have a `role`: `subscriber` or `core`");
            None
        }
    };
    let filter = fields.take("filter").map(|node| filter(decoder, node));
    let filter = filter.unwrap_or(Filter { upstream: true, downstream: true });
    let hooks = [
        ("auto", Hook::Auto),
        ("xdp", Hook::Xdp),
        ("xdp-generic", Hook::XdpGeneric),
        ("tc", Hook::Tc),
        ("clsact", Hook::Clsact),
    ];
    let hook = fields
        .take("hook")
        .and_then(|node| decoder.choice("`hook`", node, &hooks))
        .unwrap_or_default();
    let verdicts = [("pass", UnknownSource::Pass), ("drop", UnknownSource::Drop)];
    let unknown_source = fields
        .take("unknown-source")
        .and_then(|node| decoder.choice("`unknown-source`", node, &verdicts))
        .unwrap_or_default();
    fields.finish(decoder);
    let (name, spot) = (name?, decoder.spot(name_node?));
    let interface =
        role.map(|role| Interface { name: name.clone(), role, filter, hook, unknown_source });
    Some((name, spot, interface))
}

fn name(decoder: &mut Decoder<'_>, node: &Node<'_>) -> Option<NamePattern> {
    let text = decoder.text("`name`", node)?;
    let message = if text.contains(['*', '?', '[', ']']) {
        match glob::Pattern::new(text) {
            Ok(pattern) => return Some(NamePattern::Glob(pattern)),
            Err(error) => format!("`{text}` is not a pattern: {}", error.msg),
        }
    } else if text.len() > NAME_BYTES {
        format!(
            "`{text}` is too long for an interface name: at most {NAME_BYTES} bytes are possible"
        )
    } else if text.is_empty()
        || [".", ".."].contains(&text)
        || text.contains(['/', ':'])
        || text.contains(char::is_whitespace)
    {
        format!("`{text}` is not an interface name")
    } else {
        return Some(NamePattern::Exact(text.to_owned()));
    };
    decoder.report.error(decoder.spot(node), message);
    None
}

fn filter(decoder: &mut Decoder<'_>, node: &Node<'_>) -> Filter {
    let mut filter = Filter { upstream: false, downstream: false };
    let Some(list) = decoder.list("`filter`", node) else { return filter };
    if list.is_empty() {
        decoder
            .report
            .error(decoder.spot(node), "`filter` is empty: leave the interface out instead");
    }
    for node in list {
        match decoder.choice("a direction", node, &[("upstream", true), ("downstream", false)]) {
            Some(true) => filter.upstream = true,
            Some(false) => filter.downstream = true,
            None => {}
        }
    }
    filter
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

fn absolute(decoder: &mut Decoder<'_>, key: &str, node: &Node<'_>, text: &str) -> PathBuf {
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

fn watch(decoder: &mut Decoder<'_>, fields: &mut Fields<'_, '_>) -> bool {
    let words = [("on", true), ("off", false)];
    let word = fields.take("watch").and_then(|node| decoder.choice("`watch`", node, &words));
    word.unwrap_or(true)
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
