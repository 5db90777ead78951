//! Forms that are sent twice or get a bad answer, and what the windows of one browser share.

use std::collections::BTreeMap;

use thirtyfour::Key;

use crate::visit::{DESK, Visit, visit};
use crate::world::eventually;

/// Rows stay where they are: no row is claimed during a test.
const NEVER: i64 = 3_600;

async fn complaint(visit: &Visit) -> String {
    visit.text(".complaint").await
}

/// Replaces `fetch` for the next form.
async fn answer_next_form_with(visit: &Visit, fetch: &str) {
    let script = format!(
        "const real = window.fetch;
         window.fetch = (...asked) => {{ window.fetch = real; return ({fetch})(real, ...asked); }};"
    );
    let () = visit.script(&script, vec![]).await;
}

#[tokio::test]
async fn a_double_click_and_a_second_enter_change_once() {
    visit(NEVER, DESK, async |visit| {
        visit.open_change("contact").await;
        let button = visit.find("#change-contact button").await;
        button.scroll_into_view().await.unwrap();
        let clicks = visit.browser.action_chain().double_click_element(&button);
        clicks.perform().await.unwrap();
        visit.shows("#change-contact #outcome", &["Changed."]).await;
        assert_eq!(visit.rows_after_another_change().await, 1);

        visit.open_change("contact").await;
        let field = visit.find("#contact-type").await;
        field.send_keys(Key::Enter + Key::Enter).await.unwrap();
        visit.shows("#change-contact #outcome", &["Changed."]).await;
        assert_eq!(visit.rows_after_another_change().await, 3);
    })
    .await;
}

#[tokio::test]
async fn a_double_click_on_a_switch_leaves_it_on() {
    visit(NEVER, DESK, async |visit| {
        let button = visit.find("#button-sns-slow").await;
        button.scroll_into_view().await.unwrap();
        let clicks = visit.browser.action_chain().double_click_element(&button);
        clicks.perform().await.unwrap();
        visit.shows("#outcome", &["The outage is on."]).await;
        visit.rows_after_another_change().await;
        assert_eq!(visit.text("#button-sns-slow").await, "On");
    })
    .await;
}

#[tokio::test]
async fn a_form_without_a_valid_answer_keeps_its_text() {
    visit(NEVER, DESK, async |visit| {
        visit.open_change("contact").await;
        for (fetch, said) in [
            ("async () => { throw new TypeError() }", "did not answer"),
            (
                "async () => new Response('Bad gateway', { status: 502 })",
                "answered 502 without a page: Bad gateway",
            ),
        ] {
            visit.fill("contact-type", "A long letter").await;
            answer_next_form_with(visit, fetch).await;
            visit.press("#change-contact button").await;
            eventually(said, async || complaint(visit).await.contains(said)).await;
            let typed = visit.find("#contact-type").await.value().await.unwrap();
            assert_eq!(typed.as_deref(), Some("A long letter"));
        }
        assert_eq!(visit.world.sandbox.delius().count_updates().unwrap(), 0);
        visit.press("#change-contact button").await;
        visit.shows("#change-contact #outcome", &["Changed."]).await;
        assert_eq!(complaint(visit).await, "");
    })
    .await;
}

#[tokio::test]
async fn a_change_whose_answer_was_lost_is_not_made_again() {
    visit(NEVER, DESK, async |visit| {
        visit.open_change("contact").await;
        let fetch = "async (real, ...asked) => { await real(...asked); throw new TypeError() }";
        answer_next_form_with(visit, fetch).await;
        visit.press("#change-contact button").await;
        eventually("a complaint", async || {
            complaint(visit).await.contains("did not answer")
        })
        .await;
        assert_eq!(visit.world.sandbox.delius().count_updates().unwrap(), 1);
        visit.press("#change-contact button").await;
        visit.shows("#change-contact #outcome", &["Changed."]).await;
        assert_eq!(visit.rows_after_another_change().await, 1);
    })
    .await;
}

#[tokio::test]
async fn what_is_typed_stays_when_another_form_is_sent() {
    visit(NEVER, DESK, async |visit| {
        visit.open_change("contact").await;
        visit.fill("contact-type", "A long letter").await;
        visit.press("#button-sns-slow").await;
        visit.shows("#outcome", &["The outage is on."]).await;
        let typed = visit.find("#contact-type").await.value().await.unwrap();
        assert_eq!(typed.as_deref(), Some("A long letter"));
    })
    .await;
}

#[tokio::test]
async fn a_switch_shows_what_someone_else_has_switched() {
    visit(NEVER, DESK, async |visit| {
        let url = format!(
            "{}/outages/sns-slow",
            visit.world.sandbox.page_url().unwrap()
        );
        for (on, shown) in [("true", "On"), ("false", "Off")] {
            let form = BTreeMap::from([("on", on)]);
            let switched = reqwest::Client::new().post(&url).form(&form).send().await;
            assert_eq!(switched.unwrap().status(), 200);
            eventually(shown, async || {
                visit.text("#button-sns-slow").await == shown
            })
            .await;
        }
    })
    .await;
}

#[tokio::test]
async fn ten_windows_of_one_browser_all_load_and_their_forms_are_answered() {
    visit(NEVER, DESK, async |visit| {
        let page = visit.world.sandbox.page_url().unwrap();
        for _ in 0..9 {
            // Unlike a tab, a window is seen beside others.
            let window = visit.browser.new_window().await.unwrap();
            visit.browser.switch_to_window(window).await.unwrap();
            visit.browser.goto(&page).await.unwrap();
        }
        visit.shows("#rows", &["No rows"]).await;
        assert_eq!(visit.rows_after_another_change().await, 0);
        visit.shows("#rows", &["MANAGEMENT_TIER_EVENT"]).await;
    })
    .await;
}
