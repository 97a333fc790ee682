//! Posts suspects to a webhook, over http or https.

use std::{fmt, io, path::Path, sync::Arc};

use http_body_util::Full;
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
    rt::{Read, Write},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    task::{JoinSet, spawn_blocking},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{
            CertificateDer, InvalidDnsNameError, ServerName,
            pem::{self, PemObject as _},
        },
    },
};
use tracing::warn;

use crate::{errors::one_line, files, node::Webhook};

/// The most bytes of a `ca-file`. The list of all public authorities takes a quarter of that.
const CA_FILE: u64 = 1_000_000;

/// A webhook and the certificates that it is verified with.
pub(super) struct Client {
    webhook: Webhook,
    tls: Tls,
}

enum Tls {
    /// The URL starts with `http://`.
    Off,
    Ready(TlsConnector),
    /// Why certificates cannot be verified. Nothing is sent then.
    Failed(String),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("TLS: {0}")]
    Trust(String),
    #[error(transparent)]
    Name(#[from] InvalidDnsNameError),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error(transparent)]
    Request(#[from] hyper::http::Error),
    #[error("the answer is {0}")]
    Refused(StatusCode),
}

/// Why the trusted certificates cannot be read.
#[derive(Debug, thiserror::Error)]
enum TrustError {
    #[error("`ca-file`")]
    File(#[from] files::Error),
    #[error("`ca-file`")]
    Pem(#[from] pem::Error),
    #[error("`ca-file` has no certificate in PEM form")]
    Empty,
    #[error("`ca-file`")]
    Certificate(#[source] rustls::Error),
    #[error("this system has no root certificates: install `ca-certificates` or set `ca-file`")]
    NoRoots,
    #[error(transparent)]
    Rustls(rustls::Error),
}

impl Client {
    /// Reads the trusted certificates, if the webhook needs any. If they cannot be read, the daemon
    /// runs without this webhook: each post fails.
    pub(super) async fn open(webhook: Webhook) -> Self {
        if !webhook.is_https() {
            return Self { webhook, tls: Tls::Off };
        }
        let ca_file = webhook.ca_file.clone();
        // Files may be on a disk that hangs.
        let tls = match spawn_blocking(move || trust(ca_file.as_deref())).await {
            Ok(Ok(config)) => Tls::Ready(TlsConnector::from(Arc::new(config))),
            Ok(Err(error)) => Tls::Failed(one_line(&error)),
            Err(error) => Tls::Failed(one_line(&error)),
        };
        if let Tls::Failed(error) = &tls {
            warn!("{webhook} cannot be reached: {error}");
        }
        Self { webhook, tls }
    }

    /// Sends JSON, and waits for a status of 2xx. Redirects are failures. Opens a connection for
    /// each post: suspects are rare.
    pub(super) async fn post(&self, body: Vec<u8>) -> Result<(), Error> {
        let Self { webhook, tls } = self;
        let request = Request::post(webhook.path())
            .header(HOST, webhook.authority())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let connect = || TcpStream::connect((webhook.host(), webhook.port()));
        match tls {
            Tls::Off => exchange(connect().await?, request).await,
            Tls::Failed(error) => Err(Error::Trust(error.clone())),
            Tls::Ready(connector) => {
                let name = ServerName::try_from(webhook.host().to_owned())?;
                let stream = connector.connect(name, connect().await?).await.map_err(Error::Tls)?;
                exchange(stream, request).await
            }
        }
    }
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<(), Error>
where
    S: Send + Unpin + 'static,
    TokioIo<S>: Read + Write,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Dropped with this function, which ends the connection.
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let answer = sender.send_request(request).await?;
    if answer.status().is_success() { Ok(()) } else { Err(Error::Refused(answer.status())) }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.webhook.fmt(f)
    }
}

/// Trusts the authorities of the system, and those of `ca_file` as well.
fn trust(ca_file: Option<&Path>) -> Result<ClientConfig, TrustError> {
    let mut roots = RootCertStore::empty();
    // Some systems have certificates that rustls cannot parse; those are skipped.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(&files::read(path, CA_FILE)?) {
            roots.add(certificate?).map_err(TrustError::Certificate)?;
        }
        if roots.len() == before {
            return Err(TrustError::Empty);
        }
    }
    if roots.is_empty() {
        return Err(TrustError::NoRoots);
    }
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TrustError::Rustls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_invalid_ca_file_is_refused_with_its_cause() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ca.pem");
        let refusal = || trust(Some(&path)).map(drop).map_err(|error| one_line(&error));
        assert_eq!(refusal(), Err("`ca-file`: no such file or directory".to_owned()));
        fs::write(&path, "no PEM\n").expect("writes");
        assert_eq!(refusal(), Err("`ca-file` has no certificate in PEM form".to_owned()));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        fs::write(&path, broken).expect("writes");
        assert!(refusal().is_err_and(|error| error.starts_with("`ca-file`: ")));
        fs::write(&path, &broken[..40]).expect("writes");
        assert!(refusal().is_err_and(|error| error.starts_with("`ca-file`")));
        fs::write(&path, vec![b'#'; 1_000_001]).expect("writes");
        assert!(refusal().is_err_and(|error| error.contains("is larger than")));
    }
}
