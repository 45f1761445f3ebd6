//! crun's `idmap=uids=0-1-10#10-11-10;gids=0-100-10` (crun(1), "idmap mount options") as the fields that the spec has for
//! mappings since 1.1.
//!
//! Decides what the text means. One that means nothing stays as it is, for `validate` to refuse.

use serde_json::{Map, Value, json};

/// Is it an `idmap` or `ridmap` that brings mappings?
pub fn is(option: &str) -> bool {
    option.starts_with("idmap=") || option.starts_with("ridmap=")
}

/// In a whole `config.json`.
pub fn spread(spec: &mut Map<String, Value>) {
    let of_container = ["uidMappings", "gidMappings"].map(|name| ranges(spec.get("linux"), name));
    let mounts = spec.get_mut("mounts").and_then(Value::as_array_mut);
    for mount in mounts.into_iter().flatten().filter_map(Value::as_object_mut) {
        spread_one(mount, &of_container);
    }
}

fn spread_one(mount: &mut Map<String, Value>, of_container: &[Vec<Range>; 2]) -> Option<()> {
    let options = mount.get_mut("options")?.as_array_mut()?;
    let option = options.iter_mut().find(|option| option.as_str().is_some_and(is))?;
    let (word, text) = option.as_str()?.split_once('=')?;
    let tables = tables(text, of_container)?;
    *option = word.into();
    // COMPAT: the spec's fields win, if there are any.
    if !mount.contains_key("uidMappings") && !mount.contains_key("gidMappings") {
        mount.extend(tables);
    }
    Some(())
}

/// First id in the container (or on the filesystem), first id on the host, how many.
type Range = [u32; 3];
const NAMES: [&str; 3] = ["containerID", "hostID", "size"];

fn ranges(linux: Option<&Value>, name: &str) -> Vec<Range> {
    let number = |range: &Value, name| range.get(name)?.as_u64()?.try_into().ok();
    let range = |value: &Value| {
        let [inside, host, size] = NAMES.map(|name| number(value, name));
        Some([inside?, host?, size?])
    };
    linux.and_then(|linux| linux.get(name)?.as_array()).into_iter().flatten().filter_map(range).collect()
}

/// No text, no tables: the container's own mappings are meant.
fn tables(text: &str, of_container: &[Vec<Range>; 2]) -> Option<Vec<(String, Value)>> {
    let table = |part: &str| match part.split_once('=')? {
        ("uids", text) => Some(("uidMappings".to_owned(), table(text, &of_container[0])?)),
        ("gids", text) => Some(("gidMappings".to_owned(), table(text, &of_container[1])?)),
        _ => None,
    };
    text.split(';').filter(|part| !part.is_empty()).map(table).collect()
}

fn table(text: &str, of_container: &[Range]) -> Option<Value> {
    let range = |text: &str| {
        let plain = text.strip_prefix('@');
        let numbers = plain.unwrap_or(text).split('-').map(|number| number.parse().ok());
        let [inside, mut host, size] = numbers.collect::<Option<Vec<u32>>>()?[..] else { return None };
        if plain.is_some() {
            host = to_host(of_container, host)?;
        }
        Some(json!({"containerID": inside, "hostID": host, "size": size}))
    };
    text.split('#').map(range).collect::<Option<Vec<_>>>().map(Value::from)
}

/// After an `@` the second number is an id of the container.
fn to_host(of_container: &[Range], id: u32) -> Option<u32> {
    let mut all = of_container.iter();
    all.find_map(|[inside, host, size]| id.checked_sub(*inside).filter(|at| at < size)?.checked_add(*host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread_in(mount: Value) -> Value {
        let map = json!([{"containerID": 0, "hostID": 0, "size": 1}, {"containerID": 1, "hostID": 2, "size": 1000}]);
        let mut spec = json!({"linux": {"uidMappings": map, "gidMappings": map}, "mounts": [mount]});
        spread(spec.as_object_mut().unwrap());
        spec["mounts"][0].clone()
    }

    fn map(inside: u32, host: u32, size: u32) -> Value {
        json!({"containerID": inside, "hostID": host, "size": size})
    }

    #[test]
    fn ranges_become_mappings() {
        let mount = spread_in(json!({"options": ["bind", "idmap=uids=0-1-10#10-11-10;gids=0-100-10", "ro"]}));
        let expected = json!({"options": ["bind", "idmap", "ro"],
            "uidMappings": [map(0, 1, 10), map(10, 11, 10)], "gidMappings": [map(0, 100, 10)]});
        assert_eq!(mount, expected);
        assert_eq!(spread_in(json!({"options": ["ridmap="]})), json!({"options": ["ridmap"]}));
    }

    /// "For example, the mapping: uids=@1-3-10 … will be converted to the absolute value uids=1-4-10" (crun(1))
    #[test]
    fn relative_ranges_are_the_containers() {
        let mount = spread_in(json!({"options": ["idmap=uids=@1-3-10;gids=@0-0-1#@1-1-5"]}));
        assert_eq!(mount["uidMappings"], json!([map(1, 4, 10)]));
        assert_eq!(mount["gidMappings"], json!([map(0, 0, 1), map(1, 2, 5)]));
    }

    #[test]
    fn fields_of_the_mount_win() {
        let own = json!([map(0, 7, 1)]);
        let mount =
            json!({"options": ["idmap=uids=0-1-10;gids=0-1-10"], "uidMappings": own, "gidMappings": own});
        assert_eq!(spread_in(mount), json!({"options": ["idmap"], "uidMappings": own, "gidMappings": own}));
    }

    #[test]
    fn what_means_nothing_stays() {
        for text in [
            "idmap=0-1-10",
            "idmap=uids=0-1",
            "idmap=uids=x-1-1",
            "idmap=uids=@2000-2000-1",
            "idmap=pids=0-1-1",
        ] {
            let mount = json!({"options": [text]});
            assert_eq!(spread_in(mount.clone()), mount, "{text}");
        }
    }
}
