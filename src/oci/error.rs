//! Why a document is refused: one sentence that names the file or the field, and the remedy.

use std::path::PathBuf;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read {}: {cause}{}", path.display(), hint(cause))]
    Read { path: PathBuf, cause: std::io::Error },
    /// Not JSON, or JSON of the wrong shape. `place` is a field's path or a line and column.
    #[error("{document}: {place}: {message}")]
    Json { document: String, place: String, message: String },
    /// A field whose value cannot be carried out.
    #[error("{field} {message}")]
    Field { field: String, message: String },
    #[error("{kind} id {id:?} {message}")]
    Id { kind: &'static str, id: String, message: &'static str },
}

impl Error {
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Field { field: field.into(), message: message.into() }
    }
}

fn hint(cause: &std::io::Error) -> &'static str {
    match cause.kind() {
        std::io::ErrorKind::NotFound => "; the bundle must hold a config.json",
        std::io::ErrorKind::PermissionDenied => "; the shim must be able to read the bundle",
        std::io::ErrorKind::IsADirectory => "; config.json must be a file",
        _ => "",
    }
}
