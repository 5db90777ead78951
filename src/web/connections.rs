//! The open connections of a port. At the limit, a new one closes the one that has been idle for longest.
//!
//! A connection is idle from its start to its first request, and between requests.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
pub struct Connections {
    /// The connections that can still be opened.
    room: Arc<Semaphore>,
    idle: Mutex<Idle>,
    /// Wakes a new connection that waits for one to close.
    became_idle: Notify,
}

/// The idle connections, in the order in which to close them.
#[derive(Debug, Default)]
struct Idle {
    by_turn: BTreeMap<u64, CancellationToken>,
    last_turn: u64,
}

#[derive(Debug)]
pub struct Connection {
    all: Arc<Connections>,
    turn: AtomicU64,
    /// Cancelled when another connection needs its room.
    pub close: CancellationToken,
    /// Always there, since the semaphore is never closed.
    _room: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
pub struct Request<'a>(&'a Connection);

impl Connections {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            room: Arc::new(Semaphore::new(limit)),
            idle: Mutex::default(),
            became_idle: Notify::new(),
        })
    }

    /// Opens one more, once there is room. If every connection has a request, that takes until one ends.
    pub async fn open(self: &Arc<Self>) -> Connection {
        let mut room = pin!(self.room.clone().acquire_owned());
        let room = tokio::select! {
            biased;
            room = &mut room => room,
            () = self.close_longest_idle() => room.await,
        };
        let close = CancellationToken::new();
        Connection {
            all: self.clone(),
            turn: self.idle.lock().add(close.clone()).into(),
            close,
            _room: room.ok(),
        }
    }

    /// Closes one connection, once there is an idle one. Its room is free when it has ended.
    async fn close_longest_idle(&self) {
        loop {
            if let Some((_, close)) = self.idle.lock().by_turn.pop_first() {
                return close.cancel();
            }
            self.became_idle.notified().await;
        }
    }
}

impl Idle {
    fn add(&mut self, close: CancellationToken) -> u64 {
        self.last_turn += 1;
        self.by_turn.insert(self.last_turn, close);
        self.last_turn
    }
}

impl Connection {
    /// Starts a request. The connection is not idle until its answer.
    pub fn request(&self) -> Request<'_> {
        self.leave_idle();
        Request(self)
    }

    fn leave_idle(&self) {
        let turn = self.turn.load(Ordering::Relaxed);
        self.all.idle.lock().by_turn.remove(&turn);
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        let Connection {
            all, turn, close, ..
        } = self.0;
        let mut idle = all.idle.lock();
        if !close.is_cancelled() {
            turn.store(idle.add(close.clone()), Ordering::Relaxed);
            all.became_idle.notify_one();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.leave_idle();
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
        let mut fourth = pin!(connections.open());
        // Waiting still closes only one connection.
        for _ in 0..2 {
            assert!(fourth.as_mut().now_or_never().is_none());
        }
        assert_eq!(
            [&first, &second, &third].map(is_closed),
            [false, true, false]
        );
        drop(second);
        let _fourth = fourth.now_or_never().unwrap();
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
