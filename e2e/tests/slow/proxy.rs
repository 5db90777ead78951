//! Proxies between the service and a stand-in: connections that go bad after some requests, or whose requests are recorded.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How a connection ends after its good requests.
#[derive(Clone, Copy)]
pub enum Fate {
    /// It takes further requests and never answers.
    Deaf,
    /// It closes at the next request.
    Closed,
}

/// Starts a proxy for `target`, an `http://` address, whose connections serve this many requests each. Returns its
/// address.
pub async fn start(target: &str, requests: usize, fate: Fate) -> String {
    let target: SocketAddr = target.strip_prefix("http://").unwrap().parse().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(serve(client, target, requests, fate));
        }
    });
    format!("http://{address}")
}

async fn serve(mut client: TcpStream, target: SocketAddr, mut requests: usize, fate: Fate) {
    let mut server = TcpStream::connect(target).await.unwrap();
    let (mut from_client, mut from_server) = ([0; 16_384], [0; 16_384]);
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => match read {
                Ok(0) | Err(_) => return,
                // Each request of the service is one write.
                Ok(_) if requests == 0 => match fate {
                    Fate::Deaf => {}
                    Fate::Closed => return,
                },
                Ok(length) => {
                    requests -= 1;
                    server.write_all(&from_client[..length]).await.unwrap();
                }
            },
            read = server.read(&mut from_server) => match read {
                Ok(0) | Err(_) => return,
                Ok(length) => if client.write_all(&from_server[..length]).await.is_err() { return },
            },
        }
    }
}

/// Forwards everything to `target`, and records the requests.
pub async fn listen_in(target: String) -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let heard = Arc::new(Mutex::new(Vec::new()));
    let heard_here = heard.clone();
    tokio::spawn(async move {
        loop {
            let (caller, _) = listener.accept().await.unwrap();
            let other = TcpStream::connect(target.trim_start_matches("http://"))
                .await
                .unwrap();
            let (mut from_caller, mut to_caller) = caller.into_split();
            let (mut from_other, mut to_other) = other.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_other, &mut to_caller).await });
            let heard = heard_here.clone();
            tokio::spawn(async move {
                let mut buffer = vec![0; 65_536];
                while let Ok(read @ 1..) = from_caller.read(&mut buffer).await {
                    heard.lock().unwrap().extend(&buffer[..read]);
                    to_other.write_all(&buffer[..read]).await.unwrap();
                }
            });
        }
    });
    (address, heard)
}
