// SPDX-License-Identifier: Apache-2.0
use crate::doctor::fixtures::{assert_finds, assert_passes, findings, had, healthy};
use crate::doctor::snapshot::{Root, Snapshot};

const ROOT: &str = "citadel_server_root_cert_expiry_timestamp";
const CHAIN: &str = "citadel_server_cert_chain_expiry_timestamp";

fn ends(metric: &str, at: &str) -> Snapshot {
    let mut snapshot = healthy();
    let at: jiff::Timestamp = at.parse().unwrap();
    #[expect(clippy::cast_precision_loss, reason = "no time is so far away")]
    had(&mut had(&mut snapshot.istiods)[1].metrics).insert(metric.to_owned(), at.as_second() as f64);
    snapshot
}

/// Now is the second of January.
#[test]
fn what_ends_is_an_error_two_weeks_before_and_a_warning_sixty_days_before() {
    for (at, code, other) in [
        ("2025-12-31T00:00:00Z", "MM1401", "MM1402"),
        ("2026-01-15T00:00:00Z", "MM1401", "MM1402"),
        ("2026-01-17T00:00:00Z", "MM1402", "MM1401"),
        ("2026-03-01T00:00:00Z", "MM1402", "MM1401"),
    ] {
        for metric in [ROOT, CHAIN] {
            let snapshot = ends(metric, at);
            let found = assert_finds(code, &snapshot, "Namespace istio-system");
            assert!(found.evidence[1].ends_with(metric), "{found:#?}");
            assert_passes(other, &snapshot);
        }
    }
    for code in ["MM1401", "MM1402"] {
        assert_passes(code, &ends(ROOT, "2026-03-05T00:00:00Z"));
    }
    assert!(
        findings("MM1401", &ends(ROOT, "2025-12-31T00:00:00Z"))[0]
            .problem
            .ends_with("has ended")
    );
}

#[test]
fn an_istiod_that_signs_nothing_says_nothing() {
    let mut snapshot = healthy();
    for istiod in had(&mut snapshot.istiods) {
        let metrics = had(&mut istiod.metrics);
        metrics.insert(ROOT.to_owned(), 0.0);
        metrics.insert(CHAIN.to_owned(), f64::NAN);
    }
    assert_passes("MM1401", &snapshot);
    assert_passes("MM1402", &snapshot);
}

fn roots(of: [&[&str]; 3]) -> Snapshot {
    let mut snapshot = healthy();
    for (ztunnel, serials) in had(&mut snapshot.ztunnels).iter_mut().zip(of) {
        let certificate = &mut had(&mut ztunnel.dump).certificates[0];
        certificate.roots = serials
            .iter()
            .map(|serial| Root {
                serial: (*serial).to_owned(),
                expires: None,
            })
            .collect();
    }
    snapshot
}

#[test]
fn ztunnels_need_one_root_in_common() {
    assert_finds(
        "MM1403",
        &roots([&["1"], &["2"], &["1"]]),
        "Pod istio-system/ztunnel-b",
    );
    // While it is changed.
    assert_passes("MM1403", &roots([&["1", "2"], &["1", "2"], &["1"]]));
    assert_passes("MM1403", &roots([&["1", "2"], &["2"], &["2"]]));
    // Older ztunnels tell none.
    assert_passes("MM1403", &roots([&[], &["2"], &[]]));
}

#[test]
fn a_root_without_a_number_is_none() {
    assert_passes("MM1403", &roots([&[""], &["2"], &["2"]]));
    assert_passes("MM1403", &roots([&[""], &[""], &["2"]]));
}
