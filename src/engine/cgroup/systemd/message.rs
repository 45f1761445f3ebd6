//! D-Bus messages: the header around a body (D-Bus specification, "Message Format").

use super::value::{Reader, Value, pad};

/// The part of a message whose size does not vary; it tells the size of the rest.
pub const FIXED: usize = 16;
/// No answer of systemd's comes near this. More is a peer that is not what it should be.
const MAX: usize = 1 << 20;

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// A method call.
#[derive(Debug)]
pub struct Call<'a> {
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
    pub arguments: Vec<Value>,
}

impl Call<'_> {
    pub fn encode(&self, serial: u32) -> Vec<u8> {
        let mut body = Vec::new();
        self.arguments.iter().for_each(|argument| argument.put(&mut body));
        let signature: String = self.arguments.iter().map(Value::signature).collect();
        let mut fields = vec![
            field(1, Value::Path(self.path.to_owned())),
            field(2, self.interface.into()),
            field(3, self.member.into()),
            field(6, self.destination.into()),
        ];
        if !signature.is_empty() {
            fields.push(field(8, Value::Signature(signature)));
        }
        let mut out = vec![b'l', METHOD_CALL, 0, 1];
        Value::U32(body.len() as u32).put(&mut out);
        Value::U32(serial).put(&mut out);
        Value::Array("(yv)".into(), fields).put(&mut out);
        pad(&mut out, 8);
        out.extend(body);
        out
    }
}

fn field(code: u8, value: Value) -> Value {
    Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))])
}

/// What a peer sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    Return {
        to: u32,
        body: Vec<u8>,
    },
    Error {
        to: u32,
        name: String,
        body: Vec<u8>,
    },
    Signal {
        member: String,
        body: Vec<u8>,
    },
    /// A call, or a kind that the specification may add: of no interest.
    Other,
}

/// The length of the message that begins so; `None` if it is none, or one too large to be meant.
pub fn length(fixed: &[u8; FIXED]) -> Option<usize> {
    let mut reader = Reader::new(fixed);
    let (order, _, _, version) = (reader.byte()?, reader.byte()?, reader.byte()?, reader.byte()?);
    let (body, _, fields) = (reader.u32()? as usize, reader.u32()?, reader.u32()? as usize);
    let all = (FIXED + fields.min(MAX)).next_multiple_of(8) + body.min(MAX);
    (order == b'l' && version == 1 && all <= MAX).then_some(all)
}

impl Incoming {
    /// Reads a whole message. `None` if it breaks the rules.
    pub fn parse(message: &[u8]) -> Option<Incoming> {
        let kind = *message.get(1)?;
        let mut reader = Reader::new(message);
        (0..4).try_for_each(|_| reader.byte().map(drop))?;
        let (length, _, fields) = (reader.u32()? as usize, reader.u32()?, reader.u32()? as usize);
        let end = FIXED.checked_add(fields)?;
        let (mut to, mut member, mut name) = (None, None, None);
        while reader.position() < end {
            reader.align(8)?;
            let code = reader.byte()?;
            let signature = reader.signature()?;
            match (code, signature.as_str()) {
                (5, "u") => to = reader.u32(),
                (3, "s") => member = reader.string(),
                (4, "s") => name = reader.string(),
                (_, "s" | "o") => drop(reader.string()?),
                (_, "g") => drop(reader.signature()?),
                (_, "u") => drop(reader.u32()?),
                _ => return None,
            }
        }
        reader.align(8)?;
        let body = message.get(reader.position()..).filter(|body| body.len() == length)?.to_vec();
        Some(match kind {
            METHOD_RETURN => Self::Return { to: to?, body },
            ERROR => Self::Error { to: to?, name: name?, body },
            SIGNAL => Self::Signal { member: member?, body },
            _ => Self::Other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(to: u32, text: &str) -> Vec<u8> {
        let mut body = Vec::new();
        Value::from(text).put(&mut body);
        let mut out = vec![b'l', METHOD_RETURN, 1, 1];
        Value::U32(body.len() as u32).put(&mut out);
        Value::U32(9).put(&mut out);
        let fields = vec![field(5, Value::U32(to)), field(8, Value::Signature("s".into()))];
        Value::Array("(yv)".into(), fields).put(&mut out);
        pad(&mut out, 8);
        out.extend(body);
        out
    }

    #[test]
    fn a_call_says_its_own_length() {
        let call = Call {
            destination: "a.b",
            path: "/a",
            interface: "a.b",
            member: "M",
            arguments: vec![Value::U32(1), "x".into()],
        };
        let bytes = call.encode(1);
        assert_eq!(length(bytes[..FIXED].try_into().unwrap()), Some(bytes.len()));
        assert_eq!(Incoming::parse(&bytes), Some(Incoming::Other));
    }

    #[test]
    fn a_reply_is_read_and_a_cut_one_is_not() {
        let bytes = reply(3, "done");
        let Some(Incoming::Return { to: 3, body }) = Incoming::parse(&bytes) else { panic!("{bytes:?}") };
        assert_eq!(Reader::new(&body).string().as_deref(), Some("done"));
        for end in 0..bytes.len() {
            assert_eq!(Incoming::parse(&bytes[..end]), None, "{end}");
        }
    }

    #[test]
    fn a_length_beyond_all_measure_is_no_message() {
        let mut fixed: [u8; FIXED] = reply(1, "x")[..FIXED].try_into().unwrap();
        fixed[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(length(&fixed), None);
    }
}
