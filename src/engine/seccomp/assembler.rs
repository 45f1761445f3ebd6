//! Classic BPF, written from its end to its beginning: jumps only go forwards, so every distance is known when the
//! jump is written, and a target out of reach of a jump's 8 bits gets a stepping stone on the spot.
//!
//! Only loads, `and`, jumps and returns are used: of these the kernel computes, when the filter is loaded, which
//! calls are always allowed and does not run the filter for them (`seccomp_is_const_allow`, since 5.11).

use libc::sock_filter;

/// Where a jump leads: a place in the program, or the end of the matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The instruction with this many instructions behind it.
    Place(usize),
    Return(u32),
}

#[derive(Clone, Copy)]
pub enum Test {
    Equal,
    Greater,
    GreaterOrEqual,
}

#[derive(Default)]
pub struct Assembler {
    /// Last instruction first.
    backwards: Vec<sock_filter>,
    returns: Vec<(u32, usize)>,
}

const REACH: usize = u8::MAX as usize;

impl Assembler {
    pub fn finish(mut self) -> Box<[sock_filter]> {
        self.backwards.reverse();
        self.backwards.into_boxed_slice()
    }

    /// `A = word at offset` of `seccomp_data`, then on to `next`.
    pub fn load(&mut self, offset: u32, next: Target) -> Target {
        self.fall_through(next);
        self.push(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset)
    }

    /// `A &= mask`, then on to `next`.
    pub fn and(&mut self, mask: u32, next: Target) -> Target {
        self.fall_through(next);
        self.push(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, mask)
    }

    pub fn branch(&mut self, test: Test, value: u32, yes: Target, no: Target) -> Target {
        if yes == no {
            return yes;
        }
        // A stepping stone for one target moves the other one further away.
        let (jt, jf) = loop {
            let (yes, no) = (self.near(yes), self.near(no));
            match (self.distance(yes), self.distance(no)) {
                (Some(jt), Some(jf)) => break (jt, jf),
                _ => continue,
            }
        };
        let test = match test {
            Test::Equal => libc::BPF_JEQ,
            Test::Greater => libc::BPF_JGT,
            Test::GreaterOrEqual => libc::BPF_JGE,
        };
        self.push(libc::BPF_JMP | test | libc::BPF_K, jt, jf, value)
    }

    /// Makes the next instruction to be written be followed by `next`.
    fn fall_through(&mut self, next: Target) {
        let place = self.place(next);
        if place + 1 != self.backwards.len() {
            match next {
                Target::Return(verdict) => self.push_return(verdict),
                Target::Place(_) => self.push_jump(place),
            };
        }
    }

    /// A place for `target`, where a return that is near enough serves again.
    fn place(&mut self, target: Target) -> usize {
        match target {
            Target::Place(place) => place,
            Target::Return(verdict) => {
                let known = self.returns.iter().rev().find(|(known, _)| *known == verdict);
                match known {
                    Some((_, place)) if self.backwards.len() - place - 1 <= REACH => *place,
                    _ => self.push_return(verdict),
                }
            }
        }
    }

    /// A place within the reach of a conditional jump that leads to `target`.
    fn near(&mut self, target: Target) -> usize {
        let place = self.place(target);
        if self.distance(place).is_some() { place } else { self.push_jump(place) }
    }

    fn distance(&self, place: usize) -> Option<u8> {
        u8::try_from(self.backwards.len() - place - 1).ok()
    }

    fn push_return(&mut self, verdict: u32) -> usize {
        let place = self.backwards.len();
        self.push(libc::BPF_RET | libc::BPF_K, 0, 0, verdict);
        self.returns.push((verdict, place));
        place
    }

    fn push_jump(&mut self, place: usize) -> usize {
        let distance = (self.backwards.len() - place - 1) as u32;
        self.push(libc::BPF_JMP | libc::BPF_JA, 0, 0, distance);
        self.backwards.len() - 1
    }

    fn push(&mut self, code: u32, jt: u8, jf: u8, k: u32) -> Target {
        let place = self.backwards.len();
        self.backwards.push(sock_filter { code: code as u16, jt, jf, k });
        Target::Place(place)
    }
}
