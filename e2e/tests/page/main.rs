//! The sandbox's page in a real browser, with the service behind it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::needless_pass_by_value,
    reason = "a test fails by panicking, and says when it is skipped"
)]

mod forms;
mod looks;
mod visit;
#[path = "../../../tests/service/world.rs"]
#[allow(
    dead_code,
    reason = "shared with the tests of the service, which use all of it"
)]
mod world;

use std::collections::BTreeSet;

use sandbox::Message;
use thirtyfour::{Key, TypingData};

use self::visit::{DESK, SMALL_PHONE, Visit, visit};
use self::world::PATIENCE;

fn event_type(message: &Message) -> &str {
    &message.attributes["eventType"].1
}

async fn change_date_of_birth(visit: &Visit) {
    visit.open_change("details").await;
    visit.fill("details-date_of_birth", "1980-02-29").await;
    visit.press("#change-details button").await;
}

#[tokio::test]
async fn the_page_shows_the_two_events_of_a_change() {
    visit(2, DESK, async |visit| {
        let announced = visit.texts("#change-details .event").await;
        assert_eq!(announced, ["OFFENDER_CHANGED", "OFFENDER_DETAILS_CHANGED"]);
        change_date_of_birth(visit).await;
        visit
            .shows(
                "#outcome",
                &["trigger has written a row", "OFFENDER_DETAILS_CHANGED"],
            )
            .await;
        visit
            .shows("#rows", &["OFFENDER 1", "UPSERT, offender 1", "CREATED"])
            .await;
        visit.shows("#rows", &["No rows"]).await;
        let parts = [
            "OFFENDER_CHANGED",
            "OFFENDER_DETAILS_CHANGED",
            "s after the change",
            "Message id",
            "timestamp (Number.java.lang.Long)",
        ];
        visit.shows("#messages", &parts).await;
        visit.shows(".facts", &["1980-02-29"]).await;
        visit.shows("#signs", &["communityApiHealth", "UP"]).await;
        let () = visit
            .script("scrollTo(0, 0); document.activeElement.blur()", vec![])
            .await;
        visit.picture("page-change.png").await;
    })
    .await;
}

#[tokio::test]
async fn what_each_form_announces_is_what_arrives() {
    visit(0, DESK, async |visit| {
        let changes: Vec<String> = visit
            .script("return [...document.querySelectorAll('details[name=change]')].map(one => one.id.slice(7))", vec![])
            .await;
        assert!(changes.len() >= 14, "{changes:?}");
        for change in &changes {
            let announced = visit.texts(&format!("#change-{change} .event")).await;
            let before = visit.world.sandbox.topic().len();
            visit.open_change(change).await;
            visit.press(&format!("#change-{change} button")).await;
            visit.shows(&format!("#change-{change} #outcome"), &["Changed."]).await;
            visit.world.drained().await;
            let messages = visit.world.sandbox.topic().messages();
            let arrived: BTreeSet<&str> = messages[before..].iter().map(event_type).collect();
            assert_eq!(arrived, announced.iter().map(String::as_str).collect(), "{change}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_row_is_held_until_sns_is_back() {
    visit(0, DESK, async |visit| {
        let switch = "#button-sns-down";
        visit.past().await;
        visit.shows("#rows", &["No rows"]).await;
        visit.shows("#reaction", &["Polls succeed"]).await;
        let before = visit.world.sandbox.topic().len();
        visit.press(switch).await;
        visit.shows("#outcome", &["The outage is on."]).await;
        change_date_of_birth(visit).await;
        visit
            .shows("#rows", &["INPROGRESS", "locked for another"])
            .await;
        visit
            .shows(
                "#reaction",
                &[
                    "Calls are failing",
                    "Rows held: 1",
                    "probationevents-health",
                ],
            )
            .await;
        assert_eq!(visit.world.sandbox.topic().len(), before);
        visit.bare("#outages").await;
        visit.picture("page-outage.png").await;

        visit.press(switch).await;
        visit.shows("#outcome", &["The outage is off."]).await;
        let messages = visit
            .world
            .sandbox
            .topic()
            .wait_for(before + 2, PATIENCE)
            .await
            .unwrap();
        for message in &messages[before..] {
            visit
                .shows("#messages", &[event_type(message), &message.message_id])
                .await;
        }
        visit.shows("#rows", &["No rows"]).await;
        visit
            .shows("#reaction", &["Polls succeed", "All health checks are UP"])
            .await;
    })
    .await;
}

#[tokio::test]
async fn a_filter_policy_filters_messages_or_is_refused() {
    visit(0, DESK, async |visit| {
        let for_subscribers = include_str!("../../../docs/subscribing.md");
        let policy = for_subscribers
            .lines()
            .find(|line| line.contains("filter_policy = "))
            .unwrap()
            .trim();
        visit.press("details.plain summary").await;
        visit.fill("policy", policy).await;
        visit.press("form[action='/subscription'] button").await;
        visit.shows("#outcome", &["has this filter policy"]).await;
        change_date_of_birth(visit).await;
        visit
            .shows("#messages", &["received 1 of the latest 2 messages"])
            .await;
        assert_eq!(
            visit.texts("#messages .head strong").await,
            ["OFFENDER_DETAILS_CHANGED"]
        );

        visit
            .fill("policy", r#"{"eventType": [{"startswith": "OFFENDER"}]}"#)
            .await;
        visit.press("form[action='/subscription'] button").await;
        visit
            .shows(
                ".errors",
                &[
                    "SNS would refuse this policy",
                    "Unrecognized match type startswith",
                ],
            )
            .await;
        visit.shows("#policy-fault", &["startswith"]).await;
        let focused: String = visit
            .script("return document.activeElement.id", vec![])
            .await;
        assert_eq!(focused, "outcome", "the summary of errors has the focus");
        assert!(visit.browser.title().await.unwrap().starts_with("Error: "));
    })
    .await;
}

#[tokio::test]
async fn a_script_in_a_name_is_shown_as_text() {
    visit(0, DESK, async |visit| {
        let name = "<script>document.title = 'broken'</script>";
        visit.open_change("details").await;
        visit.fill("details-first_name", name).await;
        visit.press("#change-details button").await;
        visit.shows("#people + nav", &[name]).await;
        visit.browser.refresh().await.unwrap();
        visit.shows("main h3", &[name]).await;
        assert_eq!(
            visit
                .find("#details-first_name")
                .await
                .value()
                .await
                .unwrap()
                .as_deref(),
            Some(name)
        );
        assert!(visit.texts("main script").await.is_empty());
        assert!(
            visit
                .browser
                .title()
                .await
                .unwrap()
                .starts_with("See it happen")
        );
    })
    .await;
}

#[tokio::test]
async fn a_small_screen_needs_no_sideways_scrolling() {
    visit(0, SMALL_PHONE, async |visit| {
        visit.shows("#signs", &["communityApiHealth"]).await;
        visit.press("#button-sns-entry").await;
        visit.shows("#outcome", &["The outage is on."]).await;
        visit.open_change("requirement").await;
        visit.press("#change-requirement button").await;
        visit
            .shows("#change-requirement #outcome", &["Changed."])
            .await;
        visit.shows("#rows", &["RQMNT", "INPROGRESS"]).await;
        visit.press("#button-sns-entry").await;
        // The message may arrive before the form's answer, which replaces this page.
        visit.shows("#outcome", &["The outage is off."]).await;
        visit
            .shows("#messages", &["SENTENCE_ORDER_REQUIREMENT_CHANGED"])
            .await;
        visit.open_change("ogrs").await;
        visit.fill("ogrs-one_year", "101").await;
        visit.press("#change-ogrs button").await;
        visit.shows(".errors", &["Score after one year"]).await;
        let (needed, given): (u32, u32) = visit
            .script(
                "return [document.scrollingElement.scrollWidth, innerWidth]",
                vec![],
            )
            .await;
        assert_eq!(given, SMALL_PHONE.0);
        assert!(needed <= given, "{needed} of {given} pixels");
    })
    .await;
}

#[tokio::test]
async fn the_page_can_be_used_with_the_keys_alone() {
    visit(0, DESK, async |visit| {
        let focused = async || -> String {
            visit
                .script(
                    "const one = document.activeElement; return one.textContent.trim() || one.id",
                    vec![],
                )
                .await
        };
        let press = async |keys: TypingData| {
            visit
                .browser
                .action_chain()
                .send_keys(keys)
                .perform()
                .await
                .unwrap();
        };
        press(Key::Tab.into()).await;
        assert_eq!(focused().await, "Skip to main content");
        press(Key::Enter + Key::Tab).await;
        assert_eq!(
            focused().await,
            "Alder Sample",
            "the first thing in the main content"
        );
        let outline: String = visit
            .script(
                "return getComputedStyle(document.activeElement).outlineStyle",
                vec![],
            )
            .await;
        assert_eq!(outline, "solid");
        // Five people, then the open form: its summary, four fields, three parts of the date, and the button.
        while !focused().await.starts_with("Change") {
            press(Key::Tab.into()).await;
        }
        press(Key::Enter.into()).await;
        visit.shows("#outcome", &["Changed."]).await;
    })
    .await;
}

#[tokio::test]
async fn swagger_ui_works_within_its_content_security_policy() {
    visit(2, DESK, async |visit| {
        let url = format!("{}/swagger-ui.html", visit.world.address);
        visit.browser.goto(url).await.unwrap();
        visit.shows(".info", &["Probation Offender Events"]).await;
        let parts = ["/health/{component}", "/prometheus", "OFFENDER_CHANGED"];
        visit.shows("#swagger-ui", &parts).await;
        visit.press("#operations-info-info button").await;
        visit.shows("#operations-info-info", &["Try it out"]).await;
        visit.press("#operations-info-info .try-out button").await;
        visit.press("#operations-info-info button.execute").await;
        let answer = ["Server response", "productId"];
        visit.shows("#operations-info-info", &answer).await;
    })
    .await;
}
