// SPDX-License-Identifier: Apache-2.0
//! What goes on after the answer: programs in pods, their logs, and ports that are led elsewhere.

mod exec;
mod forward;
mod log;
mod produce;
mod run;
pub(crate) mod upgrade;

pub(crate) use exec::connect;
pub(crate) use log::start as log;
pub(crate) use run::start as run;
