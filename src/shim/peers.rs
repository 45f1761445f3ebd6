//! Who may speak to the shim: root, and the user that it runs as. The socket's mode says so already (0600 below 0711); this
//! asks the kernel who connected (unix(7), `SO_PEERCRED`), should the mode be changed or the socket handed on.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Sleep;

use crate::sys;

const AGAIN: Duration = Duration::from_millis(100);

/// The connections of those who may.
pub struct Peers {
    listener: UnixListener,
    own: u32,
    /// After a failure.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Peers {
    pub fn new(listener: OwnedFd) -> io::Result<Self> {
        let listener = std::os::unix::net::UnixListener::from(listener);
        listener.set_nonblocking(true)?;
        Ok(Self { listener: UnixListener::from_std(listener)?, own: sys::cred::geteuid(), pause: None })
    }

    fn admits(&self, stream: &UnixStream) -> bool {
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == 0 || peer.uid() == self.own => true,
            Ok(peer) => {
                log::warn!("turned away a connection of user {} (pid {:?})", peer.uid(), peer.pid());
                false
            }
            Err(e) => {
                log::warn!("turned away a connection whose user the kernel does not tell: {e}");
                false
            }
        }
    }
}

impl Stream for Peers {
    type Item = io::Result<UnixStream>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            match ready!(self.listener.poll_accept(context)) {
                Ok((stream, _)) if self.admits(&stream) => return Poll::Ready(Some(Ok(stream))),
                // Dropped, which closes it.
                Ok(_) => {}
                Err(e) => {
                    // KERNEL: without a descriptor to spare the connection stays where it is, and accept(2) fails again at once.
                    log::warn!("accepting a connection: {e}; trying again in {AGAIN:?}");
                    self.pause = Some(Box::pin(tokio::time::sleep(AGAIN)));
                }
            }
        }
    }
}
