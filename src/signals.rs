//! Signals: which ones stop the service, and which ones it ignores.

use std::io;

use futures_util::future::{FutureExt, select_all};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Whatever means "end": of a pod, a terminal, a session.
const STOP: [(SignalKind, &str); 4] = [
    (SignalKind::terminate(), "SIGTERM"),
    (SignalKind::interrupt(), "SIGINT"),
    (SignalKind::hangup(), "SIGHUP"),
    (SignalKind::quit(), "SIGQUIT"),
];

/// These would end the process with rows held, and mean nothing here.
const IGNORED: [SignalKind; 3] = [
    SignalKind::user_defined1(),
    SignalKind::user_defined2(),
    SignalKind::alarm(),
];

/// Cancelled by the first signal that stops the service. Later ones change nothing.
///
/// # Errors
/// If the system refuses to hand over a signal.
pub fn stop() -> io::Result<CancellationToken> {
    for kind in IGNORED {
        // The handler stays in place of the system's, although nobody waits for it.
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
