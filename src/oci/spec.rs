//! `config.json`, an exec's process and an update's resources: from bytes to oci-spec's types.
//!
//! Decides what is well-formed; whether it can be carried out is `validate`'s. The strict parse comes first because
//! it is fast and nearly always enough; only what it refuses, or leaves in doubt, is looked at again, as `amend` describes.
//! <https://github.com/opencontainers/runtime-spec/blob/v1.3.0/config.md>

use std::path::Path;

use oci_spec::runtime::{LinuxResources, Process};
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::error::Category;

use super::unknown::{At, Found, Watch};
use super::{Error, Result, amend, idmap_option};

pub type Spec = oci_spec::runtime::Spec;

/// What was tolerated, each a sentence for the log.
pub type Warnings = Vec<String>;

/// Reads the bundle's `config.json`.
pub fn load(bundle: &Path) -> Result<(Spec, Warnings)> {
    let path = bundle.join("config.json");
    decode(&path.display().to_string(), &read_file(&path)?, doubtful_spec, amend::spec)
}

/// `config.json` from memory.
pub fn parse(json: &[u8]) -> Result<(Spec, Warnings)> {
    decode("config.json", json, doubtful_spec, amend::spec)
}

/// The process of an exec request.
pub fn parse_process(json: &[u8]) -> Result<(Process, Warnings)> {
    decode("the exec's process", json, |_| false, amend::process)
}

/// The resources of an update request.
pub fn parse_resources(json: &[u8]) -> Result<(LinuxResources, Warnings)> {
    decode("the update's resources", json, doubtful, amend::resources)
}

/// The bytes of the bundle's `config.json`.
pub fn read(bundle: &Path) -> Result<Vec<u8>> {
    read_file(&bundle.join("config.json"))
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|cause| Error::Read { path: path.to_owned(), cause })
}

type Amend = fn(&mut Value, &mut Warnings);

fn decode<T: DeserializeOwned>(
    document: &str,
    json: &[u8],
    doubtful: fn(&T) -> bool,
    amend: Amend,
) -> Result<(T, Warnings)> {
    let found = Found::default();
    let mut text = serde_json::Deserializer::from_slice(json);
    let strict = T::deserialize(Watch { inner: &mut text, at: &At::Top(&found) });
    match strict.and_then(|value| text.end().map(|()| value)) {
        Ok(value) if !doubtful(&value) => Ok((value, about(found).into_iter().collect())),
        _ => decode_leniently(document, json, amend),
    }
}

/// One line about unknown fields, however many there are.
fn about(found: Found) -> Option<String> {
    const NAMED: usize = 8;
    let found = found.into_inner();
    let (named, rest) = found.split_at(found.len().min(NAMED));
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    (!found.is_empty()).then(|| format!("ignored unknown fields: {}{more}", named.join(", ")))
}

fn doubtful_spec(spec: &Spec) -> bool {
    let mut mounts = spec.mounts().iter().flatten();
    mounts.any(|mount| mount.options().iter().flatten().any(|option| idmap_option::is(option)))
        || spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()).is_some_and(doubtful)
}

/// oci-spec makes a limit of 0 of one that is not given.
fn doubtful(resources: &LinuxResources) -> bool {
    resources.pids().as_ref().is_some_and(|pids| pids.limit() == 0)
}

#[cold]
fn decode_leniently<T: DeserializeOwned>(document: &str, json: &[u8], amend: Amend) -> Result<(T, Warnings)> {
    let mut value: Value = serde_json::from_slice(json).map_err(|cause| not_json(document, json, &cause))?;
    if !value.is_object() {
        return Err(Error::Json {
            document: document.into(),
            place: "the top level".into(),
            message: "must be a JSON object".into(),
        });
    }
    let mut warnings = Warnings::new();
    amend(&mut value, &mut warnings);
    let found = Found::default();
    let watched = Watch { inner: &value, at: &At::Top(&found) };
    let parsed = serde_path_to_error::deserialize(watched).map_err(|cause| Error::Json {
        document: document.into(),
        place: cause.path().to_string(),
        message: cause.inner().to_string(),
    })?;
    warnings.extend(about(found));
    Ok((parsed, warnings))
}

fn not_json(document: &str, json: &[u8], cause: &serde_json::Error) -> Error {
    let message = if json.is_empty() {
        "the document is empty; write it whole before Create".into()
    } else if cause.classify() == Category::Eof {
        "the document ends in the middle; write it whole before Create".into()
    } else {
        // serde_json ends its sentence with the place, which stands before it here.
        let text = cause.to_string();
        let end = text.rfind(" at line ").unwrap_or(text.len());
        format!("not JSON: {}", &text[..end])
    };
    let place = format!("line {}, column {}", cause.line(), cause.column());
    Error::Json { document: document.into(), place, message }
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
