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
mod finding;
#[cfg(test)]
pub(crate) mod fixtures;
mod fold;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod migrate;
mod need;
mod policy;
mod report;
mod show;
mod snapshot;
mod strict_ready;
mod view;

use crate::connection;

pub(crate) use args::Args;
pub(crate) use check::{Category, Check, Severity};
#[cfg(test)]
pub(crate) use command::Command;
pub(crate) use compare::Comparison;
pub(crate) use finding::{HERE_DOCUMENT_ENDS, Remedy};
pub(crate) use fold::{Group, fold};
pub(crate) use report::{CheckReport, DoctorReport, Ending};
pub(crate) use strict_ready::{Ready, StrictReadiness, Verdict};

use collect::{Budget, Plan, collect};
use snapshot::Snapshot;

/// Looks, judges and tells; gives the exit code.
pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    args.check()?;
    let chosen = args.chosen()?;
    if args.list {
        show::checks(chosen.into_iter())?;
        return Ok(0);
    }
    let suppressions = args.suppressions()?;
    let snapshot = match &args.from {
        Some(path) => snapshot::read(path)?,
        None => take(args)?,
    };
    if let Some(path) = &args.save {
        snapshot::write(path, &snapshot)?;
    }
    if args.strict_ready {
        let namespace = args.one_namespace(&snapshot.scope)?;
        let readiness = StrictReadiness::judge(&snapshot, &namespace);
        show::strict_readiness(&readiness, args.output)?;
        return Ok(readiness.code());
    }
    if let Some(namespace) = &args.migrate {
        let report = migrate::judge(&snapshot, namespace, chosen.into_iter(), &suppressions);
        show::migration(&report, namespace, args.output, args.verbose)?;
        return Ok(report.code(args.fail_on));
    }
    let report = DoctorReport::judge(&snapshot, chosen, &suppressions);
    if let Some(path) = &args.against {
        let earlier = DoctorReport::judge(&snapshot::read(path)?, args.chosen()?, &suppressions);
        let compared = Comparison::of(report, &earlier);
        show::comparison(&compared, args.output, args.verbose)?;
        return Ok(compared.new.code(args.fail_on));
    }
    show::doctor(&report, args.output, args.verbose)?;
    Ok(report.code(args.fail_on))
}

fn take(args: &Args) -> anyhow::Result<Snapshot> {
    args.selection().check("default")?;
    connection::runtime()?.block_on(async {
        let mut connection = args.connection.connect().await?;
        let selection = args.selection().check(&connection.namespace)?;
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
            snapshot = collect(&connection, &plan) => Ok(snapshot),
            interrupt = tokio::signal::ctrl_c() => {
                interrupt?;
                anyhow::bail!("interrupted before everything was read");
            }
        }
    })
}
