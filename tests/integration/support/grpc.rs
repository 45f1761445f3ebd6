//! containerd's gRPC interface, without a `ctr` for each call: what the churn makes thousands of containers with.

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use protobuf::Message;
use std::path::Path;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

include!(concat!(env!("OUT_DIR"), "/proto-tests/mod.rs"));

/// gRPC's status codes, as far as they are asked for (grpc/statuscodes).
pub const NOT_FOUND: u32 = 5;
pub const UNAVAILABLE: u32 = 14;

#[derive(Debug, Clone)]
pub struct Failure {
    pub code: u32,
    pub message: String,
}

/// Of the connection, or of the daemon behind it.
fn broken(error: impl std::fmt::Display) -> Failure {
    Failure { code: UNAVAILABLE, message: error.to_string() }
}

type Answer<T> = Result<T, Failure>;

/// One connection, one call at a time.
pub struct Client {
    runtime: Runtime,
    requests: SendRequest<Bytes>,
    namespace: String,
}

impl Client {
    pub fn connect(socket: &Path, namespace: &str) -> Answer<Self> {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let requests = runtime.block_on(async {
            let stream = UnixStream::connect(socket).await.map_err(broken)?;
            let (requests, connection) = h2::client::handshake(stream).await.map_err(broken)?;
            tokio::spawn(connection);
            Ok(requests)
        })?;
        Ok(Self { runtime, requests, namespace: namespace.into() })
    }

    /// `method` with its service: `tasks.v1.Tasks/Create`.
    pub fn call<A: Message>(&self, method: &str, request: &impl Message) -> Answer<A> {
        self.runtime.block_on(async {
            let mut reply = Reply::to(self, method, request).await?;
            let answer = reply.message().await?;
            reply.end().await?;
            answer.ok_or_else(|| broken("no message"))
        })
    }

    /// Each message of a stream, until it ends or `take` says that it has had enough.
    pub fn stream<A: Message>(
        &self,
        method: &str,
        request: &impl Message,
        mut take: impl FnMut(A) -> bool,
    ) -> Answer<()> {
        self.runtime.block_on(async {
            let mut reply = Reply::to(self, method, request).await?;
            while let Some(message) = reply.message().await? {
                if !take(message) {
                    return Ok(());
                }
            }
            reply.end().await
        })
    }
}

/// What comes back: messages, each behind a byte that says "not compressed" and its length, then a status.
struct Reply {
    headers: HeaderMap,
    body: h2::RecvStream,
    pending: BytesMut,
}

impl Reply {
    async fn to(client: &Client, method: &str, request: &impl Message) -> Answer<Self> {
        let head = Request::post(format!("http://localhost/containerd.services.{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("containerd-namespace", &client.namespace)
            .body(())
            .expect("a request");
        let body = request.write_to_bytes().expect("encode");
        let mut frame = BytesMut::with_capacity(5 + body.len());
        frame.put_u8(0);
        frame.put_u32(body.len() as u32);
        frame.put_slice(&body);
        let mut requests = client.requests.clone().ready().await.map_err(broken)?;
        let (response, mut sender) = requests.send_request(head, false).map_err(broken)?;
        sender.send_data(frame.freeze(), true).map_err(broken)?;
        let (head, body) = response.await.map_err(broken)?.into_parts();
        Ok(Self { headers: head.headers, body, pending: BytesMut::new() })
    }

    async fn message<A: Message>(&mut self) -> Answer<Option<A>> {
        loop {
            if let Some(length) = self.pending.get(1..5) {
                let end = 5 + u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
                if self.pending.len() >= end {
                    let message = self.pending.split_to(end);
                    return A::parse_from_bytes(&message[5..]).map(Some).map_err(broken);
                }
            }
            match self.body.data().await {
                Some(data) => {
                    let data = data.map_err(broken)?;
                    let _ = self.body.flow_control().release_capacity(data.len());
                    self.pending.extend_from_slice(&data);
                }
                // A call that fails has a status in place of a message.
                None => return self.end().await.map(|()| None),
            }
        }
    }

    /// The status is in the trailers, or, of a call that failed at once, in the headers.
    async fn end(&mut self) -> Answer<()> {
        if let Some(trailers) = self.body.trailers().await.map_err(broken)? {
            self.headers.extend(trailers);
        }
        let text = |name| self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        match text("grpc-status").parse() {
            Ok(0) => Ok(()),
            Ok(code) => Err(Failure { code, message: text("grpc-message").into() }),
            Err(_) => Err(broken("no status")),
        }
    }
}
