//! One policy file as it is written. docs/policy.md describes the format. Rules between entries are
//! checked by `verify`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::civil;

use super::model::{Action, Downstream, Matching, Policy};
use super::nat64;
use super::prefix::Prefix;
use crate::document::{
    Decoder, Entries, FileId, Form, Report, Spot, Value, YamlNode, visible_entry,
};

/// Keys that every node file has, and that no policy file has.
pub(crate) const NODE_KEYS: &[&str] = &["interfaces", "policy"];
/// Keys of policy files.
pub(crate) const POLICY_KEYS: &[&str] = &["groups", "relays", "exemptions", "softwires"];

/// The entries of the files read so far.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) groups: Vec<GroupDraft>,
    pub(super) relays: Vec<RelayDraft>,
    pub(super) exemptions: Vec<ExemptionDraft>,
    pub(super) softwires: Vec<SoftwireDraft>,
    pub(super) nat64: Vec<(Prefix, Spot)>,
    /// The prefix lists that were named so far: naming one twice is an error.
    prefix_files: HashMap<PathBuf, Spot>,
    /// A file could not be read or parsed, so a name that seems unknown may only be missing.
    pub(super) incomplete: bool,
}

/// A name, and where it is defined or used.
pub(super) struct Name {
    pub(super) text: String,
    pub(super) spot: Spot,
}

pub(super) struct GroupDraft {
    pub(super) name: Name,
    pub(super) prefixes: Vec<(Prefix, Spot)>,
    /// No prefix is listed. False if some are listed and all of them are wrong.
    pub(super) is_unfed: bool,
    pub(super) relays: Vec<Name>,
    pub(super) action: Action,
    pub(super) matching: Matching,
    pub(super) downstream: Downstream,
    pub(super) ports: Vec<u16>,
}

pub(super) struct RelayDraft {
    pub(super) name: Name,
    pub(super) addresses: Vec<(Prefix, Spot)>,
    pub(super) hosts: Vec<(String, Spot)>,
}

pub(super) struct ExemptionDraft {
    pub(super) prefix: Prefix,
    pub(super) spot: Spot,
    pub(super) reason: Option<String>,
    pub(super) until: Option<(Timestamp, Spot)>,
}

pub(super) struct SoftwireDraft {
    pub(super) name: Name,
    pub(super) endpoints: Vec<(Prefix, Spot)>,
}

impl Draft {
    /// Adds the entries of a file.
    pub(super) fn read(&mut self, report: &mut Report, path: &Path) {
        if self.try_read(report, path).is_none() {
            self.incomplete = true;
        }
    }

    fn try_read(&mut self, report: &mut Report, path: &Path) -> Option<()> {
        let (file, text) = report.read(path, Form::Yaml)?;
        let mut decoder = Decoder::new(report, file);
        let root = decoder.parse(&text)?;
        let message =
            "this looks like a node file: expected a policy file, such as its `policy` names";
        if decoder.is_other_kind(&root, (POLICY_KEYS, NODE_KEYS), message) {
            return None;
        }
        let mut fields = decoder.fields("a policy file", &root)?;
        decoder.version(&root, &mut fields)?;
        let directory = path.parent().unwrap_or(Path::new("")).to_owned();
        let mut reader = Reader { decoder, directory, prefix_files: &mut self.prefix_files };
        if let Some(entries) = fields.take("relays").and_then(|node| reader.named("`relays`", node))
        {
            let relays = entries.iter().map(|(key, node)| {
                let name = Name { text: key.text.to_string(), spot: reader.decoder.key_spot(key) };
                reader.relay(name, node)
            });
            self.relays.extend(relays);
        }
        if let Some(entries) = fields.take("groups").and_then(|node| reader.named("`groups`", node))
        {
            let groups = entries.iter().map(|(key, node)| {
                let name = Name { text: key.text.to_string(), spot: reader.decoder.key_spot(key) };
                reader.group(name, node)
            });
            self.groups.extend(groups);
        }
        if let Some(list) =
            fields.take("exemptions").and_then(|node| reader.decoder.list("`exemptions`", node))
        {
            self.exemptions.extend(list.iter().filter_map(|node| reader.exemption(node)));
        }
        if let Some(entries) =
            fields.take("softwires").and_then(|node| reader.named("`softwires`", node))
        {
            let softwires = entries.iter().filter_map(|(key, node)| {
                let name = Name { text: key.text.to_string(), spot: reader.decoder.key_spot(key) };
                reader.softwire(name, node)
            });
            self.softwires.extend(softwires);
        }
        if let Some(node) = fields.take("nat64") {
            reader.nat64(node, &mut self.nat64);
        }
        fields.finish(&mut reader.decoder);
        Some(())
    }
}

struct Reader<'r> {
    decoder: Decoder<'r>,
    /// The directory that `prefixes-file` is relative to.
    directory: PathBuf,
    prefix_files: &'r mut HashMap<PathBuf, Spot>,
}

impl Reader<'_> {
    /// The entries of `groups`, `relays` or `softwires`. Their keys become label values, names in
    /// the image and command-line arguments, so they must be names.
    fn named<'n, 'a>(&mut self, what: &str, node: &'n YamlNode<'a>) -> Option<Entries<'n, 'a>> {
        let entries = self.decoder.entries(what, node)?;
        for (key, _) in entries.iter().filter(|(key, _)| !is_name(&key.text)) {
            let message =
                format!("`{}` is not a name: 1 to 63 letters, digits, `.`, `_` and `-`", key.text);
            self.decoder.report.error(self.decoder.key_spot(key), message);
        }
        Some(entries)
    }

    fn relay(&mut self, name: Name, node: &YamlNode<'_>) -> RelayDraft {
        let mut relay = RelayDraft { name, addresses: Vec::new(), hosts: Vec::new() };
        let what = format!("relay `{}`", relay.name.text);
        let Some(mut fields) = self.decoder.fields(&what, node) else { return relay };
        let addresses = fields.take("addresses");
        if let Some(node) = addresses {
            self.prefixes("`addresses`", node, &mut relay.addresses);
        }
        let hosts = fields.take("hosts");
        if let Some(list) = hosts.and_then(|node| self.decoder.list("`hosts`", node)) {
            relay.hosts.extend(list.iter().filter_map(|node| self.host(node)));
        }
        let nothing = |node: Option<&YamlNode<'_>>| match node.map(|node| &node.value) {
            None | Some(Value::Null) => true,
            Some(Value::List(list)) => list.is_empty(),
            Some(_) => false,
        };
        if nothing(addresses) && nothing(hosts) {
            let message = format!("{what} has neither `addresses` nor `hosts`");
            self.decoder.report.error(relay.name.spot, message);
        }
        fields.finish(&mut self.decoder);
        relay
    }

    fn group(&mut self, name: Name, node: &YamlNode<'_>) -> GroupDraft {
        let mut group = GroupDraft {
            name,
            prefixes: Vec::new(),
            is_unfed: false,
            relays: Vec::new(),
            action: Action::default(),
            matching: Matching::default(),
            downstream: Downstream::default(),
            ports: vec![25],
        };
        let what = format!("group `{}`", group.name.text);
        let Some(mut fields) = self.decoder.fields(&what, node) else { return group };
        let errors = self.decoder.report.error_count();
        if let Some(node) = fields.take("prefixes") {
            self.prefixes("`prefixes`", node, &mut group.prefixes);
        }
        if let Some(node) = fields.take("prefixes-file") {
            self.prefixes_files(node, &mut group.prefixes);
        }
        group.is_unfed = group.prefixes.is_empty() && errors == self.decoder.report.error_count();
        if let Some(list) =
            fields.take("relays").and_then(|node| self.decoder.list("`relays`", node))
        {
            group.relays.extend(list.iter().filter_map(|node| {
                let text = self.decoder.text("a relay", node)?.to_owned();
                Some(Name { text, spot: self.decoder.spot(node) })
            }));
        }
        let decoder = &mut self.decoder;
        if let Some(node) = fields.take("action") {
            let allowed =
                [("drop", Action::Drop), ("reject", Action::Reject), ("monitor", Action::Monitor)];
            group.action = decoder.choice("`action`", node, &allowed).unwrap_or_default();
        }
        if let Some(node) = fields.take("match") {
            let allowed = [("syn", Matching::Syn), ("any", Matching::Any)];
            group.matching = decoder.choice("`match`", node, &allowed).unwrap_or_default();
        }
        if let Some(node) = fields.take("downstream") {
            let allowed = [
                ("off", Downstream::Off),
                ("drop", Downstream::Drop),
                ("monitor", Downstream::Monitor),
            ];
            group.downstream = decoder.choice("`downstream`", node, &allowed).unwrap_or_default();
        }
        if let Some(node) = fields.take("ports") {
            group.ports = self.ports(node);
        }
        fields.finish(&mut self.decoder);
        group
    }

    fn ports(&mut self, node: &YamlNode<'_>) -> Vec<u16> {
        let mut ports = Vec::new();
        let Some(list) = self.decoder.list("`ports`", node) else { return ports };
        for node in list {
            let spot = self.decoder.spot(node);
            let Some(number) = self.decoder.integer("a port", node) else { continue };
            match u16::try_from(number) {
                Ok(0) | Err(_) => {
                    let message = format!("port {number} is not between 1 and 65535");
                    self.decoder.report.error(spot, message);
                }
                Ok(port) => {
                    if matches!(port, 465 | 587) {
                        let message =
                            format!("port {port} is for mail submission, which OP25B leaves open");
                        self.decoder.report.warning(spot, message);
                    }
                    ports.push(port);
                }
            }
        }
        ports.sort_unstable();
        ports.dedup();
        let message = match (list.len(), ports.len()) {
            (0, _) => "`ports` lists no port".to_owned(),
            (_, many) if many > Policy::MAX_PORTS => {
                format!("`ports` lists {many} ports: at most {} are possible", Policy::MAX_PORTS)
            }
            _ => return ports,
        };
        self.decoder.report.error(self.decoder.spot(node), message);
        ports
    }

    fn exemption(&mut self, node: &YamlNode<'_>) -> Option<ExemptionDraft> {
        let mut fields = self.decoder.fields("an exemption", node)?;
        let prefix = fields.take("prefix");
        if prefix.is_none() {
            self.decoder.report.error(self.decoder.spot(node), "an exemption must have a `prefix`");
        }
        let reason = fields.take("reason").and_then(|node| self.decoder.text("`reason`", node));
        let until = fields.take("until").and_then(|node| self.until(node));
        let reason = reason.map(str::to_owned);
        fields.finish(&mut self.decoder);
        let spot = self.decoder.spot(prefix?);
        Some(ExemptionDraft { prefix: self.prefix("`prefix`", prefix?)?, spot, reason, until })
    }

    fn softwire(&mut self, name: Name, node: &YamlNode<'_>) -> Option<SoftwireDraft> {
        let what = format!("softwire `{}`", name.text);
        let mut fields = self.decoder.fields(&what, node)?;
        let mut endpoints = Vec::new();
        let errors = self.decoder.report.error_count();
        if let Some(node) = fields.take("endpoints") {
            self.prefixes("`endpoints`", node, &mut endpoints);
        }
        if endpoints.is_empty() && errors == self.decoder.report.error_count() {
            self.decoder.report.error(name.spot, format!("{what} has no `endpoints`"));
        }
        fields.finish(&mut self.decoder);
        Some(SoftwireDraft { name, endpoints })
    }

    /// Translation prefixes by RFC 6052, section 2.2.
    fn nat64(&mut self, node: &YamlNode<'_>, into: &mut Vec<(Prefix, Spot)>) {
        let mut prefixes = Vec::new();
        self.prefixes("`nat64`", node, &mut prefixes);
        for (prefix, spot) in prefixes {
            let message = if !prefix.is_ipv6() {
                format!("{prefix} is not an IPv6 prefix")
            } else if !nat64::LENGTHS.contains(&prefix.length()) {
                format!(
                    "{prefix} has length {}: expected 32, 40, 48, 56, 64 or 96",
                    prefix.length()
                )
            } else if prefix.bits() & nat64::RESERVED != 0 {
                format!("{prefix} has bits set between 64 and 71, which RFC 6052 reserves")
            } else {
                into.push((prefix, spot));
                continue;
            };
            self.decoder.report.error(spot, message);
        }
    }

    fn until(&mut self, node: &YamlNode<'_>) -> Option<(Timestamp, Spot)> {
        const EXAMPLE: &str = "2027-03-31T00:00:00+09:00";
        let text = self.decoder.text("`until`", node)?;
        let spot = self.decoder.spot(node);
        if let Ok(until) = text.parse::<Timestamp>() {
            return Some((until, spot));
        }
        let message = if text.parse::<civil::DateTime>().is_ok() {
            format!("`{text}` must name time and offset: write a date such as {EXAMPLE}")
        } else {
            format!("`{text}` is not a date: write one such as {EXAMPLE}")
        };
        self.decoder.report.error(spot, message);
        None
    }

    /// A host name by RFC 1123, section 2.1. An address is an error here: DNS could not resolve it.
    fn host(&mut self, node: &YamlNode<'_>) -> Option<(String, Spot)> {
        let text = self.decoder.text("a host", node)?;
        let host = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let message = if host.parse::<Prefix>().is_ok() {
            format!("`{text}` is an address: it belongs under `addresses`")
        } else if !is_host(&host) {
            format!("`{text}` is not a host name")
        } else {
            return Some((host, self.decoder.spot(node)));
        };
        self.decoder.report.error(self.decoder.spot(node), message);
        None
    }

    fn prefixes(&mut self, what: &str, node: &YamlNode<'_>, into: &mut Vec<(Prefix, Spot)>) {
        let Some(list) = self.decoder.list(what, node) else { return };
        into.reserve_exact(list.len());
        for node in list {
            if let Some(prefix) = self.prefix("a prefix", node) {
                into.push((prefix, self.decoder.spot(node)));
            }
        }
    }

    fn prefix(&mut self, what: &str, node: &YamlNode<'_>) -> Option<Prefix> {
        let text = self.decoder.text(what, node)?;
        match text.parse() {
            Ok(prefix) => Some(prefix),
            Err(error) => {
                self.decoder.report.error(self.decoder.spot(node), error.to_string());
                None
            }
        }
    }

    fn prefixes_files(&mut self, node: &YamlNode<'_>, into: &mut Vec<(Prefix, Spot)>) {
        let nodes = match &node.value {
            Value::Text(_) => std::slice::from_ref(node),
            Value::List(list) => list.as_slice(),
            _ => {
                self.decoder.mistyped::<()>("`prefixes-file`", "a path or a list of paths", node);
                return;
            }
        };
        for node in nodes {
            let Some(path) = self.decoder.text("a path", node) else { continue };
            let spot = self.decoder.spot(node);
            let path = self.directory.join(path);
            if let Some(first) = self.prefix_files.insert(path.clone(), spot) {
                let message = format!("`{}` is given twice", path.display());
                self.decoder.report.error(spot, message).see("first given", first);
                continue;
            }
            if let Some((file, text)) = self.decoder.report.read_for(spot, &path, Form::Lines) {
                prefix_lines(self.decoder.report, file, &text, into);
            }
        }
    }
}

/// One prefix a line; `#` starts a comment.
fn prefix_lines(report: &mut Report, file: FileId, text: &str, into: &mut Vec<(Prefix, Spot)>) {
    // Few prefixes take less than 16 bytes. Growing step by step would copy a long list many times.
    into.reserve(text.len() / 16);
    for (site, line) in (0..).zip(text.split('\n')) {
        let entry = line.split_once('#').map_or(line, |(entry, _)| entry).trim();
        if entry.is_empty() {
            continue;
        }
        let spot = Spot { file, site };
        match entry.parse() {
            Ok(prefix) => into.push((prefix, spot)),
            Err(_) if visible_entry(entry).is_empty() => {
                report.error(spot, "this line is not an IPv4 or IPv6 prefix");
            }
            Err(error) => {
                report.error(spot, error.to_string());
            }
        }
    }
}

fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}
