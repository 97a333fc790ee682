//! The read-only listener: metrics, health, and the status page. docs/status-page.md describes
//! them.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Query as Parameters, Request, State},
    http::{HeaderMap, HeaderName, StatusCode, header},
    middleware::{Next, from_fn_with_state, map_response},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use hyper::body::Bytes;
use nix::unistd::gethostname;
use tokio::{net::TcpListener, sync::watch, time::sleep};
use tracing::{info, warn};

use super::{
    enforcer::Enforcer,
    form::{Form, FormError},
    health::Board,
    i18n::Texts,
    limits::{Limits, RefusedRequests},
    page::{self, PageResult},
    serve::{self, Caller, Crowd, Rate},
    worker::Worker,
};
use crate::api::status::State as Health;
use crate::{api::explain::Query, explain::QueryError, telemetry::metrics};

/// The pause before the next attempt to bind an address that is in use.
const RETRY: Duration = Duration::from_secs(1);

/// Only content of this listener, and nothing inline.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
                      img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

#[derive(Clone)]
struct App {
    enforcer: Worker<Enforcer>,
    board: Board,
    explained: Arc<Rate>,
    health: Arc<Fresh<(StatusCode, Bytes)>>,
    metrics: Arc<Fresh<Result<Bytes, (StatusCode, String)>>>,
}

/// A cached response, made at most once in [`Fresh::FOR`].
struct Fresh<T>(Mutex<Option<(Instant, T)>>);

impl<T> Default for Fresh<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone> Fresh<T> {
    const FOR: Duration = Duration::from_millis(100);

    fn get(&self, make: impl FnOnce() -> T) -> T {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some((made, answer)) if made.elapsed() < Self::FOR => answer.clone(),
            _ => kept.insert((Instant::now(), make())).1.clone(),
        }
    }
}

const LIMITS: Limits = Limits {
    name: "http",
    connections: 256,
    of_one: 64,
    reserve: 0,
    head: 16 << 10,
    head_time: Duration::from_secs(10),
    body_time: Duration::from_secs(10),
    request: Duration::from_secs(10),
    stall: Duration::from_secs(10),
};
/// Requests for the page per second, and in a burst. A page sends three every few seconds.
const ASKED: (u32, u32) = (100, 200);
/// Explanations per second, and in a burst.
const EXPLAINED: (u32, u32) = (20, 40);

/// A client, by address.
impl Caller for SocketAddr {
    fn crowd(&self) -> Option<Crowd> {
        Some(Crowd::at(self.ip()))
    }

    async fn identify(self) -> Self {
        self
    }
}

/// Listens at `address`, if there is one, as long as the process lives. While the address is in
/// use, the daemon filters, and tries again every second.
pub(super) fn start(
    address: Option<SocketAddr>,
    names: Vec<String>,
    enforcer: Worker<Enforcer>,
    board: Board,
) {
    let Some(address) = address else { return };
    let (refused, fault) = (Arc::clone(&board.refused), board.http.clone());
    let app = app(enforcer, board, names);
    tokio::spawn(async move {
        let listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(error) => {
                    let text = format!(
                        "metrics and status page cannot be served at {address}: {error}; \
                         another program may answer there"
                    );
                    if fault.set(Some(text.clone())) {
                        warn!("{text}");
                    }
                }
            }
            sleep(RETRY).await;
        };
        fault.set(None);
        info!("metrics and status page at http://{address}/");
        let caller = |_: &_, address: &SocketAddr| *address;
        // The listener only reads: the daemon does not wait for its end.
        let (_never, stop) = watch::channel(false);
        serve::serve(listener, LIMITS.within_descriptors(), refused, caller, app, stop).await;
    });
}

pub(super) fn app(enforcer: Worker<Enforcer>, board: Board, names: Vec<String>) -> Router {
    let asked = Asked { rate: Rate::new(ASKED.0, ASKED.1), refused: Arc::clone(&board.refused) };
    let explained = Arc::new(Rate::new(EXPLAINED.0, EXPLAINED.1));
    let app = App { enforcer, board, explained, health: Arc::default(), metrics: Arc::default() };
    let page = Router::new()
        .route("/", get(show))
        .route("/live", get(live))
        .route("/favicon.ico", get(async || StatusCode::NO_CONTENT))
        .route("/style.css", get(async || asset("text/css", include_str!("page/style.css"))))
        .route("/page.js", get(async || asset("text/javascript", include_str!("page/page.js"))))
        .layer(from_fn_with_state(Arc::new(asked), not_too_often));
    // Without a rate limit: any local user could exhaust it and blind the monitoring.
    let watched = Router::new().route("/metrics", get(show_metrics)).route("/healthz", get(health));
    page.merge(watched)
        .layer(from_fn_with_state(Arc::new(Names::new(names)), only_by_name))
        .layer(map_response(protect))
        .with_state(app)
}

/// The rate limit for all clients together.
struct Asked {
    rate: Rate,
    refused: Arc<RefusedRequests>,
}

async fn not_too_often(State(asked): State<Arc<Asked>>, request: Request, next: Next) -> Response {
    if asked.rate.allows() {
        return next.run(request).await;
    }
    asked.refused.count(LIMITS.name, "rate");
    (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "1")]).into_response()
}

/// The accepted host names. A web page elsewhere can make its own name resolve to our address and
/// have a browser inside the network read our answers (DNS rebinding). Such a browser sends that
/// name.
struct Names(Vec<String>);

impl Names {
    /// `names`, `localhost`, and the name of the machine.
    fn new(mut names: Vec<String>) -> Self {
        names.push("localhost".to_owned());
        names.extend(gethostname().ok().and_then(|name| name.into_string().ok()));
        Self(names)
    }

    /// `host` is the value of the header: a name or an address, with or without a port.
    fn allow(&self, host: &str) -> bool {
        let bare = match host.rsplit_once(':') {
            Some((bare, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => bare,
            _ => host,
        };
        let address = bare.trim_start_matches('[').trim_end_matches(']');
        let name = bare.trim_end_matches('.');
        address.parse::<IpAddr>().is_ok() || self.0.iter().any(|it| it.eq_ignore_ascii_case(name))
    }
}

async fn only_by_name(State(names): State<Arc<Names>>, request: Request, next: Next) -> Response {
    // Browsers always send it.
    let Some(host) = request.headers().get(header::HOST) else { return next.run(request).await };
    let host = String::from_utf8_lossy(host.as_bytes());
    if names.allow(&host) {
        return next.run(request).await;
    }
    let text = format!("unknown host name {host:?}: list it under `http-names` in the node file\n");
    (StatusCode::MISDIRECTED_REQUEST, text).into_response()
}

/// Adds the security headers to every response.
async fn protect(mut response: Response) -> Response {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, header::HeaderValue::from_static(value));
    }
    response
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, format!("{kind}; charset=utf-8"))], text).into_response()
}

async fn show_metrics(State(app): State<App>) -> Response {
    let render = || {
        let status = app.board.status();
        let status = status.ok_or((StatusCode::SERVICE_UNAVAILABLE, String::new()))?;
        metrics::render(&status, &app.board.totals())
            .map(Bytes::from)
            .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
    };
    let text = app.metrics.get(render);
    text.map(|text| ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text)).into_response()
}

/// 200 while the state is `enforcing`, otherwise 503 with the problems.
async fn health(State(app): State<App>) -> Response {
    let render = || match app.board.status() {
        Some(status) if matches!(status.state, Health::Enforcing) => {
            (StatusCode::OK, Bytes::from_static(b"enforcing\n"))
        }
        Some(status) => {
            let problems: String =
                status.problems.iter().map(|problem| format!("{problem}\n")).collect();
            let text = format!("degraded\n{problems}");
            (StatusCode::SERVICE_UNAVAILABLE, text.into())
        }
        None => (StatusCode::SERVICE_UNAVAILABLE, Bytes::from_static(b"starting\n")),
    };
    let (status, text) = app.health.get(render);
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

async fn show(
    State(app): State<App>,
    headers: HeaderMap,
    Parameters(form): Parameters<Form>,
) -> Response {
    let texts = texts(&form, &headers);
    let answer = if form.src.is_empty() && form.dst.is_empty() {
        PageResult::Unasked
    } else {
        match form.query() {
            Err(error) => PageResult::Invalid(error),
            Ok(_) if !app.explained.allows() => {
                app.board.refused.count(LIMITS.name, "rate");
                let text =
                    format!("too many requests: at most {} explanations per second\n", EXPLAINED.0);
                let wait = [(header::RETRY_AFTER, "1")];
                return (StatusCode::TOO_MANY_REQUESTS, wait, text).into_response();
            }
            Ok(query) => explained(&app, query).await,
        }
    };
    let question = page::Question { src: &form.src, dst: &form.dst, dport: &form.dport };
    let status = app.board.status();
    let page = page::whole(texts, status.as_ref(), &app.board.telemetry, &question, &answer);
    Html(page.into_string()).into_response()
}

async fn explained(app: &App, query: Query) -> PageResult {
    let packet = query.clone();
    match app.enforcer.request(move |it| it.explain(&packet)).await {
        Ok(Ok(mut explanation)) => {
            app.board.other_rules.complete(&query, &mut explanation).await;
            PageResult::Explained(Box::new(explanation))
        }
        Ok(Err(QueryError::MixedFamilies(..))) => PageResult::Invalid(FormError::Families),
        Ok(Err(error)) => PageResult::Failed(error),
        Err(_) => PageResult::Unavailable,
    }
}

/// The part of the page that its script refreshes.
async fn live(
    State(app): State<App>,
    headers: HeaderMap,
    Parameters(form): Parameters<Form>,
) -> Response {
    let status = app.board.status();
    let part = page::live(texts(&form, &headers), status.as_ref(), &app.board.telemetry);
    Html(part.into_string()).into_response()
}

/// The texts in the requested language, or in that of the browser.
fn texts(form: &Form, headers: &HeaderMap) -> &'static Texts {
    let accepts = headers.get(header::ACCEPT_LANGUAGE).and_then(|it| it.to_str().ok());
    match (form.lang.as_str(), accepts) {
        ("ja", _) => &Texts::JAPANESE,
        ("en", _) => &Texts::ENGLISH,
        (_, Some(accepts)) if accepts.trim_start().starts_with("ja") => &Texts::JAPANESE,
        _ => &Texts::ENGLISH,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_says_which_field_is_wrong() {
        let form = |[src, dst, dport]: [&str; 3]| {
            let [src, dst, dport] = [src, dst, dport].map(str::to_owned);
            Form { src, dst, dport, ..Form::default() }.query().err()
        };
        for (fields, expected) in [
            ([" 203.0.113.7 ", "198.51.100.25", ""], None),
            (["203.0.113.7", "198.51.100.25", " 587 "], None),
            (["203.0.113", "198.51.100.25", "25"], Some(FormError::Source)),
            (["203.0.113.7", "mx.example.net", "25"], Some(FormError::Destination)),
            (["203.0.113.7", "", "25"], Some(FormError::Destination)),
            (["203.0.113.7", "198.51.100.25", "smtp"], Some(FormError::Port)),
            (["203.0.113.7", "198.51.100.25", "65536"], Some(FormError::Port)),
        ] {
            assert_eq!(form(fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn only_addresses_and_known_names_are_answered() {
        let names = Names::new(vec!["noc.example.net".to_owned()]);
        for host in ["127.0.0.1:9625", "192.0.2.1", "[::1]:9625", "[2001:db8::1]", "localhost:9625"]
        {
            assert!(names.allow(host), "{host}");
        }
        assert!(names.allow("NOC.example.net.:9625"));
        for host in ["evil.example:9625", "127.0.0.1.evil.example", "localhost.evil.example", ""] {
            assert!(!names.allow(host), "{host}");
        }
    }

    /// One of our names with a prefix or a suffix is another name.
    #[test]
    fn a_name_that_only_ends_or_begins_like_ours_is_refused() {
        let names = Names::new(vec!["noc.example.net".to_owned()]);
        for host in [
            "evilnoc.example.net",
            "evil.noc.example.net",
            "noc.example.net.evil.example",
            "noc.example.ne",
            "evil-localhost:9625",
            "sub.localhost",
        ] {
            assert!(!names.allow(host), "{host}");
        }
    }

    #[test]
    fn an_answer_is_cached_for_a_while() {
        let (kept, mut made) = (Fresh::default(), 0);
        let mut get = || {
            kept.get(|| {
                made += 1;
                made
            })
        };
        assert_eq!([get(), get(), get()], [1; 3]);
        std::thread::sleep(Fresh::<i32>::FOR);
        assert_eq!([get(), get()], [2; 2]);
    }

    #[test]
    fn every_answer_forbids_caching_and_guessing() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let answer = runtime.block_on(protect(StatusCode::SERVICE_UNAVAILABLE.into_response()));
        for (name, value) in [
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.headers()[name], value, "{name}");
        }
        let policy = answer.headers()["content-security-policy"].to_str().expect("text");
        assert!(policy.starts_with("default-src 'none';"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
    }
}
