//! Everything on the foreign side that is not mail transfer: the web, and mailbox protocols.

use std::{
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    mta::Certificate,
    netns::Netns,
    process::{self, Process},
    release,
};

/// A mailbox protocol's port, its greeting, and how a client says good-bye.
struct Mailbox {
    port: u16,
    greeting: &'static str,
    quit: &'static str,
    farewell: &'static str,
}

const fn pop3(port: u16) -> Mailbox {
    Mailbox { port, greeting: "+OK ready", quit: "QUIT", farewell: "+OK bye" }
}

const fn imap(port: u16) -> Mailbox {
    Mailbox { port, greeting: "* OK ready", quit: "a LOGOUT", farewell: "* BYE" }
}

const MAILBOXES: [Mailbox; 4] = [pop3(110), imap(143), imap(993), pop3(995)];

/// A host with web servers on 80 and 443 and with listeners on the POP3 and IMAP ports.
#[derive(Debug)]
pub struct WebHost {
    programs: Vec<Process>,
    _listeners: Vec<Listener>,
}

impl WebHost {
    pub fn start(netns: &Netns, dir: &Path, certificate: &Certificate) -> Result<Self> {
        let mut http = netns.command("python3");
        http.args(["-m", "http.server", "80", "--bind", "::", "--directory"]).arg(dir);
        let mut programs = vec![Process::spawn("http.server", &mut http, &dir.join("http.log"))?];
        for family in ["-4", "-6"] {
            let mut https = netns.command("openssl");
            https
                .args(["s_server", "-www", family, "-accept", "443", "-cert"])
                .arg(&certificate.certificate)
                .arg("-key")
                .arg(&certificate.key);
            let log = dir.join(format!("https{family}.log"));
            programs.push(Process::spawn("openssl s_server", &mut https, &log)?);
        }
        let listeners = MAILBOXES
            .iter()
            .map(|mailbox| Listener::start(netns, mailbox))
            .collect::<Result<_>>()?;
        let mut host = Self { programs, _listeners: listeners };
        for (program, at) in
            host.programs.iter_mut().zip(["[::1]:80", "127.0.0.1:443", "[::1]:443"])
        {
            let at: SocketAddr = at.parse()?;
            program.wait_ready(release::patience(10)?, || {
                netns.enter(|| Ok(TcpStream::connect(at).is_ok()))
            })?;
        }
        Ok(host)
    }

    pub fn stop(&mut self) -> Result<()> {
        for program in &mut self.programs {
            program.stop()?;
        }
        Ok(())
    }
}

/// Uses every service from `client`: a page by HTTP, one by HTTPS, a banner exchange on each mailbox port.
pub fn browse(client: &Netns, host: IpAddr, limit: Duration) -> Result<()> {
    let literal = match host {
        IpAddr::V4(host) => host.to_string(),
        IpAddr::V6(host) => format!("[{host}]"),
    };
    for scheme in ["http", "https"] {
        process::check(
            client
                .command("curl")
                .args(["--silent", "--show-error", "--fail", "--insecure", "--globoff"])
                .args(["--noproxy", "*", "--output", "/dev/null"])
                .args(["--max-time", &limit.as_secs().to_string()])
                .arg(format!("{scheme}://{literal}/")),
        )?;
    }
    for Mailbox { port, greeting, quit, farewell } in MAILBOXES {
        let stream = connect(client, SocketAddr::new(host, port), limit)?;
        let mut session = BufReader::new(stream);
        expect_line(&mut session, greeting).with_context(|| format!("on port {port}"))?;
        session.get_mut().write_all(format!("{quit}\r\n").as_bytes())?;
        expect_line(&mut session, farewell).with_context(|| format!("on port {port}"))?;
    }
    Ok(())
}

/// A connection out of `client`, with the same limit on every later read and write.
pub fn connect(client: &Netns, to: SocketAddr, limit: Duration) -> Result<TcpStream> {
    client.enter(|| {
        let stream = TcpStream::connect_timeout(&to, limit)
            .with_context(|| format!("cannot connect to {to}"))?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        Ok(stream)
    })
}

fn expect_line(session: &mut BufReader<TcpStream>, start: &str) -> Result<()> {
    let mut line = String::new();
    session.read_line(&mut line)?;
    if !line.starts_with(start) {
        bail!("expected {start:?}, got {line:?}");
    }
    Ok(())
}

/// Serves one mailbox port until it is dropped.
#[derive(Debug)]
struct Listener {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    fn start(
        netns: &Netns,
        &Mailbox { port, greeting, farewell, .. }: &'static Mailbox,
    ) -> Result<Self> {
        let listener = netns.enter(|| Ok(TcpListener::bind(("::", port))?))?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    // A client that goes away early is the client's business.
                    Ok((stream, _)) => drop(serve(stream, greeting, farewell)),
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(stream: TcpStream, greeting: &str, farewell: &str) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut session = BufReader::new(stream);
    session.get_mut().write_all(format!("{greeting}\r\n").as_bytes())?;
    session.read_line(&mut String::new())?;
    session.get_mut().write_all(format!("{farewell}\r\n").as_bytes())?;
    Ok(())
}
