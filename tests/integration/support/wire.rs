//! ttrpc as bytes on a socket, written anew so that the shim's own ttrpc crate is not tested with itself.
//!
//! A frame is length (u32), stream (u32), type (u8), flags (u8), all big-endian, then a protobuf message.

use protobuf::Message;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use ttrpc::proto::{Code, Request, Response};

pub const REQUEST: u8 = 1;
pub const RESPONSE: u8 = 2;

/// A status other than OK.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    pub code: Code,
    pub message: String,
}

pub fn write_frame(mut to: impl Write, stream: u32, kind: u8, body: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(10 + body.len());
    frame.extend((body.len() as u32).to_be_bytes());
    frame.extend(stream.to_be_bytes());
    frame.extend([kind, 0]);
    frame.extend(body);
    to.write_all(&frame)
}

/// The frame's stream and body.
pub fn read_frame(mut from: impl Read) -> io::Result<(u32, Vec<u8>)> {
    let mut header = [0; 10];
    from.read_exact(&mut header)?;
    let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let mut body = vec![0; number(0) as usize];
    from.read_exact(&mut body)?;
    Ok((number(4), body))
}

/// One connection, one call at a time; parallel calls use several.
pub struct Client {
    stream: UnixStream,
    next: u32,
}

impl Client {
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self { stream, next: 1 })
    }

    pub fn call<A: Message>(
        &mut self,
        service: &str,
        method: &str,
        request: &impl Message,
    ) -> Result<A, Failure> {
        self.send(service, method, request).expect("send a request");
        self.receive(method)
    }

    /// A call that may find the shim dead, which is the outer error.
    pub fn try_call<A: Message>(
        &mut self,
        service: &str,
        method: &str,
        request: &impl Message,
    ) -> io::Result<Result<A, Failure>> {
        self.send(service, method, request)?;
        let (_, body) = read_frame(&self.stream)?;
        Ok(answer(&body))
    }

    /// Sends without waiting: for calls that the test abandons or that it answers for later.
    pub fn send(&mut self, service: &str, method: &str, request: &impl Message) -> io::Result<()> {
        let request = Request {
            service: service.into(),
            method: method.into(),
            payload: request.write_to_bytes().expect("encode"),
            ..Request::default()
        };
        let body = request.write_to_bytes().expect("encode");
        let stream = self.next;
        // Clients use odd stream numbers.
        self.next += 2;
        write_frame(&self.stream, stream, REQUEST, &body)
    }

    pub fn receive<A: Message>(&mut self, method: &str) -> Result<A, Failure> {
        let (_, body) =
            read_frame(&self.stream).unwrap_or_else(|error| panic!("no answer to {method}: {error}"));
        answer(&body)
    }

    /// The next answer of several calls in flight, and the stream that it belongs to.
    pub fn receive_next<A: Message>(&mut self) -> (u32, Result<A, Failure>) {
        let (stream, body) =
            read_frame(&self.stream).unwrap_or_else(|error| panic!("an answer is missing: {error}"));
        (stream, answer(&body))
    }

    /// For what no client would send.
    pub fn raw(&self) -> &UnixStream {
        &self.stream
    }
}

fn answer<A: Message>(body: &[u8]) -> Result<A, Failure> {
    let response = Response::parse_from_bytes(body).expect("a ttrpc response");
    if response.status.code() != Code::OK {
        return Err(Failure { code: response.status.code(), message: response.status.message.clone() });
    }
    Ok(A::parse_from_bytes(&response.payload).expect("the answer's message"))
}
