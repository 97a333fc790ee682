//! The accounting listener: requests of RADIUS clients become reports to the enforcer, and are
//! answered once those are on disk and in force. docs/sessions.md describes it.
//!
//! A request that cannot be recorded is not answered: the client sends it again (RFC 2866, section
//! 4.1), and so keeps our queue.

mod queue;
mod repeats;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::{
    net::UdpSocket,
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::{info, warn};

use self::{
    queue::{Answer, Done, Queue},
    repeats::{Repeats, Seen},
};
use super::{enforcer::Enforcer, health::Fault, serve::Rate, threads::Threads, worker::Worker};
use crate::{
    errors::one_line,
    node::Radius,
    radius::{
        accounting::{self, Reading, Request},
        packet::{ACCOUNTING_REQUEST, LONGEST, Packet, STATUS_SERVER},
        secrets::Secrets,
        statistics::{Fate, Statistics},
    },
    subscribers::sessions::staging::Outcome,
};

/// The pause before the next attempt to bind an address that is in use.
const RETRY: Duration = Duration::from_secs(1);
/// How often the files of secrets are read again, and how long that may take.
const SECRETS: Duration = Duration::from_secs(10);
const SECRETS_LIMIT: Duration = Duration::from_secs(5);
/// Authentic requests of one client a second, and in a burst. A server that retries without a pause
/// leaves room for the others.
const OF_ONE: (u32, u32) = (10_000, 20_000);
/// The kernel's queue in front of the listener, in bytes, as far as it allows that.
const RECEIVE_BUFFER: usize = 8 << 20;

/// The state of the listener, for metrics and checks.
#[derive(Clone, Debug, Default)]
pub(super) struct Feed {
    /// Whether the node file wants one.
    pub(super) is_wanted: bool,
    /// Why sessions cannot be reported.
    pub(super) fault: Fault,
    pub(super) statistics: Arc<Statistics>,
}

/// Listens as long as the process lives, if the node file says where. The sessions of the store are
/// in force by then: the enforcer has started.
pub(super) fn start(settings: Option<Radius>, enforcer: Worker<Enforcer>) -> Feed {
    let feed = Feed { is_wanted: settings.is_some(), ..Feed::default() };
    let Some(settings) = settings else { return feed };
    let statistics = Arc::clone(&feed.statistics);
    let (done, results) = mpsc::unbounded_channel();
    let reading = Reading {
        group_attribute: settings.group_attribute,
        default_group: settings.default_group.clone(),
    };
    let rates = settings.clients.iter().map(|_| Rate::new(OF_ONE.0, OF_ONE.1)).collect();
    let secrets = settings.clients.iter().map(|_| None).collect();
    let mut listener = Listener {
        reading,
        rates,
        secrets,
        queue: Queue::new(enforcer, done),
        repeats: Repeats::default(),
        fault: feed.fault.clone(),
        threads: Threads::new("secrets"),
        statistics,
        settings,
    };
    tokio::spawn(async move { listener.serve(results).await });
    feed
}

struct Listener {
    settings: Radius,
    reading: Reading,
    /// By client, as the next one.
    rates: Vec<Rate>,
    secrets: Vec<Option<Secrets>>,
    queue: Queue,
    repeats: Repeats,
    fault: Fault,
    threads: Threads,
    statistics: Arc<Statistics>,
}

impl Listener {
    async fn serve(&mut self, mut results: mpsc::UnboundedReceiver<Done>) {
        let secrets = self.read_secrets().await;
        let socket = self.bind().await;
        self.note(secrets);
        info!("RADIUS accounting at {}", self.settings.listen);
        let mut datagram = vec![0; LONGEST];
        let mut ticks = interval(SECRETS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                Some(done) = results.recv() => self.finish(&socket, done).await,
                // Before the socket, which may always have a request.
                _ = ticks.tick() => {
                    self.repeats.forget_old();
                    let fault = self.read_secrets().await;
                    self.note(fault);
                }
                received = socket.recv_from(&mut datagram) => {
                    // An error is that of an earlier answer, such as a port that is unreachable.
                    let Ok((length, from)) = received else { continue };
                    let response = self.receive(&datagram[..length], from);
                    if let Some(response) = response {
                        send(&socket, &response, from).await;
                    }
                }
            }
        }
    }

    async fn bind(&self) -> UdpSocket {
        let address = self.settings.listen;
        loop {
            match UdpSocket::bind(address).await {
                Ok(socket) => {
                    // Without the privilege, up to the limit of the machine.
                    if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
                        let _ = setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER);
                    }
                    return socket;
                }
                Err(error) => {
                    self.note(Some(format!("cannot listen for RADIUS at {address}: {error}")));
                }
            }
            sleep(RETRY).await;
        }
    }

    fn note(&self, error: Option<String>) {
        if self.fault.set(error.clone())
            && let Some(error) = error
        {
            warn!("{error}");
        }
    }

    /// Reads the secrets of all clients again. A file that cannot be used leaves its client with the
    /// secret of before, if there was one, and is returned as an error.
    async fn read_secrets(&mut self) -> Option<String> {
        let paths: Vec<_> =
            self.settings.clients.iter().map(|client| client.secret_file.clone()).collect();
        let read = move || paths.iter().map(|path| Secrets::read(path)).collect::<Vec<_>>();
        let found = match self.threads.run(SECRETS_LIMIT, read).await {
            Ok(found) => found,
            Err(error) => return Some(format!("the secrets of RADIUS clients: {error}")),
        };
        let mut errors = Vec::new();
        for (found, secrets) in found.into_iter().zip(&mut self.secrets) {
            match found {
                Ok(new) => *secrets = Some(new),
                Err(error) => errors.push(format!("the secret {}", one_line(&error))),
            }
        }
        (!errors.is_empty()).then(|| errors.join("; "))
    }

    /// Examines a datagram. Returns the response to one that needs no work.
    fn receive(&mut self, datagram: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
        let arrived = (Instant::now(), SystemTime::now());
        match self.examine(datagram, from, arrived) {
            Ok(response) => response,
            Err(fate) => {
                self.statistics.count(fate);
                None
            }
        }
    }

    fn examine(
        &mut self,
        datagram: &[u8],
        from: SocketAddr,
        (instant, time): (Instant, SystemTime),
    ) -> Result<Option<Vec<u8>>, Fate> {
        let source: IpAddr = from.ip().to_canonical();
        let client = self.settings.client(source).ok_or(Fate::UnknownClient)?;
        let packet = Packet::parse(datagram).ok_or(Fate::Malformed)?;
        let secrets = self.secrets[client].as_ref().ok_or(Fate::NoSecret)?;
        let is_status = packet.code() == STATUS_SERVER;
        if !is_status && packet.code() != ACCOUNTING_REQUEST {
            return Err(Fate::Malformed);
        }
        let secret = secrets.find(|secret| match is_status {
            true => packet.is_status_of(secret),
            false => packet.is_accounting_of(secret),
        });
        let secret = secret.ok_or(Fate::NotAuthentic)?;
        if !self.rates[client].allows() {
            return Err(Fate::Rate);
        }
        let response = packet.response(secret);
        if is_status {
            self.statistics.count(Fate::Other);
            return Ok(Some(response));
        }
        let id = (from, packet.identifier(), packet.authenticator());
        match self.repeats.seen(&id) {
            Some(Seen::Answered(response)) => {
                self.statistics.count(Fate::Repeated);
                return Ok(Some(response.to_vec()));
            }
            // Its answer comes.
            Some(Seen::Waiting) => {
                self.statistics.count(Fate::Repeated);
                return Ok(None);
            }
            None => {}
        }
        let arrival = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let arrival = i64::try_from(arrival).unwrap_or(i64::MAX);
        match accounting::read(&packet, source, arrival, &self.reading) {
            Err(_) => Err(Fate::Malformed),
            Ok(Request::Other) => {
                self.statistics.count(Fate::Other);
                Ok(Some(response))
            }
            Ok(Request::Report { event, refused }) => {
                let answer = Answer { id, response, since: instant, refused };
                self.queue.push(*event, answer).map_err(|_| Fate::Queue)?;
                self.repeats.wait(id);
                Ok(None)
            }
        }
    }

    /// Answers a request whose report has been dealt with.
    async fn finish(&mut self, socket: &UdpSocket, Done { answer, outcome }: Done) {
        let Answer { id, response, since, refused } = answer;
        let fate = match outcome {
            Some(Outcome::Recorded) => Fate::Recorded,
            Some(Outcome::Late) => Fate::Late,
            Some(Outcome::Full) => Fate::Full,
            None => Fate::Failed,
        };
        self.statistics.count(fate);
        if !matches!(fate, Fate::Recorded | Fate::Late) {
            // The client sends it again.
            self.repeats.forget(&id);
            return;
        }
        self.statistics.refuse(refused);
        send(socket, &response, id.0).await;
        self.statistics.time(since.elapsed());
        self.repeats.answered(id, response);
    }
}

/// A response that is lost is asked for again.
async fn send(socket: &UdpSocket, response: &[u8], to: SocketAddr) {
    let _ = socket.send_to(response, to).await;
}
