// SPDX-License-Identifier: Apache-2.0
//! Who cannot reach whom, put together over all findings that say so.

use std::collections::{BTreeMap, BTreeSet};

use super::finding::{Finding, ObjectRef};

/// How many are named one by one.
const NAMED: usize = 8;

/// `12 callers cannot reach Deployment shop/cart`, whoever has most before the others. A caller that several findings
/// cut off counts once.
pub(crate) fn sentences<'f>(findings: impl IntoIterator<Item = &'f Finding>) -> Vec<String> {
    let mut by_target: BTreeMap<&ObjectRef, BTreeSet<usize>> = BTreeMap::new();
    for cut in findings.into_iter().flat_map(|finding| &finding.cuts) {
        by_target.entry(&cut.to).or_default().extend(&cut.callers);
    }
    let mut counts: Vec<(usize, &ObjectRef)> = by_target
        .into_iter()
        .map(|(to, callers)| (callers.len(), to))
        .collect();
    counts.sort_by_key(|(count, to)| (std::cmp::Reverse(*count), *to));
    let mut sentences: Vec<String> = counts
        .iter()
        .take(NAMED)
        .map(|(count, to)| {
            let callers = if *count == 1 { "caller" } else { "callers" };
            format!("{count} {callers} cannot reach {to}")
        })
        .collect();
    if let Some(more) = counts.len().checked_sub(NAMED).filter(|more| *more > 0) {
        sentences.push(format!("and {more} more have callers that cannot reach them"));
    }
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Cut;

    fn finding(cuts: &[(&str, &[usize])]) -> Finding {
        let mut finding = Finding::on(ObjectRef::new("NetworkPolicy", "shop", "one"), "it cuts off");
        finding.cuts = cuts
            .iter()
            .map(|(to, callers)| Cut {
                to: ObjectRef::new("Deployment", "shop", to),
                callers: callers.iter().copied().collect(),
            })
            .collect();
        finding
    }

    #[test]
    fn callers_are_counted_once_over_all_findings() {
        let findings = [
            finding(&[("cart", &[1, 2, 3]), ("catalog", &[1])]),
            finding(&[("cart", &[3, 4])]),
        ];
        assert_eq!(
            sentences(&findings),
            [
                "4 callers cannot reach Deployment shop/cart",
                "1 caller cannot reach Deployment shop/catalog"
            ]
        );
        assert_eq!(sentences(&[finding(&[])]), Vec::<String>::new());
        let value = serde_json::to_value(&findings[0]).unwrap();
        assert_eq!(value["cuts"][0]["callers"], 3);
    }

    #[test]
    fn of_many_only_the_first_are_named() {
        let names: Vec<String> = (0..11).map(|at| format!("app-{at:02}")).collect();
        let cuts: Vec<(&str, &[usize])> = names.iter().map(|name| (name.as_str(), &[7][..])).collect();
        let told = sentences(&[finding(&cuts)]);
        assert_eq!(told.len(), 9);
        assert_eq!(told[8], "and 3 more have callers that cannot reach them");
    }
}
