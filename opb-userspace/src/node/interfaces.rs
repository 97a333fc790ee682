//! `interfaces` of the node file: which interfaces are filtered, and how.

use serde::Serialize;

use crate::document::{Decoder, Fields, Spot, YamlNode};

/// Linux keeps interface names in 16 bytes, the last of which is NUL.
const NAME_BYTES: usize = 15;

/// One entry of `interfaces`, which may match many interfaces.
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

/// The network behind an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Subscriber,
    Core,
}

/// The rules that an interface enforces, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter {
    pub upstream: bool,
    pub downstream: bool,
}

/// The hooks that may be used. XDP sees only incoming packets: with `xdp`, outgoing ones are
/// filtered in TC.
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

/// The action for mail of a source that the policy does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownSource {
    #[default]
    Pass,
    Drop,
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

pub(super) fn read(
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

/// Reads an entry of `interfaces`. Returns its name even if the rest is invalid.
fn interface(
    decoder: &mut Decoder<'_>,
    node: &YamlNode<'_>,
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

fn name(decoder: &mut Decoder<'_>, node: &YamlNode<'_>) -> Option<NamePattern> {
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

fn filter(decoder: &mut Decoder<'_>, node: &YamlNode<'_>) -> Filter {
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
