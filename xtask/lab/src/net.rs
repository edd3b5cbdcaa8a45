// SPDX-License-Identifier: Apache-2.0
//! Links, addresses and routes of the network namespace that the calling thread is in.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::filter;

/// Loopback has the same index in every network namespace.
const LOOPBACK: u32 = 1;
/// Istio's routing table for what ztunnel receives on behalf of the pod.
const ISTIO_TABLE: u8 = 100;
/// Where Istio puts its rule.
const ISTIO_RULE_PRIORITY: u32 = 32764;
/// Istio's mark on packets for ztunnel, and the bits of it that count.
const ISTIO_MARK: (u32, u32) = (0x111, 0xfff);

/// A netlink socket in one network namespace, in which it stays.
pub(crate) struct Netlink(Socket);

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    fn request(&self, message: RouteNetlinkMessage, create: bool) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK;
        if create {
            header.flags |= NLM_F_CREATE | NLM_F_EXCL;
        }
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.0.send(&bytes, 0)?;
        let (answer, _) = self.0.recv_from_full()?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
        match answer.payload {
            NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
            NetlinkPayload::Error(_) => Ok(()),
            other => Err(io::Error::other(format!("unexpected netlink answer {other:?}"))),
        }
    }

    /// Brings loopback up.
    pub(crate) fn loopback_up(&self) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = LOOPBACK;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        self.request(RouteNetlinkMessage::SetLink(link), false)
    }

    /// Adds an address to loopback, which needs no driver and takes any.
    pub(crate) fn add_address(&self, address: IpAddr) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address.is_ipv6());
        message.header.prefix_len = if address.is_ipv6() { 128 } else { 32 };
        message.header.scope = AddressScope::Universe;
        message.header.index = LOOPBACK;
        message.attributes = vec![
            AddressAttribute::Local(address),
            AddressAttribute::Address(address),
        ];
        self.request(RouteNetlinkMessage::NewAddress(message), true)
    }

    /// Adds or removes the route and the rules by which Istio redirects a pod; the packet filter's are those of the
    /// calling thread's namespace.
    pub(crate) fn redirect(&self, on: bool, ipv6: bool) -> io::Result<()> {
        for ipv6 in [false, true].into_iter().take(1 + usize::from(ipv6)) {
            let (route, rule) = (istio_route(ipv6), istio_rule(ipv6));
            if on {
                self.request(RouteNetlinkMessage::NewRoute(route), true)?;
                self.request(RouteNetlinkMessage::NewRule(rule), true)?;
            } else {
                self.request(RouteNetlinkMessage::DelRule(rule), false)?;
                self.request(RouteNetlinkMessage::DelRoute(route), false)?;
            }
        }
        filter::redirect(on)
    }
}

fn family(ipv6: bool) -> AddressFamily {
    if ipv6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    }
}

/// `local default dev lo table 100`
fn istio_route(ipv6: bool) -> RouteMessage {
    let any = if ipv6 {
        IpAddr::from(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::from(Ipv4Addr::UNSPECIFIED)
    };
    let mut route = RouteMessage::default();
    route.header.address_family = family(ipv6);
    route.header.table = ISTIO_TABLE;
    route.header.protocol = RouteProtocol::Boot;
    route.header.scope = if ipv6 {
        RouteScope::Universe
    } else {
        RouteScope::Host
    };
    route.header.kind = RouteType::Local;
    route.attributes = vec![
        RouteAttribute::Destination(any.into()),
        RouteAttribute::Oif(LOOPBACK),
    ];
    route
}

/// `fwmark 0x111/0xfff pref 32764 lookup 100`
fn istio_rule(ipv6: bool) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = family(ipv6);
    rule.header.table = ISTIO_TABLE;
    rule.header.action = RuleAction::ToTable;
    rule.attributes = vec![
        RuleAttribute::Priority(ISTIO_RULE_PRIORITY),
        RuleAttribute::FwMark(ISTIO_MARK.0),
        RuleAttribute::FwMask(ISTIO_MARK.1),
    ];
    rule
}
