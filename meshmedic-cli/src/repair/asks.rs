// SPDX-License-Identifier: Apache-2.0
//! What is asked for, and the plan that follows from it.

use std::collections::BTreeMap;
use std::time::Duration;

use meshmedic_common::repair::heal::Care;

use super::heal::{Ward, care, outlooks};
use super::plan::{Outlook, Planned, World};
use super::records::Records;
use super::{How, Item, Risks};
use crate::connection::Connection;
use crate::scan::ScanReport;
use crate::selection::Selection;
use crate::ways::WayArgs;

/// How it stands with the repair of one pod, were it asked for now.
pub(crate) async fn standing(
    connection: &Connection,
    selection: &Selection,
    ways: &WayArgs,
    (confirm, settle): (Duration, Duration),
    report: &ScanReport,
) -> anyhow::Result<Option<Item>> {
    let (how, risks) = (How::default(), Risks::default());
    let agents = &ways.agents().agent_namespace;
    let lost = report.findings();
    let world = World::read(connection, selection, agents, settle, &lost).await?;
    let records = Records::new(connection, agents, risks, &how).await?;
    let asks = Asks {
        how: &how,
        risks,
        confirm,
        settle,
        own: false,
    };
    let (plans, _) = asks
        .plan(connection, selection, &world, &records, ways, report)
        .await?;
    Ok(plans.first().map(Planned::item))
}

/// What was asked for, as far as a plan hangs on it.
pub(super) struct Asks<'a> {
    pub(super) how: &'a How,
    pub(super) risks: Risks,
    pub(super) confirm: Duration,
    pub(super) settle: Duration,
    /// Whether it is the one who asks that would do it.
    pub(super) own: bool,
}

impl Asks<'_> {
    /// What would be done to each pod that a scan found out of the mesh, and the nodes where pods may be healed.
    pub(super) async fn plan(
        &self,
        connection: &Connection,
        selection: &Selection,
        world: &World,
        records: &Records,
        ways: &WayArgs,
        report: &ScanReport,
    ) -> anyhow::Result<(Vec<Planned>, BTreeMap<String, Ward>)> {
        let quiet = ways.leaving_nothing().filter(|_| self.how.strategy.heal);
        let mut wards = match quiet {
            Some(quiet) => {
                let settle = self.settle.min(Care::DEFAULT.settle);
                let asked = (self.how, self.risks, self.confirm, settle);
                Ward::all(connection, selection, world, report, &quiet, asked).await?
            }
            None => BTreeMap::new(),
        };
        if self.own {
            Ward::look_for_rights(connection, &mut wards).await;
        }
        let mut known: BTreeMap<String, Outlook> = BTreeMap::new();
        for ward in wards.values() {
            known.extend(outlooks(ward, self.risks, care(self.confirm)));
        }
        let mut plans = Vec::new();
        for pod in report.findings() {
            let outlook = known.remove(&pod.uid);
            let plan = Planned::of(connection, world, records, (self.how, self.risks), pod, outlook).await?;
            plans.push(plan);
        }
        Ok((plans, wards))
    }
}
