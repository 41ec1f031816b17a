//! The limit on open connections, and the eviction of idle ones.
//!
//! When all slots are taken, a new connection evicts the one that has waited longest for its next
//! request, so idle connections cannot lock others out. When every connection has a request under
//! way, a new one gets a reserved slot, where only the health route is served. Health probes are
//! therefore never locked out.
//!
//! Each address has a bound of its own. Beyond it, a new connection evicts an idle one of the same
//! address.
//!
//! The hot path takes no lock: a connection stores in an atomic when it began to wait. All
//! connections are scanned only when no slot is free.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;

use crate::config::ServerConfig;

/// Reserved slots for probes, beyond `server.connections_max`.
const RESERVED_MAX: usize = 32;

/// Value of `waiting_since` while a request is under way.
const BUSY: u64 = 0;
/// Value of `waiting_since` of an evicted connection.
const EVICTED: u64 = u64::MAX;

/// The table of all connections. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Connections(Arc<ConnectionTable>);

#[derive(Debug)]
struct ConnectionTable {
    max: usize,
    per_address_max: usize,
    slots: Mutex<ConnectionSlots>,
    /// A logical clock: orders the times at which connections begin to wait.
    wait_clock: AtomicU64,
    evicted: AtomicU64,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct ConnectionSlots {
    next_id: u64,
    by_id: HashMap<u64, Arc<ConnectionSlot>>,
    by_address: HashMap<IpAddr, usize>,
    reserved: usize,
}

#[derive(Debug)]
struct ConnectionSlot {
    id: u64,
    address: IpAddr,
    reserved: bool,
    waiting_since: AtomicU64,
    evict: Notify,
}

/// The slot of one connection. Dropping it frees the slot.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    table: Arc<ConnectionTable>,
    slot: Arc<ConnectionSlot>,
}

/// Marks a request as under way. Dropping it marks the connection as waiting for its next request.
#[derive(Debug)]
pub(super) struct RequestGuard {
    table: Arc<ConnectionTable>,
    slot: Arc<ConnectionSlot>,
}

/// A snapshot of the connections.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ConnectionStats {
    /// Open connections, including those on reserved slots.
    pub open: u64,
    /// The setting `server.connections_max`.
    pub open_max: u64,
    /// Idle connections that were evicted, since the start.
    pub evicted: u64,
    /// New connections that were refused for want of a slot, since the start.
    pub refused: u64,
}

impl Connections {
    pub(super) fn new(config: &ServerConfig) -> Self {
        Self(Arc::new(ConnectionTable {
            max: config.connections_max,
            per_address_max: config.connections_per_address_max,
            slots: Mutex::default(),
            wait_clock: AtomicU64::new(BUSY + 1),
            evicted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }))
    }

    /// Returns a slot for a new connection, or none if even the reserved slots are taken.
    pub(super) fn enter(&self, address: IpAddr) -> Option<ConnectionPermit> {
        let table = &self.0;
        let address = subscriber(address);
        let mut slots = table.slots.lock();
        let of_address = slots.by_address.get(&address).copied().unwrap_or_default();
        let has_room = if of_address >= table.per_address_max {
            slots.evict(table, |slot| !slot.reserved && slot.address == address)
        } else if slots.by_id.len() - slots.reserved >= table.max {
            slots.evict(table, |slot| !slot.reserved)
        } else {
            true
        };
        let permit = if has_room {
            Some(slots.add(table, address, false))
        } else if slots.reserved < RESERVED_MAX || slots.evict(table, |slot| slot.reserved) {
            Some(slots.add(table, address, true))
        } else {
            None
        };
        if permit.is_none() {
            table.refused.fetch_add(1, Ordering::Relaxed);
        }
        permit
    }

    pub(super) fn stats(&self) -> ConnectionStats {
        let open = self.0.slots.lock().by_id.len();
        ConnectionStats {
            open: open as u64,
            open_max: self.0.max as u64,
            evicted: self.0.evicted.load(Ordering::Relaxed),
            refused: self.0.refused.load(Ordering::Relaxed),
        }
    }
}

impl ConnectionTable {
    /// Advances the logical clock and returns its value.
    fn tick(&self) -> u64 {
        self.wait_clock.fetch_add(1, Ordering::Relaxed)
    }
}

impl ConnectionSlots {
    fn add(
        &mut self,
        table: &Arc<ConnectionTable>,
        address: IpAddr,
        reserved: bool,
    ) -> ConnectionPermit {
        let id = self.next_id;
        self.next_id += 1;
        let waiting_since = AtomicU64::new(table.tick());
        let slot = Arc::new(ConnectionSlot {
            id,
            address,
            reserved,
            waiting_since,
            evict: Notify::new(),
        });
        self.by_id.insert(id, Arc::clone(&slot));
        if reserved {
            self.reserved += 1;
        } else {
            *self.by_address.entry(address).or_default() += 1;
        }
        ConnectionPermit {
            table: Arc::clone(table),
            slot,
        }
    }

    /// Evicts the connection that has waited longest for a request, among those that `may` accepts.
    /// Returns false if none of them waits.
    fn evict(&mut self, table: &ConnectionTable, may: impl Fn(&ConnectionSlot) -> bool) -> bool {
        loop {
            let waiting = self
                .by_id
                .values()
                .filter(|slot| may(slot))
                .filter_map(|slot| {
                    let since = slot.waiting_since.load(Ordering::Acquire);
                    (since != BUSY && since != EVICTED).then_some((since, slot))
                });
            let Some((since, slot)) = waiting.min_by_key(|(since, _)| *since) else {
                return false;
            };
            let slot = Arc::clone(slot);
            // Fails if a request has arrived since.
            let taken = slot.waiting_since.compare_exchange(
                since,
                EVICTED,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            if taken.is_ok() {
                self.remove(&slot);
                table.evicted.fetch_add(1, Ordering::Relaxed);
                slot.evict.notify_one();
                return true;
            }
        }
    }

    fn remove(&mut self, slot: &ConnectionSlot) {
        if self.by_id.remove(&slot.id).is_none() {
            // Evicted before, and removed then.
        } else if slot.reserved {
            self.reserved -= 1;
        } else if let Some(count) = self.by_address.get_mut(&slot.address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&slot.address);
            }
        }
    }
}

impl ConnectionPermit {
    /// Returns whether only health probes are served on this connection.
    pub(super) fn is_reserved(&self) -> bool {
        self.slot.reserved
    }

    /// Waits until the connection is evicted.
    pub(super) async fn evicted(&self) {
        self.slot.evict.notified().await;
    }

    /// Returns whether the connection was evicted and no request has arrived since.
    pub(super) fn is_abandoned(&self) -> bool {
        self.slot.waiting_since.load(Ordering::Acquire) == EVICTED
    }

    /// Marks the connection as busy with a request.
    pub(super) fn begin(&self) -> RequestGuard {
        self.slot.waiting_since.store(BUSY, Ordering::Release);
        RequestGuard {
            table: Arc::clone(&self.table),
            slot: Arc::clone(&self.slot),
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.table.slots.lock().remove(&self.slot);
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.slot
            .waiting_since
            .store(self.table.tick(), Ordering::Release);
    }
}

/// Returns the address under which a connection is counted. An IPv6 subscriber has a whole /64
/// network, so all its addresses count as one.
fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(max: usize, per_address_max: usize) -> Connections {
        let mut config = crate::config::Config::defaults().expect("loads").server;
        config.connections_max = max;
        config.connections_per_address_max = per_address_max;
        Connections::new(&config)
    }

    fn address(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    #[test]
    fn the_longest_wait_for_a_request_gives_way() {
        let connections = connections(3, 3);
        let permits: Vec<_> = (0..3)
            .map(|number| connections.enter(address(number)).expect("has a slot"))
            .collect();
        let [first, second, third] = permits.as_slice() else {
            panic!("are three")
        };
        let request = first.begin();
        drop(first.begin());
        let _busy = third.begin();
        drop(request);
        let fourth = connections.enter(address(4)).expect("has a slot");
        assert!(second.is_abandoned() && !first.is_abandoned() && !fourth.is_reserved());
        let _fifth = connections.enter(address(5)).expect("has a slot");
        assert!(
            first.is_abandoned(),
            "answered requests were followed by a wait"
        );
        assert_eq!(connections.stats().evicted, 2);
    }

    #[test]
    fn without_a_connection_that_waits_only_probes_have_places() {
        let connections = connections(1, 1);
        let busy = connections.enter(address(1)).expect("has a slot");
        let request = busy.begin();
        let probes: Vec<_> = (0..RESERVED_MAX + 1)
            .filter_map(|_| connections.enter(address(2)))
            .collect();
        assert_eq!(probes.len(), RESERVED_MAX + 1);
        assert!(probes.iter().all(ConnectionPermit::is_reserved));
        assert!(
            probes.first().is_some_and(ConnectionPermit::is_abandoned),
            "of the reserved slots, too, the oldest gives way"
        );
        let requests: Vec<_> = probes.iter().map(ConnectionPermit::begin).collect();
        assert!(connections.enter(address(3)).is_none());
        assert_eq!(connections.stats().refused, 1);
        drop((request, requests, busy));
        drop(probes);
        assert!(
            !connections
                .enter(address(3))
                .expect("has a slot")
                .is_reserved()
        );
        assert_eq!(connections.stats().open, 0);
    }

    #[test]
    fn an_address_makes_room_for_itself() {
        let connections = connections(4, 2);
        let other = connections.enter(address(1)).expect("has a slot");
        let permits: Vec<_> = (0..3)
            .map(|_| connections.enter(address(2)).expect("has a slot"))
            .collect();
        assert!(
            permits.first().is_some_and(ConnectionPermit::is_abandoned) && !other.is_abandoned()
        );
    }

    #[test]
    fn an_address_is_a_subscriber() {
        let text = |text: &str| text.parse::<IpAddr>().expect("is an address");
        assert_eq!(
            subscriber(text("2001:db8:1:2:3:4:5:6")),
            text("2001:db8:1:2::")
        );
        assert_eq!(subscriber(text("::ffff:10.0.0.1")), text("10.0.0.1"));
    }
}
