// SPDX-License-Identifier: Apache-2.0
//! The API side: what it shows of this node, and what it is asked to do.
//!
//! Nothing here decides. Watches keep a [`Mirror`] of what the API last said; requests of the planner are
//! carried out one by one, and what came of them goes back to it.

mod elder;
mod mirror;
mod rights;
mod sights;
mod store;
mod watches;

pub(crate) use elder::elder;
pub use mirror::{Cni, Mirror};
pub use sights::Sights;
pub use store::Delta;
pub use watches::{Leases, Seen, TOO_OLD, WATCHED, Watches};
