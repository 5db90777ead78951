//! The sandbox as a page: people to change, `OFFENDER_DELTA`, messages, outages, and the service's health and metrics,
//! live.
//!
//! The server renders the HTML, as a whole or in fragments that it sends when they change. Reading order: [`changes`]
//! is what can be changed, [`view`] what is shown, [`guard`] who may use it, and [`once`] prevents a form from acting
//! twice.

mod changes;
mod filter_policy;
mod guard;
mod live;
mod messages;
mod once;
mod outages;
mod view;
mod vital_signs;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use axum::extract::{Form, Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};
use futures_util::stream::{Stream, unfold};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::interval;

use self::changes::{Change, Values};
use self::filter_policy::FilterPolicy;
use self::messages::{Inbox, Queue};
use self::once::Once;
use self::outages::Outage;
use self::view::{Outcome, Shown};
use self::vital_signs::VitalSigns;
use crate::auth::Auth;
use crate::claimed_rows::ClaimedRows;
use crate::delius::{Delius, Timings};
use crate::faults::Faults;
use crate::http;
use crate::topic::Topic;

/// How often the page checks for changes.
const LOOK_EVERY: Duration = Duration::from_millis(300);
const LOCK_SECONDS: std::ops::RangeInclusive<i64> = 5..=86_400;

#[derive(Clone)]
pub(crate) struct Page(Arc<Inner>);

struct Inner {
    delius: Delius,
    faults: Faults,
    auth: Auth,
    claimed_rows: ClaimedRows,
    inbox: Inbox,
    vital_signs: VitalSigns,
    subscription: Mutex<Subscription>,
    once: Once,
    /// The queue that messages come from. `None`: the sandbox's topic.
    queue_url: Option<String>,
}

/// What the viewer subscribes to.
#[derive(Default)]
struct Subscription {
    /// As typed.
    text: String,
    policy: Option<FilterPolicy>,
}

impl Page {
    pub(crate) fn new(
        delius: Delius,
        faults: Faults,
        auth: Auth,
        claimed_rows: ClaimedRows,
        queue_url: Option<String>,
    ) -> Self {
        Self(Arc::new(Inner {
            delius,
            faults,
            auth,
            inbox: Inbox::new(claimed_rows.clone()),
            claimed_rows,
            vital_signs: VitalSigns::default(),
            subscription: Mutex::default(),
            once: Once::default(),
            queue_url,
        }))
    }

    pub(crate) fn watch_service(&self, address: String, link: String) {
        self.0.vital_signs.watch(address, link);
    }

    /// Serves the page, and follows what it shows.
    pub(crate) fn serve(&self, listener: TcpListener, topic: Topic, servers: &mut JoinSet<()>) {
        let client = reqwest::Client::new();
        servers.spawn(self.0.vital_signs.clone().follow(client.clone()));
        let inbox = self.0.inbox.clone();
        match &self.0.queue_url {
            Some(url) => servers.spawn(inbox.follow_queue(Queue::new(url.clone(), client))),
            None => servers.spawn(inbox.follow_topic(topic)),
        };
        let router = self.router();
        servers.spawn(http::accept(listener, move |stream| {
            serve_connection(stream, router.clone())
        }));
    }

    fn router(&self) -> Router {
        Router::new()
            .route("/", get(show))
            .route("/live", get(follow))
            .route(
                "/page.css",
                get(|| async { asset("text/css", include_str!("page/page.css")) }),
            )
            .route(
                "/page.js",
                get(|| async { asset("text/javascript", include_str!("page/page.js")) }),
            )
            .route(
                "/icon.svg",
                get(|| async { asset("image/svg+xml", include_str!("page/icon.svg")) }),
            )
            .route("/people/{offender}/{change}", post(change))
            .route("/outages/{outage}", post(switch))
            .route("/lock", post(set_lock))
            .route("/subscription", post(subscribe))
            .layer(middleware::from_fn_with_state(self.clone(), once::once))
            .layer(middleware::from_fn(guard::guard))
            .with_state(self.clone())
    }
}

pub(crate) async fn serve_connection(stream: TcpStream, router: Router) {
    // An error means that the browser went away.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Some(http::IDLE_LIMIT))
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
}

fn asset(content_type: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, content_type)], text).into_response()
}

/// An unexpected error, such as a locked database.
struct Unexpected(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Unexpected {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Unexpected {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, format!("{:#}", self.0)).into_response()
    }
}

type Answer = Result<Response, Unexpected>;

#[derive(Default, Deserialize)]
struct Address {
    person: Option<i64>,
    /// A person who is not in the list.
    crn: Option<String>,
    /// What has just been done.
    done: Option<String>,
}

async fn show(State(page): State<Page>, Query(address): Query<Address>) -> Answer {
    let found = match address.crn.as_deref().map(str::trim) {
        Some(crn) => {
            let crn = crn.to_owned();
            let find = move |delius: &Delius| view::find_person(delius, &crn);
            page.0.delius.patiently(find).await?
        }
        None => address.person,
    };
    if let (Some(crn), None) = (&address.crn, found) {
        let fault = (
            "crn".into(),
            format!("There is no person with the CRN {crn:.20}"),
        );
        return page.refuse(None, "crn", vec![fault], Values::new()).await;
    }
    let outcome = address.done.map_or(Outcome::None, Outcome::Done);
    page.answer(Shown {
        person: found,
        outcome,
    })
    .await
}

impl Page {
    async fn answer(&self, shown: Shown) -> Answer {
        let status = match shown.outcome {
            Outcome::Refused { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::OK,
        };
        let page = self.clone();
        let document = move |_: &Delius| Ok(view::document(&page, &shown)?.into_string());
        let html = self.0.delius.patiently(document).await?;
        Ok((status, Html(html)).into_response())
    }

    /// The page with what was typed, and what is wrong with it.
    async fn refuse(
        &self,
        person: Option<i64>,
        what: &str,
        faults: Vec<(String, String)>,
        values: Values,
    ) -> Answer {
        let outcome = Outcome::Refused {
            what: what.into(),
            faults,
            values,
        };
        self.answer(Shown { person, outcome }).await
    }
}

/// Redirects to the page, which confirms what was done, beside its form.
fn done(person: Option<i64>, what: &str) -> Response {
    let person = person
        .map(|person| format!("person={person}&"))
        .unwrap_or_default();
    Redirect::to(&format!("/?{person}done={what}#outcome")).into_response()
}

async fn change(
    State(page): State<Page>,
    Path((offender, name)): Path<(i64, String)>,
    Form(values): Form<Values>,
) -> Answer {
    let Some(change) = Change::find(&name) else {
        return Ok(StatusCode::NOT_FOUND.into_response());
    };
    let mut faults: Vec<_> = change
        .faults(&values)
        .into_iter()
        .map(|(field, fault)| (view::field_id(change, field), fault))
        .collect();
    if faults.is_empty() {
        let typed = values.clone();
        let make = move |delius: &Delius| change.make(delius, offender, &typed);
        let fault = match page.0.delius.patiently(make).await {
            Ok(true) => return Ok(done(Some(offender), change.name)),
            Ok(false) => "the record no longer exists".into(),
            Err(error) => format!("{error:#}"),
        };
        faults.push((
            view::change_id(change),
            format!("Nothing was changed: {fault}"),
        ));
    }
    page.refuse(Some(offender), change.name, faults, values)
        .await
}

async fn switch(
    State(page): State<Page>,
    Path(name): Path<String>,
    Form(form): Form<BTreeMap<String, String>>,
) -> Answer {
    let Some(outage) = Outage::find(&name) else {
        return Ok(StatusCode::NOT_FOUND.into_response());
    };
    outage.switch(
        form.get("on").is_some_and(|on| on == "true"),
        &page.0.faults,
        &page.0.auth,
    );
    Ok(done(person_of(&form), outage.name))
}

/// The person who is shown, so that the page does not switch to another one.
fn person_of(form: &BTreeMap<String, String>) -> Option<i64> {
    form.get("person")?.parse().ok()
}

async fn set_lock(State(page): State<Page>, Form(form): Form<Values>) -> Answer {
    let seconds = form.get("seconds").map_or("", |seconds| seconds.trim());
    let Some(lock_expiry_seconds) = seconds
        .parse()
        .ok()
        .filter(|seconds| LOCK_SECONDS.contains(seconds))
    else {
        let fault = format!(
            "Lock must be a whole number from {} to {}",
            LOCK_SECONDS.start(),
            LOCK_SECONDS.end()
        );
        let faults = vec![("lock-seconds".into(), fault)];
        return page.refuse(person_of(&form), "lock", faults, form).await;
    };
    page.0.delius.set_timings(Timings {
        lock_expiry_seconds,
        ..page.0.delius.timings()
    });
    Ok(done(person_of(&form), "lock"))
}

async fn subscribe(State(page): State<Page>, Form(form): Form<Values>) -> Answer {
    let text = form.get("policy").map_or("", |text| text.trim());
    let policy = match text {
        "" => None,
        text => match FilterPolicy::read(text) {
            Ok(policy) => Some(policy),
            Err(error) => {
                let fault = format!("SNS would refuse this policy. {error:#}");
                let faults = vec![("policy".into(), fault)];
                return page.refuse(person_of(&form), "policy", faults, form).await;
            }
        },
    };
    *page.0.subscription.lock() = Subscription {
        text: text.into(),
        policy,
    };
    Ok(done(person_of(&form), "policy"))
}

/// Sends the fragments of the page that have changed since they were last sent.
async fn follow(State(page): State<Page>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let start = (page, interval(LOOK_EVERY), BTreeMap::new());
    let events = unfold(start, |(page, mut ticks, mut sent)| async move {
        loop {
            ticks.tick().await;
            let shown = page.clone();
            let render = move |_: &Delius| Ok(live::fragments(&shown));
            let Ok(mut fragments) = page.0.delius.patiently(render).await else {
                continue;
            };
            fragments.retain(|name, html| sent.get(name) != Some(html));
            if let Ok(event) = Event::default().json_data(&fragments)
                && !fragments.is_empty()
            {
                sent.extend(fragments);
                return Some((Ok(event), (page, ticks, sent)));
            }
        }
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}
