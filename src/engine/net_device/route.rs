//! A conversation with rtnetlink(7) in one network namespace.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::message::{self, Address, Answer, Request};
use crate::engine::error::{Doing, Error};
use crate::sys::{self, Result, ns, socket};

const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
/// The kernel makes its datagrams no larger than this.
const DATAGRAM: usize = 32 * 1024;

/// A socket; it belongs to the namespace that its maker was in.
pub struct Route(OwnedFd);

impl Route {
    pub fn here() -> Result<Self> {
        socket::netlink_route().map(Self)
    }

    /// In the namespace behind `netns`, which the calling thread visits for the one call that makes the socket.
    pub fn inside(netns: &OwnedFd) -> std::result::Result<Self, Error> {
        let doing = || "linux.netDevices: visiting the container's network namespace".to_string();
        let visit = ns::Visit::network(netns.as_fd()).doing(doing)?;
        let route = Self::here();
        drop(visit);
        route.doing(doing)
    }

    /// Sends a request and gives every part of the answer to `each`.
    fn ask(&self, call: &'static str, request: Request, mut each: impl FnMut(u16, &[u8])) -> Result<()> {
        socket::send(self.0.as_fd(), &request.bytes(), None)?;
        let mut datagram = vec![0; DATAGRAM];
        loop {
            let (length, _) = socket::recv(self.0.as_fd(), &mut datagram)?;
            for answer in message::answers(&datagram[..length]) {
                match answer {
                    Answer::End(0) => return Ok(()),
                    Answer::End(errno) => return Err(sys::Error::new(call, errno)),
                    Answer::Part(kind, body) => each(kind, body),
                }
            }
        }
    }

    /// The index of the device called `name`.
    pub fn index(&self, name: &str) -> Result<i32> {
        let request = Request::link(libc::RTM_GETLINK, libc::NLM_F_ACK, 0, false).name(IFLA_IFNAME, name);
        let mut index = 0;
        self.ask("RTM_GETLINK", request, |_, link| index = message::index(link))?;
        Ok(index)
    }

    pub fn indexes(&self) -> Result<Vec<i32>> {
        let mut indexes = Vec::new();
        let request = Request::link(libc::RTM_GETLINK, libc::NLM_F_DUMP, 0, false);
        self.ask("RTM_GETLINK", request, |_, link| indexes.push(message::index(link)))?;
        Ok(indexes)
    }

    /// The addresses of a device, of every family.
    pub fn addresses(&self, index: i32) -> Result<Vec<Address>> {
        let mut addresses = Vec::new();
        let request = Request::new(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; 8]);
        self.ask("RTM_GETADDR", request, |kind, body| {
            if kind == libc::RTM_NEWADDR {
                addresses.extend(Address::read(body).filter(|address| address.index == index));
            }
        })?;
        Ok(addresses)
    }

    /// Moves a device to another namespace, where it is called `name`.
    pub fn move_to(&self, index: i32, name: &str, netns: &OwnedFd) -> Result<()> {
        let request = Request::link(libc::RTM_NEWLINK, libc::NLM_F_ACK, index, false)
            .name(IFLA_IFNAME, name)
            .attribute(IFLA_NET_NS_FD, &netns.as_raw_fd().to_ne_bytes());
        self.ask("RTM_NEWLINK", request, |_, _| {})
    }

    pub fn add(&self, index: i32, address: &Address) -> Result<()> {
        self.ask("RTM_NEWADDR", address.request(index), |_, _| {})
    }

    pub fn up(&self, index: i32) -> Result<()> {
        self.ask("RTM_NEWLINK", Request::link(libc::RTM_NEWLINK, libc::NLM_F_ACK, index, true), |_, _| {})
    }
}
