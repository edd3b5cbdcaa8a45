// SPDX-License-Identifier: Apache-2.0
//! Who is connected, and who has to go when the places are taken.
//!
//! A newcomer always gets in: were it turned away, a few clients that hold their connections could keep the kubelet's
//! probes out until it ends the agent. Instead the oldest connection of the address with the most of them goes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Connections by age.
#[derive(Clone, Debug, Default)]
pub(super) struct Crowd(Arc<Mutex<Seats>>);

#[derive(Debug, Default)]
struct Seats {
    next: u64,
    /// The oldest first, since numbers grow.
    taken: BTreeMap<u64, Seat>,
}

#[derive(Debug)]
struct Seat {
    peer: IpAddr,
    /// Its connection ends when this is dropped.
    _alive: oneshot::Sender<()>,
}

/// A connection's place among the others, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Crowd,
    number: u64,
    taken_away: oneshot::Receiver<()>,
}

impl Crowd {
    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place, of which there are so many, and so many for one address.
    pub(super) fn enter(&self, peer: IpAddr, most: usize, per_peer: usize) -> Place {
        let peer = peer.to_canonical();
        let mut seats = self.seats();
        if seats.of(peer) >= per_peer {
            seats.send_away(peer);
        } else if seats.taken.len() >= most
            && let Some(greediest) = seats.greediest()
        {
            seats.send_away(greediest);
        }
        let (alive, taken_away) = oneshot::channel();
        let number = seats.next;
        seats.next += 1;
        seats.taken.insert(number, Seat { peer, _alive: alive });
        Place {
            crowd: self.clone(),
            number,
            taken_away,
        }
    }

    /// How many places are taken.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.seats().taken.len()
    }
}

impl Seats {
    fn of(&self, peer: IpAddr) -> usize {
        self.taken.values().filter(|seat| seat.peer == peer).count()
    }

    /// The address with the most connections; of several, the one whose first is the oldest.
    fn greediest(&self) -> Option<IpAddr> {
        let oldest_last = self.taken.values().rev().map(|seat| seat.peer);
        oldest_last.max_by_key(|peer| self.of(*peer))
    }

    fn send_away(&mut self, peer: IpAddr) {
        let oldest = self.taken.iter().find(|(_, seat)| seat.peer == peer);
        if let Some(number) = oldest.map(|(number, _)| *number) {
            self.taken.remove(&number);
        }
    }
}

impl Place {
    /// Waits until the place is given to somebody else.
    pub(super) async fn taken_away(&mut self) {
        // Nothing is ever sent: the sender goes with its seat.
        let _ = (&mut self.taken_away).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crowd.seats().taken.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn gone(place: &mut Place) -> bool {
        place.taken_away.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn one_address_has_its_share_and_loses_its_oldest_connection() {
        let crowd = Crowd::default();
        let mut first = crowd.enter(peer(1), 3, 2);
        let mut second = crowd.enter(peer(1), 3, 2);
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        let mut third = crowd.enter(mapped, 3, 2);
        assert!(gone(&mut first), "it is the same address");
        assert!(!gone(&mut second) && !gone(&mut third));
        assert_eq!(crowd.len(), 2);
        drop((first, second, third));
        assert_eq!(crowd.len(), 0);
    }

    #[test]
    fn a_newcomer_takes_the_place_of_the_greediest() {
        let crowd = Crowd::default();
        let mut modest = crowd.enter(peer(1), 4, 3);
        let mut greedy: Vec<_> = (0..3).map(|_| crowd.enter(peer(2), 4, 3)).collect();
        let mut newcomer = crowd.enter(peer(3), 4, 3);
        assert!(gone(&mut greedy[0]), "the oldest of the most");
        assert!(!gone(&mut greedy[1]) && !gone(&mut modest) && !gone(&mut newcomer));
        // Where each has one, the oldest goes.
        let crowd = Crowd::default();
        let mut each: Vec<_> = (0..4).map(|last| crowd.enter(peer(last), 4, 3)).collect();
        let _newcomer = crowd.enter(peer(9), 4, 3);
        assert!(gone(&mut each[0]) && !gone(&mut each[3]));
    }
}
