// SPDX-License-Identifier: Apache-2.0
use serde_json::{Value, json};

use super::*;

fn error(status: Value) -> Error {
    let status: Status = serde_json::from_value(status).unwrap();
    Error::Api(status.boxed())
}

fn judge(status: Value, pod_ready: bool) -> Acted {
    classify(&error(status), pod_ready)
}

/// A budget's refusal as the API server words it.
fn budget(cause: &str, retry_after: u32) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "Cannot evict pod as it would violate the pod's disruption budget.",
        "reason": "TooManyRequests",
        "details": {
            "causes": [{"reason": "DisruptionBudget", "message": cause}],
            "retryAfterSeconds": retry_after
        },
        "code": 429
    })
}

fn blocked(status: Value, pod_ready: bool) -> Block {
    match judge(status, pod_ready) {
        Acted::Blocked(block) => block,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_budget_blocks_and_is_named() {
    let block = blocked(
        budget(
            "The disruption budget web-pdb needs 2 healthy pods and has 2 currently",
            0,
        ),
        true,
    );
    assert_eq!(block.budget.as_deref(), Some("web-pdb"));
    assert!(!block.unhealthy_policy);
    assert_eq!(block.retry_after, None);
    assert!(
        block
            .message
            .ends_with("needs 2 healthy pods and has 2 currently")
    );
    assert_eq!(Acted::Blocked(block).withheld(), Some(Withheld::DisruptionBudget));
}

#[test]
fn a_pod_that_is_not_ready_is_held_back_only_by_the_policy() {
    for (needs, has, pod_ready, by_policy) in [
        (2, 1, false, true),
        (2, 1, true, false),
        // A budget that needs none lets none go that is not Ready, except under AlwaysAllow.
        (0, 0, false, true),
        (0, 3, false, true),
        // The API server would have let it go: so it saw it Ready.
        (2, 2, false, false),
        (1, 3, false, false),
    ] {
        let cause =
            format!("The disruption budget web-pdb needs {needs} healthy pods and has {has} currently");
        let block = blocked(budget(&cause, 0), pod_ready);
        assert_eq!(block.unhealthy_policy, by_policy, "{cause}, ready: {pod_ready}");
        assert_eq!(block.budget.as_deref(), Some("web-pdb"));
    }
    let block = blocked(
        budget(
            "The disruption budget web-pdb needs 2 healthy pods and has 1 currently",
            0,
        ),
        false,
    );
    assert_eq!(Acted::Blocked(block).withheld(), Some(Withheld::UnhealthyPolicy));
}

#[test]
fn a_budget_that_is_being_processed_asks_for_patience() {
    let block = blocked(
        budget(
            "The disruption budget web-pdb is still being processed by the server.",
            10,
        ),
        false,
    );
    assert!(!block.unhealthy_policy);
    assert_eq!(block.retry_after, Some(Duration::from_secs(10)));
    assert_eq!(block.budget.as_deref(), Some("web-pdb"));
}

#[test]
fn words_that_nobody_knows_block_all_the_same() {
    for cause in [
        "",
        "no",
        "The disruption budget ",
        "The disruption budget \u{1b}[2J needs x healthy pods and has y currently",
        "The disruption budget web-pdb does not allow evicting pods currently because it failed sync: no scale",
    ] {
        let block = blocked(budget(cause, 0), false);
        assert!(!block.unhealthy_policy, "{cause}");
        assert!(!block.message.contains('\u{1b}'), "{cause}");
        assert!(block.budget.is_none() || block.budget.as_deref() == Some("web-pdb"));
    }
}

#[test]
fn a_429_without_that_cause_is_a_busy_server() {
    let flow_control = json!({"status": "Failure", "message": "too many requests", "reason": "TooManyRequests",
        "details": {"retryAfterSeconds": 1}, "code": 429});
    assert_eq!(
        judge(flow_control, false),
        Acted::Busy {
            retry_after: Some(Duration::from_secs(1)),
            message: "too many requests".to_owned()
        }
    );
    for other in [
        json!({"code": 429}),
        json!({"code": 429, "reason": NO_STATUS, "message": "Too many requests, please try again later."}),
        json!({"code": 429, "details": {"causes": [{"reason": "Other", "message": "disruption budget"}]}}),
    ] {
        let acted = judge(other, false);
        assert!(
            matches!(
                acted,
                Acted::Busy {
                    retry_after: None,
                    ..
                }
            ),
            "{acted:?}"
        );
        assert_eq!(acted.withheld(), Some(Withheld::Refused));
    }
    let forever = json!({"code": 429, "details": {"retryAfterSeconds": 4_000_000_000_u32}});
    assert!(
        matches!(judge(forever, false), Acted::Busy { retry_after: Some(wait), .. } if wait.as_secs() == 3600)
    );
}

#[test]
fn two_budgets_block() {
    let block = blocked(
        json!({"status": "Failure", "code": 500,
            "message": "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."}),
        false,
    );
    assert_eq!((block.budget, block.unhealthy_policy), (None, false));
}

#[test]
fn a_budget_in_disorder_blocks() {
    let block = blocked(
        json!({"status": "Failure", "code": 403, "reason": "Forbidden",
            "message": "poddisruptionbudget.policy \"web-pdb\" is forbidden: pdb disruptions allowed is negative",
            "details": {"group": "policy", "kind": "poddisruptionbudget", "name": "web-pdb"}}),
        true,
    );
    assert_eq!(block.budget.as_deref(), Some("web-pdb"));
}

#[test]
fn another_pod_of_the_name_is_told_from_a_changed_one() {
    let conflict = |message: &str| {
        judge(
            json!({"status": "Failure", "code": 409, "reason": "Conflict", "message": message}),
            true,
        )
    };
    for message in [
        "Operation cannot be fulfilled on Pod \"web-0\": the UID in the precondition (a) does not match the UID in record (b). The object might have been deleted and then recreated",
        "Operation cannot be fulfilled on pods \"web-0\": StorageError: invalid object, Code: 4, Key: /registry/pods/shop/web-0, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: a, UID in object meta: b",
    ] {
        assert_eq!(conflict(message), Acted::OtherPod, "{message}");
    }
    let immutable = json!({"status": "Failure", "code": 422, "reason": "Invalid",
        "message": "Pod \"web-0\" is invalid: metadata.uid: Invalid value: \"a\": field is immutable",
        "details": {"name": "web-0", "kind": "Pod", "causes": [
            {"reason": "FieldValueInvalid", "message": "Invalid value: \"a\": field is immutable", "field": "metadata.uid"}]}});
    assert_eq!(judge(immutable, true), Acted::OtherPod);
    for message in [
        "Operation cannot be fulfilled on pods \"web-0\": the object has been modified; please apply your changes to the latest version and try again",
        "",
    ] {
        assert_eq!(conflict(message), Acted::Changed, "{message}");
    }
    assert_eq!(Acted::OtherPod.withheld(), Some(Withheld::OtherPod));
}

#[test]
fn gone_is_only_what_the_api_server_did_not_find() {
    let not_found = |kind: &str| {
        judge(
            json!({"status": "Failure", "code": 404, "reason": "NotFound",
        "message": format!("{kind} \"web-0\" not found"), "details": {"name": "web-0", "kind": kind}}),
            true,
        )
    };
    assert_eq!(not_found("pods"), Acted::Gone);
    assert_eq!(not_found("namespaces"), Acted::Gone);
    assert_eq!(Acted::Gone.withheld(), Some(Withheld::OtherPod));
    for other in [
        json!({"code": 404, "reason": "NotFound", "message": "the server could not find the requested resource", "details": {}}),
        json!({"code": 404, "reason": NO_STATUS, "message": "<html>nginx</html>"}),
    ] {
        let acted = judge(other, true);
        assert!(matches!(acted, Acted::Refused { code: 404, .. }), "{acted:?}");
    }
}

#[test]
fn a_refusal_is_certain() {
    for (code, reason) in [
        (400, "BadRequest"),
        (401, "Unauthorized"),
        (403, "Forbidden"),
        (405, "MethodNotAllowed"),
        (422, "Invalid"),
    ] {
        let acted = judge(
            json!({"status": "Failure", "code": code, "reason": reason, "message": "pods \"web-0\" is forbidden: \u{1b}[2J"}),
            true,
        );
        let expected = Acted::Refused {
            code,
            message: "pods \"web-0\" is forbidden:  [2J".to_owned(),
        };
        assert_eq!(acted, expected);
        assert_eq!(acted.withheld(), Some(Withheld::Refused));
    }
}

#[test]
fn what_nobody_knows_is_in_doubt() {
    for (code, reason) in [
        (500, "InternalError"),
        (500, "ServerTimeout"),
        (502, NO_STATUS),
        (503, "ServiceUnavailable"),
        (504, "Timeout"),
        (408, NO_STATUS),
        (302, NO_STATUS),
        (0, ""),
    ] {
        let acted = judge(json!({"status": "Failure", "code": code, "reason": reason}), true);
        assert!(matches!(acted, Acted::InDoubt { .. }), "{code} {acted:?}");
        assert_eq!(acted.withheld(), None);
    }
    let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    for error in [
        Error::Service(Box::new(reset)),
        Error::SerdeError(serde_json::from_str::<Value>("{").unwrap_err()),
        Error::ReadEvents(std::io::Error::from(std::io::ErrorKind::TimedOut)),
    ] {
        let acted = classify(&error, true);
        assert!(matches!(acted, Acted::InDoubt { .. }), "{acted:?}");
    }
}

#[test]
fn what_was_never_sent_was_not_done() {
    let acted = classify(&Error::TlsRequired, true);
    assert!(matches!(acted, Acted::Refused { code: 0, .. }), "{acted:?}");
    assert!(acted.to_string().starts_with("could not be sent"));
}
