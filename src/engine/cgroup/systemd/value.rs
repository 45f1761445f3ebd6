//! D-Bus values: their signatures and their bytes (D-Bus specification, "Type System", "Marshaling").
//!
//! Little-endian only: both ends are on one machine, and all supported ones are little-endian.

/// One value of any D-Bus type.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Byte(u8),
    Bool(bool),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    Double(f64),
    Str(String),
    Path(String),
    Signature(String),
    /// The elements' signature, for there may be no element, and the elements.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    /// An entry of a dictionary, which is an array of these.
    Entry(Box<Value>, Box<Value>),
    Variant(Box<Value>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Str(text.to_owned())
    }
}

impl Value {
    /// A list of named properties, `a(sv)`.
    pub fn properties(list: &[(String, Value)]) -> Value {
        let one = |(name, value): &(String, Value)| {
            Value::Struct(vec![Value::Str(name.clone()), Value::Variant(Box::new(value.clone()))])
        };
        Value::Array("(sv)".into(), list.iter().map(one).collect())
    }

    pub fn signature(&self) -> String {
        let plain = match self {
            Self::Byte(_) => "y",
            Self::Bool(_) => "b",
            Self::I16(_) => "n",
            Self::U16(_) => "q",
            Self::I32(_) => "i",
            Self::U32(_) => "u",
            Self::I64(_) => "x",
            Self::U64(_) => "t",
            Self::Double(_) => "d",
            Self::Str(_) => "s",
            Self::Path(_) => "o",
            Self::Signature(_) => "g",
            Self::Variant(_) => "v",
            Self::Array(element, _) => return format!("a{element}"),
            Self::Struct(fields) => {
                let inner: String = fields.iter().map(Value::signature).collect();
                return format!("({inner})");
            }
            Self::Entry(key, value) => return format!("{{{}{}}}", key.signature(), value.signature()),
        };
        plain.to_owned()
    }

    /// Appends the value. `out` begins at a multiple of 8, as header and body of a message do.
    pub fn put(&self, out: &mut Vec<u8>) {
        pad(out, alignment(&self.signature()));
        match self {
            Self::Byte(v) => out.push(*v),
            Self::Bool(v) => out.extend(u32::from(*v).to_le_bytes()),
            Self::I16(v) => out.extend(v.to_le_bytes()),
            Self::U16(v) => out.extend(v.to_le_bytes()),
            Self::I32(v) => out.extend(v.to_le_bytes()),
            Self::U32(v) => out.extend(v.to_le_bytes()),
            Self::I64(v) => out.extend(v.to_le_bytes()),
            Self::U64(v) => out.extend(v.to_le_bytes()),
            Self::Double(v) => out.extend(v.to_le_bytes()),
            Self::Str(text) | Self::Path(text) => {
                out.extend((text.len() as u32).to_le_bytes());
                out.extend(text.as_bytes());
                out.push(0);
            }
            Self::Signature(text) => {
                out.push(text.len() as u8);
                out.extend(text.as_bytes());
                out.push(0);
            }
            Self::Array(element, items) => put_array(out, element, items),
            Self::Struct(fields) => fields.iter().for_each(|field| field.put(out)),
            Self::Entry(key, value) => {
                key.put(out);
                value.put(out);
            }
            Self::Variant(value) => {
                Self::Signature(value.signature()).put(out);
                value.put(out);
            }
        }
    }
}

/// The length counts the elements, not the padding in front of the first.
fn put_array(out: &mut Vec<u8>, element: &str, items: &[Value]) {
    let length_at = out.len();
    out.extend([0; 4]);
    pad(out, alignment(element));
    let start = out.len();
    items.iter().for_each(|item| item.put(out));
    let length = (out.len() - start) as u32;
    out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
}

pub fn pad(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

/// The alignment of a type, by the first letter of its signature.
fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'n' | b'q') => 2,
        Some(b'b' | b'i' | b'u' | b's' | b'o' | b'a') => 4,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 1,
    }
}

/// Reads values back. `None` is a message that breaks the rules: it comes from a peer that may be anybody.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// `bytes` begins at a multiple of 8 of the message.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub fn position(&self) -> usize {
        self.at
    }

    pub fn align(&mut self, to: usize) -> Option<()> {
        self.at = self.at.next_multiple_of(to);
        (self.at <= self.bytes.len()).then_some(())
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    pub fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.align(4)?;
        self.take(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// A string or an object path.
    pub fn string(&mut self) -> Option<String> {
        let length = self.u32()? as usize;
        self.text(length)
    }

    pub fn signature(&mut self) -> Option<String> {
        let length = self.byte()?.into();
        self.text(length)
    }

    fn text(&mut self, length: usize) -> Option<String> {
        let text = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        (self.byte()? == 0).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        value.put(&mut out);
        out
    }

    /// "A UINT32 giving the length of the array data in bytes, followed by alignment padding to the alignment boundary
    /// of the array element type, followed by each array element. … The array length … does not include the padding."
    #[test]
    fn an_array_is_its_length_padding_and_elements() {
        let array = Value::Array("t".into(), vec![Value::U64(7)]);
        assert_eq!(bytes(&array), [8, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes(&Value::Array("(ss)".into(), vec![])), [0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(array.signature(), "at");
    }

    /// "A variant … is marshaled as the SIGNATURE of the contents …, followed by a marshaled value."
    #[test]
    fn a_property_list_is_structs_of_name_and_variant() {
        let list = Value::properties(&[("Ab".into(), Value::Bool(true))]);
        assert_eq!(list.signature(), "a(sv)");
        #[rustfmt::skip]
        let expected = [
            16, 0, 0, 0, 0, 0, 0, 0,
            2, 0, 0, 0, b'A', b'b', 0, 1, b'b', 0, 0, 0, 1, 0, 0, 0,
        ];
        assert_eq!(bytes(&list), expected);
    }

    #[test]
    fn strings_are_read_back_and_nothing_is_read_beyond_the_end() {
        let text = bytes(&Value::from("job"));
        assert_eq!(Reader::new(&text).string().as_deref(), Some("job"));
        for end in 0..text.len() {
            assert_eq!(Reader::new(&text[..end]).string(), None);
        }
        assert_eq!(Reader::new(&[255, 255, 255, 255, 0]).string(), None);
    }
}
