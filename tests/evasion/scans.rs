//! nmap's scans, from a subscriber with a stack of its own to a server behind the gateway.

use std::{io::ErrorKind, net::TcpListener, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use opb_common::outcome::Direction;
use opb_lab::{
    filter::Filter,
    netns::{Netns, veth},
    process,
};
use opb_userspace::node::{Hook, Role};

use crate::{lab, policy};

const STRANGER: [&str; 2] = ["192.0.2.25", "2001:db8:7000::25"];

/// What becomes of port 25 of a stranger without the filter.
#[derive(Clone, Copy, PartialEq)]
enum Alone {
    Open,
    /// Linux does not play along.
    Filtered,
}

/// How much of a packet the filter can rely on.
#[derive(Clone, Copy, PartialEq)]
enum Header {
    Whole,
    /// The first fragment ends within the TCP header: nmap cannot tell one port from another.
    Cut,
    /// A source route: the destination in the header need not be the last, so that none is taken for a relay.
    Routed,
}

/// Arguments, separated by `|`, and what is to be expected.
type Scan = (&'static str, Alone, Header);

const BOTH: [Scan; 7] = [
    ("-sS", Alone::Open, Header::Whole),
    ("-sT", Alone::Open, Header::Whole),
    ("-sS|--scanflags|SYNPSHURG", Alone::Open, Header::Whole),
    ("-sS|--scanflags|SYNECECWR", Alone::Open, Header::Whole),
    ("-sS|--scanflags|SYNFIN", Alone::Filtered, Header::Whole),
    ("-sS|-g|25", Alone::Open, Header::Whole),
    ("-sS|--data-length|100", Alone::Open, Header::Whole),
];

/// nmap fragments no IPv6 packets, and gives them no options.
const V4: [Scan; 17] = [
    ("-sS|-f", Alone::Open, Header::Cut),
    ("-sS|-ff", Alone::Open, Header::Cut),
    ("-sS|--mtu|8", Alone::Open, Header::Cut),
    ("-sS|--mtu|24", Alone::Open, Header::Whole),
    ("-sS|--mtu|32", Alone::Open, Header::Whole),
    ("-sS|-f|--data-length|40", Alone::Open, Header::Cut),
    ("-sS|--mtu|24|--data-length|40", Alone::Open, Header::Whole),
    ("-sS|-f|--scanflags|SYNPSHURG", Alone::Open, Header::Cut),
    ("-sS|--ip-options|R", Alone::Open, Header::Whole),
    ("-sS|--ip-options|T", Alone::Open, Header::Whole),
    ("-sS|--ip-options|U", Alone::Open, Header::Whole),
    ("-sS|--ip-options|L 203.0.113.1", Alone::Open, Header::Routed),
    ("-sS|--ip-options|L 192.0.2.25", Alone::Open, Header::Routed),
    ("-sS|--ip-options|S 203.0.113.1", Alone::Open, Header::Routed),
    ("-sS|--ip-options|S 203.0.113.1 192.0.2.25", Alone::Open, Header::Routed),
    ("-sS|--ip-options|R|-g|25", Alone::Open, Header::Whole),
    ("-sS|--mtu|24|--data-length|40|--ip-options|T", Alone::Open, Header::Whole),
];

/// The subscriber, with a stack and addresses; the gateway; the servers, which listen for as long as this lives.
struct Internet {
    subscriber: Netns,
    gateway: Netns,
    _internet: Netns,
    _listeners: Vec<TcpListener>,
}

/// The state of a port, as nmap calls it.
type State = String;

impl Internet {
    fn build() -> Result<Self> {
        let relay = [lab::RELAY.v4.to_string(), lab::RELAY.v6.to_string()];
        let own = [lab::SUBSCRIBER.v4.to_string(), lab::SUBSCRIBER.v6.to_string()];
        let subscriber = Netns::new("subscriber")?;
        let gateway = Netns::new("gateway")?;
        let internet = Netns::new("internet")?;
        veth((&subscriber, "line"), (&gateway, "sub0"))?;
        veth((&gateway, "core0"), (&internet, "eth0"))?;
        for (netns, interface) in
            [(&subscriber, "line"), (&gateway, "sub0"), (&gateway, "core0"), (&internet, "eth0")]
        {
            for name in ["all", interface] {
                netns.sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "0")?;
                netns.sysctl(&format!("net/ipv4/conf/{name}/accept_source_route"), "1")?;
            }
        }
        gateway.forward()?;
        gateway.address("sub0", "203.0.113.1/24")?;
        gateway.address("sub0", "2001:db8:1000::1/64")?;
        gateway.address("core0", "192.0.2.1/24")?;
        gateway.address("core0", "2001:db8:7000::1/64")?;
        let routers = [["203.0.113.1", "192.0.2.1"], ["2001:db8:1000::1", "2001:db8:7000::1"]];
        for (family, [near, far]) in routers.into_iter().enumerate() {
            let length = [32, 128][family];
            for address in [STRANGER[family], &relay[family]] {
                internet.address("eth0", &format!("{address}/{length}"))?;
                gateway.ip(&format!("route replace {address}/{length} dev core0"))?;
            }
            subscriber.address("line", &format!("{}/{length}", own[family]))?;
            gateway.ip(&format!("route replace {}/{length} dev sub0", own[family]))?;
            subscriber.ip(&format!("route add {near}/{length} dev line src {}", own[family]))?;
            subscriber.default_route(near.parse()?)?;
            internet.ip(&format!("route add {far}/{length} dev eth0 src {}", STRANGER[family]))?;
            internet.default_route(far.parse()?)?;
        }
        let mut listeners = Vec::new();
        for port in [25, 587] {
            let listener = internet.enter(|| Ok(TcpListener::bind(("::", port))?))?;
            listener.set_nonblocking(true)?;
            listeners.push(listener);
        }
        // What connects is let go again, or the queue of those that wait is full one day.
        for listener in &listeners {
            let listener = listener.try_clone()?;
            thread::spawn(move || {
                let goes_on = |error: &std::io::Error| error.kind() == ErrorKind::WouldBlock;
                while listener.accept().map_or_else(|error| goes_on(&error), |_| true) {
                    thread::sleep(Duration::from_millis(5));
                }
            });
        }
        Ok(Self { subscriber, gateway, _internet: internet, _listeners: listeners })
    }

    /// The states of ports 25 and 587 of some hosts.
    fn scan<const N: usize>(&self, arguments: &str, hosts: [&str; N]) -> Result<[[State; 2]; N]> {
        let mut command = self.subscriber.command("nmap");
        command.args(["-n", "-Pn", "-p", "25,587", "-oG", "-"]);
        // A filtered port shows by time: a port that is not filtered answers within a millisecond.
        command.args(["--max-retries", "2", "--initial-rtt-timeout", "250ms"]);
        command.args(["--max-rtt-timeout", "250ms"]).args(arguments.split('|')).args(hosts);
        if hosts.iter().any(|host| host.contains(':')) {
            command.arg("-6");
        }
        let said = process::check(&mut command).with_context(|| format!("nmap {arguments}"))?;
        let state = |host: &str, port: u16| {
            let (host, port) = (format!("Host: {host} "), format!("{port}/"));
            let mut lines = said.lines().filter(|line| line.starts_with(&host));
            let line = lines.find(|line| line.contains("Ports: "));
            let words = line.into_iter().flat_map(|line| line.split([' ', '\t', ',']));
            let mut found = words.filter_map(|word| word.strip_prefix(&port));
            // A port that nmap does not report is not open; the error names it.
            let state = found.next().and_then(|rest| rest.split('/').next());
            state.unwrap_or("not reported").to_owned()
        };
        Ok(hosts.map(|host| [state(host, 25), state(host, 587)]))
    }

    /// Fails if nmap can fragment IPv6. Then the scans that only [`V4`] has belong into [`BOTH`].
    fn ipv6_has_no_fragments(&self) -> Result<()> {
        for arguments in ["-f", "-ff", "--mtu|24"] {
            let mut command = self.subscriber.command("nmap");
            command.args(["-6", "-n", "-Pn", "-p", "25", "-sS"]);
            command.args(arguments.split('|')).arg(STRANGER[1]);
            let ended = process::run(&mut command, Duration::from_secs(60))?;
            let said = ended.stdout + &ended.stderr;
            ensure!(said.contains("not supported with IPv6"), "nmap -6 {arguments}: {said}");
        }
        Ok(())
    }

    /// Every scan of a stranger and of the relay; what is not as it should be.
    fn complaints(&self, is_filtered: bool) -> Result<Vec<String>> {
        let mut complaints = Vec::new();
        let relay = [lab::RELAY.v4.to_string(), lab::RELAY.v6.to_string()];
        let rows = BOTH.iter().chain(&V4).map(|scan| (0, scan));
        for (family, &(arguments, alone, header)) in rows.chain(BOTH.iter().map(|scan| (1, scan))) {
            let plays_along = alone == Alone::Open;
            let submission = plays_along && (!is_filtered || header != Header::Cut);
            let relayed = plays_along && (!is_filtered || header == Header::Whole);
            let expected = [[plays_along && !is_filtered, submission], [relayed, submission]];
            let states = self.scan(arguments, [STRANGER[family], &relay[family]])?;
            let is_open = states.clone().map(|host| host.map(|state| state == "open"));
            if is_open != expected {
                complaints.push(format!(
                    "{arguments}, family {family}: 25 and 587 of stranger and relay are {states:?}; open should be \
                     {expected:?}"
                ));
            }
        }
        Ok(complaints)
    }
}

fn scans_meet(hook: Hook) -> Result<()> {
    let internet = Internet::build()?;
    internet.ipv6_has_no_fragments()?;
    let complaints = internet.complaints(false)?;
    ensure!(complaints.is_empty(), "without the filter:\n{}", complaints.join("\n"));
    let places = [("sub0", Role::Subscriber, Direction::Upstream)];
    let filter = Filter::on(&internet.gateway, &places, hook, &policy("syn", "off"), false)?;
    let complaints = internet.complaints(true)?;
    ensure!(complaints.is_empty(), "with the filter:\n{}", complaints.join("\n"));
    filter.remove()?;
    let [again] = internet.scan("-sS", [STRANGER[0]])?;
    ensure!(again == ["open", "open"], "after the filter was taken off: {again:?}");
    Ok(())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn nmap_finds_no_open_door_under_xdp() -> Result<()> {
    scans_meet(Hook::Xdp)
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn nmap_finds_no_open_door_under_tc() -> Result<()> {
    scans_meet(Hook::Tc)
}
