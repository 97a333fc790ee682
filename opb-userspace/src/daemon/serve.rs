//! HTTP with a price for everything: how many connections there are, how long and how large a request may be, and how long
//! somebody may take to read the answer. docs/operations.md has the numbers.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::connect_info::ConnectInfo,
    http::{Request, StatusCode},
    response::{IntoResponse as _, Response},
    serve::Listener,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use nix::sys::resource::{Resource, getrlimit};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::timeout,
};

use super::{body::Timely, stall::Stall};

/// What a listener allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Of the listener, in metrics.
    pub(super) name: &'static str,
    /// At a time. With one more, that goes which has been without a request for longest.
    pub(super) connections: usize,
    /// The same for one [`Crowd`].
    pub(super) of_one: usize,
    /// Further connections, for callers without a crowd.
    pub(super) reserve: usize,
    /// Bytes of request line and headers.
    pub(super) head: usize,
    /// To send them; also how long a connection may be without a request.
    pub(super) head_time: Duration,
    /// To send a body, plus one second for each 4 MiB of it.
    pub(super) body_time: Duration,
    /// For a request as a whole, from the end of its headers to the beginning of the answer.
    pub(super) request: Duration,
    /// In which the other end must take in some of the answer.
    pub(super) stall: Duration,
}

/// Fields of a request.
const HEADERS: usize = 64;
/// Descriptors that connections leave for everything else: each program instance has about 14, and there may be 16.
const RESERVED: u64 = 256;
/// Connections that are possible however few descriptors there are.
const FEWEST: usize = 4;

impl Limits {
    /// With no more connections than a quarter of the descriptors that there are room for.
    #[must_use]
    pub(super) fn within_descriptors(mut self) -> Self {
        if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
            let room = usize::try_from(soft.saturating_sub(RESERVED) / 4).unwrap_or(usize::MAX);
            self.connections = self.connections.min(room.max(FEWEST));
            self.of_one = self.of_one.min(self.connections);
        }
        self
    }
}

/// What has been refused since the daemon started.
#[derive(Debug)]
pub(super) struct Refusals(Mutex<BTreeMap<(&'static str, &'static str), u64>>);

/// Zeros are shown, too: an alert can tell the first refusal from a metric that has just appeared.
impl Default for Refusals {
    fn default() -> Self {
        let reasons = ["crowded", "deadline", "full", "lists", "malformed", "rate", "slow"];
        let of = |listener| reasons.map(|why| ((listener, why), 0));
        Self(Mutex::new(["control", "http"].into_iter().flat_map(of).collect()))
    }
}

impl Refusals {
    pub(super) fn count(&self, listener: &'static str, why: &'static str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((listener, why)).or_default() += 1;
    }

    pub(super) fn counts(&self) -> Vec<(&'static str, &'static str, u64)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(&(listener, why), &count)| (listener, why, count)).collect()
    }
}

/// Callers whose connections count together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crowd {
    /// An IPv4 address, or the /64 of an IPv6 address: one line has all addresses of it.
    Address(IpAddr),
    /// A user id.
    User(u32),
}

impl Crowd {
    pub(super) fn at(address: IpAddr) -> Self {
        Self::Address(match address {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
            IpAddr::V4(_) => address,
        })
    }
}

/// The other end of a connection: its crowd for the limits, itself as [`ConnectInfo`] for requests.
pub(super) trait Caller: Clone + Send + Sync + 'static {
    /// `None` for callers that always get a seat, such as root.
    fn crowd(&self) -> Option<Crowd>;
    /// May take a moment. Not asked for before the connection has its place.
    fn identify(self) -> impl Future<Output = Self> + Send;
}

/// Answers at `listener` until `stop` says so or is gone, and then until the requests under way are answered.
pub(super) async fn serve<L: Listener, C: Caller>(
    mut listener: L,
    limits: Limits,
    refusals: Arc<Refusals>,
    caller: impl Fn(&L::Io, &L::Addr) -> C,
    app: Router,
    mut stop: watch::Receiver<bool>,
) {
    let open = Arc::new(Open::default());
    let mut tasks = JoinSet::new();
    loop {
        let (io, address) = tokio::select! {
            biased;
            () = stopped(&mut stop) => break,
            accepted = listener.accept() => accepted,
        };
        while tasks.try_join_next().is_some() {}
        let caller = caller(&io, &address);
        let place = match open.admit(&limits, caller.crowd()) {
            Ok((place, evicted)) => {
                if evicted {
                    refusals.count(limits.name, "crowded");
                }
                place
            }
            Err(Full) => {
                refusals.count(limits.name, "full");
                continue;
            }
        };
        let (app, stop, refusals) = (app.clone(), stop.clone(), Arc::clone(&refusals));
        tasks.spawn(async move {
            let caller = caller.identify().await;
            let io = Stall::new(io, limits.stall);
            connection(io, place, limits, &refusals, caller, app, stop).await;
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// Serves one connection alone.
#[cfg(fuzzing)]
pub(super) async fn one<Io, C: Caller>(io: Io, limits: Limits, caller: C, app: Router)
where
    Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let Ok((place, _)) = Arc::new(Open::default()).admit(&limits, None) else { return };
    let (_never, stop) = watch::channel(false);
    let io = Stall::new(io, limits.stall);
    connection(io, place, limits, &Arc::default(), caller.identify().await, app, stop).await;
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Nobody there who could say so: then it is time, too.
    drop(stop.wait_for(|stop| *stop).await);
}

async fn connection<Io, C: Caller>(
    io: Stall<Io>,
    place: ConnectionPermit,
    limits: Limits,
    refusals: &Arc<Refusals>,
    caller: C,
    app: Router,
    mut stop: watch::Receiver<bool>,
) where
    Stall<Io>: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let app = TowerToHyperService::new(app);
    let seat = &place.0;
    let service = service_fn(|request: Request<Incoming>| {
        let timely = |body| Timely::new(body, limits, Arc::clone(refusals));
        let mut request = request.map(|body| Body::new(timely(body)));
        request.extensions_mut().insert(ConnectInfo(caller.clone()));
        let answer = hyper::service::Service::call(&app, request);
        async {
            let _busy = seat.busy();
            let answered = timeout(limits.request, answer).await;
            Ok::<Response, std::convert::Infallible>(match answered {
                Ok(answer) => answer?,
                Err(_) => {
                    refusals.count(limits.name, "deadline");
                    StatusCode::REQUEST_TIMEOUT.into_response()
                }
            })
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head_time);
    http.max_buf_size(limits.head).max_headers(HEADERS);
    let mut served = std::pin::pin!(http.serve_connection(TokioIo::new(io), service));
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = seat.leave.notified() => return,
        () = stopped(&mut stop) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    match ended {
        Err(error) if error.is_timeout() => refusals.count(limits.name, "slow"),
        Err(error) if error.is_parse() => refusals.count(limits.name, "malformed"),
        Err(_) | Ok(()) => {}
    }
}

/// The connections of a listener.
#[derive(Default)]
struct Open(Mutex<Vec<Arc<Seat>>>);

/// One of them.
struct Seat {
    crowd: Option<Crowd>,
    /// Somebody works on a request.
    busy: AtomicBool,
    /// Since when nobody does.
    idle: Mutex<Instant>,
    leave: Notify,
}

/// Every connection is at work.
struct Full;

/// A seat, which is free again when this is dropped.
struct ConnectionPermit(Arc<Seat>, Arc<Open>);

impl Open {
    /// Finds a place, if need be by sending one away that has been without a request for longest. Says whether it was.
    fn admit(
        self: &Arc<Self>,
        limits: &Limits,
        crowd: Option<Crowd>,
    ) -> Result<(ConnectionPermit, bool), Full> {
        let mut seats = self.seats();
        let of_one = |seat: &Arc<Seat>| crowd.is_some() && seat.crowd == crowd;
        let crowded = seats.iter().filter(|seat| of_one(seat)).count() >= limits.of_one;
        let reserve = if crowd.is_none() { limits.reserve } else { 0 };
        let evicted = if crowded {
            Some(evict(&mut seats, of_one)?)
        } else if seats.len() >= limits.connections + reserve {
            Some(evict(&mut seats, |_| true)?)
        } else {
            None
        };
        let seat = Arc::new(Seat {
            crowd,
            busy: AtomicBool::new(false),
            idle: Mutex::new(Instant::now()),
            leave: Notify::new(),
        });
        seats.push(Arc::clone(&seat));
        Ok((ConnectionPermit(seat, Arc::clone(self)), evicted.is_some()))
    }

    fn seats(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Seat>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn evict(seats: &mut Vec<Arc<Seat>>, may: impl Fn(&Arc<Seat>) -> bool) -> Result<(), Full> {
    let idle = seats.iter().enumerate().filter(|(_, seat)| may(seat) && !seat.is_busy());
    let (index, _) = idle.min_by_key(|(_, seat)| seat.idle_since()).ok_or(Full)?;
    seats.swap_remove(index).leave.notify_one();
    Ok(())
}

impl Seat {
    fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }

    fn idle_since(&self) -> Instant {
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until the answer is made.
    fn busy(&self) -> Busy<'_> {
        self.busy.store(true, Ordering::Release);
        Busy(self)
    }
}

struct Busy<'a>(&'a Seat);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        *self.0.idle.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.busy.store(false, Ordering::Release);
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.1.seats().retain(|seat| !Arc::ptr_eq(seat, &self.0));
    }
}

/// So many requests a second, and so many at once after a pause.
pub(super) struct Rate {
    each_second: f64,
    most: f64,
    left: Mutex<(f64, Instant)>,
}

impl Rate {
    pub(super) fn new(each_second: u32, at_once: u32) -> Self {
        let most = f64::from(at_once);
        let left = Mutex::new((most, Instant::now()));
        Self { each_second: f64::from(each_second), most, left }
    }

    /// Whether there is room for one more.
    pub(super) fn allows(&self) -> bool {
        let mut state = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, since) = *state;
        let now = Instant::now();
        let left = (left + self.each_second * (now - since).as_secs_f64()).min(self.most);
        let allowed = left >= 1.0;
        *state = (if allowed { left - 1.0 } else { left }, now);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        name: "test",
        connections: 4,
        of_one: 2,
        reserve: 1,
        head: 8192,
        head_time: Duration::from_secs(1),
        body_time: Duration::from_secs(1),
        request: Duration::from_secs(1),
        stall: Duration::from_secs(1),
    };

    fn address(last: u8) -> Option<Crowd> {
        Some(Crowd::at([192, 0, 2, last].into()))
    }

    #[test]
    fn whoever_waits_longest_gives_way_and_whoever_works_does_not() {
        let open = Arc::new(Open::default());
        let admit = |last| open.admit(&LIMITS, address(last));
        let (first, _) = admit(1).ok().expect("room");
        let (second, evicted) = admit(1).ok().expect("room");
        assert!(!evicted);
        let busy = first.0.busy();
        let (_third, evicted) = admit(1).ok().expect("one of its own goes");
        assert!(evicted && !open.seats().iter().any(|seat| Arc::ptr_eq(seat, &second.0)));
        let _others: Vec<_> = (2..4).map(|last| admit(last).ok().expect("room")).collect();
        assert!(admit(9).ok().expect("one goes").1);
        assert!(open.seats().iter().any(|seat| Arc::ptr_eq(seat, &first.0)), "it is at work");
        drop(busy);
        // The ninth has gone by itself.
        assert_eq!(open.seats().len(), 3);
        drop(first);
        assert_eq!(open.seats().len(), 2);
        let places: Vec<_> = (10..14).map(|last| admit(last).ok().expect("room")).collect();
        let _busy: Vec<_> = places.iter().map(|(place, _)| place.0.busy()).collect();
        assert!(admit(1).is_err(), "all of them work");
        let (reserved, evicted) = open.admit(&LIMITS, None).ok().expect("the reserve");
        assert!(!evicted);
        let _busy_too = reserved.0.busy();
        assert!(open.admit(&LIMITS, None).is_err(), "the reserve is used up, too");
    }

    #[test]
    fn an_ipv6_line_is_one_crowd() {
        let crowd = |address: &str| Crowd::at(address.parse().expect("an address"));
        assert_eq!(crowd("2001:db8:0:1::7"), crowd("2001:db8:0:1:ffff::"));
        assert_ne!(crowd("2001:db8:0:1::7"), crowd("2001:db8:0:2::7"));
        assert_ne!(crowd("192.0.2.1"), crowd("192.0.2.2"));
    }

    #[test]
    fn a_rate_lets_so_many_through() {
        let rate = Rate::new(1, 3);
        assert_eq!((0..10).filter(|_| rate.allows()).count(), 3);
        *rate.left.lock().expect("not poisoned") = (0.0, Instant::now() - Duration::from_secs(2));
        assert_eq!((0..10).filter(|_| rate.allows()).count(), 2);
    }
}
