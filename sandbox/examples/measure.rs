//! Throwaway.
use sandbox::*;
#[allow(clippy::all)]
use std::time::Instant;
use tokio::task::JoinSet;
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let d = Delius::in_memory(Timings::default())?;
    let t = Instant::now();
    d.seed_people(20000)?;
    eprintln!("20k people {:?}", t.elapsed());
    let t = Instant::now();
    d.seed_backlog(300_000)?;
    eprintln!("300k backlog {:?}", t.elapsed());
    let now = jiff::Timestamp::now().as_second();
    let t = Instant::now();
    for _ in 0..100_000 {
        let c = d.claim_candidate(now)?.unwrap();
        let r = d.lock(&c, now)?.unwrap();
        d.identifiers(r.offender_id)?;
    }
    eprintln!("100k claim+lock+identifiers {:?}", t.elapsed());
    let t = Instant::now();
    while let Some(c) = d.claim_candidate(now)? {
        let r = d.lock(&c, now)?.unwrap();
        d.delete_update(r.offender_delta_id)?;
    }
    eprintln!("200k claim+lock+delete {:?}", t.elapsed());
    let t = Instant::now();
    for _ in 0..100_000 {
        assert!(d.claim_candidate(now + 5)?.is_none());
    }
    eprintln!("100k empty claims with 100k locked {:?}", t.elapsed());
    let t = Instant::now();
    for _ in 0..100_000 {
        d.random_change()?;
    }
    eprintln!("100k random changes {:?}", t.elapsed());
    let s = Sandbox::start(Settings::default()).await?;
    s.delius().seed_backlog(60_000)?;
    let token = s.auth().issue();
    let client = reqwest::Client::new();
    let t = Instant::now();
    let mut set = JoinSet::new();
    for _ in 0..16 {
        let (c, u, tok) = (client.clone(), s.community_url(), token.clone());
        set.spawn(async move {
            let mut n = 0;
            for _ in 0..2000 {
                let r = c
                    .get(format!("{u}/secure/offenders/offenderId/1/identifiers"))
                    .bearer_auth(&tok)
                    .send()
                    .await
                    .unwrap();
                assert!(r.status() == 200);
                r.bytes().await.unwrap();
                n += 1;
            }
            n
        });
    }
    let n: usize = set.join_all().await.into_iter().sum();
    eprintln!("{} identifiers/s", n as f64 / t.elapsed().as_secs_f64());
    let t = Instant::now();
    for _ in 0..20000 {
        let r = client
            .get(format!("{}/secure/offenders/nextUpdate", s.community_url()))
            .bearer_auth(&token)
            .send()
            .await?;
        assert!(r.status() == 200);
        r.bytes().await?;
    }
    eprintln!(
        "{} serial nextUpdate/s",
        20000.0 / t.elapsed().as_secs_f64()
    );
    Ok(())
}
