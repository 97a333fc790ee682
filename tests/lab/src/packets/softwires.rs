//! Whose line it is: the ISP's own tunnels (DS-Lite, MAP-E, 6rd), 6to4, and relays behind NAT64.

use std::net::{Ipv4Addr, Ipv6Addr};

use opb_common::{
    outcome::{Reason, Verdict},
    settings::Settings,
};

use super::{
    DOWN, Expected, Host, OTHER, Table, UP, drop, drop_ungrouped, expected,
    hosts::{
        ANY, DYNAMIC, ENDPOINT, EXEMPT, EXEMPT_ALONE, ISP, MONITORED, OUTSIDE, PRIVATE, REJECTING,
        WHOLESALE,
    },
    pass, pass_ungrouped, would_drop,
};
use crate::frames::{Ethernet, Gre, Ipv4, Ipv6, Packet, Tcp, flags::ACK};

const SUBSCRIBER: Settings = Settings::SUBSCRIBER;

pub(super) fn add(table: &mut Table) {
    lines(table);
    downstream(table);
    first_fragments(table);
    hidden_outside(table);
    six_to_four(table);
    nat64(table);
}

/// IPv4 in IPv6.
fn four(outer: (Ipv6Addr, Ipv6Addr), inner: (Ipv4Addr, Ipv4Addr), tcp: Tcp) -> Ipv6 {
    Ipv6::new(outer.0, outer.1).carrying(Ipv4::new(inner.0, inner.1).carrying(tcp))
}

/// IPv6 in IPv4.
fn six(outer: (Ipv4Addr, Ipv4Addr), inner: (Ipv6Addr, Ipv6Addr), tcp: Tcp) -> Ipv4 {
    Ipv4::new(outer.0, outer.1).carrying(Ipv6::new(inner.0, inner.1).carrying(tcp))
}

impl Table {
    /// One packet on Ethernet.
    fn packet<P: Packet>(
        &mut self,
        name: impl Into<String>,
        description: &'static str,
        packet: &P,
        settings: Settings,
        expected: Expected,
    ) {
        self.row(name, description, Ethernet::new().carrying(packet), settings, expected);
    }

    /// From `line` to an endpoint, in both pairs of families: `name-4in6` and `name-6in4`.
    fn softwire(
        &mut self,
        name: &str,
        description: &'static str,
        (line, from, to): (Host, Host, Host),
        tcp: Tcp,
        settings: Settings,
        expected: Expected,
    ) {
        let packet = four((line.v6, ENDPOINT.v6), (from.v4, to.v4), tcp.clone());
        self.packet(format!("{name}-4in6"), description, &packet, settings, expected);
        let packet = six((line.v4, ENDPOINT.v4), (from.v6, to.v6), tcp);
        self.packet(format!("{name}-6in4"), description, &packet, settings, expected);
    }
}

fn lines(table: &mut Table) {
    let syn = || Tcp::syn_to(25);
    let unknown = pass_ungrouped(Reason::Unknown);
    let outside = "the outer address names the line";
    for (name, description, hosts, tcp, expected) in [
        ("line", outside, (DYNAMIC, PRIVATE, OUTSIDE), syn(), drop(Reason::Policy, "dynamic")),
        ("line-relay", outside, (DYNAMIC, PRIVATE, ISP), syn(), pass(Reason::Relay, "dynamic")),
        ("line-ack", outside, (DYNAMIC, PRIVATE, OUTSIDE), Tcp::new(49152, 25, ACK), {
            pass(Reason::NotSyn, "dynamic")
        }),
        ("line-any", outside, (ANY, PRIVATE, OUTSIDE), Tcp::new(49152, 25, ACK), {
            drop(Reason::Policy, "any")
        }),
        ("line-monitored", outside, (MONITORED, PRIVATE, OUTSIDE), syn(), {
            would_drop(Reason::Policy, "monitored")
        }),
        ("line-rejecting", "no reset into a tunnel", (REJECTING, PRIVATE, OUTSIDE), syn(), {
            drop(Reason::Policy, "rejecting")
        }),
        ("line-other-relay", outside, (WHOLESALE, PRIVATE, ISP), syn(), {
            drop(Reason::Policy, "wholesale")
        }),
        ("line-submission", outside, (DYNAMIC, PRIVATE, OUTSIDE), Tcp::syn_to(587), OTHER),
        ("line-exempt", "an exempt line", (EXEMPT, PRIVATE, OUTSIDE), syn(), {
            pass(Reason::Exempt, "dynamic")
        }),
        (
            "line-exempt-alone",
            "an exempt line of no group",
            (EXEMPT_ALONE, DYNAMIC, OUTSIDE),
            { syn() },
            { expected(Verdict::Pass, Reason::Exempt, None) },
        ),
        (
            "line-exempt-inner-dynamic",
            "the line counts first",
            (EXEMPT, DYNAMIC, OUTSIDE),
            syn(),
            { pass(Reason::Exempt, "dynamic") },
        ),
        ("line-inner-monitored", "the line counts first", (DYNAMIC, MONITORED, OUTSIDE), syn(), {
            drop(Reason::Policy, "dynamic")
        }),
        ("line-inner-exempt", "the line counts first", (DYNAMIC, EXEMPT, OUTSIDE), syn(), {
            drop(Reason::Policy, "dynamic")
        }),
        (
            "inner-dynamic",
            "no line outside: the inner address",
            (OUTSIDE, DYNAMIC, OUTSIDE),
            { syn() },
            { drop(Reason::Policy, "dynamic") },
        ),
        (
            "inner-exempt",
            "no line outside: the inner address",
            (OUTSIDE, EXEMPT, OUTSIDE),
            syn(),
            { pass(Reason::Exempt, "dynamic") },
        ),
        ("nobody", "neither address is known", (OUTSIDE, PRIVATE, OUTSIDE), syn(), unknown),
    ] {
        table.softwire(name, description, hosts, tcp, UP, expected);
    }
    lines_by_their_packets(table);
}

/// Softwires of other shapes, and what stands next to an endpoint.
fn lines_by_their_packets(table: &mut Table) {
    let syn = || Tcp::syn_to(25);
    let unknown = drop_ungrouped(Reason::Unknown);
    let description = "neither address is known, and unknown sources are dropped";
    let hosts = (OUTSIDE, PRIVATE, OUTSIDE);
    table.softwire("nobody-drop", description, hosts, syn(), Settings::UNKNOWN_DROP, unknown);

    let denied = drop(Reason::Policy, "dynamic");
    let inner = || Ipv4::new(PRIVATE.v4, OUTSIDE.v4).carrying(syn());
    let outer = Ipv4::new(DYNAMIC.v4, ENDPOINT.v4).carrying(inner());
    table.packet("line-4in4", "a softwire of one family", &outer, UP, denied);
    let outer = Ipv6::new(DYNAMIC.v6, ENDPOINT.v6).carrying(Gre::of(&inner()).key());
    table.packet("line-gre", "a softwire of GRE", &outer, UP, denied);
    let outer = four((DYNAMIC.v6, ENDPOINT.v6), (PRIVATE.v4, OUTSIDE.v4), syn());
    let session = Ethernet::new().tags(2).pppoe();
    table.row("line-pppoe", "in PPPoE", session.carrying(&outer), UP, denied);
    let bare = Packet::bytes(&outer);
    table.row("line-bare", "without Ethernet", bare, Settings::BARE_IP, denied);
    let last = Ipv4Addr::new(192, 0, 2, 67);
    let outer = six((DYNAMIC.v4, last), (PRIVATE.v6, OUTSIDE.v6), syn());
    table.packet("line-last-endpoint", "an endpoint that is a prefix", &outer, UP, denied);
    let next = Ipv4Addr::new(192, 0, 2, 68);
    let outer = six((DYNAMIC.v4, next), (PRIVATE.v6, OUTSIDE.v6), syn());
    let unknown = pass_ungrouped(Reason::Unknown);
    table.packet("line-next-to-endpoint", "next to it", &outer, UP, unknown);
    let direct = Ipv6::new(DYNAMIC.v6, ENDPOINT.v6).carrying(syn());
    table.packet("endpoint-itself", "an endpoint is not a relay", &direct, UP, denied);
}

fn downstream(table: &mut Table) {
    let answer = || Tcp::syn_ack_from(25);
    let denied = drop(Reason::Policy, "dynamic");
    let four =
        |line: Host, from: Host| four((ENDPOINT.v6, line.v6), (from.v4, PRIVATE.v4), answer());
    let six = |line: Host, from: Host| six((ENDPOINT.v4, line.v4), (from.v6, PRIVATE.v6), answer());
    for (name, line, from, expected) in [
        ("down-line", DYNAMIC, OUTSIDE, denied),
        ("down-line-relay", DYNAMIC, ISP, pass(Reason::Relay, "dynamic")),
        ("down-line-exempt", EXEMPT, OUTSIDE, pass(Reason::Exempt, "dynamic")),
        ("down-line-off", ANY, OUTSIDE, pass(Reason::NotFiltered, "any")),
        ("down-nobody", OUTSIDE, OUTSIDE, pass_ungrouped(Reason::Unknown)),
    ] {
        let description = "the outer destination names the line";
        table.packet(format!("{name}-4in6"), description, &four(line, from), DOWN, expected);
        table.packet(format!("{name}-6in4"), description, &six(line, from), DOWN, expected);
    }
    let inner = Ipv4::new(OUTSIDE.v4, PRIVATE.v4).carrying(answer());
    let stranger = Ipv6::new(OUTSIDE.v6, DYNAMIC.v6).carrying(inner);
    let unknown = pass_ungrouped(Reason::Unknown);
    table.packet("down-stranger", "not from an endpoint", &stranger, DOWN, unknown);
}

/// RFC 6333 demands that tunnels fragment the outer packet: the first fragment honestly holds less than the inner packet claims.
fn first_fragments(table: &mut Table) {
    let large = |flags| Tcp::new(49152, 25, flags).data(&[0x25; 1440]);
    let syn = || Tcp::syn_to(25).data(&[0x25; 1440]);
    let v6 = |from: Host, to: Host, tcp: Tcp| {
        let inner = Ipv4::new(from.v4, to.v4).carrying(tcp);
        Ipv6::new(OUTSIDE.v6, ISP.v6).fragment(0, true).carrying(inner).keep(..8 + 1400)
    };
    let v4 = |from: Host, to: Host, tcp: Tcp| {
        let inner = Ipv6::new(from.v6, to.v6).carrying(tcp);
        Ipv4::new(OUTSIDE.v4, ISP.v4).carrying(inner).fragment(0, true).keep(..1400)
    };
    for (name, from, to, tcp, expected) in [
        ("ack", DYNAMIC, OUTSIDE, large(ACK), pass(Reason::NotSyn, "dynamic")),
        ("ack-relay", DYNAMIC, ISP, large(ACK), pass(Reason::NotSyn, "dynamic")),
        ("syn-relay", DYNAMIC, ISP, syn(), pass(Reason::Relay, "dynamic")),
        ("syn", DYNAMIC, OUTSIDE, syn(), drop(Reason::Policy, "dynamic")),
        ("any-relay", ANY, ISP, large(ACK), pass(Reason::Relay, "any")),
        ("any", ANY, OUTSIDE, large(ACK), drop(Reason::Policy, "any")),
        ("exempt", EXEMPT, OUTSIDE, syn(), pass(Reason::Exempt, "dynamic")),
    ] {
        let description = "an honest first fragment of the outer packet";
        let packet = v6(from, to, tcp.clone());
        table.packet(format!("first-4in6-{name}"), description, &packet, UP, expected);
        let packet = v4(from, to, tcp);
        table.packet(format!("first-6in4-{name}"), description, &packet, UP, expected);
    }
    let relay = pass(Reason::Relay, "dynamic");
    let answer = || Tcp::new(25, 49152, ACK).data(&[0x25; 1440]);
    let packet = v6(ISP, DYNAMIC, answer());
    table.packet("first-4in6-down", "from a relay", &packet, DOWN, relay);
    let packet = v4(ISP, DYNAMIC, answer());
    table.packet("first-6in4-down", "from a relay", &packet, DOWN, relay);

    let denied = drop(Reason::Malformed, "dynamic");
    let lies = Ipv4::new(DYNAMIC.v4, ISP.v4).carrying(large(ACK)).total_length(1500);
    let whole = Ipv6::new(OUTSIDE.v6, ISP.v6).fragment(0, false).carrying(lies);
    table.packet("atomic-4in6-lies", "an atomic fragment is whole", &whole, UP, denied);
}

/// What hides in an outer header belongs to the line, and to nobody on its way into a softwire it is not let.
fn hidden_outside(table: &mut Table) {
    let inner = |from: Host| Ipv4::new(from.v4, OUTSIDE.v4).carrying(Tcp::syn_to(25));
    let chain = |line: Host, to: Host| {
        let outer = Ipv6::new(line.v6, to.v6);
        (0..9).fold(outer, |outer, _| outer.destination_options(1)).carrying(inner(DYNAMIC))
    };
    let tiny = |line: Host, to: Host, from: Host, kept: usize| {
        Ipv6::new(line.v6, to.v6).fragment(0, true).carrying(inner(from)).keep(..8 + kept)
    };
    let headers = Reason::Headers;
    let fragment = Reason::Fragment;
    for (name, packet, settings, expected) in [
        ("chain-line", chain(DYNAMIC, ENDPOINT), UP, drop(headers, "dynamic")),
        ("chain-line-stranger", chain(DYNAMIC, OUTSIDE), UP, drop(headers, "dynamic")),
        ("chain-exempt", chain(EXEMPT, ENDPOINT), SUBSCRIBER, pass(Reason::Exempt, "dynamic")),
        ("chain-nobody", chain(OUTSIDE, ENDPOINT), SUBSCRIBER, drop_ungrouped(headers)),
        ("chain-nobody-core", chain(OUTSIDE, ENDPOINT), UP, pass_ungrouped(headers)),
        ("chain-nobody-stranger", chain(OUTSIDE, ISP), SUBSCRIBER, pass_ungrouped(headers)),
        ("chain-nobody-down", chain(ENDPOINT, OUTSIDE), SUBSCRIBER.with(DOWN), {
            pass_ungrouped(headers)
        }),
        ("tiny-line", tiny(DYNAMIC, ENDPOINT, PRIVATE, 16), UP, drop(fragment, "dynamic")),
        ("tiny-nobody", tiny(OUTSIDE, ENDPOINT, DYNAMIC, 16), SUBSCRIBER, drop_ungrouped(fragment)),
        ("tiny-nobody-core", tiny(OUTSIDE, ENDPOINT, DYNAMIC, 16), UP, pass_ungrouped(fragment)),
        ("tiny-nobody-stranger", tiny(OUTSIDE, ISP, DYNAMIC, 16), SUBSCRIBER, {
            pass_ungrouped(fragment)
        }),
        ("tiny-tcp", tiny(OUTSIDE, ENDPOINT, DYNAMIC, 32), UP, drop(fragment, "dynamic")),
        ("tiny-tcp-line", tiny(MONITORED, ENDPOINT, DYNAMIC, 32), UP, {
            would_drop(fragment, "monitored")
        }),
        ("tiny-tcp-nobody", tiny(OUTSIDE, ENDPOINT, PRIVATE, 32), SUBSCRIBER, {
            drop_ungrouped(fragment)
        }),
        ("tiny-tcp-nobody-core", tiny(OUTSIDE, ENDPOINT, PRIVATE, 32), UP, {
            pass_ungrouped(fragment)
        }),
        ("tiny-tcp-stranger", tiny(DYNAMIC, ISP, PRIVATE, 32), UP, drop(fragment, "dynamic")),
        ("tiny-tcp-stranger-inner", tiny(MONITORED, ISP, DYNAMIC, 32), UP, {
            drop(fragment, "dynamic")
        }),
    ] {
        let description = "the outer header hides what is inside";
        table.packet(format!("outer-{name}"), description, &packet, settings, expected);
    }
    let later = Ipv6::new(OUTSIDE.v6, ENDPOINT.v6).fragment(2, false).carrying(inner(DYNAMIC));
    table.packet("outer-tiny-rest", "the rest of it", &later.keep(..8 + 24), SUBSCRIBER, OTHER);
    // What hides in the inner header is nobody's, as it is without a tunnel.
    let cut = inner(PRIVATE).fragment(0, true).keep(..8);
    let packet = Ipv6::new(OUTSIDE.v6, ENDPOINT.v6).carrying(cut);
    let counted = pass_ungrouped(fragment);
    table.packet("inner-tiny-nobody", "the inner header hides", &packet, SUBSCRIBER, counted);
    let plain = Ipv4::new(OUTSIDE.v4, ENDPOINT.v4).carrying(Tcp::syn_to(25));
    let cut = plain.fragment(0, true).keep(..8);
    table.packet("tiny-no-tunnel", "no tunnel at all", &cut, SUBSCRIBER, counted);
}

/// RFC 3056: the inner source names the line by the IPv4 address in it.
fn six_to_four(table: &mut Table) {
    let within = |address: Ipv4Addr| {
        let bits = u128::from(address.to_bits()) << 80 | 0x2002 << 112 | 1;
        Ipv6Addr::from_bits(bits)
    };
    let up = |host: Host| {
        let inner = (within(host.v4), OUTSIDE.v6);
        six((host.v4, Ipv4Addr::new(192, 88, 99, 1)), inner, Tcp::syn_to(25))
    };
    for (name, host, expected) in [
        ("6to4", DYNAMIC, drop(Reason::Policy, "dynamic")),
        ("6to4-exempt", EXEMPT, pass(Reason::Exempt, "dynamic")),
        ("6to4-unknown", OUTSIDE, pass_ungrouped(Reason::Unknown)),
    ] {
        table.packet(
            name,
            "a 6to4 address is the line of its IPv4 address",
            &up(host),
            UP,
            expected,
        );
    }
    let inner = (OUTSIDE.v6, within(DYNAMIC.v4));
    let answer = six((OUTSIDE.v4, DYNAMIC.v4), inner, Tcp::syn_ack_from(25));
    let denied = drop(Reason::Policy, "dynamic");
    table.packet("6to4-down", "downstream its destination is", &answer, DOWN, denied);
    let native = Ipv6::new(within(DYNAMIC.v4), OUTSIDE.v6).carrying(Tcp::syn_to(25));
    let unknown = pass_ungrouped(Reason::Unknown);
    table.packet("6to4-native", "in no tunnel it is an address like others", &native, UP, unknown);
}

/// RFC 6052: relays that IPv6 subscribers reach by their IPv4 addresses.
fn nat64(table: &mut Table) {
    let relay = pass(Reason::Relay, "dynamic");
    let denied = drop(Reason::Policy, "dynamic");
    for (name, to, expected) in [
        ("nat64", "64:ff9b::198.51.100.25", relay),
        ("nat64-prefix", "64:ff9b::198.51.100.130", relay),
        ("nat64-stranger", "64:ff9b::192.0.2.25", denied),
        ("nat64-other-relay", "64:ff9b::198.51.100.30", denied),
        ("nat64-48", "2001:db8:64:c633:64:1900::", relay),
        ("nat64-48-suffix", "2001:db8:64:c633:64:1900::25", relay),
        ("nat64-48-stranger", "2001:db8:64:c633:64:1a00::", denied),
        ("nat64-elsewhere", "64:ff9c::198.51.100.25", denied),
        ("nat64-32", "3fff:32:c633:6419::", relay),
        ("nat64-32-stranger", "3fff:32:c633:641a::", denied),
        ("nat64-32-u-octet", "3fff:32:c633:6419:100::", denied),
        ("nat64-40", "3fff:40:c6:3364:19::", relay),
        ("nat64-40-u-octet", "3fff:40:c6:3364:ff19::", denied),
        ("nat64-48-u-octet", "2001:db8:64:c633:8064:1900::", denied),
        ("nat64-56", "3fff:56:0:c6:33:6419::", relay),
        ("nat64-56-prefix", "3fff:56:0:c6:33:648f:ffff:ffff", relay),
        ("nat64-56-next-to-prefix", "3fff:56:0:c6:33:6490::", denied),
        ("nat64-56-u-octet", "3fff:56:0:c6:133:6419::", denied),
        ("nat64-64", "3fff:64::c6:3364:1900:0", relay),
        ("nat64-64-stranger", "3fff:64::c6:3364:1a00:0", denied),
        ("nat64-64-u-octet", "3fff:64::1c6:3364:1900:0", denied),
    ] {
        let to: Ipv6Addr = to.parse().unwrap_or(Ipv6Addr::UNSPECIFIED);
        let packet = Ipv6::new(DYNAMIC.v6, to).carrying(Tcp::syn_to(25));
        table.packet(name, "a relay's IPv4 address behind NAT64", &packet, UP, expected);
    }
    let from: Ipv6Addr = "64:ff9b::198.51.100.25".parse().unwrap_or(Ipv6Addr::UNSPECIFIED);
    let answer = Ipv6::new(from, DYNAMIC.v6).carrying(Tcp::syn_ack_from(25));
    table.packet("nat64-down", "from a relay", &answer, DOWN, relay);
}
