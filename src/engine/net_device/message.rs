//! Messages of rtnetlink(7) as bytes, in the machine's own byte order: requests made, answers taken apart.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

const HEADER: usize = 16;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
/// What the kernel says about an address, as against what its owner asked for: not repeated when it is added again.
const IFA_STATES: u32 =
    libc::IFA_F_PERMANENT | libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED | libc::IFA_F_SECONDARY;

/// A request: `nlmsghdr`, a fixed part, attributes.
pub struct Request(Vec<u8>);

impl Request {
    /// `kind` is `RTM_*`; `flags` are `NLM_F_*` beside `NLM_F_REQUEST`.
    pub fn new(kind: u16, flags: i32, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&((flags | libc::NLM_F_REQUEST) as u16).to_ne_bytes());
        bytes.extend(fixed);
        Self(bytes)
    }

    /// About a device: `ifinfomsg`, with `up` to change `IFF_UP`.
    pub fn link(kind: u16, flags: i32, index: i32, up: bool) -> Self {
        let up = if up { libc::IFF_UP as u32 } else { 0 };
        let mut fixed = [0; 16];
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        fixed[8..12].copy_from_slice(&up.to_ne_bytes());
        fixed[12..16].copy_from_slice(&up.to_ne_bytes());
        Self::new(kind, flags, &fixed)
    }

    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend((4 + value.len() as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A name, with its NUL.
    pub fn name(self, kind: u16, name: &str) -> Self {
        self.attribute(kind, &[name.as_bytes(), b"\0"].concat())
    }

    pub fn bytes(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// What one message of an answer is.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The end, with the errno (0: all is well).
    End(i32),
    /// `kind` and what follows the header.
    Part(u16, &'a [u8]),
}

/// The messages of one datagram; anything malformed ends it.
pub fn answers(mut datagram: &[u8]) -> Vec<Answer<'_>> {
    let mut answers = Vec::new();
    while datagram.len() >= HEADER {
        let length = word(datagram, 0) as usize;
        let Some(body) = datagram.get(HEADER..length) else { break };
        answers.push(match i32::from(half(datagram, 4)) {
            libc::NLMSG_ERROR if body.len() >= 4 => Answer::End((word(body, 0) as i32).wrapping_neg()),
            libc::NLMSG_DONE => Answer::End(0),
            _ => Answer::Part(half(datagram, 4), body),
        });
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    answers
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_ne_bytes([b[0], b[1]]))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
}

/// The device that an `ifinfomsg` is about.
pub fn index(link: &[u8]) -> i32 {
    word(link, 4) as i32
}

/// An address of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address {
    pub index: i32,
    family: u8,
    prefix: u8,
    scope: u8,
    flags: u32,
    /// The attributes that make up the address itself.
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Address {
    /// Reads an `ifaddrmsg` with its attributes.
    pub fn read(body: &[u8]) -> Option<Self> {
        let (fixed, mut rest) = body.split_at_checked(8)?;
        let mut address = Self {
            index: word(fixed, 4) as i32,
            family: fixed[0],
            prefix: fixed[1],
            flags: fixed[2].into(),
            scope: fixed[3],
            attributes: Vec::new(),
        };
        while rest.len() >= 4 {
            let (length, kind) = (usize::from(half(rest, 0)), half(rest, 2));
            let value = rest.get(4..length)?;
            match kind {
                IFA_FLAGS => address.flags = word(value, 0),
                IFA_ADDRESS | IFA_LOCAL | IFA_BROADCAST => address.attributes.push((kind, value.to_vec())),
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Some(address)
    }

    /// The spec: permanent addresses of global scope go along.
    pub fn is_to_be_kept(&self) -> bool {
        self.flags & libc::IFA_F_PERMANENT != 0 && self.scope == libc::RT_SCOPE_UNIVERSE
    }

    /// The request that adds it to device `index`.
    pub fn request(&self, index: i32) -> Request {
        let mut fixed = [self.family, self.prefix, 0, self.scope, 0, 0, 0, 0];
        fixed[4..].copy_from_slice(&index.to_ne_bytes());
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let request = Request::new(libc::RTM_NEWADDR, flags, &fixed)
            .attribute(IFA_FLAGS, &(self.flags & !IFA_STATES).to_ne_bytes());
        self.attributes.iter().fold(request, |request, (kind, value)| request.attribute(*kind, value))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |kind| self.attributes.iter().find(|(k, _)| *k == kind).map(|(_, value)| value.as_slice());
        let bytes = of(IFA_LOCAL).or(of(IFA_ADDRESS)).unwrap_or_default();
        if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
            write!(f, "{}/{}", Ipv4Addr::from(v4), self.prefix)
        } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
            write!(f, "{}/{}", Ipv6Addr::from(v6), self.prefix)
        } else {
            write!(f, "{bytes:?}/{}", self.prefix)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_padded_and_says_its_length() {
        let bytes = Request::link(libc::RTM_NEWLINK, libc::NLM_F_ACK, 7, true).name(3, "eth0").bytes();
        assert_eq!(bytes.len(), 16 + 16 + 12);
        assert_eq!(word(&bytes, 0), 44);
        assert_eq!((half(&bytes, 4), half(&bytes, 6)), (libc::RTM_NEWLINK, 5));
        assert_eq!((index(&bytes[16..]), word(&bytes, 24), word(&bytes, 28)), (7, 1, 1));
        assert_eq!((half(&bytes, 32), half(&bytes, 34)), (9, 3));
        assert_eq!(&bytes[36..], b"eth0\0\0\0\0");
    }

    fn address(scope: u8, flags: u32) -> Address {
        let body = [2, 24, 0, scope, 9, 0, 0, 0];
        let request = Request::new(libc::RTM_NEWADDR, 0, &body)
            .attribute(IFA_LOCAL, &[10, 0, 0, 5])
            .attribute(IFA_FLAGS, &flags.to_ne_bytes());
        Address::read(&request.bytes()[HEADER..]).unwrap()
    }

    #[test]
    fn only_permanent_addresses_of_global_scope_are_kept_without_the_kernels_own_flags() {
        let kept = address(0, libc::IFA_F_PERMANENT | libc::IFA_F_NOPREFIXROUTE);
        assert!(kept.is_to_be_kept());
        assert_eq!((kept.to_string().as_str(), kept.index), ("10.0.0.5/24", 9));
        assert!(!address(0, 0).is_to_be_kept());
        assert!(!address(253, libc::IFA_F_PERMANENT).is_to_be_kept());
        let again = Address::read(&kept.request(4).bytes()[HEADER..]).unwrap();
        assert_eq!((again.index, again.flags), (4, libc::IFA_F_NOPREFIXROUTE));
    }

    #[test]
    fn a_datagram_of_any_content_is_taken_apart_without_harm() {
        let whole = Request::link(libc::RTM_NEWLINK, 0, 3, false).bytes();
        let two = [whole.clone(), whole].concat();
        for length in 0..two.len() {
            assert!(answers(&two[..length]).len() <= 1 + length / 32);
        }
        assert_eq!(answers(&two).len(), 2);
        assert_eq!(answers(&[0; 64]), []);
        assert_eq!(answers(&[255; 64]), []);
        let error = Request::new(libc::NLMSG_ERROR as u16, 0, &(-libc::ENODEV).to_ne_bytes()).bytes();
        assert_eq!(answers(&error), [Answer::End(libc::ENODEV)]);
        assert_eq!(Address::read(&[2, 24]), None);
    }
}
