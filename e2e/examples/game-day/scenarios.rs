//! The outages, and the alert that each of them fires. To add one, add an entry.

use std::time::Duration;

use sandbox::{Endpoint, Fault, Rule};

/// One outage.
pub struct Scenario {
    /// For `--only`.
    pub name: &'static str,
    pub outage: &'static str,
    pub cause: Cause,
    /// The only alert that fires; `None`: none.
    pub alert: Option<&'static str>,
}

impl Scenario {
    /// The namespace of its pods.
    pub fn namespace(&self) -> String {
        format!("game-day-{}", self.name)
    }
}

/// What goes wrong.
#[derive(Clone, Copy)]
pub enum Cause {
    None,
    /// These calls fail like this.
    Faults(&'static [Endpoint], fn() -> Fault),
    /// The same, and all tokens are invalid, so that it takes effect immediately.
    Auth(&'static [Endpoint], fn() -> Fault),
    /// The same for one pod of two, which has a separate topic.
    OnePod(&'static [Endpoint], fn() -> Fault),
    /// The same for four minutes only.
    Short(&'static [Endpoint], fn() -> Fault),
    /// Identifiers of the two offenders with these ids fail.
    TwoOffenders,
    /// All calls to community-api take this long, while a backlog waits.
    Backlog(Duration),
    /// Pods are killed 25 seconds after each start, and wait longer each time.
    CrashLoop,
    /// A pod is killed once, and starts again.
    OneKill,
    /// All pods are gone.
    NoPods,
    /// Pods start with polling switched off.
    PollingOff,
}

const CLAIM: &[Endpoint] = &[Endpoint::NextUpdate];
const IDENTIFIERS: &[Endpoint] = &[Endpoint::Identifiers];
const PUBLISH: &[Endpoint] = &[Endpoint::PublishBatch];

const fn scenario(
    name: &'static str,
    outage: &'static str,
    cause: Cause,
    alert: Option<&'static str>,
) -> Scenario {
    Scenario {
        name,
        outage,
        cause,
        alert,
    }
}

fn html() -> Fault {
    Fault::Answer {
        status: 200,
        content_type: "text/html".into(),
        body: b"<html><body>Please log in</body></html>".to_vec(),
        headers: Vec::new(),
    }
}

fn refused_entries() -> Fault {
    Fault::SnsEntryError {
        entry: None,
        code: "InvalidParameter".into(),
        sender_fault: true,
    }
}

fn wrong_credentials() -> Fault {
    Fault::sns(403, "InvalidClientTokenId")
}

/// All of them, in the order of the table.
#[rustfmt::skip]
pub const SCENARIOS: &[Scenario] = &[
    scenario("healthy", "none", Cause::None, None),
    scenario("short", "SNS is down for 4 minutes only", Cause::Short(Endpoint::SNS, || Fault::DropConnection), None),
    scenario("one-kill", "one pod is killed once", Cause::OneKill, None),
    scenario("two-offenders", "identifiers of two offenders answer 500", Cause::TwoOffenders, None),
    scenario("sns-down", "SNS closes connections", Cause::Faults(Endpoint::SNS, || Fault::DropConnection), Some("NothingSettled")),
    scenario("sns-hangs", "SNS does not answer", Cause::Faults(Endpoint::SNS, || Fault::Hang), Some("NothingSettled")),
    scenario("sns-keys", "SNS refuses the credentials", Cause::Faults(Endpoint::SNS, wrong_credentials), Some("NothingSettled")),
    scenario("sns-one-pod", "SNS closes connections of one pod of two", Cause::OnePod(Endpoint::SNS, || Fault::DropConnection), Some("NothingSettled")),
    scenario("identifiers-500", "identifiers answer 500", Cause::Faults(IDENTIFIERS, || Fault::status(500)), Some("NothingSettled")),
    scenario("identifiers-403", "identifiers answer 403", Cause::Faults(IDENTIFIERS, || Fault::status(403)), Some("NothingSettled")),
    scenario("delete-500", "DELETE answers 500", Cause::Faults(&[Endpoint::DeleteUpdate], || Fault::status(500)), Some("NothingSettled")),
    scenario("identifiers-404", "identifiers answer 404", Cause::Faults(IDENTIFIERS, || Fault::status(404)), Some("ChangesAtRisk")),
    scenario("sns-refuses", "SNS refuses every message", Cause::Faults(PUBLISH, refused_entries), Some("ChangesAtRisk")),
    scenario("community-down", "community-api closes connections", Cause::Faults(Endpoint::COMMUNITY, || Fault::DropConnection), Some("PollingStalled")),
    scenario("contended", "nextUpdate answers 409", Cause::Faults(CLAIM, || Fault::status(409)), Some("PollingStalled")),
    scenario("html", "nextUpdate answers 200 with HTML", Cause::Faults(CLAIM, html), Some("PollingStalled")),
    scenario("auth-down", "hmpps-auth closes connections", Cause::Auth(Endpoint::AUTH, || Fault::DropConnection), Some("PollingStalled")),
    scenario("auth-refuses", "hmpps-auth answers 401", Cause::Auth(&[Endpoint::Token], || Fault::status(401)), Some("PollingStalled")),
    scenario("retry-after", "hmpps-auth answers 503 with Retry-After: 300", Cause::Auth(&[Endpoint::Token], || Fault::status(503).header("Retry-After", "300")), Some("PollingStalled")),
    scenario("polling-off", "polling is switched off", Cause::PollingOff, Some("PollingStalled")),
    scenario("wrong-address", "everything at community-api's address answers 404", Cause::Faults(Endpoint::COMMUNITY, || Fault::status(404)), Some("CommunityApiDown")),
    scenario("crash-loop", "pods die 25 seconds after each start", Cause::CrashLoop, Some("PodsRestart")),
    scenario("no-pods", "all pods are gone", Cause::NoPods, Some("PollingAbsent")),
    scenario("backlog", "calls to community-api take 3 seconds, and 300 rows wait", Cause::Backlog(Duration::from_secs(3)), Some("SlowProcessing")),
];

impl Cause {
    /// The rules of the faults that every pod sees.
    pub fn rules(self) -> Vec<Rule> {
        match self {
            Self::Faults(endpoints, fault)
            | Self::Auth(endpoints, fault)
            | Self::OnePod(endpoints, fault)
            | Self::Short(endpoints, fault) => endpoints
                .iter()
                .map(|endpoint| Rule::new(*endpoint, fault()))
                .collect(),
            Self::Backlog(latency) => Endpoint::COMMUNITY
                .iter()
                .map(|endpoint| Rule::new(*endpoint, Fault::Latency(latency)))
                .collect(),
            Self::TwoOffenders => [1, 2]
                .into_iter()
                .map(|offender| Rule {
                    offender_id: Some(offender),
                    ..Rule::new(Endpoint::Identifiers, Fault::status(500))
                })
                .collect(),
            Self::None | Self::CrashLoop | Self::OneKill | Self::NoPods | Self::PollingOff => {
                Vec::new()
            }
        }
    }
}
