//! The verdict: source, flags, destination, action, in the order of the design's section "Verdicts".

use crate::{
    found::Found,
    frame::Frame,
    image::{self, Group, Header, Node, Nodes, SubscriberClass, UNCHANGED},
    outcome::{Direction, Outcome, Reason, Verdict},
    settings::{PortSet, Settings},
    walk::{Glance, glance, walk},
};

/// Where a verdict comes from and where it is written down.
pub trait Tables {
    type Image<'a>: Nodes<'a>
    where
        Self: 'a;

    /// The ports that some group filters in the direction of this instance.
    fn ports(&self, settings: Settings) -> &PortSet;

    /// The policy in force. Fetched once a packet, so that no packet ever sees two of them.
    fn image(&self) -> Option<Self::Image<'_>>;

    /// What has changed since that image was compiled, in an image of its own (see [`crate::image::UNCHANGED`]).
    /// Fetched before the policy.
    fn overlay(&self) -> Option<Self::Image<'_>> {
        None
    }

    /// Whether a reset may be sent to the source of the packet now. Always, where nothing is sent.
    fn may_answer<F: Frame + ?Sized>(&self, _frame: &F, _found: Found) -> bool {
        true
    }

    /// Counts one packet of `bytes`.
    fn record(&self, direction: Direction, outcome: Outcome, bytes: usize);
}

/// Verdict on one frame: the only place where the three steps are chained, but for the BPF adapters, which
/// put the same three into functions of their own.
pub fn decide<F: Frame + ?Sized, T: Tables>(frame: &F, settings: Settings, tables: &T) -> Outcome {
    let ports = tables.ports(settings);
    let found = match glance(frame, settings, ports) {
        Glance::Other => Found::NOTHING,
        Glance::Found(found) => found,
        Glance::Unclear => walk(frame, settings, ports),
    };
    if found.is_nothing() {
        return Outcome::OTHER;
    }
    judge(frame, found, settings, tables)
}

/// Judges what [`walk`] found, and counts it.
#[inline(always)]
pub fn judge<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    found: Found,
    settings: Settings,
    tables: &T,
) -> Outcome {
    let overlay = tables.overlay();
    let outcome = match tables.image() {
        Some(image) => {
            let outcome = verdict(frame, found, settings, image, overlay);
            answered(outcome, frame, found, settings, tables)
        }
        None => Outcome { verdict: Verdict::Pass, reason: Reason::NoPolicy, group: 0 },
    };
    let direction = if settings.has(Settings::DOWNSTREAM) {
        Direction::Downstream
    } else {
        Direction::Upstream
    };
    tables.record(direction, outcome, frame.length());
    outcome
}

/// A rejection that cannot be answered, or not now, is a drop, and is counted as one.
#[inline(always)]
fn answered<F: Frame + ?Sized, T: Tables>(
    outcome: Outcome,
    frame: &F,
    found: Found,
    settings: Settings,
    tables: &T,
) -> Outcome {
    let rejects = matches!(outcome.verdict, Verdict::Reject);
    if rejects
        && (settings.has(Settings::SILENT)
            || !found.is_answerable()
            || !tables.may_answer(frame, found))
    {
        return Outcome { verdict: Verdict::Drop, ..outcome };
    }
    outcome
}

#[inline(always)]
fn verdict<'a, F: Frame + ?Sized, N: Nodes<'a>>(
    frame: &F,
    found: Found,
    settings: Settings,
    image: N,
    overlay: Option<N>,
) -> Outcome {
    let hidden = hiding(found);
    if found.is_unreadable() {
        let drops = settings.has(Settings::SUBSCRIBER) && found.is_too_deep();
        return Outcome {
            verdict: if drops { Verdict::Drop } else { Verdict::Pass },
            reason: hidden.unwrap_or(Reason::Malformed),
            group: 0,
        };
    }
    let Some(header) = image::read::<Header, N>(image, 0) else {
        return Outcome { verdict: Verdict::Pass, reason: Reason::NoPolicy, group: 0 };
    };
    let downstream = settings.has(Settings::DOWNSTREAM);
    let family = usize::from(found.is_ipv6());
    let pass = |reason, group| Outcome { verdict: Verdict::Pass, reason, group };

    let changed = changed_class(frame, found, downstream, header, overlay, family);
    let subscriber = SubscriberClass(if changed == UNCHANGED {
        class(frame, found, downstream, image, header.subscribers[family])
    } else {
        changed
    });
    let slot = subscriber.group();
    if subscriber.is_exempt() {
        return pass(Reason::Exempt, slot);
    }
    if slot == 0 {
        return if settings.has(Settings::UNKNOWN_DROP) && !downstream {
            Outcome { verdict: Verdict::Drop, reason: Reason::Unknown, group: 0 }
        } else {
            pass(hidden.unwrap_or(Reason::Unknown), 0)
        };
    }
    let Some(group) = image::read::<Group, N>(image, header.groups + u32::from(slot)) else {
        return pass(Reason::NoPolicy, slot);
    };
    let action = if downstream { group.downstream } else { group.action };
    let deny = |reason| Outcome { verdict: denial(action), reason, group: slot };

    if action == Verdict::Pass as u8 {
        return pass(Reason::NotFiltered, slot);
    }
    if found.port() != 0 && !group.ports.contains(&found.port()) {
        return pass(Reason::NotFiltered, slot);
    }
    if let Some(reason) = hidden {
        return deny(reason);
    }
    if !downstream && group.match_any == 0 && !found.opens() {
        return pass(Reason::NotSyn, slot);
    }
    let relay = class(frame, found, !downstream, image, header.relays[family]);
    if !is_relay_of(image, header, relay, slot) {
        return deny(Reason::Policy);
    }
    if found.is_not_final() && !downstream {
        return deny(Reason::SourceRoute);
    }
    pass(Reason::Relay, slot)
}

/// Class of the subscriber by what has changed since the image was compiled.
///
/// An overlay names the generation that it changes. It was fetched before the image: if a new image has come
/// between the two, it holds these changes already, and the generations differ.
#[inline(always)]
fn changed_class<'a, F: Frame + ?Sized, N: Nodes<'a>>(
    frame: &F,
    found: Found,
    downstream: bool,
    header: &Header,
    overlay: Option<N>,
    family: usize,
) -> u16 {
    let Some(overlay) = overlay else { return UNCHANGED };
    match image::read::<Header, N>(overlay, 0) {
        Some(changes) if changes.generation == header.generation => {
            class(frame, found, downstream, overlay, changes.subscribers[family])
        }
        _ => UNCHANGED,
    }
}

/// Class of the destination address, or of the source address, in the tree at `root`.
#[inline(always)]
fn class<'a, F: Frame + ?Sized, N: Nodes<'a>>(
    frame: &F,
    found: Found,
    destination: bool,
    image: N,
    root: u32,
) -> u16 {
    let ip = found.ip(frame);
    let [high, low] = if found.is_ipv6() {
        let Some(halves) = frame.address6(ip + if destination { 24 } else { 8 }) else { return 0 };
        halves
    } else {
        let Some(address) = frame.address4(ip + if destination { 16 } else { 12 }) else {
            return 0;
        };
        [u64::from(address) << 32, 0]
    };
    image::lookup(image, root, high, low)
}

/// Whether `group` may reach the relays of class `relay`. Class 0 is no relay.
#[inline(always)]
fn is_relay_of<'a, N: Nodes<'a>>(image: N, header: &Header, relay: u16, group: u16) -> bool {
    if relay == 0 {
        return false;
    }
    let Some(Node(words)) = image.node(header.relay_groups + u32::from(relay)) else {
        return false;
    };
    words[usize::from(group >> 6 & 7)] >> (group & 63) & 1 != 0
}

/// Why the packet could not be read, if it could not. Listed again, because a reason cannot be made from a
/// number without a table that the verifier would have to follow.
#[inline(always)]
fn hiding(found: Found) -> Option<Reason> {
    const FRAGMENT: u32 = Reason::Fragment as u32;
    const HEADERS: u32 = Reason::Headers as u32;
    const LINK: u32 = Reason::Link as u32;
    match found.reason() {
        0 => None,
        FRAGMENT => Some(Reason::Fragment),
        HEADERS => Some(Reason::Headers),
        LINK => Some(Reason::Link),
        _ => Some(Reason::Malformed),
    }
}

#[inline(always)]
fn denial(action: u8) -> Verdict {
    const REJECT: u8 = Verdict::Reject as u8;
    const WOULD_DROP: u8 = Verdict::WouldDrop as u8;
    match action {
        REJECT => Verdict::Reject,
        WOULD_DROP => Verdict::WouldDrop,
        _ => Verdict::Drop,
    }
}
