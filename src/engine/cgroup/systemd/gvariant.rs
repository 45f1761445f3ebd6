//! Values of annotations `org.systemd.property.NAME`: GVariant's text format (docs.gtk.org/glib/gvariant-text-format.html)
//! for the types that D-Bus has.

use super::value::Value;

/// Parses a whole text.
///
/// # Errors
/// Says what is wrong and where.
pub fn parse(text: &str) -> Result<Value, String> {
    let mut parser = Parser { text, at: 0 };
    let value = parser.value(None)?;
    parser.space();
    if parser.at < text.len() { Err(parser.wrong("the end of the value")) } else { Ok(value) }
}

/// The keywords that say what the next value is.
const KEYWORDS: [(&str, &str); 12] = [
    ("boolean", "b"),
    ("byte", "y"),
    ("int16", "n"),
    ("uint16", "q"),
    ("int32", "i"),
    ("uint32", "u"),
    ("int64", "x"),
    ("uint64", "t"),
    ("double", "d"),
    ("string", "s"),
    ("objectpath", "o"),
    ("signature", "g"),
];

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn peek(&mut self) -> char {
        self.space();
        self.rest().chars().next().unwrap_or('\0')
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == wanted;
        self.at += if found { wanted.len_utf8() } else { 0 };
        found
    }

    fn expect(&mut self, wanted: char) -> Result<(), String> {
        if self.eat(wanted) { Ok(()) } else { Err(self.wrong(&format!("{wanted:?}"))) }
    }

    fn wrong(&self, expected: &str) -> String {
        format!("at byte {}: expected {expected}", self.at)
    }

    /// A value, of type `wanted` if that is known.
    fn value(&mut self, wanted: Option<&str>) -> Result<Value, String> {
        match self.peek() {
            '@' => {
                self.at += 1;
                let signature = one_type(self.rest()).ok_or_else(|| self.wrong("a type"))?;
                self.at += signature.len();
                self.value(Some(signature))
            }
            '\'' | '"' => self.string().and_then(|text| self.typed_string(text, wanted)),
            '[' => self.array(wanted),
            '(' => self.tuple(wanted),
            '{' => self.dictionary(wanted),
            '<' => self.variant(),
            'b' if self.rest()[1..].starts_with(['\'', '"']) => self.bytes(),
            c if c.is_ascii_digit() || "+-.".contains(c) => self.number(wanted),
            _ => self.word(wanted),
        }
    }

    fn word(&mut self, wanted: Option<&str>) -> Result<Value, String> {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let word = &rest[..end];
        if let Some((_, signature)) = KEYWORDS.iter().find(|(keyword, _)| *keyword == word) {
            self.at += end;
            return self.value(Some(signature));
        }
        let value = match word {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => return Err(self.wrong("a value (texts stand in quotes)")),
        };
        self.at += end;
        self.check(value, wanted)
    }

    fn number(&mut self, wanted: Option<&str>) -> Result<Value, String> {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c)).unwrap_or(rest.len());
        let text = &rest[..end];
        let is_double = !text.contains("0x") && text.contains(['.', 'e', 'E']);
        let wanted = wanted.unwrap_or(if is_double { "d" } else { "i" });
        let value = typed_number(text, wanted).ok_or_else(|| self.wrong(&type_name(wanted)))?;
        self.at += end;
        Ok(value)
    }

    fn string(&mut self) -> Result<String, String> {
        let quote = self.peek();
        self.at += 1;
        let mut out = String::new();
        let mut chars = self.rest().char_indices();
        while let Some((index, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.at += index + 1;
                    return Ok(out);
                }
                '\\' => out.push(match chars.next().map(|(_, c)| c) {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some('r') => '\r',
                    Some(c) if !c.is_ascii_alphanumeric() => c,
                    _ => return Err(self.wrong("another escape: \\n, \\t, \\r, or a sign itself")),
                }),
                c => out.push(c),
            }
        }
        Err(self.wrong("a closing quote"))
    }

    fn typed_string(&self, text: String, wanted: Option<&str>) -> Result<Value, String> {
        match wanted {
            None | Some("s") => Ok(Value::Str(text)),
            Some("o") if text.starts_with('/') => Ok(Value::Path(text)),
            Some("g") if text.len() < 256 => Ok(Value::Signature(text)),
            Some(other) => Err(self.wrong(&type_name(other))),
        }
    }

    /// A byte string is an array of bytes with a zero at the end.
    fn bytes(&mut self) -> Result<Value, String> {
        self.at += 1;
        let text = self.string()?;
        Ok(Value::Array("y".into(), text.bytes().chain([0]).map(Value::Byte).collect()))
    }

    /// The first element decides for the others where no type is given.
    fn array(&mut self, wanted: Option<&str>) -> Result<Value, String> {
        self.expect('[')?;
        let mut element = match wanted {
            Some(signature) => {
                Some(signature.strip_prefix('a').ok_or_else(|| self.wrong("no array"))?.to_owned())
            }
            None => None,
        };
        let mut items = Vec::new();
        while !self.eat(']') {
            if !items.is_empty() {
                self.expect(',')?;
            }
            let item = self.value(element.as_deref())?;
            element.get_or_insert_with(|| item.signature());
            items.push(item);
        }
        let element = element.ok_or_else(|| self.wrong("a type before an empty array, as in @as []"))?;
        Ok(Value::Array(element, items))
    }

    fn tuple(&mut self, wanted: Option<&str>) -> Result<Value, String> {
        self.expect('(')?;
        let mut types = wanted.map(|signature| signature.trim_start_matches('('));
        let mut fields = Vec::new();
        while !self.eat(')') {
            if !fields.is_empty() {
                self.expect(',')?;
                if self.eat(')') {
                    break;
                }
            }
            let field = types.and_then(one_type);
            types = types.map(|rest| &rest[field.map_or(0, str::len)..]);
            fields.push(self.value(field)?);
        }
        self.check(Value::Struct(fields), wanted)
    }

    fn dictionary(&mut self, wanted: Option<&str>) -> Result<Value, String> {
        self.expect('{')?;
        let mut entry = wanted.and_then(|signature| signature.strip_prefix('a')).map(str::to_owned);
        let mut items = Vec::new();
        while !self.eat('}') {
            if !items.is_empty() {
                self.expect(',')?;
            }
            let types =
                entry.as_deref().and_then(|e| e.strip_prefix('{')?.strip_suffix('}')).map(|e| e.split_at(1));
            let key = self.value(types.map(|(key, _)| key))?;
            self.expect(':')?;
            let value = self.value(types.map(|(_, value)| value))?;
            let item = Value::Entry(Box::new(key), Box::new(value));
            entry.get_or_insert_with(|| item.signature());
            items.push(item);
        }
        let entry = entry.ok_or_else(|| self.wrong("a type before an empty dictionary, as in @a{sv} {}"))?;
        Ok(Value::Array(entry, items))
    }

    fn variant(&mut self) -> Result<Value, String> {
        self.expect('<')?;
        let value = self.value(None)?;
        self.expect('>')?;
        Ok(Value::Variant(Box::new(value)))
    }

    fn check(&self, value: Value, wanted: Option<&str>) -> Result<Value, String> {
        match wanted {
            Some(signature) if signature != value.signature() => Err(self.wrong(&type_name(signature))),
            _ => Ok(value),
        }
    }
}

fn type_name(signature: &str) -> String {
    let keyword = KEYWORDS.iter().find(|(_, s)| *s == signature);
    keyword
        .map_or_else(|| format!("a value of type {signature}"), |(name, _)| format!("a {name} in its range"))
}

fn typed_number(text: &str, wanted: &str) -> Option<Value> {
    if wanted == "d" {
        return text.parse().ok().map(Value::Double);
    }
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.trim_start_matches('+')),
    };
    let magnitude = match digits.strip_prefix("0x") {
        Some(hex) => i128::from_str_radix(hex, 16).ok()?,
        None => digits.parse().ok()?,
    };
    let number = sign * magnitude;
    Some(match wanted {
        "y" => Value::Byte(number.try_into().ok()?),
        "n" => Value::I16(number.try_into().ok()?),
        "q" => Value::U16(number.try_into().ok()?),
        "i" => Value::I32(number.try_into().ok()?),
        "u" => Value::U32(number.try_into().ok()?),
        "x" => Value::I64(number.try_into().ok()?),
        "t" => Value::U64(number.try_into().ok()?),
        _ => return None,
    })
}

/// The first complete type of a signature.
fn one_type(signature: &str) -> Option<&str> {
    let mut depth = 0;
    for (index, c) in signature.char_indices() {
        match c {
            'a' => continue,
            '(' | '{' => depth += 1,
            ')' | '}' => depth -= 1,
            c if "ybnqiuxtdsogv".contains(c) => {}
            _ => return None,
        }
        if depth <= 0 {
            return (depth == 0).then(|| &signature[..=index]);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_values_have_the_types_that_they_are_given_or_look_like() {
        let all = [
            ("uint64 123456789", Value::U64(123_456_789)),
            ("'inactive-or-failed'", "inactive-or-failed".into()),
            (" true ", Value::Bool(true)),
            ("-5", Value::I32(-5)),
            ("0x10", Value::I32(16)),
            ("2.5", Value::Double(2.5)),
            ("@t 7", Value::U64(7)),
            ("objectpath '/a'", Value::Path("/a".into())),
            (r#""a\n\"b""#, "a\n\"b".into()),
            ("byte 255", Value::Byte(255)),
        ];
        for (text, value) in all {
            assert_eq!(parse(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn containers_take_the_type_of_their_first_element_or_the_one_given() {
        let all = [
            ("['a', 'b']", "as"),
            ("@as []", "as"),
            ("[uint32 1, 2]", "au"),
            ("[('/dev/null', 'rwm')]", "a(ss)"),
            ("@a(st) [('x', 1)]", "a(st)"),
            ("{'k': <1>, 'l': <'x'>}", "a{sv}"),
            ("@a{st} {'k': 1}", "a{st}"),
            ("<uint16 1>", "v"),
            ("b'ab'", "ay"),
            ("(1,)", "(i)"),
        ];
        for (text, signature) in all {
            assert_eq!(parse(text).map(|v| v.signature()), Ok(signature.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_place() {
        for text in [
            "",
            "yes",
            "uint16 70000",
            "-1 1",
            "[",
            "[]",
            "['a', 1]",
            "uint32 -1",
            "'a",
            "@z 1",
            "{",
            "(1",
            "'\\x'",
        ] {
            let told = parse(text).expect_err(text);
            assert!(told.starts_with("at byte "), "{text}: {told}");
        }
    }
}
