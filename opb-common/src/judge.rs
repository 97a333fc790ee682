//! The verdict: whose packet it is, flags, destination, action, in the order of docs/policy.md.

use crate::{
    classify::{FastPath, classify},
    frame::Frame,
    image::{self, Group, Header, ImageNode, Nodes, SubscriberClass, UNCHANGED},
    line::{self, Halves, Looked, Lookup, Owner, address, look_up, whose},
    outcome::{Direction, Line, Outcome, Reason, Verdict},
    parse::parse,
    parsed::ParsedPacket,
    settings::{PortSet, Settings},
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

    /// The overlay or the policy.
    #[inline(always)]
    fn policy(&self, is_overlay: bool) -> Option<Self::Image<'_>> {
        if is_overlay { self.overlay() } else { self.image() }
    }

    /// [`look_up`] for a tunnelled packet.
    fn look_up<F: Frame + ?Sized>(
        &self,
        frame: &F,
        parsed: ParsedPacket,
        lookup: Lookup,
    ) -> Looked {
        look_up(frame, parsed, lookup, self)
    }

    /// Whether a reset may be sent to the source of the packet now. Always, where nothing is sent.
    fn may_answer<F: Frame + ?Sized>(&self, _frame: &F, _found: ParsedPacket) -> bool {
        true
    }

    /// Counts one packet of `bytes`.
    fn record(&self, direction: Direction, outcome: Outcome, bytes: usize);
}

/// Verdict on one frame: the only place where the three steps are chained, but for the BPF adapters, which
/// put the same three into functions of their own.
pub fn decide<F: Frame + ?Sized, T: Tables>(frame: &F, settings: Settings, tables: &T) -> Outcome {
    let ports = tables.ports(settings);
    let parsed = match classify(frame, settings, ports) {
        FastPath::Other => ParsedPacket::NOTHING,
        FastPath::Parsed(parsed) => parsed,
        FastPath::Unclear => parse(frame, settings, ports),
    };
    if parsed.is_nothing() {
        Outcome::OTHER
    } else if parsed.is_tunnelled() {
        judge::<true, F, T>(frame, parsed, settings, tables)
    } else {
        judge::<false, F, T>(frame, parsed, settings, tables)
    }
}

/// Judges what [`parse`] found, and counts it. `TUNNELLED` is [`ParsedPacket::is_tunnelled`]: two functions for the verifier, so that
/// packets in no tunnel pay nothing for those in one.
#[inline(always)]
pub fn judge<const TUNNELLED: bool, F: Frame + ?Sized, T: Tables>(
    frame: &F,
    parsed: ParsedPacket,
    settings: Settings,
    tables: &T,
) -> Outcome {
    let outcome = if TUNNELLED {
        tunnelled(frame, parsed, settings, tables)
    } else {
        plain(frame, parsed, settings, tables)
    };
    let outcome = answered(outcome, frame, parsed, settings, tables);
    let direction = if settings.has(Settings::DOWNSTREAM) {
        Direction::Downstream
    } else {
        Direction::Upstream
    };
    tables.record(direction, outcome, frame.length());
    outcome
}

const NO_POLICY: Outcome = Outcome::ungrouped(Verdict::Pass, Reason::NoPolicy);

/// Of a packet that is its own address's.
#[inline(always)]
fn plain<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    parsed: ParsedPacket,
    settings: Settings,
    tables: &T,
) -> Outcome {
    let overlay = tables.overlay();
    let Some(image) = tables.image() else { return NO_POLICY };
    if parsed.is_unreadable() {
        return unreadable(parsed, settings);
    }
    let Some(header) = image::read::<Header, _>(image, 0) else { return NO_POLICY };
    let downstream = settings.has(Settings::DOWNSTREAM);
    let (ip, is_ipv6) = (parsed.ip(frame), parsed.is_ipv6());
    let own = address(frame, ip, is_ipv6, downstream);
    let class = subscriber(own, is_ipv6, (image, header), overlay);
    let owner = Owner { class, line: Line::Own, in_softwire: false };
    let other_end = || {
        let other_end = address(frame, parsed.ip(frame), is_ipv6, !downstream);
        let Some([high, low]) = other_end else { return Some(0) };
        Some(image::lookup(image, header.relays[usize::from(is_ipv6)], high, low))
    };
    // It has seen one policy only.
    verdict(parsed, settings, (image, header), owner, other_end).unwrap_or(NO_POLICY)
}

/// Of a packet inside another, or that may be.
#[inline(always)]
fn tunnelled<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    parsed: ParsedPacket,
    settings: Settings,
    tables: &T,
) -> Outcome {
    /// One takes less than a microsecond, and a publication longer.
    const ATTEMPTS: usize = 2;
    let downstream = settings.has(Settings::DOWNSTREAM);
    for _ in 0..ATTEMPTS {
        let Some(image) = tables.image() else { return NO_POLICY };
        let Some(header) = image::read::<Header, _>(image, 0) else { return NO_POLICY };
        let Some(owner) = whose(frame, parsed, downstream, (image, header), tables) else {
            continue;
        };
        let other_end = || line::other_end(frame, parsed, downstream, header, tables);
        if let Some(outcome) = verdict(parsed, settings, (image, header), owner, other_end) {
            return outcome;
        }
    }
    // Policies came and went all the while. Whoever sent it sends it again.
    Outcome::ungrouped(Verdict::Drop, Reason::NoPolicy)
}

#[inline(always)]
fn unreadable(parsed: ParsedPacket, settings: Settings) -> Outcome {
    let drops = settings.has(Settings::SUBSCRIBER) && parsed.is_too_deep();
    let verdict = if drops { Verdict::Drop } else { Verdict::Pass };
    Outcome::ungrouped(verdict, hiding(parsed).unwrap_or(Reason::Malformed))
}

/// A rejection that cannot be answered, or not now, is a drop, and is counted as one.
#[inline(always)]
fn answered<F: Frame + ?Sized, T: Tables>(
    outcome: Outcome,
    frame: &F,
    parsed: ParsedPacket,
    settings: Settings,
    tables: &T,
) -> Outcome {
    let rejects = matches!(outcome.verdict, Verdict::Reject);
    if rejects
        && (settings.has(Settings::SILENT)
            || !parsed.is_answerable()
            || !tables.may_answer(frame, parsed))
    {
        return Outcome { verdict: Verdict::Drop, ..outcome };
    }
    outcome
}

/// The rules in their order. `other_end` looks up the class of the other end among the relays, and finds none if another
/// policy has come into force.
#[inline(always)]
fn verdict<'a, N: Nodes<'a>>(
    parsed: ParsedPacket,
    settings: Settings,
    (image, header): (N, &Header),
    owner: Owner,
    other_end: impl FnOnce() -> Option<u16>,
) -> Option<Outcome> {
    let Owner { class, line, in_softwire } = owner;
    let downstream = settings.has(Settings::DOWNSTREAM);
    let (hidden, slot) = (hiding(parsed), class.group());
    let pass = |reason| Some(Outcome { verdict: Verdict::Pass, reason, group: slot, line });
    if class.is_exempt() {
        return pass(Reason::Exempt);
    }
    if slot == 0 {
        return Some(nobodys(parsed, settings, in_softwire));
    }
    let Some(group) = image::read::<Group, N>(image, header.groups + u32::from(slot)) else {
        return pass(Reason::NoPolicy);
    };
    let action = if downstream { group.downstream } else { group.action };
    let deny = |reason| Some(Outcome { verdict: denial(action), reason, group: slot, line });

    if action == Verdict::Pass as u8 {
        return pass(Reason::NotFiltered);
    }
    if parsed.port() != 0 && !group.ports.contains(&parsed.port()) {
        return pass(Reason::NotFiltered);
    }
    if let Some(reason) = hidden {
        return deny(reason);
    }
    if !downstream && group.match_any == 0 && !parsed.opens() {
        return pass(Reason::NotSyn);
    }
    if !is_relay_of(image, header, other_end()?, slot) {
        return deny(Reason::Policy);
    }
    if parsed.is_not_final() && !downstream {
        return deny(Reason::SourceRoute);
    }
    pass(Reason::Relay)
}

/// Of a packet whose line is in no group.
#[inline(always)]
fn nobodys(parsed: ParsedPacket, settings: Settings, in_softwire: bool) -> Outcome {
    let upstream = !settings.has(Settings::DOWNSTREAM);
    if settings.has(Settings::UNKNOWN_DROP) && upstream {
        return Outcome::ungrouped(Verdict::Drop, Reason::Unknown);
    }
    // What hides on its way into a softwire would come out of it as somebody's.
    let hides = in_softwire && parsed.is_hidden_outside();
    let drops = hides && upstream && settings.has(Settings::SUBSCRIBER);
    let verdict = if drops { Verdict::Drop } else { Verdict::Pass };
    Outcome::ungrouped(verdict, hiding(parsed).unwrap_or(Reason::Unknown))
}

/// Class of a subscriber by what has changed since the image was compiled, or by the image.
///
/// An overlay names the generation that it changes. It was fetched before the image: if a new image has come between the two,
/// either it holds these changes already, and the generations differ, or the overlay has them for both.
#[inline(always)]
fn subscriber<'a, N: Nodes<'a>>(
    address: Option<Halves>,
    is_ipv6: bool,
    (image, header): (N, &Header),
    overlay: Option<N>,
) -> SubscriberClass {
    let Some([high, low]) = address else { return SubscriberClass(0) };
    let family = usize::from(is_ipv6);
    if let Some(overlay) = overlay
        && let Some(changes) =
            image::read::<Header, N>(overlay, image::overlay_header(header.generation))
        && changes.generation == header.generation
    {
        let class = image::lookup(overlay, changes.subscribers[family], high, low);
        if class != UNCHANGED {
            return SubscriberClass(class);
        }
    }
    SubscriberClass(image::lookup(image, header.subscribers[family], high, low))
}

/// Whether `group` may reach the relays of class `relay`. Class 0 is no relay.
#[inline(always)]
pub(crate) fn is_relay_of<'a, N: Nodes<'a>>(
    image: N,
    header: &Header,
    relay: u16,
    group: u16,
) -> bool {
    if relay == 0 {
        return false;
    }
    let Some(ImageNode(words)) = image.node(header.relay_groups + u32::from(relay)) else {
        return false;
    };
    words[usize::from(group >> 6 & 7)] >> (group & 63) & 1 != 0
}

/// Why the packet could not be read, if it could not. Listed again, because a reason cannot be made from a
/// number without a table that the verifier would have to follow.
#[inline(always)]
fn hiding(parsed: ParsedPacket) -> Option<Reason> {
    const FRAGMENT: u32 = Reason::Fragment as u32;
    const HEADERS: u32 = Reason::Headers as u32;
    const LINK: u32 = Reason::Link as u32;
    match parsed.reason() {
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
