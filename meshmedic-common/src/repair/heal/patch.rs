// SPDX-License-Identifier: Apache-2.0
//! What an ask writes: two annotations of the very pod, in the very version, that was judged.

use serde_json::{Value, json};

use super::Ask;
use crate::facts::{HEAL, REDIRECTION};
use crate::repair::sabotage::{Defence, is_out};

/// The value from which istio-cni begins anew.
const PENDING: &str = "pending";
/// The value that istio-cni writes: from us it would be a lie.
const ENABLED: &str = "enabled";

/// The merge patch of an ask.
#[must_use]
pub fn patch(uid: &str, version: &str, ask: &Ask) -> Value {
    let redirection = if is_out(Defence::Keys) { ENABLED } else { PENDING };
    let annotations = json!({ REDIRECTION: redirection, HEAL: ask.to_string() });
    if is_out(Defence::Preconditions) {
        return json!({ "metadata": { "annotations": annotations } });
    }
    json!({ "metadata": { "uid": uid, "resourceVersion": version, "annotations": annotations } })
}
