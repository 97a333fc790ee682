//! HTTP with limits: the number of connections, the size and the duration of requests, and the time
//! to read the answer. docs/operations.md has the numbers.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
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
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::timeout,
};

use super::{
    body::Timely,
    limits::{Limits, RefusedRequests},
    stall::Stall,
};

/// The most header fields of a request.
const HEADERS: usize = 64;

/// Callers whose connections count together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crowd {
    /// An IPv4 address, or the /64 of an IPv6 address, since one host can use all of a /64.
    Address(IpAddr),
    /// The id of a user.
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

/// The other end of a connection. Handlers get it as [`ConnectInfo`].
pub(super) trait Caller: Clone + Send + Sync + 'static {
    /// The crowd for the limits. `None` for callers that may use the reserve.
    fn crowd(&self) -> Option<Crowd>;
    /// Looks up the caller's name, which may take a moment. Called after the connection is
    /// admitted.
    fn identify(self) -> impl Future<Output = Self> + Send;
}

/// Serves `listener` until `stop` is true or closed, then completes the requests under way.
pub(super) async fn serve<L: Listener, C: Caller>(
    mut listener: L,
    limits: Limits,
    refused: Arc<RefusedRequests>,
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
        let permit = match open.admit(&limits, caller.crowd()) {
            Ok((permit, evicted)) => {
                if evicted {
                    refused.count(limits.name, "crowded");
                }
                permit
            }
            Err(Full) => {
                refused.count(limits.name, "full");
                continue;
            }
        };
        let (app, stop, refused) = (app.clone(), stop.clone(), Arc::clone(&refused));
        tasks.spawn(async move {
            let caller = tokio::select! {
                caller = caller.identify() => caller,
                () = permit.0.leave.notified() => return,
            };
            let io = Stall::new(io, limits.stall);
            connection(io, permit, limits, &refused, caller, app, stop).await;
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// Serves a single connection.
#[cfg(fuzzing)]
pub(super) async fn one<Io, C: Caller>(io: Io, limits: Limits, caller: C, app: Router)
where
    Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let Ok((permit, _)) = Arc::new(Open::default()).admit(&limits, None) else { return };
    let (_never, stop) = watch::channel(false);
    let io = Stall::new(io, limits.stall);
    connection(io, permit, limits, &Arc::default(), caller.identify().await, app, stop).await;
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A closed channel means stop, too.
    drop(stop.wait_for(|stop| *stop).await);
}

async fn connection<Io, C: Caller>(
    io: Stall<Io>,
    permit: ConnectionPermit,
    limits: Limits,
    refused: &Arc<RefusedRequests>,
    caller: C,
    app: Router,
    mut stop: watch::Receiver<bool>,
) where
    Stall<Io>: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let app = TowerToHyperService::new(app);
    let seat = &permit.0;
    let service = service_fn(|request: Request<Incoming>| {
        let timely = |body| Timely::new(body, limits, Arc::clone(refused));
        let mut request = request.map(|body| Body::new(timely(body)));
        request.extensions_mut().insert(ConnectInfo(caller.clone()));
        let answer = hyper::service::Service::call(&app, request);
        async {
            let _busy = seat.busy();
            let answered = timeout(limits.request, answer).await;
            Ok::<Response, std::convert::Infallible>(match answered {
                Ok(answer) => answer?,
                Err(_) => {
                    refused.count(limits.name, "deadline");
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
        Err(error) if error.is_timeout() => refused.count(limits.name, "slow"),
        Err(error) if error.is_parse() => refused.count(limits.name, "malformed"),
        Err(_) | Ok(()) => {}
    }
}

/// The connections of a listener.
#[derive(Default)]
struct Open(Mutex<Vec<Arc<Seat>>>);

/// One connection.
struct Seat {
    crowd: Option<Crowd>,
    /// A request is under way.
    busy: AtomicBool,
    /// Since when none is.
    idle: Mutex<Instant>,
    leave: Notify,
}

/// The limit is reached, and every connection is busy.
struct Full;

/// A permit for one connection. Dropping it frees the seat.
struct ConnectionPermit(Arc<Seat>, Arc<Open>);

impl Open {
    /// Admits a connection, if necessary by evicting the one that has been idle for longest.
    /// Returns the permit, and whether one was evicted.
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

    /// Marks the seat as busy until the guard is dropped.
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

/// A token bucket: a rate limit per second, with bursts.
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

    /// Takes a token. Returns false if there is none.
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
    use std::time::Duration;

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
    fn the_longest_idle_connection_is_evicted_and_busy_ones_are_not() {
        let open = Arc::new(Open::default());
        let admit = |last| open.admit(&LIMITS, address(last));
        let (first, _) = admit(1).ok().expect("room");
        let (second, evicted) = admit(1).ok().expect("room");
        assert!(!evicted);
        let busy = first.0.busy();
        let (_third, evicted) = admit(1).ok().expect("an idle one of the crowd is evicted");
        assert!(evicted && !open.seats().iter().any(|seat| Arc::ptr_eq(seat, &second.0)));
        let _others: Vec<_> = (2..4).map(|last| admit(last).ok().expect("room")).collect();
        assert!(admit(9).ok().expect("an idle one is evicted").1);
        assert!(open.seats().iter().any(|seat| Arc::ptr_eq(seat, &first.0)), "it is busy");
        drop(busy);
        // The permit of the ninth was dropped at once.
        assert_eq!(open.seats().len(), 3);
        drop(first);
        assert_eq!(open.seats().len(), 2);
        let permits: Vec<_> = (10..14).map(|last| admit(last).ok().expect("room")).collect();
        let _busy: Vec<_> = permits.iter().map(|(permit, _)| permit.0.busy()).collect();
        assert!(admit(1).is_err(), "all are busy");
        let (reserved, evicted) = open.admit(&LIMITS, None).ok().expect("the reserve");
        assert!(!evicted);
        let _busy_too = reserved.0.busy();
        assert!(open.admit(&LIMITS, None).is_err(), "the reserve is limited, too");
    }

    #[test]
    fn an_ipv6_64_is_one_crowd() {
        let crowd = |address: &str| Crowd::at(address.parse().expect("an address"));
        assert_eq!(crowd("2001:db8:0:1::7"), crowd("2001:db8:0:1:ffff::"));
        assert_ne!(crowd("2001:db8:0:1::7"), crowd("2001:db8:0:2::7"));
        assert_ne!(crowd("192.0.2.1"), crowd("192.0.2.2"));
    }

    #[test]
    fn a_rate_allows_a_burst_and_refills() {
        let rate = Rate::new(1, 3);
        assert_eq!((0..10).filter(|_| rate.allows()).count(), 3);
        *rate.left.lock().expect("not poisoned") = (0.0, Instant::now() - Duration::from_secs(2));
        assert_eq!((0..10).filter(|_| rate.allows()).count(), 2);
    }
}
