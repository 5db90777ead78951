//! The page as HTML, rendered on the server. [`super::live`] renders the parts that change.

use anyhow::Result;
use maud::{DOCTYPE, Markup, Render, html};
use rusqlite::{OptionalExtension, Row};

use super::changes::{CHANGES, Change, Field, Kind, MOST_CHARACTERS, Values};
use super::outages::{OUTAGES, Outage, System};
use super::vital_signs::Record;
use super::{Page, live};
use crate::delius::{Delius, text};
use uuid::Uuid;

const MOST_PEOPLE: usize = 12;

/// Which person is shown, and the result of the last form.
pub(super) struct Shown {
    /// `None` means the first.
    pub(super) person: Option<i64>,
    pub(super) outcome: Outcome,
}

/// What every form of a page sends as well: the person that is shown, and the form's token.
struct Hidden {
    person: Option<i64>,
    token: String,
}

impl Render for Hidden {
    fn render(&self) -> Markup {
        html! {
            @if let Some(person) = self.person { input type="hidden" name="person" value=(person); }
            input type="hidden" name="token" value=(self.token);
        }
    }
}

pub(super) enum Outcome {
    None,
    /// The change, outage or field whose form succeeded.
    Done(String),
    Refused {
        what: String,
        /// The field's id, and what is wrong with it.
        faults: Vec<(String, String)>,
        /// What was typed.
        values: Values,
    },
}

impl Outcome {
    fn is_done(&self, what: &str) -> bool {
        matches!(self, Self::Done(done) if done == what)
    }

    /// What was typed into this form, if it was refused.
    fn typed(&self, form: &str) -> Option<&Values> {
        match self {
            Self::Refused { what, values, .. } if what == form => Some(values),
            _ => None,
        }
    }

    fn fault(&self, id: &str) -> Option<&str> {
        match self {
            Self::Refused { faults, .. } => faults
                .iter()
                .find(|fault| fault.0 == id)
                .map(|fault| fault.1.as_str()),
            _ => None,
        }
    }
}

struct Person {
    id: i64,
    name: String,
    born: String,
    crn: String,
    noms_number: Option<String>,
    manager: Option<String>,
}

impl Person {
    const SELECT: &str = "SELECT OFFENDER_ID, OFFENDER.FIRST_NAME || ' ' || OFFENDER.SURNAME, DATE_OF_BIRTH, CRN, NOMS_NUMBER,
        (SELECT FORENAME || ' ' || SURNAME FROM OFFICER JOIN OFFENDER_MANAGER USING (OFFICER_ID)
         WHERE OFFENDER_MANAGER.OFFENDER_ID = OFFENDER.OFFENDER_ID AND ACTIVE_FLAG = 1) FROM OFFENDER";

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            name: text(row, 1)?.unwrap_or_default(),
            born: text(row, 2)?.unwrap_or_default(),
            crn: text(row, 3)?.unwrap_or_default(),
            noms_number: text(row, 4)?,
            manager: text(row, 5)?,
        })
    }
}

pub(super) fn find_person(delius: &Delius, crn: &str) -> Result<Option<i64>> {
    let connection = delius.connection();
    let mut statement =
        connection.prepare_cached("SELECT OFFENDER_ID FROM OFFENDER WHERE CRN = upper(?1)")?;
    Ok(statement.query_row([crn], |row| row.get(0)).optional()?)
}

fn people(delius: &Delius, shown: Option<i64>) -> Result<(Vec<Person>, Option<Person>)> {
    let connection = delius.connection();
    let mut first = connection.prepare_cached(&format!(
        "{} ORDER BY OFFENDER_ID LIMIT {MOST_PEOPLE}",
        Person::SELECT
    ))?;
    let people: Vec<Person> = first
        .query_map([], Person::read)?
        .collect::<rusqlite::Result<_>>()?;
    let id = shown.or(people.first().map(|person| person.id));
    let mut one =
        connection.prepare_cached(&format!("{} WHERE OFFENDER_ID = ?1", Person::SELECT))?;
    let person = one.query_row([id], Person::read).optional()?;
    Ok((people, person))
}

pub(super) fn change_id(change: &Change) -> String {
    format!("change-{}", change.name)
}

pub(super) fn field_id(change: &Change, field: &Field) -> String {
    format!("{}-{}", change.name, field.name)
}

pub(super) fn document(page: &Page, shown: &Shown) -> Result<Markup> {
    let outcome = &shown.outcome;
    let (people, person) = people(&page.0.delius, shown.person)?;
    let person_id = person.as_ref().map(|person| person.id);
    let record = page.0.vital_signs.record();
    let refused = matches!(outcome, Outcome::Refused { .. });
    let hidden = Hidden {
        person: person_id,
        token: Uuid::new_v4().to_string(),
    };
    Ok(html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { @if refused { "Error: " } "See it happen – offender events sandbox" }
                link rel="stylesheet" href="/page.css";
                link rel="icon" href="/icon.svg" type="image/svg+xml";
                script src="/page.js" defer {}
            }
            body {
                a.skip href="#main" { "Skip to main content" }
                header { div.width { "Offender events sandbox" span { "All people here are fictional" } } }
                div.width {
                    p #gone.trouble role="alert" hidden { "The sandbox does not answer. This page may be out of date." }
                    main #main tabindex="-1" {
                        div #problems { (error_summary(outcome)) }
                        h1 { "See it happen" }
                        (introduction())
                        div.columns {
                            section aria-labelledby="people" { (people_section(page, &people, person.as_ref(), outcome, &hidden)?) }
                            // Only an element that can have the focus can be scrolled with the keyboard.
                            div #follow.follow tabindex="0" role="region" aria-label="Rows and messages" {
                                (rows_section(page))
                                section aria-labelledby="arrivals" { (messages_section(page, outcome, &hidden)) }
                            }
                        }
                        div.columns {
                            section aria-labelledby="outages" { (outages_section(page, outcome, &hidden)) }
                            section aria-labelledby="vital" { (vital_section(&record)) }
                        }
                    }
                }
            }
        }
    })
}

fn rows_section(page: &Page) -> Markup {
    html! {
        section aria-labelledby="delta" {
            h2 #delta { "OFFENDER_DELTA" }
            p.hint { "Locked rows first. The service deletes a row after SNS accepts its events." }
            div #rows { (live::rows(page)) }
            h3 { "Latest claimed rows" }
            div #claimed-rows { (live::claimed_rows(page)) }
        }
    }
}

fn vital_section(record: &Record) -> Markup {
    html! {
        h2 #vital { "Health and metrics of the service" }
        @if let Some(link) = &record.link {
            p {
                "Pages of the service: "
                a href={ (link) "/swagger-ui.html" } { "API docs" } ", "
                a href={ (link) "/prometheus" } { "metrics" } ", "
                a href={ (link) "/health" } { "health" }
            }
        }
        div #signs { (live::signs(record)) }
    }
}

fn introduction() -> Markup {
    html! {
        p.lead { "Change a person in the mini-Delius, and see which events the service publishes." }
        ol.steps {
            li { strong { "Change" } " A form below changes a table, as Delius does. A database trigger writes a row into OFFENDER_DELTA." }
            li { strong { "Claim" } " The service polls community-api. When the row is 2 seconds old, the service claims it, and community-api locks it." }
            li { strong { "Publish" } " The service gets the offender’s identifiers and publishes a specific event. For some tables it also publishes OFFENDER_CHANGED, which is deprecated." }
            li { strong { "Delete" } " The service deletes the row after SNS accepts all events." }
        }
    }
}

fn error_summary(outcome: &Outcome) -> Markup {
    html! {
        @if let Outcome::Refused { faults, .. } = outcome {
            div #outcome.errors role="alert" tabindex="-1" aria-labelledby="errors-title" {
                h2 #errors-title { "There is a problem" }
                ul { @for (id, fault) in faults { li { a href={ "#" (id) } { (fault) } } } }
            }
        }
    }
}

/// Confirms beside the form that it succeeded.
fn notice(outcome: &Outcome, what: &str, text: &Markup) -> Markup {
    html! { @if outcome.is_done(what) { p #outcome.done role="status" tabindex="-1" { (text) } } }
}

/// A label, its error if there is one, and the field.
fn labelled(id: &str, label: &str, outcome: &Outcome, field: &Markup) -> Markup {
    let fault = outcome.fault(id);
    html! {
        div.field.wrong[fault.is_some()] {
            label for=(id) { (label) }
            @if let Some(fault) = fault { p.fault id={ (id) "-fault" } { span.hidden { "Error: " } (fault) } }
            (field)
        }
    }
}

fn described(outcome: &Outcome, id: &str) -> Option<String> {
    outcome.fault(id).map(|_| format!("{id}-fault"))
}

fn people_section(
    page: &Page,
    people: &[Person],
    person: Option<&Person>,
    outcome: &Outcome,
    hidden: &Hidden,
) -> Result<Markup> {
    let shown = person.map(|person| person.id);
    Ok(html! {
        h2 #people { "People" }
        nav aria-label="People" {
            ul.people {
                @for one in people {
                    li { a href={ "/?person=" (one.id) } aria-current=[(Some(one.id) == shown).then_some("true")] { (one.name) } }
                }
            }
        }
        @if people.len() == MOST_PEOPLE {
            form.inline action="/" method="get" {
                (labelled("crn", "CRN of another person", outcome, &html! {
                    input #crn name="crn" maxlength="10" aria-describedby=[described(outcome, "crn")];
                }))
                button { "Show" }
            }
        }
        @if let Some(person) = person {
            h3 { (person.name) }
            dl.facts {
                div { dt { "Born" } dd { (person.born) } }
                div { dt { "CRN" } dd { (person.crn) } }
                div { dt { "Prison number" } dd { (person.noms_number.as_deref().unwrap_or("none")) } }
                div { dt { "Manager" } dd { (person.manager.as_deref().unwrap_or("none")) } }
            }
            @for change in CHANGES { (change_form(page, person.id, change, outcome, hidden)?) }
        } @else {
            p { "There is no person with this number." }
        }
    })
}

fn change_form(
    page: &Page,
    offender: i64,
    change: &'static Change,
    outcome: &Outcome,
    hidden: &Hidden,
) -> Result<Markup> {
    let delius = &page.0.delius;
    let typed = outcome.typed(change.name);
    let values = match typed {
        Some(values) => values.clone(),
        None => change.initial(delius, offender)?,
    };
    let mut missing = false;
    let mut fields = Vec::new();
    for field in change.fields {
        let choices = field.choices(delius, offender)?;
        missing |= choices.as_ref().is_some_and(Vec::is_empty);
        let id = field_id(change, field);
        let value = values.get(field.name).map_or("", String::as_str);
        fields.push(labelled(
            &id,
            field.label,
            outcome,
            &control(&id, field, value, choices.as_deref(), outcome),
        ));
    }
    // The first form is open, as an example.
    let open = typed.is_some()
        || outcome.is_done(change.name)
        || (matches!(outcome, Outcome::None) && change.name == CHANGES[0].name);
    Ok(html! {
        details name="change" id=(change_id(change)) open[open] {
            summary {
                span.title { (change.title) }
                span.raises {
                    "Raises "
                    @for (place, event) in change.events.iter().enumerate() { @if place > 0 { " and " } span.event { (event) } }
                }
            }
            @if !change.hint.is_empty() { p.hint { (change.hint) } }
            (notice(outcome, change.name, &html! {
                strong { "Changed." } " The trigger has written a row. The service will publish " (change.events.join(" and ")) ". "
                a href="#delta" { "Follow the row" }
            }))
            @if missing {
                p.hint { "There is no record that you can change. Add one first." }
            } @else {
                form action={ "/people/" (offender) "/" (change.name) } method="post" {
                    (hidden)
                    @for field in &fields { (field) }
                    button { "Change" span.hidden { ": " (change.title) } }
                }
            }
        }
    })
}

fn control(
    id: &str,
    field: &Field,
    value: &str,
    choices: Option<&[(String, String)]>,
    outcome: &Outcome,
) -> Markup {
    let described = described(outcome, id);
    if let Some(choices) = choices {
        return html! {
            select id=(id) name=(field.name) aria-describedby=[described] {
                @for (key, label) in choices { option value=(key) selected[key == value] { (label) } }
            }
        };
    }
    let (kind, mode) = match field.kind {
        Kind::Date => ("date", None),
        Kind::Score => ("text", Some("numeric")),
        _ => ("text", None),
    };
    html! {
        input id=(id) name=(field.name) type=(kind) value=(value) inputmode=[mode] maxlength=[(kind == "text").then_some(MOST_CHARACTERS)]
            autocomplete="off" aria-describedby=[described];
    }
}

fn messages_section(page: &Page, outcome: &Outcome, hidden: &Hidden) -> Markup {
    let text = match outcome.typed("policy") {
        Some(values) => values.get("policy").cloned().unwrap_or_default(),
        None => page.0.subscription.lock().text.clone(),
    };
    let open = !text.is_empty() || outcome.is_done("policy");
    html! {
        h2 #arrivals { "Messages" }
        p.hint {
            "What a subscriber of the topic receives, latest first. Times are in London time. "
            @if page.0.queue_url.is_some() { "The messages come from a queue that only this page reads." }
        }
        details.plain open[open] {
            summary { "Filter policy of the subscription" }
            (notice(outcome, "policy", &html! { @if text.is_empty() { "The subscription receives every message." } @else { "The subscription has this filter policy." } }))
            form action="/subscription" method="post" {
                (hidden)
                (labelled("policy", "Filter policy, as JSON or Terraform. Leave it empty to receive every message", outcome, &html! {
                    textarea #policy name="policy" rows="4" spellcheck="false" aria-describedby=[described(outcome, "policy")] { "\n" (text) }
                }))
                button { "Subscribe" }
            }
        }
        div #messages { (live::messages(page)) }
        details.plain { summary { "Older messages" } div #older { (live::older_messages(page)) } }
    }
}

fn outages_section(page: &Page, outcome: &Outcome, hidden: &Hidden) -> Markup {
    html! {
        h2 #outages { "Outages" }
        p.hint { "Switch on an outage, make a change, and see what the service does." }
        div #reaction.reaction { (live::reaction(&page.0.vital_signs.record())) }
        @for system in System::ALL {
            h3 id={ "system-" (system.name()) } { (system.title()) }
            @if system == System::Sns && page.0.queue_url.is_some() {
                p { "Here SNS is LocalStack, which has no switches. To pause and resume it, use " span.code { "docker-compose pause localstack" } " and "
                    span.code { "docker-compose unpause localstack" } "." }
            } @else {
                ul.switches { @for outage in OUTAGES.iter().filter(|outage| outage.system == system) { (switch(page, outage, outcome, hidden)) } }
            }
        }
        h3 { "Lock" }
        p.hint { "How long community-api locks a claimed row. In production this is 600 seconds. The service uses its own setting, "
            span.code { "OFFENDERUPDATEPOLL_LOCKEXPIRY" } ". A shorter lock here causes redeliveries." }
        form.inline action="/lock" method="post" {
            (hidden)
            (labelled("lock-seconds", "Seconds", outcome, &html! {
                @let typed = outcome.typed("lock").and_then(|values| values.get("seconds")).cloned();
                input #lock-seconds name="seconds" inputmode="numeric" maxlength="6" autocomplete="off"
                    value=(typed.unwrap_or_else(|| page.0.delius.timings().lock_expiry_seconds.to_string()))
                    aria-describedby=[described(outcome, "lock-seconds")];
            }))
            button { "Set lock" }
        }
        (notice(outcome, "lock", &html! { "Locks now last " (page.0.delius.timings().lock_expiry_seconds) " seconds, including locks that are already set." }))
    }
}

fn switch(page: &Page, outage: &Outage, outcome: &Outcome, hidden: &Hidden) -> Markup {
    let on = outage.is_on(&page.0.faults);
    html! {
        li {
            div {
                strong id={ "outage-" (outage.name) } { (outage.title) }
                p.hint id={ "effect-" (outage.name) } { (outage.effect) }
                (notice(outcome, outage.name, &html! { @if on { "The outage is on." } @else { "The outage is off." } }))
            }
            form action={ "/outages/" (outage.name) } method="post" {
                (hidden)
                span id={ "switch-" (outage.name) } { (live::switch(page, outage)) }
            }
        }
    }
}
