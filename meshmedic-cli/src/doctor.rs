// SPDX-License-Identifier: Apache-2.0
//! `meshmedic doctor`: what is wrong with the whole mesh, why we think so, and what helps.
//!
//! A [`snapshot::Snapshot`] is read once; each check is a pure function of it.

mod args;
mod check;
mod checks;
mod collect;
mod command;
mod compare;
mod cut;
mod finding;
#[cfg(test)]
pub(crate) mod fixtures;
mod fold;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod kind;
mod migrate;
mod need;
mod policy;
mod report;
mod show;
mod snapshot;
mod strict_ready;
mod view;
mod wait;

use std::time::Instant;

use crate::{connection, selection};

pub(crate) use args::Args;
pub(crate) use check::{Category, Check, Severity};
pub(crate) use collect::ask_ztunnel;
#[cfg(test)]
pub(crate) use command::Command;
pub(crate) use compare::Comparison;
pub(crate) use cut::sentences;
pub(crate) use finding::{HERE_DOCUMENT_ENDS, Remedy};
pub(crate) use fold::{Group, fold};
pub(crate) use report::{CheckReport, DoctorReport, Ending};
pub(crate) use snapshot::{Part, ZtunnelDump};
pub(crate) use strict_ready::{Ready, StrictReadiness, Verdict};

use collect::{Budget, Plan, collect};
use snapshot::Snapshot;

/// Looks, judges and tells; gives the exit code.
pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    args.check()?;
    let chosen = args.chosen()?;
    if args.list {
        show::checks(chosen.into_iter(), args.output)?;
        return Ok(0);
    }
    let suppressions = args.suppressions()?;
    let judge = |snapshot: &Snapshot| DoctorReport::judge(snapshot, chosen.iter().copied(), &suppressions);
    let (snapshot, judged) = match &args.from {
        Some(path) => (snapshot::read(path)?, None),
        None => look(args, judge)?,
    };
    if let Some(path) = &args.save {
        snapshot::write(path, &snapshot)?;
    }
    let how = args.manner();
    if args.strict_ready {
        let namespace = args.one_namespace(&snapshot.scope)?;
        let readiness = StrictReadiness::judge(&snapshot, &namespace);
        show::strict_readiness(&readiness, args.output)?;
        return Ok(readiness.code());
    }
    if let Some(namespace) = &args.migrate {
        let report = migrate::judge(&snapshot, namespace, chosen.iter().copied(), &suppressions);
        show::migration(&report, namespace, how)?;
        return Ok(report.code(args.fail_on));
    }
    let report = judged.unwrap_or_else(|| judge(&snapshot));
    if let Some(path) = &args.against {
        let earlier = judge(&snapshot::read(path)?);
        let compared = Comparison::of(report, &earlier);
        show::comparison(&compared, how)?;
        return Ok(compared.new.code(args.fail_on));
    }
    show::doctor(&report, how)?;
    Ok(report.code(args.fail_on))
}

/// Looks at the cluster once, or with `--wait` until all is well; then it is judged already.
fn look(
    args: &Args,
    judge: impl Fn(&Snapshot) -> DoctorReport,
) -> anyhow::Result<(Snapshot, Option<DoctorReport>)> {
    let Some(wait) = args.wait else {
        return Ok((take(args)?, None));
    };
    let deadline = Instant::now() + wait;
    let (snapshot, report) = wait::until(
        || {
            let snapshot = take(args)?;
            let report = judge(&snapshot);
            Ok((snapshot, report))
        },
        |(_, report)| report.code(args.fail_on) == 0,
        |seen| {
            let what = match seen {
                Ok((_, report)) => show::summary(report),
                Err(error) => format!("{error:#}."),
            };
            wait::pause(deadline, what.trim_end())
        },
    )?;
    Ok((snapshot, Some(report)))
}

fn take(args: &Args) -> anyhow::Result<Snapshot> {
    args.selection().check("default")?;
    connection::runtime()?.block_on(async {
        let mut connection = args.connection.connect().await?;
        let selection = args.selection().check(&connection.namespace)?;
        selection::is_there(&connection, &selection).await?;
        let plan = Plan {
            selection,
            ways: args.ways(),
            since: args.since,
            budget: Budget::default(),
        };
        args.istio
            .settle(&mut connection, Some(plan.ways.agents()), plan.ways.timeout())
            .await;
        tokio::select! {
            snapshot = collect(&connection, &plan) => snapshot,
            interrupt = tokio::signal::ctrl_c() => {
                interrupt?;
                Err(wait::Interrupted.into())
            }
        }
    })
}
