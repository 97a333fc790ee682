//! Postfix, several on one machine: each in its own namespace, out of its own directory.
//!
//! Nothing asks the DNS: where mail goes next is written down as literal addresses. Mail for the
//! server's own domains ends in a mailbox directory, and finding a message there is what the table
//! calls delivered.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader},
    net::{IpAddr, TcpStream},
    os::unix::fs::chown,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::unistd::User;

use crate::{
    netns::Netns,
    process::{self, Process, wait_until},
    workdir::ON_DEATH,
};

/// How long a start may take on a busy machine.
const READY: Duration = Duration::from_secs(90);

/// What one Postfix is for.
#[derive(Debug, Clone, Default)]
pub struct Role {
    /// Its own name, and the name it greets with.
    pub name: String,
    /// Domains whose mail ends here.
    pub domains: Vec<String>,
    /// Where other domains' mail goes.
    pub routes: Vec<Route>,
    /// Client networks that may send anywhere.
    pub clients: Vec<String>,
    /// Whether to listen for submission too: 587 with STARTTLS, 465 with TLS from the start.
    pub submission: Option<Certificate>,
}

/// The next hop of one recipient domain.
#[derive(Debug, Clone)]
pub struct Route {
    pub domain: String,
    pub next_hop: IpAddr,
    /// Gives up connecting after two seconds. For hops that a filter is expected to close: the default
    /// of 30 seconds would be spent in full.
    pub impatient: bool,
}

/// A self-signed certificate and its key.
#[derive(Debug, Clone)]
pub struct Certificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Certificate {
    pub fn self_signed(dir: &Path, name: &str) -> Result<Self> {
        let made = Self { certificate: dir.join("cert.pem"), key: dir.join("key.pem") };
        let mut openssl = std::process::Command::new("openssl");
        openssl
            .args(["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt"])
            .args(["ec_paramgen_curve:prime256v1", "-days", "2"])
            .args(["-subj", &format!("/CN={name}")])
            .arg("-keyout")
            .arg(&made.key)
            .arg("-out")
            .arg(&made.certificate);
        process::check(&mut openssl)?;
        Ok(made)
    }
}

/// A Postfix that is looking over its directories, which takes it a second or more: begin all, then finish all.
#[derive(Debug)]
pub struct Starting {
    check: Process,
    netns: Netns,
    dir: PathBuf,
    name: String,
}

impl Starting {
    pub fn begin(netns: &Netns, dir: &Path, role: &Role) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let layout = Layout { dir };
        layout.create()?;
        fs::write(layout.config().join("main.cf"), layout.main_cf(role))?;
        fs::write(layout.config().join("master.cf"), layout.master_cf(role))?;
        // Master changes its user, which makes the kernel forget that it should die with us.
        let stop = format!("postfix -c {} stop\n", layout.config().display());
        fs::write(dir.join(ON_DEATH), stop)?;

        let mut check = netns.command("postfix");
        check.arg("-c").arg(layout.config()).arg("check");
        let name = format!("postfix check for {}", role.name);
        let check = Process::spawn(&name, &mut check, &layout.output())?;
        Ok(Self { check, netns: netns.clone(), dir: dir.to_owned(), name: role.name.clone() })
    }

    /// Check and then master, as `postfix start-fg` does it. That would keep a shell between us and master:
    /// as our own child, master can be stopped and is reaped.
    pub fn finish(self) -> Result<Postfix> {
        let Self { mut check, netns, dir, name } = self;
        let layout = Layout { dir: &dir };
        check.wait_success(READY)?;
        let mut master = netns.command(daemon_directory()?.join("master"));
        master.arg("-c").arg(layout.config()).arg("-s");
        let mut process = Process::spawn(&name, &mut master, &layout.output())?;
        process
            .wait_ready(READY, || {
                // A greeting means that smtpd runs; an open port only that master does.
                netns.enter(|| {
                    let Ok(stream) = TcpStream::connect(("127.0.0.1", 25)) else {
                        return Ok(false);
                    };
                    stream.set_read_timeout(Some(READY))?;
                    let mut greeting = String::new();
                    BufReader::new(stream).read_line(&mut greeting)?;
                    Ok(greeting.starts_with("220"))
                })
            })
            .with_context(|| fs::read_to_string(layout.log()).unwrap_or_default())?;
        Ok(Postfix { process, netns, dir })
    }
}

/// A running Postfix.
#[derive(Debug)]
pub struct Postfix {
    process: Process,
    netns: Netns,
    dir: PathBuf,
}

impl Postfix {
    /// Waits for a message that contains `token` in the mailbox.
    pub fn receives(&self, token: &str, limit: Duration) -> Result<bool> {
        Ok(wait_until(limit, || Ok(self.has(token)?.then_some(())))?.is_some())
    }

    /// Whether a message that contains `token` is in the mailbox now.
    pub fn has(&self, token: &str) -> Result<bool> {
        let inbox = Layout { dir: &self.dir }.mail().join("inbox/new");
        let Ok(messages) = fs::read_dir(inbox) else {
            return Ok(false); // Postfix makes the mailbox with its first message.
        };
        for message in messages {
            // Bodies are our own text, headers are ASCII.
            if fs::read_to_string(message?.path())?.contains(token) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits until the log tells how an attempt to send the message with `token` ended.
    pub fn attempt(&self, token: &str, limit: Duration) -> Result<Attempt> {
        let found = wait_until(limit, || {
            let log = fs::read_to_string(Layout { dir: &self.dir }.log())?;
            Ok(find_attempt(&log, token))
        })?;
        match found {
            Some(attempt) => Ok(attempt),
            None => bail!("Postfix did not try to send {token} within {limit:?}"),
        }
    }

    /// Forgets all mail that waits, so that it is not sent once the way is free.
    pub fn purge(&self) -> Result<()> {
        let config = Layout { dir: &self.dir }.config();
        process::check(self.netns.command("postsuper").arg("-c").arg(config).args(["-d", "ALL"]))?;
        Ok(())
    }

    pub fn stop(&mut self) -> Result<()> {
        self.process.stop()?;
        Ok(())
    }
}

fn daemon_directory() -> Result<PathBuf> {
    let mut postconf = std::process::Command::new("postconf");
    Ok(process::check(postconf.args(["-dh", "daemon_directory"]))?.trim().into())
}

/// How Postfix says that an attempt to send went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    Sent,
    /// Kept for later, with the reason.
    Deferred(String),
}

/// Follows a token through the log: cleanup names it beside a queue id, smtp names the queue id
/// beside the outcome.
fn find_attempt(log: &str, token: &str) -> Option<Attempt> {
    let id = log.lines().find(|line| line.contains("cleanup") && line.contains(token))?;
    let id = id.split("]: ").nth(1)?.split(':').next()?;
    let line = log.lines().find(|line| line.contains(id) && line.contains("status="))?;
    let (status, reason) = line.split_once("status=")?.1.split_once(' ')?;
    Some(match status {
        "sent" => Attempt::Sent,
        _ => Attempt::Deferred(reason.trim_matches(['(', ')']).to_owned()),
    })
}

/// Where things are below one instance's directory.
struct Layout<'a> {
    dir: &'a Path,
}

impl Layout<'_> {
    fn config(&self) -> PathBuf {
        self.dir.join("etc")
    }

    fn queue(&self) -> PathBuf {
        self.dir.join("queue")
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn mail(&self) -> PathBuf {
        self.dir.join("mail")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("mail.log")
    }

    /// What Postfix says while it has no log yet.
    fn output(&self) -> PathBuf {
        self.dir.join("output")
    }

    fn create(&self) -> Result<()> {
        for dir in [self.config(), self.queue(), self.data(), self.mail()] {
            fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let postfix = User::from_name("postfix")?.context("there is no user postfix")?;
        chown(self.data(), Some(postfix.uid.as_raw()), None)?;
        chown(self.mail(), Some(MAILBOX_OWNER), Some(MAILBOX_OWNER))?;
        Ok(())
    }

    fn main_cf(&self, role: &Role) -> String {
        let mut routes = String::new();
        for Route { domain, next_hop, impatient } in &role.routes {
            let transport = if *impatient { "impatient" } else { "smtp" };
            let _ = write!(routes, " {{ {domain} = {transport}:[{next_hop}]:25 }}");
        }
        let transport_maps =
            if routes.is_empty() { String::new() } else { format!("inline:{{{routes} }}") };
        let tls = match &role.submission {
            None => String::new(),
            Some(Certificate { certificate, key }) => format!(
                "smtpd_tls_cert_file = {}\nsmtpd_tls_key_file = {}\nsmtpd_tls_security_level = may\n",
                certificate.display(),
                key.display()
            ),
        };
        format!(
            "\
compatibility_level = 3.6
myhostname = {name}
mydestination =
local_recipient_maps =
alias_maps =
queue_directory = {queue}
data_directory = {data}
maillog_file = {log}
maillog_file_prefixes = {dir}
inet_interfaces = all
inet_protocols = all
mynetworks = 127.0.0.0/8 [::1]/128 {clients}
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
virtual_mailbox_domains = {domains}
virtual_mailbox_base = {mail}
virtual_mailbox_maps = static:inbox/
virtual_uid_maps = static:{MAILBOX_OWNER}
virtual_gid_maps = static:{MAILBOX_OWNER}
transport_maps = {transport_maps}
smtp_connect_timeout = 10s
# One failed connection must not stop the next row from trying.
default_destination_concurrency_failed_cohort_limit = 0
# A kept connection would carry a later message past the SYN that the filter judges.
smtp_connection_cache_on_demand = no
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
in_flow_delay = 0
notify_classes =
{tls}",
            name = role.name,
            queue = self.queue().display(),
            data = self.data().display(),
            log = self.log().display(),
            dir = self.dir.display(),
            mail = self.mail().display(),
            clients = role.clients.join(" "),
            domains = role.domains.join(" "),
        )
    }

    /// Debian's services without chroot and without those that serve local users.
    fn master_cf(&self, role: &Role) -> String {
        let submission = match role.submission {
            None => "",
            Some(_) => {
                "\
submission inet  n - n - - smtpd
465       inet  n - n - - smtpd -o smtpd_tls_wrappermode=yes
"
            }
        };
        format!(
            "\
smtp      inet  n - n - - smtpd
{submission}\
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n - - proxymap
smtp      unix  - - n - - smtp
impatient unix  - - n - - smtp -o smtp_connect_timeout=2s
showq     unix  n - n - - showq
error     unix  - - n - - error
retry     unix  - - n - - error
virtual   unix  - n n - - virtual
anvil     unix  - - n - 1 anvil
postlog   unix-dgram n - n - 1 postlogd
"
        )
    }
}

/// nobody: virtual(8) refuses to write mailboxes as root or as postfix.
const MAILBOX_OWNER: u32 = 65534;

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
Nov 24 04:50:01 h postfix/smtpd[9]: 4B2: client=unknown[127.0.0.1]
Nov 24 04:50:01 h postfix/cleanup[8]: 4B2: message-id=<tok-1@example>
Nov 24 04:50:03 h postfix/impatient/smtp[7]: 4B2: to=<a@b>, relay=none, delay=2, \
dsn=4.4.1, status=deferred (connect to 192.0.2.25[192.0.2.25]:25: Connection timed out)
";

    #[test]
    fn a_deferred_message_is_found_by_its_token() {
        assert_eq!(
            find_attempt(LOG, "tok-1"),
            Some(Attempt::Deferred(
                "connect to 192.0.2.25[192.0.2.25]:25: Connection timed out".to_owned()
            ))
        );
        assert_eq!(find_attempt(LOG, "tok-2"), None);
    }
}
