//! Serves a router on a port. Callers that misbehave can exhaust neither descriptors nor memory, and cannot delay
//! probes.
//!
//! It speaks HTTP/1.1 only. hyper itself answers requests that are not HTTP (400, 414, 431), without security headers,
//! and has no hook for that.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt::set_ipv6_v6only;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connections::{Connection, Connections};

/// The limits of one port.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections open at once. The next one closes the connection that has been idle the longest.
    pub connections: usize,
    /// The time for a request's header, from the connection's start or the answer before. So it also limits how long a
    /// connection may be idle.
    pub header_timeout: Duration,
    /// The longest life of a connection, even one in use. After it, the current answer has `header_timeout` to end.
    pub lifetime: Duration,
    /// The bytes of a request's header, and the bytes that wait for the network in each direction.
    pub buffer: usize,
}

impl Limits {
    /// The limits of each port. Two ports together leave half of the descriptors to the poller.
    pub fn within_descriptor_limit() -> Self {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let share = usize::try_from(descriptors / 4).unwrap_or(usize::MAX);
        Self {
            connections: share.clamp(1, 256),
            header_timeout: Duration::from_secs(10),
            lifetime: Duration::from_mins(5),
            buffer: 16 * 1024,
        }
    }
}

/// Raises the limit of open files to what the system allows.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(
            %error,
            "the limit of open files cannot be raised: the service keeps fewer connections open. \
             Raise the limit of the container"
        );
    }
}

/// Listens on a port for IPv6 and IPv4, or for IPv4 only on a machine without IPv6.
pub fn listen(port: u16) -> io::Result<TcpListener> {
    let both = listen_on((Ipv6Addr::UNSPECIFIED, port).into());
    match both {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            listen_on((Ipv4Addr::UNSPECIFIED, port).into())
        }
        both => both,
    }
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv6() {
        let socket = TcpSocket::new_v6()?;
        set_ipv6_v6only(&socket, false)?;
        socket
    } else {
        TcpSocket::new_v4()?
    };
    // The port of a process that has stopped can be reused at once.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

/// Serves until `stop`. It then ends each connection after its current answer.
pub async fn serve(
    mut listener: TcpListener,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) {
    let connections = Connections::new(limits.connections);
    let tasks = TaskTracker::new();
    let service = TowerToHyperService::new(router);
    let accepting = async {
        loop {
            let (stream, _) = Listener::accept(&mut listener).await;
            let connection = connections.open().await;
            let service = service.clone();
            tasks.spawn(answer(
                stream,
                service,
                connection,
                limits.clone(),
                stop.clone(),
            ));
        }
    };
    tokio::select! {
        () = accepting => {}
        () = stop.cancelled() => {}
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// Answers the requests of one connection until it ends. How it ends matters only to the other side, so errors are
/// ignored.
async fn answer(
    stream: TcpStream,
    service: TowerToHyperService<Router>,
    connection: Connection,
    limits: Limits,
    stop: CancellationToken,
) {
    let service = service_fn(|request| {
        let under_way = connection.request();
        let answer = service.call(request);
        async {
            let answer = answer.await;
            drop(under_way);
            answer
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.buffer)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = pin!(serving);
    let until_the_end = async {
        tokio::select! {
            _ = serving.as_mut() => return,
            _ = timeout(limits.lifetime, stop.cancelled()) => {}
        }
        serving.as_mut().graceful_shutdown();
        let _ = timeout(limits.header_timeout, serving).await;
    };
    connection.close.run_until_cancelled(until_the_end).await;
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use axum::body::Body;
    use axum::routing::get;
    use futures_util::StreamExt;
    use futures_util::stream::{once, pending};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinHandle;

    use super::*;

    const LIMITS: Limits = Limits {
        connections: 4,
        header_timeout: Duration::from_secs(10),
        lifetime: Duration::from_mins(5),
        buffer: 16 * 1024,
    };
    const PATIENCE: Duration = Duration::from_secs(5);
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n";

    struct Server {
        port: u16,
        stop: CancellationToken,
        serving: JoinHandle<()>,
    }

    fn start(limits: Limits) -> Server {
        let listener = listen(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        let endless =
            async || Body::from_stream(once(ready(Ok::<_, io::Error>("first"))).chain(pending()));
        let router = Router::new()
            .route("/", get(async || "hello"))
            .route("/endless", get(endless));
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, router, limits, stop.clone()));
        Server {
            port,
            stop,
            serving,
        }
    }

    async fn connect(server: &Server) -> TcpStream {
        let address = (Ipv4Addr::LOCALHOST, server.port);
        TcpStream::connect(address).await.unwrap()
    }

    /// What arrives until the server closes the connection.
    async fn rest(mut stream: TcpStream) -> String {
        let mut bytes = Vec::new();
        let read = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
        // A connection that is closed with unread bytes is reset.
        let _ = read.expect("the server closes the connection");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    async fn sent(server: &Server, bytes: &[u8]) -> TcpStream {
        let mut stream = connect(server).await;
        stream.write_all(bytes).await.unwrap();
        stream
    }

    async fn is_answered(stream: &mut TcpStream) -> bool {
        let mut status = [0; 15];
        stream.read_exact(&mut status).await.unwrap();
        status == *b"HTTP/1.1 200 OK"
    }

    #[tokio::test]
    async fn connections_without_a_complete_header_are_closed() {
        let server = start(Limits {
            header_timeout: Duration::from_millis(50),
            ..LIMITS
        });
        for (bytes, starts_with) in [
            (&b""[..], ""),
            (b"GET / HTTP/1.1\r\nHos", ""),
            (REQUEST, "HTTP/1.1 200 OK"),
        ] {
            let answer = rest(sent(&server, bytes).await).await;
            assert!(answer.starts_with(starts_with), "{answer}");
            assert_eq!(answer.is_empty(), starts_with.is_empty(), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_reads_no_answer_is_closed() {
        let server = start(Limits {
            header_timeout: Duration::from_millis(50),
            lifetime: Duration::from_millis(50),
            ..LIMITS
        });
        let endless = b"GET /endless HTTP/1.1\r\nHost: here\r\n\r\n";
        let answer = rest(sent(&server, endless).await).await;
        assert!(answer.contains("first"), "{answer}");
    }

    #[tokio::test]
    async fn an_expired_connection_makes_room_immediately() {
        let server = start(Limits {
            connections: 1,
            lifetime: Duration::ZERO,
            ..LIMITS
        });
        let endless = b"GET /endless HTTP/1.1\r\nHost: here\r\n\r\n";
        let mut stranger = sent(&server, endless).await;
        assert!(is_answered(&mut stranger).await);
        let mut probe = sent(&server, REQUEST).await;
        assert!(timeout(PATIENCE, is_answered(&mut probe)).await.unwrap());
    }

    #[tokio::test]
    async fn idle_connections_do_not_block_new_ones() {
        let server = start(LIMITS);
        let mut friend = sent(&server, REQUEST).await;
        assert!(is_answered(&mut friend).await);
        let mut strangers = Vec::new();
        for _ in 0..20 {
            strangers.push(sent(&server, b"GET ").await);
            let mut probe = sent(&server, REQUEST).await;
            assert!(is_answered(&mut probe).await);
        }
        // The connections that had been idle for longest were closed.
        assert!(rest(friend).await.ends_with("hello"));
        for stranger in strangers.into_iter().take(16) {
            assert_eq!(rest(stranger).await, "");
        }
    }

    #[tokio::test]
    async fn http2_is_refused() {
        let server = start(LIMITS);
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        assert_eq!(rest(sent(&server, preface).await).await, "");
        let upgrade =
            b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close, Upgrade, HTTP2-Settings\r\n\
            Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAA\r\n\r\n";
        let answer = rest(sent(&server, upgrade).await).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }

    #[tokio::test]
    async fn a_header_larger_than_the_buffer_is_refused() {
        let server = start(LIMITS);
        let header = format!("GET / HTTP/1.1\r\nHost: {}", "x".repeat(LIMITS.buffer));
        let answer = rest(sent(&server, header.as_bytes()).await).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }

    #[tokio::test]
    async fn both_families_are_served() {
        let server = start(LIMITS);
        let addresses = [
            SocketAddr::from((Ipv4Addr::LOCALHOST, server.port)),
            SocketAddr::from((Ipv6Addr::LOCALHOST, server.port)),
        ];
        // On a machine without IPv6 there is only one.
        let has_ipv6 = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
        for address in &addresses[..=usize::from(has_ipv6)] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(REQUEST).await.unwrap();
            assert!(is_answered(&mut stream).await, "{address}");
        }
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_an_error() {
        let taken = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = listen(port).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn stopping_ends_idle_connections_and_the_listener() {
        let server = start(LIMITS);
        let mut idle = sent(&server, REQUEST).await;
        assert!(is_answered(&mut idle).await);
        server.stop.cancel();
        server.serving.await.unwrap();
        assert!(rest(idle).await.ends_with("hello"));
        let address = (Ipv4Addr::LOCALHOST, server.port);
        assert!(TcpStream::connect(address).await.is_err());
    }
}
