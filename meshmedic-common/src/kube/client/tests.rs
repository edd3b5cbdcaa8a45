// SPDX-License-Identifier: Apache-2.0
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, WatchParams};

use std::pin::pin;

use super::super::acted::{Acted, Target};
use super::super::evict::evict;
use super::super::testing::{answer, serve};
use super::*;

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn the_clock_is_carried_on_between_answers() {
    let clock = ServerClock::default();
    let start = Uptime::now();
    assert_eq!(clock.now_at(start), None);
    clock.note(time("2026-08-01T10:00:00Z"), start);
    assert_eq!(clock.now_at(start), Some(time("2026-08-01T10:00:00Z")));
    assert_eq!(
        clock.now_at(start + seconds(90)),
        Some(time("2026-08-01T10:01:30Z"))
    );
    // An hour later the server says so itself.
    clock.note(time("2026-08-01T11:00:05Z"), start + seconds(3600));
    assert_eq!(
        clock.now_at(start + seconds(3600)),
        Some(time("2026-08-01T11:00:05Z"))
    );
}

#[test]
fn whoever_slept_knows_how_old_a_claim_is_by_now() {
    let clock = ServerClock::default();
    let start = Uptime::now();
    // The server's clock is a day behind ours; that changes nothing.
    clock.note(time("2026-07-31T10:00:00Z"), start);
    let renewed = clock.now_at(start).unwrap();
    // The machine sleeps for an hour, in which the monotonic clock stands still and nobody answers.
    let woken = start + seconds(3600);
    let now = clock.now_at(woken).unwrap();
    assert_eq!(now, time("2026-07-31T11:00:00Z"));
    let entry: crate::repair::ledger::Entry = serde_json::from_value(serde_json::json!({
        "id": "1", "pod": "shop/cart", "uid": "u", "node": "n", "holder": "n-1", "at": renewed, "renewed": renewed,
        "deadline": "2026-07-31T10:05:00Z", "means": "evict",
    }))
    .unwrap();
    assert!(!entry.is_abandoned(renewed));
    assert!(
        entry.is_abandoned(now),
        "a claim that nobody renewed while we slept is no claim any more"
    );
    let ages = WatchAges::default();
    ages.note("/api/v1/pods", start);
    assert_eq!(
        ages.age_at("pods", woken),
        Some(seconds(3600)),
        "and its watch shows a past"
    );
}

#[test]
fn a_slow_answer_does_not_turn_the_clock_back() {
    let clock = ServerClock::default();
    let start = Uptime::now();
    clock.note(time("2026-08-01T10:00:00Z"), start);
    clock.now_at(start + seconds(10));
    // Said at :08, came at :10.
    clock.note(time("2026-08-01T10:00:08Z"), start + seconds(10));
    assert_eq!(
        clock.now_at(start + seconds(10)),
        Some(time("2026-08-01T10:00:10Z"))
    );
    // It waits for the server rather than run ahead of it.
    assert_eq!(
        clock.now_at(start + seconds(11)),
        Some(time("2026-08-01T10:00:10Z"))
    );
    assert_eq!(
        clock.now_at(start + seconds(14)),
        Some(time("2026-08-01T10:00:13Z"))
    );
}

/// Fails where each answer sets the clock back to the second to which it is cut: it would stand still until then.
#[test]
fn answers_within_one_second_do_not_make_the_clock_stand_still() {
    let clock = ServerClock::default();
    let start = Uptime::now();
    let tenths = |count: u64| Duration::from_millis(100 * count);
    clock.note(time("2026-08-01T10:00:00Z"), start);
    let mut last = clock.now_at(start).unwrap();
    // The server's second began half a second before ours, which shows at the first answer of the next one.
    for tenth in 1..50 {
        let said = time("2026-08-01T10:00:00Z") + seconds((tenth + 5) / 10);
        clock.note(said, start + tenths(tenth));
        let now = clock.now_at(start + tenths(tenth)).unwrap();
        let step = Duration::try_from(now.duration_since(last)).unwrap();
        let expected = tenths(if tenth == 5 { 6 } else { 1 });
        assert_eq!(step, expected, "after {tenth} tenths of a second");
        last = now;
    }
    // A server that is slower than this machine is never behind by more than its second.
    clock.note(time("2026-08-01T10:01:00Z"), start + seconds(90));
    assert!(clock.now_at(start + seconds(90)) <= Some(time("2026-08-01T10:01:30Z")));
    assert_eq!(
        clock.now_at(start + seconds(150)),
        Some(time("2026-08-01T10:02:01Z"))
    );
}

#[test]
fn the_clock_goes_back_no_further_than_the_server() {
    let clock = ServerClock::default();
    let start = Uptime::now();
    clock.note(time("2026-08-01T10:00:00Z"), start);
    assert_eq!(
        clock.now_at(start + seconds(60)),
        Some(time("2026-08-01T10:01:00Z"))
    );
    // Set back by an hour.
    clock.note(time("2026-08-01T09:01:00Z"), start + seconds(60));
    let now = clock.now_at(start + seconds(60)).unwrap();
    assert_eq!(now, time("2026-08-01T09:01:00Z"));
    // And never shows less than before, from then on.
    let mut last = now;
    for second in 61..200 {
        let now = clock.now_at(start + seconds(second)).unwrap();
        assert!(now >= last);
        last = now;
    }
    assert_eq!(last, time("2026-08-01T09:03:19Z"));
}

#[test]
fn times_at_the_end_of_time_do_no_harm() {
    let clock = ServerClock::default();
    let start = Uptime::now();
    clock.note(Timestamp::MAX, start);
    assert_eq!(clock.now_at(start + seconds(9)), Some(Timestamp::MAX));
    clock.note(Timestamp::MIN, start + seconds(9));
    assert!(clock.now_at(start + seconds(10)).is_some());
}

#[test]
fn a_date_that_is_none_is_not_heard() {
    let clock = ServerClock::default();
    for date in ["", "yesterday", "Sun, 99 Nov 1994 08:49:37 GMT"] {
        let headers = HeaderMap::from_iter([(DATE, HeaderValue::from_static(date))]);
        clock.overhear(&headers, Uptime::now());
        assert_eq!(clock.now(), None, "{date}");
    }
    let headers = HeaderMap::from_iter([(DATE, HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"))]);
    let heard = Uptime::now();
    clock.overhear(&headers, heard);
    assert_eq!(clock.now_at(heard), Some(time("1994-11-06T08:49:37Z")));
}

#[test]
fn a_watch_is_known_by_what_it_watches() {
    let stream = |uri: &str| stream_of(&uri.parse().unwrap());
    assert_eq!(stream("/api/v1/pods?limit=5"), None);
    assert_eq!(stream("/api/v1/pods"), None);
    assert_eq!(stream("/api/v1/pods?watch=false"), None);
    let first = stream("/api/v1/pods?&watch=true&fieldSelector=spec.nodeName%3Da&resourceVersion=1").unwrap();
    let next = stream(
        "/api/v1/pods?&fieldSelector=spec.nodeName%3Da&watch=true&timeoutSeconds=290&resourceVersion=2",
    );
    assert_eq!(next.as_ref(), Some(&first));
    assert_ne!(
        stream("/api/v1/pods?watch=true&labelSelector=app%3Dztunnel"),
        next
    );
    assert_eq!(resource_of(&first), "pods");
    let slices = stream("/apis/discovery.k8s.io/v1/namespaces/istio-system/endpointslices?watch=true");
    assert_eq!(resource_of(&slices.unwrap()), "endpointslices");
}

#[test]
fn the_most_silent_watch_of_a_resource_counts() {
    let ages = WatchAges::default();
    let start = Uptime::now();
    assert_eq!(ages.age_at("pods", start), None);
    ages.note("/api/v1/pods?fieldSelector=a", start);
    ages.note("/api/v1/namespaces/istio-system/pods?", start + seconds(5));
    ages.note("/api/v1/namespaces?", start + seconds(9));
    assert_eq!(ages.age_at("pods", start + seconds(10)), Some(seconds(10)));
    assert_eq!(ages.age_at("namespaces", start + seconds(10)), Some(seconds(1)));
    ages.note("/api/v1/pods?fieldSelector=a", start + seconds(8));
    assert_eq!(ages.age_at("pods", start + seconds(10)), Some(seconds(5)));
    ages.forget("pods");
    assert_eq!(ages.age_at("pods", start + seconds(10)), None);
    assert_eq!(ages.age_at("namespaces", start + seconds(10)), Some(seconds(1)));
}

const LIST: &str = r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[]}"#;
const DATE_LINE: &str = "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";

#[tokio::test]
async fn every_answer_tells_the_time_and_every_question_says_who_asks() {
    let (mut config, asked) = serve(vec![
        answer("500 Internal Server Error", DATE_LINE, "{}"),
        answer("200 OK", DATE_LINE, LIST),
    ]);
    config
        .headers
        .push((USER_AGENT, HeaderValue::from_static("other")));
    let acting = acting(config).unwrap();
    let pods: Api<Pod> = Api::all(acting.client.clone());
    pods.list(&ListParams::default()).await.unwrap_err();
    assert_eq!(acting.clock.now(), None);
    pods.list(&ListParams::default()).await.unwrap();
    let now = acting.clock.now().unwrap();
    let late = now.duration_since(time("1994-11-06T08:49:37Z"));
    assert!(
        late >= SignedDuration::ZERO && late < SignedDuration::from_secs(60),
        "{late}"
    );
    assert!(acting.clock.silence().unwrap() < seconds(60));
    assert_eq!(acting.watches.age("pods"), None);
    let question = asked.all()[1].to_ascii_lowercase();
    assert!(
        question.contains(&format!("user-agent: {AGENT}\r\n")),
        "{question}"
    );
    assert_eq!(question.matches("user-agent").count(), 1);
}

#[tokio::test]
async fn a_watch_gives_signs_of_life() {
    let bookmark =
        r#"{"type":"BOOKMARK","object":{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"9"}}}"#;
    let gone = r#"{"kind":"Status","status":"Failure","code":410,"reason":"Expired"}"#;
    let (config, asked) = serve(vec![
        answer("410 Gone", "", gone),
        answer("200 OK", "", &format!("{bookmark}\n")),
    ]);
    let acting = acting(config).unwrap();
    let pods: Api<Pod> = Api::all(acting.client.clone());
    assert!(pods.watch(&WatchParams::default(), "1").await.is_err());
    assert_eq!(acting.watches.age("pods"), None);

    let mut events = pin!(pods.watch(&WatchParams::default(), "1").await.unwrap());
    let since_headers = lock(&acting.watches.0).values().copied().max().unwrap();
    std::thread::sleep(Duration::from_millis(5));
    let next = events.next().await;
    assert!(
        matches!(next, Some(Ok(kube::api::WatchEvent::Bookmark(_)))),
        "{next:?}"
    );
    let since_frame = lock(&acting.watches.0).values().copied().max().unwrap();
    assert!(since_frame >= since_headers + Duration::from_millis(5));
    assert!(acting.watches.age("pods").unwrap() < seconds(60));
    assert!(asked.all()[1].contains("watch=true"));
}

#[tokio::test]
async fn a_refused_eviction_is_not_fired_again() {
    let refused = r#"{"kind":"Status","status":"Failure","code":429,"reason":"TooManyRequests","message":"no","details":{"causes":[{"reason":"DisruptionBudget","message":"no"}]}}"#;
    for status in [
        "429 Too Many Requests",
        "503 Service Unavailable",
        "504 Gateway Timeout",
    ] {
        let refused = refused.replace("429", &status[..3]);
        let (mut config, asked) = serve(vec![
            answer(status, "", &refused),
            answer("201 Created", "", "{}"),
        ]);
        config.default_retry = true;
        let acting = acting(config).unwrap();
        let target = Target {
            namespace: "shop".to_owned(),
            name: "web-0".to_owned(),
            uid: "u".to_owned(),
        };
        let acted = evict(&acting.client, &target, true, false).await;
        assert!(!matches!(acted, Acted::Accepted), "{acted:?}");
        assert_eq!(asked.all().len(), 1, "{status}");
    }
}
