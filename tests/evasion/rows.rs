//! The tricks, ordered by the part of a packet that they change: one function for each [`Topic`].

mod extensions;
mod fragments;
mod frames;
mod lengths;
mod segments;
mod tunnels;
mod ways;

use crate::lab::{Family, Opening};

use Family::{V4, V6};
use frames::*;

pub(crate) use frames::plain4;

/// Adds a row: its name, what happens without a filter, and how it opens a connection.
type Add<'a> = dyn FnMut(&'static str, Bare, Opening) + 'a;

type Fill = fn(&mut Add);

/// The part of a packet that a trick changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topic {
    Plain,
    Flags,
    Data,
    Fragments,
    Headers,
    Options,
    Tags,
    Source,
    Tunnels,
    Lengths,
}

/// What happens where nothing filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bare {
    /// The connection opens and carries data.
    Works,
    /// Linux as the receiver refuses it, which the test asserts.
    ReceiverRefuses,
}

pub(crate) struct Row {
    pub(crate) topic: Topic,
    pub(crate) name: &'static str,
    pub(crate) opening: Opening,
    pub(crate) bare: Bare,
}

/// Connections that must work under the filter too: otherwise a filter that drops everything would pass the test.
pub(crate) fn controls() -> Vec<(&'static str, Opening)> {
    vec![
        ("to a relay over IPv4", opening(V4, |s| vec![eth().carrying(&to_relay4(s))])),
        ("to a relay over IPv6", opening(V6, |s| vec![eth().carrying(&to_relay6(s))])),
        (
            "to a relay in fragments",
            opening(V4, |s| {
                let part = |offset: u16, more, range: std::ops::Range<usize>| {
                    let packet = to_relay4(s).identification(s.id);
                    eth().carrying(&packet.fragment(offset, more).keep(range))
                };
                vec![part(0, true, 0..24), part(3, false, 24..4096)]
            }),
        ),
        ("to a relay, VLAN 0", opening(V4, |s| vec![eth().tag(0x8100, 0).carrying(&to_relay4(s))])),
    ]
}

pub(crate) fn rows() -> Vec<Row> {
    let topics: [(Topic, Fill); 12] = [
        (Topic::Plain, segments::plain),
        (Topic::Flags, segments::odd_flags),
        (Topic::Data, segments::data_and_options),
        (Topic::Fragments, fragments::ipv4),
        (Topic::Headers, extensions::headers),
        (Topic::Fragments, extensions::fragments),
        (Topic::Options, ways::options),
        (Topic::Tags, ways::tags),
        (Topic::Source, ways::sources),
        (Topic::Tunnels, tunnels::tunnels),
        (Topic::Tunnels, tunnels::hidden),
        (Topic::Lengths, lengths::lengths),
    ];
    let mut rows = Vec::new();
    for (topic, fill) in topics {
        fill(&mut |name, bare, opening| rows.push(Row { topic, name, opening, bare }));
    }
    rows
}
