//! Compiles `proto/*.proto` without protoc, and records what `-version` prints.

use std::env;
use std::process::Command;

fn main() {
    compile("proto", &["proto/runc_options.proto", "proto/runtime_options.proto"]);
    // For tests/integration only.
    compile("proto-tests", &["proto/services.proto"]);
    println!("cargo:rerun-if-env-changed=MYSHIM_REVISION");
    println!("cargo:rustc-env=MYSHIM_RUSTC={}", rustc_version());
}

/// Into a folder of that name in OUT_DIR.
fn compile(folder: &str, files: &[&str]) {
    protobuf_codegen::Codegen::new()
        .pure()
        .include("proto")
        .inputs(files)
        .cargo_out_dir(folder)
        .run_from_script();
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
}

/// `rustc 1.95.0 (…)` without the program's name.
fn rustc_version() -> String {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.trim().trim_start_matches("rustc ").to_owned()
}
