// SPDX-License-Identifier: Apache-2.0
//! Takes one defence out, in tests only: the simulation must notice. Elsewhere all stand, always.

use meshmedic_common::policy::Withheld;

/// Something that keeps repairs from doing harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Defence {
    /// This reason to withhold a repair.
    Reason(Withheld),
    /// A loss is believed only after its confirmation.
    Confirmation,
    /// After a change ztunnel is given time.
    Settling,
    /// Everything is fetched again just before an act.
    Check,
    /// The pod is read again just before an act.
    Look,
    /// Only a reading that agrees counts as a fresh one.
    Agreement,
    /// A refused eviction is not repeated.
    Refusal,
    /// An eviction whose answer was lost may still be on its way.
    Doubt,
    /// An hour's budget is spent before the act.
    Spending,
    /// What a living agent holds is its own.
    Lease,
}

/// Whether this one is out.
#[cfg(not(test))]
pub(super) const fn is_out(_: Defence) -> bool {
    false
}

#[cfg(test)]
thread_local! {
    /// The one that is out on this thread.
    pub(super) static OUT: std::cell::Cell<Option<Defence>> = const { std::cell::Cell::new(None) };
}

/// Whether this one is out.
#[cfg(test)]
pub(super) fn is_out(defence: Defence) -> bool {
    OUT.get() == Some(defence)
}

/// Whether this reason to withhold a repair holds.
pub(super) fn stands(why: &Withheld) -> bool {
    !is_out(Defence::Reason(*why))
}
