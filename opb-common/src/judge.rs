//! The verdict: subscriber, flags, destination and action are checked in the order of
//! docs/policy.md.

use crate::{
    classify::{FastPath, classify},
    frame::Frame,
    image::{self, Group, Header, ImageNode, Nodes, SubscriberClass, UNCHANGED},
    line::{self, Halves, Lookup, LookupResult, Owner, address, find_owner, look_up},
    outcome::{Direction, Line, Outcome, Reason, Verdict},
    parse::parse,
    parsed::ParsedPacket,
    settings::{PortSet, Settings},
};

/// The tables that a verdict reads, and the counters that it writes.
pub trait Tables {
    /// An image in force.
    type Image<'a>: Nodes<'a>
    where
        Self: 'a;

    /// Returns the ports that some group filters in the direction that `settings` selects.
    fn ports(&self, settings: Settings) -> &PortSet;

    /// Returns the image in force, or `None` if no policy is loaded.
    ///
    /// Fetch it once for each packet, so that no packet sees two policies.
    fn image(&self) -> Option<Self::Image<'_>>;

    /// Returns the overlay: the changes since the image was compiled, as an image of its own (see
    /// [`UNCHANGED`]).
    ///
    /// Fetch it before the image: see [`subscriber`].
    fn overlay(&self) -> Option<Self::Image<'_>> {
        None
    }

    /// Returns the overlay or the image.
    #[inline(always)]
    fn policy(&self, is_overlay: bool) -> Option<Self::Image<'_>> {
        if is_overlay { self.overlay() } else { self.image() }
    }

    /// Calls [`look_up`] for a tunnelled packet.
    fn look_up<F: Frame + ?Sized>(
        &self,
        frame: &F,
        parsed: ParsedPacket,
        lookup: Lookup,
    ) -> LookupResult {
        look_up(frame, parsed, lookup, self)
    }

    /// Returns whether the rate limit allows a TCP reset to the packet's source now.
    ///
    /// The default, for tables that send nothing, has no limit.
    fn may_send_reset<F: Frame + ?Sized>(&self, _frame: &F, _parsed: ParsedPacket) -> bool {
        true
    }

    /// Returns whether a bypass is active for everybody, or for the group with id `group`.
    ///
    /// It is asked only about packets that would be denied. The default, for tables without
    /// bypasses, is no.
    fn is_bypassed(&self, _group: u16) -> bool {
        false
    }

    /// Counts one packet with a length of `bytes`.
    fn record(&self, direction: Direction, outcome: Outcome, bytes: usize);
}

/// Returns the verdict on one frame, and counts it.
///
/// It chains `classify`, `parse` and `judge`. The BPF programs chain the same three themselves,
/// because the verifier needs them in separate functions.
pub fn decide<F: Frame + ?Sized, T: Tables>(frame: &F, settings: Settings, tables: &T) -> Outcome {
    let ports = tables.ports(settings);
    let parsed = match classify(frame, settings, ports) {
        FastPath::Other => ParsedPacket::OTHER,
        FastPath::Parsed(parsed) => parsed,
        FastPath::Unclear => parse(frame, settings, ports),
    };
    if parsed.is_other() {
        Outcome::OTHER
    } else if parsed.is_tunnelled() {
        judge::<true, F, T>(frame, parsed, settings, tables)
    } else {
        judge::<false, F, T>(frame, parsed, settings, tables)
    }
}

/// Judges a parsed packet, and counts it.
///
/// `TUNNELLED` is [`ParsedPacket::is_tunnelled`]. Two instances, so that packets outside tunnels
/// pay nothing for those in one.
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
    let outcome = bypass(outcome, tables);
    let outcome = limit_reject(outcome, frame, parsed, settings, tables);
    let direction = if settings.has(Settings::DOWNSTREAM) {
        Direction::Downstream
    } else {
        Direction::Upstream
    };
    tables.record(direction, outcome, frame.length());
    outcome
}

/// The outcome without a policy: everything passes.
const NO_POLICY: Outcome = Outcome::ungrouped(Verdict::Pass, Reason::NoPolicy);

/// Judges a packet whose own address names the line.
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
    // Always `Some`: all lookups used the same image.
    verdict(parsed, settings, (image, header), owner, other_end).unwrap_or(NO_POLICY)
}

/// Judges a packet that is, or may be, inside another.
#[inline(always)]
fn tunnelled<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    parsed: ParsedPacket,
    settings: Settings,
    tables: &T,
) -> Outcome {
    /// An attempt takes less than a microsecond; a publication takes longer.
    const ATTEMPTS: usize = 2;
    let downstream = settings.has(Settings::DOWNSTREAM);
    for _ in 0..ATTEMPTS {
        let Some(image) = tables.image() else { return NO_POLICY };
        let Some(header) = image::read::<Header, _>(image, 0) else { return NO_POLICY };
        let Some(owner) = find_owner(frame, parsed, downstream, (image, header), tables) else {
            continue;
        };
        let other_end = || line::other_end_class(frame, parsed, downstream, header, tables);
        if let Some(outcome) = verdict(parsed, settings, (image, header), owner, other_end) {
            return outcome;
        }
    }
    // The policy changed during every attempt. The sender will retransmit.
    Outcome::ungrouped(Verdict::Drop, Reason::NoPolicy)
}

/// Returns the outcome for a packet whose addresses cannot be read.
#[inline(always)]
fn unreadable(parsed: ParsedPacket, settings: Settings) -> Outcome {
    let drops = settings.has(Settings::SUBSCRIBER) && parsed.has_too_many_tags();
    let verdict = if drops { Verdict::Drop } else { Verdict::Pass };
    Outcome::ungrouped(verdict, unreadable_reason(parsed).unwrap_or(Reason::Malformed))
}

/// Lets a packet pass that would be denied, and counts it as such, while a bypass is active.
#[inline(always)]
fn bypass<T: Tables>(outcome: Outcome, tables: &T) -> Outcome {
    if !outcome.verdict.forwards() && tables.is_bypassed(outcome.group) {
        return Outcome { verdict: Verdict::Pass, reason: Reason::Bypass, ..outcome };
    }
    outcome
}

/// Turns a reject into a drop, and counts it as one, if no TCP reset can be sent or the rate limit
/// is reached.
#[inline(always)]
fn limit_reject<F: Frame + ?Sized, T: Tables>(
    outcome: Outcome,
    frame: &F,
    parsed: ParsedPacket,
    settings: Settings,
    tables: &T,
) -> Outcome {
    let rejects = matches!(outcome.verdict, Verdict::Reject);
    if rejects
        && (settings.has(Settings::NO_RESET)
            || !parsed.is_resettable()
            || !tables.may_send_reset(frame, parsed))
    {
        return Outcome { verdict: Verdict::Drop, ..outcome };
    }
    outcome
}

/// Applies the rules in order.
///
/// `other_end` returns the relay class of the other end, or `None` if another policy has come into
/// force. Then this returns `None` as well.
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
    let (hidden, group_id) = (unreadable_reason(parsed), class.group());
    let pass = |reason| Some(Outcome { verdict: Verdict::Pass, reason, group: group_id, line });
    if class.is_exempt() {
        return pass(Reason::Exempt);
    }
    if group_id == 0 {
        return Some(ungrouped(parsed, settings, in_softwire));
    }
    let Some(group) = image::read::<Group, N>(image, header.groups + u32::from(group_id)) else {
        return pass(Reason::NoPolicy);
    };
    let action = if downstream { group.downstream } else { group.action };
    let deny = |reason| Some(Outcome { verdict: denial(action), reason, group: group_id, line });

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
    if !is_relay_of(image, header, other_end()?, group_id) {
        return deny(Reason::Policy);
    }
    if parsed.is_not_final() && !downstream {
        return deny(Reason::SourceRoute);
    }
    pass(Reason::Relay)
}

/// Returns the outcome for a packet whose line is in no group.
#[inline(always)]
fn ungrouped(parsed: ParsedPacket, settings: Settings, in_softwire: bool) -> Outcome {
    let upstream = !settings.has(Settings::DOWNSTREAM);
    if settings.has(Settings::UNKNOWN_DROP) && upstream {
        return Outcome::ungrouped(Verdict::Drop, Reason::Unknown);
    }
    // A packet hidden on its way into a softwire would leave it under a subscriber's address.
    let hides = in_softwire && parsed.is_hidden_by_outer();
    let drops = hides && upstream && settings.has(Settings::SUBSCRIBER);
    let verdict = if drops { Verdict::Drop } else { Verdict::Pass };
    Outcome::ungrouped(verdict, unreadable_reason(parsed).unwrap_or(Reason::Unknown))
}

/// Returns the class of a subscriber address: from the overlay if it changes that address, else
/// from the image.
///
/// An overlay names the generation that it changes, and it is fetched before the image. If a new
/// image was published between the two, it either contains these changes, and the generations
/// differ, or the overlay has them for both images.
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

/// Returns whether `group` may reach the relays of class `relay`. Class 0 means "not a relay".
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

/// Returns the reason why the packet cannot be read, or `None` if it was read.
///
/// The match repeats the list of reasons: [`Reason::from_index`] would be a table that the verifier
/// has to follow.
#[inline(always)]
fn unreadable_reason(parsed: ParsedPacket) -> Option<Reason> {
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

/// Returns the verdict for denied packets that has the number `action`.
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
