// SPDX-License-Identifier: Apache-2.0
//! The checklist before STRICT.

use std::fmt::Write as _;

use super::DoctorFormat;
use crate::doctor::{HERE_DOCUMENT_ENDS, Ready, StrictReadiness, Verdict};
use crate::output::{Colour, paint, wrap, write};

/// How many reasons of a step are written for people.
const REASONS: usize = 10;

/// Writes it.
pub(crate) fn strict_readiness(readiness: &StrictReadiness, format: DoctorFormat) -> anyhow::Result<()> {
    write(&match format {
        DoctorFormat::Json => format!("{}\n", serde_json::to_string_pretty(readiness)?),
        DoctorFormat::Yaml => serde_saphyr::to_string(readiness)?,
        DoctorFormat::Short => text(readiness, false)?,
        _ => text(readiness, true)?,
    })
}

fn text(readiness: &StrictReadiness, all: bool) -> anyhow::Result<String> {
    let mut out = String::new();
    for step in readiness
        .steps
        .iter()
        .filter(|step| all || step.ready != Ready::Yes)
    {
        let mark = match step.ready {
            Ready::Yes => paint("√", Colour::Green),
            Ready::No => paint("×", Colour::Red),
            Ready::Unknown => paint("?", Colour::Yellow),
        };
        writeln!(out, "{mark} {}", wrap(step.title, 2).trim())?;
        for reason in step.reasons.iter().take(REASONS) {
            out += &wrap(reason, 4);
        }
        if let Some(more) = step.reasons.len().checked_sub(REASONS).filter(|more| *more > 0) {
            writeln!(out, "    and {more} more; -o json names them all")?;
        }
    }
    let namespace = &readiness.namespace;
    let verdict = match readiness.verdict {
        Verdict::Go => format!("Go: {namespace} may become STRICT."),
        Verdict::NoGo => {
            format!("No-go: STRICT would cut off what is marked above; {namespace} stays as it is.")
        }
        Verdict::Open => {
            format!("Open: nothing speaks against STRICT for {namespace}, but not everything was seen.")
        }
    };
    if !out.is_empty() {
        out.push('\n');
    }
    out += &wrap(&verdict, 0);
    if let Some(yaml) = &readiness.apply {
        writeln!(
            out,
            "\nkubectl apply -f - <<'{HERE_DOCUMENT_ENDS}'\n{}\n{HERE_DOCUMENT_ENDS}",
            yaml.trim_end()
        )?;
        writeln!(
            out,
            "\nThen look for half an hour, in ztunnels' logs for \"policy rejection\":"
        )?;
        for command in &readiness.watch {
            writeln!(out, "  {command}")?;
        }
    }
    Ok(out)
}
