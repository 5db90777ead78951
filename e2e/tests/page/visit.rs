//! A service in its sandbox, and a real browser on the sandbox's page.

use std::net::{Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::process::Stdio;
use std::time::Duration;

use futures_util::FutureExt;
use sandbox::{Sandbox, Timings};
use thirtyfour::{By, ChromiumLikeCapabilities, DesiredCapabilities, WebDriver, WebElement};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use crate::world::{World, eventually};

/// A browser is a dozen processes: more of them than cores only slow each other down.
static BROWSERS: Semaphore = Semaphore::const_new(2);

pub struct Visit {
    pub world: World,
    pub browser: WebDriver,
}

/// A screen of this width and height, in CSS pixels.
pub const DESK: (u32, u32) = (1200, 1040);
pub const PHONE: (u32, u32) = (390, 844);
pub const SMALL_PHONE: (u32, u32) = (320, 640);

/// Starts service, sandbox and browser, and opens the page. Without a browser the test is skipped, unless in CI.
pub async fn visit(serve_after_seconds: i64, screen: (u32, u32), test: impl AsyncFnOnce(&Visit)) {
    let _permit = BROWSERS.acquire().await.unwrap();
    let Some(mut driver) = Chromedriver::start().await else {
        e2e::skip(
            "chromium and chromedriver are not installed (Debian: chromium, chromium-driver)",
        );
        return;
    };
    let sandbox = Sandbox::start(sandbox::Settings {
        page_address: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
        timings: Timings {
            serve_after_seconds,
            ..Timings::default()
        },
        ..sandbox::Settings::default()
    })
    .await
    .unwrap();
    let world = World::around(sandbox, &[]).await;
    world.sandbox.watch_service(world.address.clone());
    let browser = driver.open(screen).await;
    let page = world.sandbox.page_url().unwrap();
    browser.goto(page).await.unwrap();
    let visit = Visit { world, browser };
    // The browser must be closed even if the test panics.
    let outcome = AssertUnwindSafe(test(&visit)).catch_unwind().await;
    let closed = visit.browser.quit().await;
    driver.process.kill().await.unwrap();
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
    closed.unwrap();
    visit.world.stop().await;
}

struct Chromedriver {
    process: Child,
    address: String,
    /// Kept, since chromedriver does not survive a closed pipe.
    _output: Lines<BufReader<ChildStdout>>,
}

impl Chromedriver {
    /// `None` if it, or the browser, is not installed.
    async fn start() -> Option<Self> {
        Command::new("chromium")
            .arg("--version")
            .output()
            .await
            .ok()?;
        let mut process = Command::new("chromedriver")
            .arg("--port=0")
            // The order of a date in the pictures.
            .env("LANGUAGE", "en_GB")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .ok()?;
        let mut output = BufReader::new(process.stdout.take().unwrap()).lines();
        loop {
            let line = output
                .next_line()
                .await
                .unwrap()
                .expect("chromedriver has ended");
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                let address = format!("http://127.0.0.1:{}", port.trim_end_matches('.'));
                return Some(Self {
                    process,
                    address,
                    _output: output,
                });
            }
        }
    }

    async fn open(&self, (width, height): (u32, u32)) -> WebDriver {
        let mut wanted = DesiredCapabilities::chrome();
        for argument in [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--lang=en-GB",
        ] {
            wanted.add_arg(argument).unwrap();
        }
        let device = serde_json::json!({"deviceMetrics": {"width": width, "height": height, "pixelRatio": 1, "mobile": false, "touch": false}});
        wanted
            .add_experimental_option("mobileEmulation", device)
            .unwrap();
        WebDriver::new(&self.address, wanted).await.unwrap()
    }
}

impl Visit {
    pub async fn find(&self, selector: &str) -> WebElement {
        let found = self.browser.find(By::Css(selector)).await;
        found.unwrap_or_else(|error| panic!("{selector}: {error}"))
    }

    /// The visible text of the first element, or nothing if there is none now.
    pub async fn text(&self, selector: &str) -> String {
        let Ok(element) = self.browser.find(By::Css(selector)).await else {
            return String::new();
        };
        element.text().await.unwrap_or_default()
    }

    pub async fn texts(&self, selector: &str) -> Vec<String> {
        let script = "return [...document.querySelectorAll(arguments[0])].map(one => one.textContent.trim())";
        self.script(script, vec![selector.into()]).await
    }

    pub async fn script<T: serde::de::DeserializeOwned>(
        &self,
        script: &str,
        arguments: Vec<serde_json::Value>,
    ) -> T {
        self.browser
            .execute(script, arguments)
            .await
            .unwrap()
            .convert()
            .unwrap()
    }

    /// Opens the form of a change, unless it is open.
    pub async fn open_change(&self, change: &str) {
        let open = format!("#change-{change}[open]");
        if self.browser.find(By::Css(&*open)).await.is_err() {
            self.find(&format!("#change-{change} summary"))
                .await
                .click()
                .await
                .unwrap();
        }
    }

    /// Types a value. A date is set: its keys depend on the browser's language.
    pub async fn fill(&self, id: &str, value: &str) {
        let field = self.find(&format!("#{id}")).await;
        if field.attr("type").await.unwrap().as_deref() == Some("date") {
            let set = "document.getElementById(arguments[0]).value = arguments[1]";
            let () = self.script(set, vec![id.into(), value.into()]).await;
        } else {
            field.clear().await.unwrap();
            field.send_keys(value).await.unwrap();
        }
    }

    pub async fn press(&self, selector: &str) {
        let button = self.find(selector).await;
        button.scroll_into_view().await.unwrap();
        button.click().await.unwrap();
    }

    /// How many rows there are, once a later change is among them.
    pub async fn rows_after_another_change(&self) -> usize {
        self.open_change("tier").await;
        self.press("#change-tier button").await;
        self.shows("#change-tier #outcome", &["Changed."]).await;
        self.world.sandbox.delius().count_updates().unwrap() - 1
    }

    /// Waits until the text of an element has all of these in it.
    pub async fn shows(&self, selector: &str, wanted: &[&str]) {
        eventually(&format!("{selector} shows {wanted:?}"), async || {
            let text = self.text(selector).await;
            wanted.iter().all(|wanted| text.contains(wanted))
        })
        .await;
    }

    /// Removes the focus, and scrolls to an element.
    pub async fn bare(&self, selector: &str) {
        let script = "document.activeElement.blur(); document.querySelector(arguments[0]).parentElement.scrollIntoView()";
        let () = self.script(script, vec![selector.into()]).await;
    }

    /// Writes a screenshot to a file of the documents, if `UPDATE_SCREENSHOTS` is set.
    pub async fn picture(&self, file: &str) {
        if updates_pictures() {
            let path = format!("{}/../docs/{file}", env!("CARGO_MANIFEST_DIR"));
            self.browser.screenshot(path.as_ref()).await.unwrap();
        }
    }

    /// Makes some changes, so that a picture shows some history.
    pub async fn past(&self) {
        if !updates_pictures() {
            return;
        }
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(100) {
            self.world.sandbox.delius().random_change().unwrap();
            sleep(Duration::from_millis(1700)).await;
        }
    }
}

fn updates_pictures() -> bool {
    std::env::var_os("UPDATE_SCREENSHOTS").is_some()
}
