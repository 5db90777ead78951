//! The open connections of a port. At the limit, a new one closes the one that has been idle for longest.
//!
//! A connection is idle from its start to its first request, and between requests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
pub struct Connections {
    limit: usize,
    open: Mutex<Open>,
    /// Wakes waiting connections when one has ended or become idle.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Open {
    /// All that have a descriptor.
    count: usize,
    /// Those that were closed for others and have not ended yet. At most one, so that no more are closed than needed.
    closing: usize,
    /// Those that are idle, by the order in which to close them.
    idle: BTreeMap<u64, CancellationToken>,
    last_turn: u64,
}

#[derive(Debug)]
pub struct Connection {
    all: Arc<Connections>,
    turn: AtomicU64,
    /// Cancelled when another connection needs the place.
    pub close: CancellationToken,
}

#[derive(Debug)]
pub struct Request<'a>(&'a Connection);

impl Connections {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            open: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Opens one more, once there is a place. If all connections have a request, that takes as long as a request.
    pub async fn open(self: &Arc<Self>) -> Connection {
        loop {
            if let Some(connection) = self.try_open() {
                return connection;
            }
            self.changed.notified().await;
        }
    }

    fn try_open(self: &Arc<Self>) -> Option<Connection> {
        let mut open = self.lock();
        if open.count == self.limit {
            open.close_longest_idle();
            return None;
        }
        open.count += 1;
        let close = CancellationToken::new();
        Some(Connection {
            all: self.clone(),
            turn: open.idle(close.clone()).into(),
            close,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock()
    }
}

impl Open {
    fn close_longest_idle(&mut self) {
        if self.closing == 0
            && let Some((_, close)) = self.idle.pop_first()
        {
            close.cancel();
            self.closing = 1;
        }
    }

    /// Queues a connection that has become idle.
    fn idle(&mut self, close: CancellationToken) -> u64 {
        self.last_turn += 1;
        self.idle.insert(self.last_turn, close);
        self.last_turn
    }
}

impl Connection {
    /// Starts a request. The connection is not idle until its answer.
    pub fn request(&self) -> Request<'_> {
        let turn = self.turn.load(Ordering::Relaxed);
        self.all.lock().idle.remove(&turn);
        Request(self)
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        let Connection { all, turn, close } = self.0;
        let mut open = all.lock();
        if !close.is_cancelled() {
            turn.store(open.idle(close.clone()), Ordering::Relaxed);
            all.changed.notify_one();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut open = self.all.lock();
        open.count -= 1;
        if self.close.is_cancelled() {
            open.closing = 0;
        } else {
            open.idle.remove(&self.turn.load(Ordering::Relaxed));
        }
        self.all.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn opened(connections: &Arc<Connections>) -> Option<Connection> {
        connections.open().now_or_never()
    }

    fn is_closed(connection: &Connection) -> bool {
        connection.close.is_cancelled()
    }

    #[test]
    fn at_the_limit_the_longest_idle_connection_makes_room() {
        let connections = Connections::new(3);
        let [first, second, third] = [(); 3].map(|()| opened(&connections).unwrap());
        // The first has just been used, so the second has been idle for longest.
        drop(first.request());
        // Asking twice still closes only one connection.
        assert!(opened(&connections).is_none() && opened(&connections).is_none());
        assert_eq!(
            [&first, &second, &third].map(is_closed),
            [false, true, false]
        );
        drop(second);
        let _fourth = opened(&connections).unwrap();
        assert!(opened(&connections).is_none());
        assert_eq!([&first, &third].map(is_closed), [false, true]);
    }

    #[test]
    fn a_connection_with_a_request_is_not_closed() {
        let connections = Connections::new(2);
        let [first, second] = [(); 2].map(|()| opened(&connections).unwrap());
        let of_first = first.request();
        let _of_second = second.request();
        assert!(opened(&connections).is_none());
        assert_eq!([&first, &second].map(is_closed), [false, false]);
        drop(of_first);
        assert!(opened(&connections).is_none());
        assert_eq!([&first, &second].map(is_closed), [true, false]);
        // A request that starts while its connection is being closed changes nothing.
        drop(first.request());
        drop(first);
        assert!(opened(&connections).is_some());
    }

    #[tokio::test]
    async fn whoever_waits_gets_room_when_a_connection_ends_or_becomes_idle() {
        for ends in [true, false] {
            let connections = Connections::new(1);
            let first = connections.open().await;
            let request = first.request();
            let next = tokio::spawn({
                let connections = connections.clone();
                async move { connections.open().await }
            });
            tokio::task::yield_now().await;
            assert!(!next.is_finished());
            drop(request);
            if !ends {
                first.close.cancelled().await;
            }
            drop(first);
            next.await.unwrap();
        }
    }
}
