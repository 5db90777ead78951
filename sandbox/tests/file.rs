//! The mini-Delius in a file: what is kept, what other programs may do to it, and what its errors say.

mod folder;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::Client;
use rusqlite::Connection;
use sandbox::delius::NewUpdate;
use sandbox::{Endpoint, Sandbox, Settings};
use tokio::time::{Instant, sleep, timeout};

use self::folder::Folder;

#[test]
fn a_file_is_kept_and_may_be_changed_by_others() -> Result<()> {
    let folder = Folder::new("kept")?;
    let (delius, other) = (folder.open()?, folder.open()?);
    other.execute("UPDATE OFFENDER SET DATE_OF_BIRTH = '1980-02-29' WHERE OFFENDER_ID = 1")?;
    assert_eq!(delius.count_updates()?, 1);
    drop((delius, other));
    assert_eq!(folder.open()?.count_updates()?, 1);
    Ok(())
}

#[test]
fn missing_indexes_and_old_triggers_are_made_again() -> Result<()> {
    let folder = Folder::new("repaired")?;
    folder.open()?.execute(
        "DROP INDEX OFFENDER_DELTA_OLDEST; DROP TRIGGER ALIAS_INSERT; DROP VIEW LONDON_NOW;
         CREATE VIEW LONDON_NOW AS SELECT 'long ago' AS LOCAL_TIME; CREATE VIEW MINE AS SELECT 1",
    )?;
    let delius = folder.open()?;
    delius.execute("INSERT INTO ALIAS (OFFENDER_ID, FIRST_NAME, SURNAME) VALUES (1, 'A', 'B')")?;
    assert!(delius.updates()?[0].date_changed.starts_with("20"));
    delius
        .execute("DROP VIEW MINE")
        .context("what is not ours is left alone")?;
    Ok(())
}

#[test]
fn an_unusable_file_is_named_with_the_remedy() -> Result<()> {
    let folder = Folder::new("unusable")?;
    let error = |what: &str| match folder.open() {
        Ok(_) => format!("{what} was opened"),
        Err(error) => format!("{error:#}"),
    };
    folder
        .open()?
        .execute("ALTER TABLE OFFENDER DROP COLUMN CRO_NUMBER")?;
    let older = error("an older schema");
    assert!(
        older.contains("delete it") && older.contains("OFFENDER.CRO_NUMBER TEXT"),
        "{older}"
    );
    fs::write(
        folder.file(),
        "This is a text, and a rather long one for that. ".repeat(99),
    )?;
    let text = error("a text");
    assert!(
        text.contains("it is not a database") && text.contains("delete it"),
        "{text}"
    );
    fs::remove_file(folder.file())?;
    Connection::open(folder.file())?.execute_batch("CREATE TABLE OFFENDER (X)")?;
    let foreign = error("tables of another program");
    assert!(foreign.contains("delete it"), "{foreign}");
    fs::remove_file(folder.file())?;
    fs::create_dir(folder.file())?;
    let directory = error("a directory");
    assert!(directory.contains("it cannot be opened"), "{directory}");
    for said in [older, text, foreign, directory] {
        assert!(said.contains("delius.sqlite"), "{said}");
    }
    Ok(())
}

#[test]
fn a_locked_file_does_not_block_the_start_forever() -> Result<()> {
    let folder = Folder::new("locked-at-start")?;
    let shell = folder.open()?;
    shell.execute("BEGIN IMMEDIATE")?;
    let error = folder.open().err().context("it is locked")?;
    assert!(
        format!("{error:#}").contains("COMMIT or ROLLBACK"),
        "{error:#}"
    );
    Ok(())
}

#[tokio::test]
async fn while_another_program_has_a_transaction_open_only_changes_wait() -> Result<()> {
    let folder = Folder::new("transaction")?;
    let shell = folder.open()?;
    let sandbox = Sandbox::start(Settings {
        database: Some(folder.file()),
        page_address: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
        ..Settings::default()
    })
    .await?;
    let id = shell.insert_update(&NewUpdate::default(), 0)?;
    let (client, token) = (Client::new(), sandbox.auth().issue());
    shell.execute("BEGIN IMMEDIATE")?;
    let row = format!("{}/secure/offenders/update/{id}", sandbox.community_url());
    let delete = || client.delete(&row).bearer_auth(&token).send();
    let waiting = tokio::spawn(delete());

    let started = Instant::now();
    let identifiers = "/secure/offenders/offenderId/1/identifiers";
    for url in [
        sandbox.auth_url() + "/health/ping",
        sandbox.community_url() + "/health/ping",
        sandbox.community_url() + identifiers,
        sandbox.page_url().context("the page")?,
    ] {
        let answer = client.get(&url).bearer_auth(&token).send();
        assert_eq!(
            timeout(Duration::from_secs(1), answer).await??.status(),
            200,
            "{url}"
        );
    }
    let form = [("type", "Call")];
    let page = sandbox.page_url().context("the page")?;
    let url = format!("{page}/people/1/contact");
    let change = tokio::spawn(client.post(url).form(&form).send());
    let switch = client.post(format!("{page}/outages/sns-slow"));
    let switched = switch.form(&[("on", "true")]).send();
    let switched = timeout(Duration::from_secs(1), switched).await??;
    assert_eq!(switched.status(), 200, "it does not wait for the change");
    let said = change.await??.text().await?;
    assert!(said.contains("COMMIT or ROLLBACK"), "{said}");
    assert_eq!(waiting.await??.status(), 500);
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );

    let waits = tokio::spawn(delete());
    // Until it has met the locked file.
    while sandbox.faults().calls(Endpoint::DeleteUpdate) < 2 {
        tokio::task::yield_now().await;
    }
    sleep(Duration::from_millis(200)).await;
    assert!(!waits.is_finished(), "it waits");
    shell.execute("ROLLBACK")?;
    assert_eq!(waits.await??.status(), 200, "it waited, and went on");
    Ok(())
}
