// SPDX-License-Identifier: Apache-2.0
//! Objects of Istio may have any shape: whatever stands in them, every check comes to an end and says something.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::all;
use crate::doctor::check::Outcome;
use crate::doctor::fixtures::healthy;
use crate::doctor::snapshot::CUSTOM_KINDS;
use crate::doctor::strict_ready::StrictReadiness;
use crate::doctor::view::View;

/// Words that checks look for, so that what is random is looked into.
const KEYS: [&str; 50] = [
    "selector",
    "matchLabels",
    "app",
    "mtls",
    "mode",
    "portLevelMtls",
    "8080",
    "rules",
    "to",
    "from",
    "operation",
    "source",
    "when",
    "key",
    "values",
    "methods",
    "paths",
    "action",
    "targetRefs",
    "targetRef",
    "kind",
    "name",
    "hosts",
    "host",
    "http",
    "tcp",
    "route",
    "destination",
    "subset",
    "subsets",
    "labels",
    "weight",
    "parentRefs",
    "backendRefs",
    "gateways",
    "trafficPolicy",
    "allowedRoutes",
    "bpfEnabled",
    "exportTo",
    "gatewayClassName",
    "listeners",
    "mirrors",
    "namespaces",
    "number",
    "podSelector",
    "port",
    "principals",
    "sectionName",
    "serviceAccounts",
    "workloadSelector",
];
const TEXTS: [&str; 16] = [
    "",
    "*",
    "*.local",
    "cart",
    "cart.shop.svc.cluster.local",
    "shop",
    "v1",
    "STRICT",
    "DISABLE",
    "DENY",
    "CUSTOM",
    "Service",
    "Gateway",
    "mesh",
    "\u{202e}\n\u{7}",
    "{",
];

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        4 => select(TEXTS.to_vec()).prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
    ];
    leaf.prop_recursive(6, 48, 6, |inner| {
        let key = select(KEYS.to_vec()).prop_map(str::to_owned);
        prop_oneof![
            1 => vec(inner.clone(), 0..4).prop_map(Value::Array),
            3 => btree_map(key, inner, 0..6).prop_map(|fields| json!(fields)),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_check_is_lost_on_what_others_wrote(specs in vec((select(vec!["shop", "istio-system"]), anything()), 1..12)) {
        let mut snapshot = healthy();
        for (number, kind) in CUSTOM_KINDS.iter().filter(|kind| kind.is_looked_into()).enumerate() {
            for (namespace, spec) in specs.iter().cycle().skip(number).take(3) {
                snapshot.add_custom(&kind.key(), namespace, "\u{1b}[31mred", spec.clone());
            }
        }
        let view = View::new(&snapshot);
        for check in all() {
            if let Outcome::Findings { findings } = check.judge(&view).outcome {
                for finding in findings {
                    let words = format!("{}{}{:?}", finding.object, finding.problem, finding.evidence);
                    prop_assert!(!words.contains(['\u{1b}', '\n', '\u{202e}']), "{words}");
                }
            }
        }
        for step in StrictReadiness::judge(&snapshot, "shop").steps {
            prop_assert!(!step.reasons.concat().contains(['\u{1b}', '\n', '\u{202e}']), "{step:?}");
        }
    }
}
