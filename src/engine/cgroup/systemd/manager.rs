//! What is asked of systemd: a scope started, changed, stopped (org.freedesktop.systemd1(5)).

use std::time::Duration;

use super::address::{Owner, candidates};
use super::bus::{Bus, BusError};
use super::message::Call;
use super::unit::Unit;
use super::value::{Reader, Value};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

type Result<T> = std::result::Result<T, BusError>;

/// Named properties of a unit.
pub type Properties = Vec<(String, Value)>;

/// systemd, for as long as this lives: one connection, one deadline.
#[derive(Debug)]
pub struct Manager(Bus);

impl Manager {
    pub fn connect(owner: Owner) -> Result<Manager> {
        Self::connect_for(owner, Duration::MAX)
    }

    /// One that is heard for `limit` only, if that is less than the usual patience.
    pub fn connect_for(owner: Owner, limit: Duration) -> Result<Manager> {
        Bus::open(&candidates(owner, |name| std::env::var_os(name)), limit).map(Manager)
    }

    fn call(&mut self, member: &str, arguments: Vec<Value>) -> Result<Vec<u8>> {
        self.0.call(&Call { destination: SYSTEMD, path: PATH, interface: MANAGER, member, arguments })
    }

    /// Starts a scope that holds process `pid`, and waits until it is there.
    pub fn start(&mut self, unit: &Unit, pid: i32, mut properties: Properties) -> Result<()> {
        let pids = Value::Array("u".into(), vec![Value::U32(pid as u32)]);
        properties.insert(0, ("PIDs".into(), pids));
        self.listen()?;
        let started = match self.start_transient(unit, &properties) {
            // COMPAT: what is left of a failed unit of that name makes way, once; a living one is in the way.
            Err(BusError::Refused { name, .. }) if name.ends_with(".UnitExists") => {
                self.reset_failed(unit);
                self.start_transient(unit, &properties)
            }
            started => started,
        };
        let result = started.and_then(|job| self.done(&job))?;
        if result == "done" {
            return Ok(());
        }
        self.reset_failed(unit);
        let text = "systemd's log (journalctl -u UNIT) tells why".to_owned();
        Err(BusError::Refused { name: format!("job result {result:?}"), text })
    }

    /// The path of the job.
    fn start_transient(&mut self, unit: &Unit, properties: &Properties) -> Result<String> {
        let auxiliary = Value::Array("(sa(sv))".into(), Vec::new());
        let arguments =
            vec![unit.name.as_str().into(), "replace".into(), Value::properties(properties), auxiliary];
        let reply = self.call("StartTransientUnit", arguments)?;
        self.job(&reply)
    }

    /// Stops a unit and waits until it is gone. One that is gone already is what was wanted.
    pub fn stop(&mut self, unit: &Unit) -> Result<()> {
        self.listen()?;
        let stopped = match self.call("StopUnit", vec![unit.name.as_str().into(), "replace".into()]) {
            Ok(reply) => self.job(&reply).and_then(|job| self.done(&job)).map(drop),
            Err(BusError::Refused { name, .. }) if name.ends_with(".NoSuchUnit") => return Ok(()),
            Err(e) => Err(e),
        };
        if !matches!(stopped, Err(BusError::TimedOut { .. } | BusError::Closed { .. })) {
            self.reset_failed(unit);
        }
        stopped
    }

    /// Changes properties of a unit until it ends.
    pub fn set(&mut self, unit: &Unit, properties: &Properties) -> Result<()> {
        let runtime = Value::Bool(true);
        let arguments = vec![unit.name.as_str().into(), runtime, Value::properties(properties)];
        self.call("SetUnitProperties", arguments).map(drop)
    }

    /// A property of systemd itself that is a text.
    pub fn property(&mut self, name: &str) -> Result<String> {
        let interface = "org.freedesktop.DBus.Properties";
        let arguments = vec![MANAGER.into(), name.into()];
        let call = Call { destination: SYSTEMD, path: PATH, interface, member: "Get", arguments };
        let reply = self.0.call(&call)?;
        let mut reader = Reader::new(&reply);
        let text = reader.signature().filter(|signature| signature == "s").and_then(|_| reader.string());
        text.ok_or_else(|| self.0.malformed("a property of another type"))
    }

    /// systemd's version, 0 if it calls itself something else.
    pub fn version(&mut self) -> Result<u32> {
        self.property("Version").map(|text| leading_number(&text))
    }

    /// ORDER: before the job is asked for, or its end could go by unheard. A direct connection hears everything.
    fn listen(&mut self) -> Result<()> {
        if self.0.direct {
            return Ok(());
        }
        let rule = format!("type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='JobRemoved'");
        let (bus, path) = ("org.freedesktop.DBus", "/org/freedesktop/DBus");
        let arguments = vec![rule.as_str().into()];
        self.0.call(&Call { destination: bus, path, interface: bus, member: "AddMatch", arguments })?;
        self.call("Subscribe", Vec::new()).map(drop)
    }

    fn job(&self, reply: &[u8]) -> Result<String> {
        Reader::new(reply).string().ok_or_else(|| self.0.malformed("a reply without a job"))
    }

    /// The result of a job, once it has ended: JobRemoved(id, job, unit, result).
    fn done(&mut self, job: &str) -> Result<String> {
        self.0.signal("JobRemoved", |body| {
            let mut reader = Reader::new(body);
            let (_, path, _, result) = (reader.u32()?, reader.string()?, reader.string()?, reader.string()?);
            (path == job).then_some(result)
        })
    }

    /// A failed unit keeps its name until it is reset.
    fn reset_failed(&mut self, unit: &Unit) {
        // NoSuchUnit: there is nothing to reset, as a rule.
        let _ = self.call("ResetFailedUnit", vec![unit.name.as_str().into()]);
    }
}

/// The version in `252.39-1~deb12u1`, `v245` or `"257"`.
fn leading_number(text: &str) -> u32 {
    let text = text.trim_start_matches(['"', 'v']);
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_its_leading_number() {
        let all = ["252.39-1~deb12u1", "v245.4", "257", "~rc"].map(leading_number);
        assert_eq!(all, [252, 245, 257, 0]);
    }
}
