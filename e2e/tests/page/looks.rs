//! What users see, and what screen readers get: names, scrolling, the progress of a row, and axe-core's rules.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;

use crate::visit::{DESK, PHONE, Visit, visit};
use crate::world::eventually;

#[tokio::test]
async fn a_row_is_followed_from_its_claim_to_its_deletion() {
    visit(0, DESK, async |visit| {
        visit.open_change("alias").await;
        visit.press("#change-alias button").await;
        visit
            .shows("#claimed-rows", &["ALIAS", "deleted after"])
            .await;
        let steps = visit.texts("#claimed-rows tbody tr:first-child td").await;
        assert_eq!(steps.len(), 4, "{steps:?}");
        assert!(
            steps[1..].iter().all(|step| step.contains("after ")),
            "{steps:?}"
        );
    })
    .await;
}

/// The first number before ` s`.
fn seconds(text: &str) -> Option<f64> {
    let (before, _) = text.split_once(" s")?;
    before.rsplit(' ').next()?.parse().ok()
}

#[tokio::test]
async fn the_age_of_a_message_agrees_with_the_metric_of_the_service() {
    visit(2, DESK, async |visit| {
        visit.open_change("contact").await;
        visit.press("#change-contact button").await;
        visit.shows("#messages", &["s after the change"]).await;
        let message = visit.text("#messages .when").await;
        let of_message = seconds(&message).unwrap();
        eventually("both ages are the same", async || {
            let metric = visit.text("#signs tbody tr:first-child .number").await;
            seconds(&metric).is_some_and(|of_metric| (of_metric - of_message).abs() < 0.15)
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn failing_polls_are_shown_as_failing() {
    visit(0, DESK, async |visit| {
        visit.shows("#reaction", &["Polls succeed"]).await;
        visit.press("#button-community-down").await;
        visit.shows("#reaction", &["Polls fail"]).await;
        visit.press("#button-community-down").await;
        visit.shows("#reaction", &["Polls succeed"]).await;
    })
    .await;
}

#[tokio::test]
async fn rows_and_messages_stay_in_view_while_a_form_is_filled_in() {
    visit(0, DESK, async |visit| {
        visit.open_change("contact").await;
        visit
            .find("#contact-type")
            .await
            .scroll_into_view()
            .await
            .unwrap();
        let script = "const place = document.getElementById('follow').getBoundingClientRect();
            return [place.top, innerHeight - place.bottom]";
        let (above, below): (f64, f64) = visit.script(script, vec![]).await;
        assert!(
            above >= 0.0 && below >= -1.0,
            "{above} above, {below} below"
        );
    })
    .await;
}

#[tokio::test]
async fn on_a_phone_nothing_scrolls_but_the_page() {
    visit(0, PHONE, async |visit| {
        let script = "return [...document.querySelectorAll('main *')].filter(one =>
            /auto|scroll/.test(getComputedStyle(one).overflowY) && one.tagName !== 'TEXTAREA').map(one => one.id)";
        let scrolling: Vec<String> = visit.script(script, vec![]).await;
        assert!(scrolling.is_empty(), "{scrolling:?}");
    })
    .await;
}

#[tokio::test]
async fn each_button_and_link_has_a_unique_name() {
    visit(0, DESK, async |visit| {
        let script = "const text = id => document.getElementById(id).textContent;
            return [...document.querySelectorAll('button, a, summary')].map(one =>
                one.getAttribute('aria-labelledby')?.split(' ').map(text).join(' ') ?? one.textContent.trim())";
        let names: Vec<String> = visit.script(script, vec![]).await;
        let different: BTreeSet<&String> = names.iter().collect();
        assert_eq!(different.len(), names.len(), "{names:?}");
        assert!(names.contains(&"community-api Down".to_owned()), "{names:?}");
    })
    .await;
}

#[tokio::test]
async fn the_page_has_an_icon_and_links_to_the_service() {
    visit(0, DESK, async |visit| {
        let script = "return [...document.querySelectorAll('link[rel=icon], #signs ~ a, section[aria-labelledby=vital] a')]
            .map(one => one.href)";
        let links: Vec<String> = visit.script(script, vec![]).await;
        assert_eq!(links.len(), 4, "{links:?}");
        for link in links {
            let status = reqwest::get(&link).await.unwrap().status();
            assert_eq!(status, 200, "{link}");
        }
    })
    .await;
}

/// The script of axe-core: `AXE_SCRIPT`, or what `e2e/tests/deployment/install-tools.sh` installs.
fn axe() -> Option<String> {
    let pythons = std::fs::read_dir(e2e::deployment_tools().join("lib"))
        .into_iter()
        .flatten()
        .flatten();
    let installed = pythons
        .map(|python| {
            python
                .path()
                .join("site-packages/axe_playwright_python/axe.min.js")
        })
        .find(|script| script.exists());
    let script = std::env::var_os("AXE_SCRIPT")
        .map(PathBuf::from)
        .or(installed);
    if script.is_none() {
        e2e::skip("e2e/tests/deployment/install-tools.sh installs axe-core");
    }
    script.map(|script| std::fs::read_to_string(script).unwrap())
}

async fn assert_axe_finds_nothing(visit: &Visit, axe: &str, when: &str) {
    let () = visit.script(axe, vec![]).await;
    let run = "const done = arguments[arguments.length - 1];
        axe.run().then(found => done(found.violations.map(one => [one.id, one.nodes.map(node => node.html)])))";
    let found = visit.browser.execute_async(run, vec![]).await.unwrap();
    assert_eq!(found.json(), &Value::Array(vec![]), "{when}");
}

#[tokio::test]
async fn axe_finds_nothing_on_a_desk_or_a_phone() {
    let Some(axe) = axe() else {
        return;
    };
    for screen in [(1280, 900), PHONE] {
        visit(0, screen, async |visit| {
            visit.shows("#signs", &["communityApiHealth"]).await;
            assert_axe_finds_nothing(visit, &axe, "at first").await;
            visit.open_change("requirement").await;
            visit.press("#change-requirement button").await;
            visit
                .shows("#change-requirement #outcome", &["Changed."])
                .await;
            visit
                .shows("#claimed-rows", &["RQMNT", "deleted after"])
                .await;
            visit.press("#button-community-down").await;
            visit.shows("#reaction", &["Polls fail"]).await;
            visit
                .press("section[aria-labelledby=arrivals] details:last-child summary")
                .await;
            assert_axe_finds_nothing(visit, &axe, "in an outage, with a message").await;
            visit.open_change("ogrs").await;
            visit.fill("ogrs-one_year", "101").await;
            visit.press("#change-ogrs button").await;
            visit.shows(".errors", &["Score after one year"]).await;
            assert_axe_finds_nothing(visit, &axe, "with an error").await;
        })
        .await;
    }
}
