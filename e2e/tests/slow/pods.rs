//! Several instances of the binary at one backlog, as pods in the cluster.

use std::collections::{HashMap, HashSet};

use crate::binary::Service;
use crate::world::{PATIENCE, attribute, drained, sandbox};

#[tokio::test]
async fn four_pods_drain_a_thousand_rows_together_each_exactly_once() {
    let sandbox = sandbox().await;
    sandbox.delius().seed_people(200).unwrap();
    sandbox.delius().seed_backlog(1_000).unwrap();
    let mut expected: HashMap<String, usize> = HashMap::new();
    for row in sandbox.delius().updates().unwrap() {
        let table = row.source_table.unwrap();
        let generic = [
            "ALIAS",
            "OFFENDER",
            "OFFENDER_ADDRESS",
            "OFFENDER_MANAGER",
            "OFFICER",
        ]
        .contains(&&*table);
        *expected.entry("OFFENDER_CHANGED".into()).or_default() += usize::from(generic);
        *expected.entry("specific".into()).or_default() += 1;
    }
    let pods: Vec<_> = (0..4).map(|_| Service::start(&sandbox, &[])).collect();
    sandbox
        .topic()
        .wait_for(expected.values().sum(), PATIENCE * 3)
        .await
        .unwrap();
    drained(&sandbox).await;
    for pod in pods {
        let output = pod.terminate().await;
        assert_eq!(output.status.code(), Some(0));
    }
    let messages = sandbox.topic().messages();
    let mut found: HashMap<String, usize> = HashMap::new();
    for message in &messages {
        let kind = match attribute(message, "eventType") {
            "OFFENDER_CHANGED" => "OFFENDER_CHANGED",
            _ => "specific",
        };
        *found.entry(kind.into()).or_default() += 1;
    }
    assert_eq!(found, expected);
    let ids: HashSet<_> = messages
        .iter()
        .map(|message| attribute(message, "id"))
        .collect();
    assert_eq!(ids.len(), messages.len(), "no event came twice");
}
