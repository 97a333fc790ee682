//! `sessions` of the node file: who has which address comes from RADIUS accounting.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use super::absolute;
use crate::{
    document::{Decoder, Fields, YamlNode},
    period::Period,
    policy::Prefix,
};

/// The longest time of silence, as in `subscriber add --for`: a year.
const LONGEST: Period = Period::from_secs(366 * 86_400);

/// The accounting listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Radius {
    pub listen: SocketAddr,
    /// At least one. No two with the same address.
    pub clients: Vec<Client>,
    pub group_attribute: GroupAttribute,
    /// The group of sessions that name none.
    pub default_group: Option<Arc<str>>,
    /// The silence after which a session ends.
    pub timeout: Option<Period>,
}

/// A server that may report sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    pub address: Prefix,
    pub secret_file: PathBuf,
}

/// The attribute whose value `opb:GROUP` or `opb:exempt` says what holds for a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GroupAttribute {
    #[default]
    FilterId,
    /// RFC 2865, section 5.26, in the usual form: a type and a length of one byte each.
    Vendor { enterprise: u32, number: u8 },
}

impl GroupAttribute {
    fn parse(text: &str) -> Option<Self> {
        if text == "Filter-Id" {
            return Some(Self::FilterId);
        }
        let (enterprise, number) = text.strip_prefix("26:")?.split_once(':')?;
        Some(Self::Vendor { enterprise: enterprise.parse().ok()?, number: number.parse().ok()? })
    }
}

impl Radius {
    /// The client that has an address: the one with the longest prefix.
    pub fn client(&self, address: IpAddr) -> Option<usize> {
        let fits = |(_, client): &(usize, &Client)| client.address.contains(address);
        let found = self.clients.iter().enumerate().filter(fits);
        found.max_by_key(|(_, client)| client.address.length()).map(|(index, _)| index)
    }
}

pub(super) fn read(decoder: &mut Decoder<'_>, fields: &mut Fields<'_, '_>) -> Option<Radius> {
    let node = fields.take("sessions")?;
    let mut fields = decoder.fields("`sessions`", node)?;
    let radius = fields.take("radius").and_then(|node| radius(decoder, node));
    fields.finish(decoder);
    radius
}

fn radius(decoder: &mut Decoder<'_>, node: &YamlNode<'_>) -> Option<Radius> {
    let mut fields = decoder.fields("`radius`", node)?;
    let start = decoder.spot(node);
    let mut listen = None;
    match fields.take("listen") {
        None => {
            let message = "`listen` is missing: an address and port such as 192.0.2.1:1813";
            decoder.report.error(start, message);
        }
        Some(node) => {
            if let Some(text) = decoder.text("`listen`", node) {
                listen = text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
                if listen.is_none() {
                    let message = format!(
                        "`listen` must be an address and port such as 192.0.2.1:1813, not `{text}`"
                    );
                    decoder.report.error(decoder.spot(node), message);
                }
            }
        }
    }
    let clients = clients(decoder, &mut fields);
    if clients.is_empty() {
        decoder.report.error(start, "`clients` has no client: nobody could report a session");
    }
    let mut group_attribute = GroupAttribute::default();
    if let Some(node) = fields.take("group-attribute")
        && let Some(text) = decoder.text("`group-attribute`", node)
    {
        match GroupAttribute::parse(text) {
            Some(attribute) => group_attribute = attribute,
            None => {
                let message = format!(
                    "`group-attribute` must be Filter-Id or 26:ENTERPRISE:TYPE, not `{text}`"
                );
                decoder.report.error(decoder.spot(node), message);
            }
        }
    }
    let default_group = fields.take("default-group");
    let default_group = default_group.and_then(|node| decoder.text("`default-group`", node));
    let mut timeout = None;
    if let Some(node) = fields.take("timeout")
        && let Some(text) = decoder.text("`timeout`", node)
    {
        match Period::within(text, LONGEST) {
            Ok(period) => timeout = Some(period),
            Err(error) => {
                decoder.report.error(decoder.spot(node), format!("`timeout`: {error}"));
            }
        }
    }
    fields.finish(decoder);
    let default_group = default_group.map(Arc::from);
    Some(Radius { listen: listen?, clients, group_attribute, default_group, timeout })
}

fn clients(decoder: &mut Decoder<'_>, fields: &mut Fields<'_, '_>) -> Vec<Client> {
    let mut clients: Vec<Client> = Vec::new();
    let Some(node) = fields.take("clients") else { return clients };
    for node in decoder.list("`clients`", node).into_iter().flatten() {
        let Some(mut fields) = decoder.fields("a client", node) else { continue };
        let mut address = None;
        let mut secret_file = None;
        match fields.take("address") {
            None => {
                let message = "the client has no `address`: an address or a prefix";
                decoder.report.error(decoder.spot(node), message);
            }
            Some(node) => {
                if let Some(text) = decoder.text("`address`", node) {
                    match text.parse::<Prefix>() {
                        Ok(prefix) if clients.iter().any(|it| it.address == prefix) => {
                            let message = format!("two clients have the address `{prefix}`");
                            decoder.report.error(decoder.spot(node), message);
                        }
                        Ok(prefix) => address = Some(prefix),
                        Err(error) => {
                            decoder.report.error(decoder.spot(node), error.to_string());
                        }
                    }
                }
            }
        }
        match fields.take("secret-file") {
            None => {
                let message = "the client has no `secret-file`: the path of its shared secret";
                decoder.report.error(decoder.spot(node), message);
            }
            Some(node) => {
                if let Some(text) = decoder.text("`secret-file`", node) {
                    secret_file = Some(absolute(decoder, "secret-file", node, text));
                }
            }
        }
        fields.finish(decoder);
        if let (Some(address), Some(secret_file)) = (address, secret_file) {
            clients.push(Client { address, secret_file });
        }
    }
    clients
}
