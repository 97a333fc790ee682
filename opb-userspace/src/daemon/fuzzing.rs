//! Both listeners without an enforcer, for `fuzz/`. Requests are read, routed and answered as in a
//! daemon whose enforcer has died.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::Router;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
    runtime::Runtime,
    sync::watch,
};

use super::{
    app, control,
    health::{Board, Fault, Feeds},
    http,
    other_rules::OtherRulesReader,
    peer::Peer,
    reader::Reader,
    serve::{self, Caller},
    worker::Worker,
};
use crate::api::entries::Who;
use crate::{
    node::Observe,
    telemetry::{Telemetry, privacy::Privacy},
};

/// The answer of the read-only listener to `bytes`.
pub fn http(bytes: &[u8]) -> Vec<u8> {
    let caller = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    answer(bytes, caller, || http::app(Worker::dead(), board(), Vec::new()))
}

/// The answer of the control socket to `bytes`.
pub fn control(bytes: &[u8]) -> Vec<u8> {
    let caller = Peer::named(Who { uid: 0, pid: None, user: Some("root".to_owned()) });
    answer(bytes, caller, || control::router(Worker::dead(), board()))
}

fn board() -> Board {
    let telemetry = Arc::new(Telemetry::new(&Observe::default(), Privacy::None, Vec::new()));
    // So that no request waits for events.
    telemetry.close();
    Board {
        status: watch::channel(None).1,
        telemetry,
        enforcer: Worker::<()>::dead().pulse().clone(),
        feeds: Feeds::new(),
        reader: Reader::new("/nonexistent/opb.yaml".into()),
        http: Fault::default(),
        refused: Arc::default(),
        other_rules: OtherRulesReader::new(),
        radius: super::radius::Feed::default(),
    }
}

fn answer(bytes: &[u8], caller: impl Caller, app: impl FnOnce() -> Router) -> Vec<u8> {
    thread_local! {
        static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
    }
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let (mut near, far) = duplex(1 << 20);
            let served = serve::one(far, app::LIMITS, caller, app());
            let asked = async {
                // The server may hang up before all is sent.
                let _ = near.write_all(bytes).await;
                let _ = near.shutdown().await;
                let mut answer = Vec::new();
                let _ = near.read_to_end(&mut answer).await;
                answer
            };
            tokio::join!(served, asked).1
        })
    })
}
