// SPDX-License-Identifier: Apache-2.0
//! `log`.

use futures_util::{AsyncBufReadExt as _, AsyncReadExt as _};
use kube::api::LogParams;
use meshmedic_lab::{Fault, Log, PodRef};

use crate::common::{pod, refusal, start};

const LINES: &str = "2026-01-01T00:00:00.000000Z\tinfo\tone\n2026-01-01T00:01:00.000000Z\tinfo\ttwo\n\
                     \tmore of two\n{\"level\":\"info\",\"time\":\"2026-01-01T00:02:00.5Z\"}\n";

/// Whatever of a log is shown.
fn params(change: impl FnOnce(&mut LogParams)) -> LogParams {
    let mut params = LogParams::default();
    change(&mut params);
    params
}

#[tokio::test(flavor = "multi_thread")]
async fn it_shows_what_is_wanted_of_a_log() {
    let (api, pods) = start().await;
    pod(&api, "shop", "a", &["app"]);
    assert_eq!(pods.logs("a", &LogParams::default()).await.unwrap(), "");
    api.set_log(("shop", "a"), Log::text(LINES)).unwrap();
    assert_eq!(pods.logs("a", &LogParams::default()).await.unwrap(), LINES);
    let tail = params(|p| {
        p.tail_lines = Some(2);
        p.timestamps = true;
    });
    assert_eq!(
        pods.logs("a", &tail).await.unwrap(),
        "2026-01-01T00:01:00.000000000Z \tmore of two\n2026-01-01T00:02:00.500000000Z \
         {\"level\":\"info\",\"time\":\"2026-01-01T00:02:00.5Z\"}\n"
    );
    let since = params(|p| {
        p.since_time = Some("2026-01-01T00:01:00Z".parse().unwrap());
        p.limit_bytes = Some(30);
    });
    let shown = pods.logs("a", &since).await.unwrap();
    assert_eq!(
        (shown.len(), shown.starts_with("2026-01-01T00:01:00")),
        (30, true)
    );
    api.set_clock(0).unwrap();
    let seconds = params(|p| p.since_seconds = Some(1));
    assert_eq!(pods.logs("a", &seconds).await.unwrap(), "");
    let previous = params(|p| p.previous = true);
    let (code, message) = refusal(pods.logs("a", &previous).await);
    assert_eq!(
        (code, message.as_str()),
        (
            400,
            "previous terminated container \"app\" in pod \"a\" not found"
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn it_reads_recorded_files() {
    let (api, pods) = start().await;
    pod(&api, "shop", "a", &["app", "side"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    std::fs::write(&path, "2026-01-01T00:00:00.123456789Z text of its own\n").unwrap();
    let a = PodRef::new("shop", "a").container("side");
    api.set_log(a, Log::file(&path).stamped()).unwrap();
    let side = params(|p| p.container = Some("side".to_owned()));
    assert_eq!(pods.logs("a", &side).await.unwrap(), "text of its own\n");
    let (code, message) = refusal(pods.logs("a", &LogParams::default()).await);
    assert_eq!(code, 400);
    assert!(message.ends_with("choose one of: [app side]"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_follows_is_shown_what_comes() {
    let (api, pods) = start().await;
    pod(&api, "shop", "a", &["app"]);
    api.set_log(("shop", "a"), Log::text("one\n")).unwrap();
    let follow = params(|p| p.follow = true);
    let mut lines = pods.log_stream("a", &follow).await.unwrap().lines();
    let next = async |lines: &mut futures_util::io::Lines<_>| {
        futures_util::StreamExt::next(lines).await.map(Result::unwrap)
    };
    assert_eq!(next(&mut lines).await.as_deref(), Some("one"));
    api.append_log(("shop", "a"), "two\nthree\n").unwrap();
    assert_eq!(next(&mut lines).await.as_deref(), Some("two"));
    assert_eq!(next(&mut lines).await.as_deref(), Some("three"));
    let now = serde_json::json!({ "gracePeriodSeconds": 0 });
    api.delete_with("pods", "shop", "a", &now).unwrap();
    assert_eq!(next(&mut lines).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_can_fail() {
    let (api, pods) = start().await;
    pod(&api, "shop", "a", &["app"]);
    for code in [403, 500] {
        let _fault = api
            .fault(Fault::status(code).resource("pods/log").name("a"))
            .unwrap();
        assert_eq!(refusal(pods.logs("a", &LogParams::default()).await).0, code);
    }
    api.set_log(("shop", "a"), Log::text(LINES).cut_after(20))
        .unwrap();
    let mut stream = pods.log_stream("a", &LogParams::default()).await.unwrap();
    let mut shown = Vec::new();
    stream.read_to_end(&mut shown).await.unwrap_err();
    assert_eq!(shown, LINES.as_bytes()[..20]);
    api.set_log(("shop", "a"), Log::text(LINES).endless()).unwrap();
    let mut stream = pods.log_stream("a", &LogParams::default()).await.unwrap();
    let mut much = vec![0; 1 << 20];
    stream.read_exact(&mut much).await.unwrap();
    drop(stream);
    api.set_log(("shop", "a"), Log::text("one\n").hangs()).unwrap();
    let mut lines = pods.log_stream("a", &LogParams::default()).await.unwrap().lines();
    let first = futures_util::StreamExt::next(&mut lines).await;
    assert_eq!(first.unwrap().unwrap(), "one");
    let second = futures_util::StreamExt::next(&mut lines);
    assert!(futures_util::FutureExt::now_or_never(second).is_none());
}
