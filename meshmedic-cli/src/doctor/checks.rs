// SPDX-License-Identifier: Apache-2.0
//! Every check, in one table.

mod certificates;
mod control_plane;
mod data_plane;
mod enforcement;
mod enrolment;
mod network_policy;
mod network_underneath;
mod platform;
mod pod_creation;
mod proxies;
mod reboots;
mod references;
pub(super) mod security;
mod sidecars;
mod status;
pub(super) mod traffic;
mod version;
mod waypoints;

use super::check::Check;

/// The table, a category after the other.
const TABLE: &[&[Check]] = &[
    control_plane::CHECKS,
    data_plane::CHECKS,
    pod_creation::CHECKS,
    enrolment::CHECKS,
    network_policy::CHECKS,
    security::CHECKS,
    traffic::CHECKS,
    sidecars::CHECKS,
    network_underneath::CHECKS,
    status::CHECKS,
    waypoints::CHECKS,
    enforcement::CHECKS,
    references::CHECKS,
    certificates::CHECKS,
    platform::CHECKS,
    reboots::CHECKS,
    proxies::CHECKS,
];

/// Every check, by code.
pub(crate) fn all() -> impl Iterator<Item = &'static Check> {
    TABLE.iter().copied().flatten()
}

/// The check with this code.
pub(crate) fn by_code(code: &str) -> Option<&'static Check> {
    all().find(|check| check.code.eq_ignore_ascii_case(code))
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod planted;
#[cfg(test)]
mod tests;
