// SPDX-License-Identifier: Apache-2.0
//! Checks of the category of that name.

use crate::doctor::check::Check;

/// The checks, by code.
pub(crate) const CHECKS: &[Check] = &[];
