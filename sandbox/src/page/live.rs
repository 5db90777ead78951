//! The parts of the page that change without a reload, each rendered as a whole.

use std::collections::BTreeMap;

use jiff::Timestamp;
use maud::{Markup, html};

use super::Page;
use super::messages::{Arrival, attribute, seconds_since_change, time_of_day};
use super::outages::{OUTAGES, Outage};
use super::vital_signs::{MOST_SAMPLES, Poll, Record, Sample, age_between, series};
use crate::claimed_rows::ClaimedRow;
use crate::delius::{Status, UpdateRow};

const MOST_ROWS: usize = 50;
const MOST_CLAIMED_ROWS: usize = 6;
/// The latest messages are always visible, the older ones on request.
const LATEST_MESSAGES: usize = 20;
/// The height of a chart, and the margin above and below the line.
const HEIGHT: f64 = 28.0;
const MARGIN: f64 = 2.0;

/// All fragments, by the id of the element that contains them.
pub(super) fn fragments(page: &Page) -> BTreeMap<String, String> {
    let record = page.0.vital_signs.record();
    let mut fragments = BTreeMap::from(
        [
            ("rows", rows(page)),
            ("claimed-rows", claimed_rows(page)),
            ("messages", messages(page)),
            ("older", older_messages(page)),
            ("reaction", reaction(&record)),
            ("signs", signs(&record)),
        ]
        .map(|(id, html)| (id.to_owned(), html.into_string())),
    );
    fragments.extend(OUTAGES.iter().map(|outage| {
        let id = format!("switch-{}", outage.name);
        (id, switch(page, outage).into_string())
    }));
    fragments
}

/// The button of an outage. It shows the current state, even if something else switched it.
pub(super) fn switch(page: &Page, outage: &Outage) -> Markup {
    let (name, on) = (outage.name, outage.is_on(&page.0.faults));
    html! {
        button.switch id={ "button-" (name) } name="on" value=(!on) role="switch" aria-checked=(on)
            aria-labelledby={ "system-" (outage.system.name()) " outage-" (name) } aria-describedby={ "effect-" (name) } {
            @if on { "On" } @else { "Off" }
        }
    }
}

pub(super) fn rows(page: &Page) -> Markup {
    let delius = &page.0.delius;
    let (rows, count) = match (delius.first_updates(MOST_ROWS), delius.count_updates()) {
        (Ok(rows), Ok(count)) => (rows, count),
        (Err(error), _) | (_, Err(error)) => {
            return html! { p.trouble { "The page cannot read the rows: " (error) } };
        }
    };
    let lock = delius.timings().lock_expiry_seconds;
    let now = Timestamp::now().as_second();
    html! {
        @if rows.is_empty() {
            p.empty { "No rows. Every change has been published." }
        } @else {
            table {
                caption.hidden { "Rows of OFFENDER_DELTA" }
                thead { tr { th scope="col" { "Row" } th scope="col" { "Changed" } th scope="col" { "Status" } } }
                tbody { @for row in &rows { (table_row(row, now.saturating_sub(row.last_updated), lock)) } }
            }
            @if count > rows.len() { p { "And " (count - rows.len()) " more." } }
        }
    }
}

fn table_row(row: &UpdateRow, seconds_since_update: i64, lock: i64) -> Markup {
    let left = lock.saturating_sub(seconds_since_update);
    let (class, status) = match row.status {
        Status::Created => ("created", "CREATED"),
        Status::InProgress => ("held", "INPROGRESS"),
        Status::Failed => ("failed", "FAILED"),
        Status::None => ("", "NO STATUS"),
    };
    html! {
        tr {
            th scope="row" { (row.offender_delta_id) }
            td {
                span.code { (row.source_table.as_deref().unwrap_or("no table")) " " (row.source_record_id.map(|id| id.to_string()).unwrap_or_default()) }
                br;
                (row.action) ", offender " (row.offender_id)
            }
            td {
                span.tag.(class) { (status) }
                " "
                @match row.status {
                    Status::Created => "waits to be claimed",
                    Status::InProgress if left > 0 => { "claimed; locked for another " (duration(left)) }
                    Status::InProgress => "the lock has expired; waits to be claimed again",
                    Status::Failed => "marked as failed; never served again",
                    Status::None => "never served",
                }
            }
        }
    }
}

fn duration(seconds: i64) -> String {
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds} s"),
        (minutes, seconds) => format!("{minutes} min {seconds} s"),
    }
}

/// The progress of the latest claimed rows.
pub(super) fn claimed_rows(page: &Page) -> Markup {
    let rows = page.0.claimed_rows.latest(MOST_CLAIMED_ROWS);
    html! {
        @if rows.is_empty() {
            p.empty { "No row has been claimed yet." }
        } @else {
            table.claimed-rows {
                caption.hidden { "Latest claimed rows" }
                thead { tr {
                    th scope="col" { "Row" } th scope="col" { "Claimed" } th scope="col" { "Identifiers" }
                    th scope="col" { "Published" } th scope="col" { "Settled" }
                } }
                tbody { @for row in &rows { (claimed_row(row)) } }
            }
        }
    }
}

fn claimed_row(row: &ClaimedRow) -> Markup {
    let after = |at: Timestamp| match at.duration_since(row.claimed).as_millis() {
        milliseconds @ ..1_000 => format!("after {} ms", milliseconds.max(0)),
        milliseconds => format!("after {} s", milliseconds / 1_000),
    };
    html! {
        tr {
            th scope="row" { (row.id) br; span.code { (row.source_table.as_deref().unwrap_or("no table")) } }
            td { (time_of_day(row.claimed)) }
            td { @match row.identified {
                None => "–",
                Some((at, true)) => (after(at)),
                Some((at, false)) => { "none, " (after(at)) }
            } }
            td { @match row.published { None => "–", Some(at) => (after(at)) } }
            td { @match row.settled { None => "–", Some((at, how)) => { (how) " " (after(at)) } } }
        }
    }
}

/// The messages that pass the subscription's policy, latest first, and all messages.
fn received(page: &Page, show: impl Fn(&[&Arrival], &[Arrival], bool) -> Markup) -> Markup {
    let arrivals = page.0.inbox.latest();
    let subscription = page.0.subscription.lock();
    let policy = subscription.policy.as_ref();
    let received: Vec<&Arrival> = arrivals
        .iter()
        .filter(|arrival| policy.is_none_or(|policy| policy.accepts(&arrival.message.attributes)))
        .collect();
    show(&received, &arrivals, policy.is_some())
}

pub(super) fn messages(page: &Page) -> Markup {
    received(page, |received, all, filtered| {
        html! {
            @if let Some(trouble) = page.0.inbox.trouble() { p.trouble { "There is a problem with the queue. " (trouble) } }
            @if filtered {
                p { "This subscription received " (received.len()) " of the latest " (all.len()) " messages." }
            }
            @if received.is_empty() { p.empty { "No messages yet." } }
            ol.messages { @for arrival in received.iter().take(LATEST_MESSAGES) { (message(arrival, all)) } }
        }
    })
}

pub(super) fn older_messages(page: &Page) -> Markup {
    received(page, |received, all, _| {
        html! {
            @if received.len() <= LATEST_MESSAGES { p.empty { "There are no older messages." } }
            ol.messages { @for arrival in received.iter().skip(LATEST_MESSAGES) { (message(arrival, all)) } }
        }
    })
}

fn message(arrival: &Arrival, all: &[Arrival]) -> Markup {
    let message = &arrival.message;
    html! {
        li {
            p.head {
                strong { (attribute(message, "eventType").unwrap_or("no eventType")) }
                @if arrival.redelivered { " " span.tag.failed { "Redelivery" } }
                span.when {
                    time datetime=(message.received_at) { (time_of_day(message.received_at)) }
                    @if let Some(seconds) = seconds_since_change(message, all) { ", " (format!("{seconds:.1}")) " s after the change" }
                }
            }
            p.code.body { (message.body) }
            dl {
                div { dt { "Message id" } dd.code { (message.message_id) } }
                @for (name, (data_type, value)) in &message.attributes {
                    div { dt { (name) " (" (data_type) ")" } dd.code { (value) } }
                }
            }
        }
    }
}

/// What the service does in an outage, in words.
pub(super) fn reaction(record: &Record) -> Markup {
    let Some(now) = record.now() else {
        return html! { p { (silence(record)) } };
    };
    let down: Vec<&str> = record
        .components
        .iter()
        .filter(|component| component.status != "UP")
        .map(|component| component.name.as_str())
        .collect();
    html! {
        p {
            @match record.latest_poll() {
                    Poll::Answered if now.places_lost > 0.0 => { span.tag.held { "Calls are failing" } " The service claims only a few rows until one is settled. " }
                    Poll::Answered => { span.tag.created { "Polls succeed" } " community-api answered the latest poll. " }
                    Poll::Failed => { span.tag.failed { "Polls fail" } " The latest poll failed, so no row can be claimed. " }
                    Poll::Refused => { span.tag.failed { "Polls are refused" } " The service has no token that community-api accepts. " }
                    Poll::Unknown => { span.tag { "No poll seen" } " No poll has ended since the sandbox started. " }
            }
            "Rows held: " (now.in_flight) ". "
            @if down.is_empty() { "All health checks are UP." } @else { "Health is DOWN because of " (down.join(", ")) "." }
        }
    }
}

fn silence(record: &Record) -> String {
    match (&record.address, &record.trouble) {
        (None, _) => "The sandbox does not know where the service is.".into(),
        (Some(address), None) => {
            format!("The page has not yet requested the metrics of the service at {address}.")
        }
        (Some(address), Some(trouble)) => {
            format!(
                "The service at {address} does not answer ({trouble}). The page tries again every 2 seconds."
            )
        }
    }
}

pub(super) fn signs(record: &Record) -> Markup {
    html! {
        @if record.now().is_none() { p.trouble { (silence(record)) } }
        table.signs {
            caption { "Metrics" }
            thead { tr { th scope="col" { "Metric" } th scope="col" { "Now" } th scope="col" { "Last 5 minutes" } } }
            tbody {
                (sign(record, "Age of events, latest", age_between, "s"))
                (sign(record, "Age of events, average", |_, now| (now.age_count > 0.0).then(|| now.age_sum / now.age_count), "s"))
                (sign(record, "Age of events, longest", |_, now| Some(now.age_max), "s"))
                (counter(record, "Events published", |sample| sample.published))
                (counter(record, "Rows failed", |sample| sample.failed))
                (counter(record, "Rows permanently failed", |sample| sample.permanently_failed))
                (sign(record, "Rows held", |_, now| Some(now.in_flight), ""))
                (sign(record, "Lost places", |_, now| Some(now.places_lost), ""))
            }
        }
        @if !record.components.is_empty() {
            table.health {
                caption { "Health" }
                thead { tr { th scope="col" { "Component" } th scope="col" { "Status" } } }
                tbody {
                    @for component in &record.components {
                        @let class = if component.status == "UP" { "created" } else { "failed" };
                        tr {
                            th scope="row" { (component.name) }
                            td { span.tag.(class) { (component.status) } " " (component.error) }
                        }
                    }
                }
            }
        }
    }
}

/// A number whose value is drawn.
fn sign(
    record: &Record,
    title: &str,
    value: impl Fn(&Sample, &Sample) -> Option<f64>,
    unit: &str,
) -> Markup {
    let values = series(record, value);
    let last = values.iter().rev().copied().flatten().next();
    row(
        title,
        last.filter(|_| record.now().is_some()),
        unit,
        &values,
    )
}

/// A number that only grows. Its growth is drawn.
fn counter(record: &Record, title: &str, value: impl Fn(&Sample) -> f64) -> Markup {
    let growth = series(record, |before, now| {
        Some((value(now) - value(before)).max(0.0))
    });
    row(title, record.now().map(value), "", &growth)
}

fn row(title: &str, now: Option<f64>, unit: &str, values: &[Option<f64>]) -> Markup {
    let now = match now {
        None => "–".to_owned(),
        Some(now) if unit.is_empty() => format!("{now}"),
        Some(now) => format!("{now:.1} {unit}"),
    };
    html! {
        tr { th scope="row" { (title) } td.number { (now) } td { (sparkline(values)) } }
    }
}

/// A line from the oldest sample to the latest at the right edge, with gaps where the service did not answer.
fn sparkline(values: &[Option<f64>]) -> Markup {
    let highest = values.iter().flatten().copied().fold(0.0, f64::max);
    let scale = (HEIGHT - 2.0 * MARGIN) / if highest > 0.0 { highest } else { 1.0 };
    let first = MOST_SAMPLES.saturating_sub(values.len());
    let points: Vec<(usize, f64)> = (first..)
        .zip(values)
        .filter_map(|(x, value)| Some((x, HEIGHT - MARGIN - (*value)? * scale)))
        .collect();
    let lines = points
        .chunk_by(|before, next| next.0 == before.0 + 1)
        .map(|line| {
            let points: Vec<String> = line.iter().map(|(x, y)| format!("{x},{y:.1}")).collect();
            // A single point is drawn as a dot, by its round line ends.
            if let [only] = &points[..] {
                format!("{only} {only}")
            } else {
                points.join(" ")
            }
        });
    html! {
        svg role="img" aria-label={ "highest " (format!("{highest:.1}")) } viewBox={ "0 0 " (MOST_SAMPLES) " " (HEIGHT) } preserveAspectRatio="none" {
            @for line in lines { polyline points=(line) {} }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_a_gap_where_the_service_did_not_answer() {
        let html = sparkline(&[Some(0.0), Some(4.0), None, Some(2.0)]).into_string();
        assert_eq!(html.matches("<polyline").count(), 2, "{html}");
        assert!(
            html.contains(r#"points="146,26.0 147,2.0""#),
            "to the right edge, up to the margin: {html}"
        );
        assert!(
            html.contains(r#"points="149,14.0 149,14.0""#),
            "a point by itself is a dot: {html}"
        );
        assert!(html.contains("highest 4.0"), "{html}");
    }
}
