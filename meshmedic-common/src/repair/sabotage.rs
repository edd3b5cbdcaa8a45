// SPDX-License-Identifier: Apache-2.0
//! Takes one defence out, under the feature `simulation` only, which the simulation has and no build that ships:
//! it must notice. Elsewhere all stand, always.

use crate::policy::Withheld;

/// Something that keeps repairs from doing harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defence {
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
    /// What the API would refuse is claimed for by nobody.
    Rehearsal,
    /// What became of a repair without a proof is asked before it counts.
    Aftermath,
    /// A pod has its own grace period to end.
    Grace,
    /// An hour's budget is spent before the act.
    Spending,
    /// What a living agent holds is its own.
    Lease,
    /// Before an ask the readings agree for long enough.
    HealConfirm,
    /// The pod is read once more just before an ask.
    LastLook,
    /// The first heal of a node goes alone.
    HealCanary,
    /// Few asks are outstanding.
    Outstanding,
    /// After an ask that did not take nothing more is asked until istio-cni shows that it works.
    Feedback,
    /// All agents together stay below a ceiling.
    Ceiling,
    /// Of one owner's pods only a share is asked for at once.
    OwnerShare,
    /// The same ask against the same is not repeated.
    Repeat,
    /// What an ask made worse is taken back.
    Undo,
    /// An ask names the pod and the version that was judged.
    Preconditions,
    /// An ask writes nothing but what asks.
    Keys,
    /// Where the first ask changed nothing, a second one follows.
    SecondAsk,
    /// A pod that was there before proves nothing.
    Before,
    /// A StatefulSet's successor has its name, a `DaemonSet`'s its node.
    Place,
    /// One successor proves one repair.
    Once,
}

/// Whether this one is out.
#[cfg(not(any(test, feature = "simulation")))]
pub const fn is_out(_: Defence) -> bool {
    false
}

#[cfg(any(test, feature = "simulation"))]
thread_local! {
    /// The one that is out on this thread.
    pub static OUT: std::cell::Cell<Option<Defence>> = const { std::cell::Cell::new(None) };
}

/// Whether this one is out.
#[cfg(any(test, feature = "simulation"))]
pub fn is_out(defence: Defence) -> bool {
    OUT.get() == Some(defence)
}

/// Whether this reason to withhold a repair holds.
pub fn stands(why: &Withheld) -> bool {
    !is_out(Defence::Reason(*why))
}
