//! Signals: which ones stop the service, and which ones it ignores.

use std::io;

use futures_util::future::{FutureExt, select_all};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Every signal that means "end": of a pod, a terminal or a session.
const STOP: [(SignalKind, &str); 4] = [
    (SignalKind::terminate(), "SIGTERM"),
    (SignalKind::interrupt(), "SIGINT"),
    (SignalKind::hangup(), "SIGHUP"),
    (SignalKind::quit(), "SIGQUIT"),
];

/// These have no meaning for the service, and would end the process with rows held.
const IGNORED: [SignalKind; 8] = [
    SignalKind::user_defined1(),
    SignalKind::user_defined2(),
    SignalKind::alarm(),
    SignalKind::io(),
    SignalKind::from_raw(24), // SIGXCPU
    SignalKind::from_raw(25), // SIGXFSZ: the log's file has reached its limit
    SignalKind::from_raw(26), // SIGVTALRM
    SignalKind::from_raw(27), // SIGPROF
];

/// The token is cancelled by the first signal that stops the service. Later signals change nothing.
pub fn stop() -> io::Result<CancellationToken> {
    for kind in IGNORED {
        // The handler replaces the system's even if no one waits for it.
        drop(signal(kind)?);
    }
    let mut signals = Vec::new();
    for (kind, name) in STOP {
        let mut signal = signal(kind)?;
        signals.push(async move { signal.recv().await.map(|()| name) }.boxed());
    }
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        let (signal, ..) = select_all(signals).await;
        tracing::info!(signal, "stopping");
        stopped.cancel();
    });
    Ok(stop)
}
