//! A gateway with one subscriber behind each of two interfaces, and `opb run` on it.

use std::{fs, net::Ipv4Addr, path::Path, process::Command};

use anyhow::{Result, ensure};
use opb_lab::{
    frames::{Ethernet, Ipv4, Tcp},
    netns::{Netns, veth},
    node,
};
use serde_json::Value;

pub(crate) use opb_lab::{node::LIMIT, wire::Wire};

pub(crate) const INTERFACES: [&str; 2] = ["sub0", "sub1"];

const POLICY: &str = "\
version: 1
relays:
  isp: {addresses: [198.51.100.25, \"2001:db8:25::/64\"]}
groups:
  dynamic:
    prefixes: [203.0.113.0/25, 10.0.0.0/8, \"2001:db8:1000::/36\"]
    relays: [isp]
  watched: {prefixes: [203.0.113.128/26], relays: [isp], action: monitor}
  served: {prefixes: [203.0.113.192/26], relays: [isp], downstream: drop}
exemptions:
  - {prefix: 203.0.113.77/32, reason: fixed address}
";

pub(crate) struct Node {
    node: node::Node,
    /// The subscribers' ends, `far0` and `far1`.
    pub(crate) subscribers: Netns,
}

impl Node {
    /// `extra` is added to the node file.
    pub(crate) fn start(hook: &str, extra: &str) -> Result<Self> {
        let mut node = Self::prepare(hook, extra)?;
        node.run()?;
        Ok(node)
    }

    /// Namespaces, cables and files; nothing runs.
    pub(crate) fn prepare(hook: &str, extra: &str) -> Result<Self> {
        let (gateway, subscribers) = (Netns::new("gateway")?, Netns::new("subscribers")?);
        for (near, far) in INTERFACES.iter().zip(["far0", "far1"]) {
            veth((&gateway, near), (&subscribers, far))?;
        }
        let entries =
            INTERFACES.map(|name| format!("{{name: {name}, role: subscriber, hook: {hook}}}"));
        let node = node::Node::prepare(
            Path::new(env!("CARGO_BIN_EXE_opb")),
            &gateway,
            POLICY,
            &format!("[{}]", entries.join(", ")),
            &format!("http: 127.0.0.1:9625\n{extra}"),
        )?;
        Ok(Self { node, subscribers })
    }

    pub(crate) fn run(&mut self) -> Result<()> {
        self.launch(self.command(&["run"]))
    }

    /// Starts the daemon by a command that becomes it, and waits until it enforces and its pages are there.
    pub(crate) fn launch(&mut self, command: Command) -> Result<()> {
        self.node.launch(command)?;
        self.wait("the pages", || Ok(self.get("/healthz").is_ok().then_some(())))
    }

    /// Compares JSON with a schema of `docs/openapi.yaml`.
    pub(crate) fn conforms(schema: &str, found: &Value) -> Result<()> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.yaml");
        let mut document: Value = serde_yaml::from_str(&fs::read_to_string(path)?)?;
        document["$ref"] = format!("#/components/schemas/{schema}").into();
        let validator = jsonschema::draft202012::new(&document)?;
        let errors: Vec<_> = validator.iter_errors(found).map(|error| error.to_string()).collect();
        ensure!(errors.is_empty(), "{schema}: {errors:?}\n{found:#}");
        Ok(())
    }

    /// Stops and detaches. Fails if a pin is left.
    pub(crate) fn end(mut self) -> Result<()> {
        self.stop()?;
        self.detach()
    }
}

opb_lab::deref!(Node, node: node::Node);

/// A SYN to port 25 outside.
pub(crate) fn syn(source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    Ethernet::new().carrying(&Ipv4::new(source, destination).carrying(Tcp::syn_to(25)))
}

pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 25);
