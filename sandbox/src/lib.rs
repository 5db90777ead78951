//! The world around the service, for demo, tests, benches and a deterministic simulation.
//!
//! It has a mini-Delius in `SQLite` with real triggers, and on top of it community-api, hmpps-auth and an
//! SNS-compatible topic, each on a separate socket. Each can be made to fail. The sandbox shares no code with the
//! service: its own JSON is the other half of every test over the wire.
//!
//! Reading order: [`delius`] is the data and the lock, [`faults`] is what can go wrong, then the three stand-ins.
//! `page` shows everything and makes changes. `README.md` says what is true to the real community-api, and what is
//! simplified.

pub mod auth;
mod claimed_rows;
mod community;
mod crowd;
pub mod delius;
pub mod faults;
mod http;
mod page;
pub mod topic;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub use self::auth::Auth;
pub use self::delius::{Delius, Timings};
pub use self::faults::{Endpoint, Fault, Faults, Rule};
pub use self::topic::{Message, Topic};

use self::claimed_rows::ClaimedRows;
use self::community::Community;
use self::crowd::Crowd;
use self::http::Manners;
use self::page::Page;
use self::topic::TopicSettings;

/// The default port of the page.
pub const PAGE_PORT: u16 = 8095;

/// community-api closes a connection after this many answers.
const ANSWERS_PER_CONNECTION: u32 = 100;

/// The settings of the world. The default suits a test.
#[derive(Clone, Debug)]
pub struct Settings {
    /// When rows are served.
    pub timings: Timings,
    /// How long `nextUpdate` takes for one caller from reading a row to locking it. Other callers may come in between,
    /// even if it is zero. The real one takes 3 ms if its database is near, and 60 ms if that is 4 ms away.
    pub lock_time: Duration,
    /// How long community-api keeps an idle connection.
    pub idle_time: Duration,
    /// The file that holds the mini-Delius. `None` means in memory.
    pub database: Option<PathBuf>,
    /// The client that hmpps-auth knows.
    pub client_id: String,
    /// Its secret.
    pub client_secret: String,
    /// The roles that its tokens carry.
    pub roles: Vec<String>,
    /// How long its tokens live.
    pub token_lifetime: Duration,
    /// Where community-api listens.
    pub community_address: SocketAddr,
    /// Where hmpps-auth listens.
    pub auth_address: SocketAddr,
    /// Where the topic listens.
    pub topic_address: SocketAddr,
    /// Where the page is served. `None` means nowhere.
    pub page_address: Option<SocketAddr>,
    /// The SQS queue whose messages the page shows. `None` means those of the sandbox's topic.
    pub queue_url: Option<String>,
    /// The only topic that exists.
    pub topic_arn: String,
    /// The number of confirmed subscriptions in the answer from `GetTopicAttributes`.
    pub subscriptions_confirmed: u32,
    /// The number of pending subscriptions in that answer.
    pub subscriptions_pending: u32,
    /// How many of the latest messages to keep. `None` means all.
    pub kept_messages: Option<usize>,
}

impl Default for Settings {
    fn default() -> Self {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            timings: Timings::default(),
            lock_time: Duration::from_millis(3),
            idle_time: Duration::from_secs(20),
            database: None,
            client_id: "probation-offender-events".into(),
            client_secret: "clientsecret".into(),
            roles: vec!["ROLE_COMMUNITY".into(), "ROLE_COMMUNITY_EVENTS".into()],
            token_lifetime: Duration::from_hours(1),
            community_address: any_port,
            auth_address: any_port,
            topic_address: any_port,
            page_address: None,
            queue_url: None,
            topic_arn: "arn:aws:sns:eu-west-2:000000000000:probation_offender_events".into(),
            subscriptions_confirmed: 1,
            subscriptions_pending: 0,
            kept_messages: None,
        }
    }
}

/// The running world. Dropping it closes every socket.
pub struct Sandbox {
    delius: Delius,
    auth: Auth,
    topic: Topic,
    faults: Faults,
    client: (String, String),
    community_address: SocketAddr,
    auth_address: SocketAddr,
    topic_address: SocketAddr,
    page: Option<(Page, SocketAddr)>,
    servers: JoinSet<()>,
}

impl Sandbox {
    /// Opens the mini-Delius, binds the addresses and serves.
    pub async fn start(settings: Settings) -> Result<Self> {
        let delius = open(settings.database, settings.timings).await?;
        let (faults, claimed_rows) = (Faults::default(), ClaimedRows::default());
        let client = (settings.client_id.clone(), settings.client_secret.clone());
        let auth = Auth::new(
            settings.client_id,
            settings.client_secret,
            settings.roles,
            settings.token_lifetime,
        );
        let topic = Topic::new(TopicSettings {
            arn: settings.topic_arn,
            subscriptions_confirmed: settings.subscriptions_confirmed,
            subscriptions_pending: settings.subscriptions_pending,
            kept_messages: settings.kept_messages,
        });
        let (community_listener, community_address) = bind(settings.community_address).await?;
        let (auth_listener, auth_address) = bind(settings.auth_address).await?;
        let (topic_listener, topic_address) = bind(settings.topic_address).await?;

        let mut servers = JoinSet::new();
        let community = Community {
            delius: delius.clone(),
            auth: auth.clone(),
            faults: faults.clone(),
            lock_time: settings.lock_time,
            crowd: Crowd::default(),
            claimed_rows: claimed_rows.clone(),
        };
        let manners = Manners {
            chunked: true,
            idle: settings.idle_time,
            answers: Some(ANSWERS_PER_CONNECTION),
        };
        servers.spawn(http::serve(community_listener, manners, move |request| {
            community.clone().answer(request)
        }));
        let plain = Manners {
            chunked: false,
            idle: http::IDLE_LIMIT,
            answers: None,
        };
        let served = (auth.clone(), faults.clone());
        servers.spawn(http::serve(auth_listener, plain, move |request| {
            served.0.clone().answer(served.1.clone(), request)
        }));
        let served = (topic.clone(), faults.clone());
        servers.spawn(http::serve(topic_listener, plain, move |request| {
            served.0.clone().answer(served.1.clone(), request)
        }));
        let page = match settings.page_address {
            Some(address) => {
                let (listener, address) = bind(address).await?;
                let page = Page::new(
                    delius.clone(),
                    faults.clone(),
                    auth.clone(),
                    claimed_rows,
                    settings.queue_url,
                );
                page.serve(listener, topic.clone(), &mut servers);
                Some((page, address))
            }
            None => None,
        };
        Ok(Self {
            delius,
            auth,
            topic,
            faults,
            client,
            community_address,
            auth_address,
            topic_address,
            page,
            servers,
        })
    }

    /// The data.
    pub fn delius(&self) -> &Delius {
        &self.delius
    }

    /// The faults, and the count of calls.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// What was published.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The tokens.
    pub fn auth(&self) -> &Auth {
        &self.auth
    }

    /// The base URL of community-api.
    pub fn community_url(&self) -> String {
        format!("http://{}", self.community_address)
    }

    /// The base URL of hmpps-auth. Like the real one it ends in `/auth`.
    pub fn auth_url(&self) -> String {
        format!("http://{}/auth", self.auth_address)
    }

    /// The endpoint of SNS.
    pub fn sns_url(&self) -> String {
        format!("http://{}", self.topic_address)
    }

    /// Where the page is, if it is served.
    pub fn page_url(&self) -> Option<String> {
        let (_, address) = self.page.as_ref()?;
        Some(format!("http://{address}"))
    }

    /// Sets the address at which the page requests the service's health and metrics.
    pub fn watch_service(&self, address: String) {
        self.link_service(address.clone(), address);
    }

    /// Like [`Sandbox::watch_service`], for a service that a browser reaches at another address.
    pub fn link_service(&self, address: String, link: String) {
        if let Some((page, _)) = &self.page {
            page.watch_service(address, link);
        }
    }

    /// The environment variables for a service in this world, on any free port.
    pub fn environment(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("COMMUNITY_ENDPOINT_URL", self.community_url()),
            ("OAUTH_ENDPOINT_URL", self.auth_url()),
            ("OAUTH_CLIENT_ID", self.client.0.clone()),
            ("OAUTH_CLIENT_SECRET", self.client.1.clone()),
            ("HMPPS_SQS_PROVIDER", "localstack".into()),
            ("HMPPS_SQS_LOCALSTACKURL", self.sns_url()),
            ("SERVER_PORT", "0".into()),
        ])
    }

    /// Closes every socket, even if calls are under way.
    pub async fn stop(mut self) {
        self.servers.shutdown().await;
    }
}

/// Opens the mini-Delius on a thread that may block, since another program may have the file locked.
async fn open(path: Option<PathBuf>, timings: Timings) -> Result<Delius> {
    let open = move || match path {
        Some(path) => Delius::open(&path, timings),
        None => Delius::in_memory(timings),
    };
    tokio::task::spawn_blocking(open).await?
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}
