// SPDX-License-Identifier: Apache-2.0
//! Thousands of pods for which nothing runs.

use std::time::Duration;

use futures_util::StreamExt as _;
use kube::api::ListParams;
use meshmedic_lab::{Exec, PodRef};
use serde_json::json;

use crate::common::{CAT, run, start};

const MANY: usize = 5_000;
const AT_ONCE: usize = 32;

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_pods_are_listed_and_asked() {
    let (api, pods) = start().await;
    let template = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "namespace": "shop", "name": "cart", "labels": { "app": "cart" } },
        "spec": { "containers": [{ "name": "app", "image": "cart:1" }] },
    });
    api.populate(&template, MANY).unwrap();
    let mut names = Vec::new();
    let mut params = ListParams::default().limit(500);
    loop {
        let page = pods.list(&params).await.unwrap();
        assert!(
            page.items
                .iter()
                .all(|pod| pod.status.as_ref().unwrap().pod_ip.is_some())
        );
        names.extend(page.items.iter().map(|pod| pod.metadata.name.clone().unwrap()));
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params = params.continue_token(&token),
            _ => break,
        }
    }
    assert_eq!(
        (names.len(), names.last().unwrap().as_str()),
        (MANY, "cart-04999")
    );
    let delay = Duration::from_millis(5);
    api.set_exec(PodRef::all(), Exec::captured().after(delay))
        .unwrap();
    api.set_exec(("shop", "cart-00007"), Exec::orphan().after(delay))
        .unwrap();
    let asked = names.iter().take(500).map(|name| run(&pods, name, None, &CAT));
    let answers: Vec<_> = futures_util::stream::iter(asked)
        .buffered(AT_ONCE)
        .collect()
        .await;
    let orphans: Vec<_> = (0..answers.len())
        .filter(|&number| !answers[number].text().contains(":3AA0"))
        .collect();
    assert_eq!(orphans, [7]);
    let peak = api.peak_sessions().unwrap();
    assert!(peak > 1 && peak <= u64::try_from(AT_ONCE).unwrap(), "{peak}");
}
