//! One line per call in the log: what was asked, of whom, how long it took; a failure in words.

use std::time::Instant;

use async_trait::async_trait;
use protobuf::CodedInputStream;
use ttrpc::asynchronous::{MethodHandler, Service, TtrpcContext};
use ttrpc::{Code, Request, Response};

type Handler = Box<dyn MethodHandler + Send + Sync>;

/// Calls whose second field is the exec's id.
const OF_PROCESSES: [&str; 8] = ["State", "Start", "Delete", "Exec", "ResizePty", "Kill", "CloseIO", "Wait"];
/// The tag of a string (wire type 2): field 1 of every request is the container's id.
const ID: u32 = 1 << 3 | 2;
const EXEC_ID: u32 = 2 << 3 | 2;

/// The same service, whose every call leaves a line.
pub fn logged(service: Service) -> Service {
    let wrap =
        |(method, inner): (String, Handler)| (method.clone(), Box::new(Logged { method, inner }) as Handler);
    Service { methods: service.methods.into_iter().map(wrap).collect(), streams: service.streams }
}

struct Logged {
    method: String,
    inner: Handler,
}

#[async_trait]
impl MethodHandler for Logged {
    async fn handler(&self, context: TtrpcContext, request: Request) -> ttrpc::Result<Response> {
        let whom = whom(&self.method, &request.payload);
        let mut call = Call { method: &self.method, whom, began: Instant::now(), answered: false };
        let answer = self.inner.handler(context, request).await;
        call.tell(&answer);
        answer
    }
}

/// A call in flight. ttrpc drops it when the client leaves, or its deadline is over.
struct Call<'a> {
    method: &'a str,
    whom: String,
    began: Instant,
    answered: bool,
}

impl Call<'_> {
    fn tell(&mut self, answer: &ttrpc::Result<Response>) {
        self.answered = true;
        let (method, whom, took) = (self.method, &self.whom, self.began.elapsed());
        match answer.as_ref().map(|response| response.status()) {
            Ok(status) if status.code() == Code::OK => log::debug!("{method} {whom}: done in {took:?}"),
            Ok(status) => {
                log::info!("{method} {whom}: {:?} in {took:?}: {}", status.code(), status.message());
            }
            Err(e) => log::info!("{method} {whom}: failed in {took:?}: {e}"),
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.answered {
            let (method, whom, took) = (self.method, &self.whom, self.began.elapsed());
            log::debug!("{method} {whom}: its caller has left after {took:?}");
        }
    }
}

/// `CONTAINER` or `CONTAINER/EXEC`. Empty where the request does not begin with an id.
fn whom(method: &str, payload: &[u8]) -> String {
    let mut input = CodedInputStream::from_bytes(payload);
    let mut field = |tag| match input.read_raw_tag_or_eof() {
        Ok(Some(found)) if found == tag => input.read_string().ok(),
        _ => None,
    };
    let id = field(ID).unwrap_or_default();
    match OF_PROCESSES.contains(&method).then(|| field(EXEC_ID)).flatten() {
        Some(exec) => format!("{id}/{exec}"),
        None => id,
    }
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::api::{CreateTaskRequest, KillRequest};
    use protobuf::Message;

    use super::*;

    #[test]
    fn whom_a_request_is_about_is_read_off_its_first_fields() {
        let mut kill = KillRequest { id: "a".into(), signal: 9, ..Default::default() };
        assert_eq!(whom("Kill", &kill.write_to_bytes().unwrap()), "a");
        kill.exec_id = "x".into();
        assert_eq!(whom("Kill", &kill.write_to_bytes().unwrap()), "a/x");
        let create = CreateTaskRequest { id: "a".into(), bundle: "/b".into(), ..Default::default() };
        assert_eq!(whom("Create", &create.write_to_bytes().unwrap()), "a");
        assert_eq!(whom("Kill", b"\x0a\xff\xff"), "");
    }
}
