//! Compiles `proto/*.proto` without protoc, records what `-version` prints, and tells the linker where the program begins.

use std::env;
use std::process::Command;

fn main() {
    compile("proto", &["proto/runc_options.proto", "proto/runtime_options.proto"]);
    // For tests/integration only.
    compile("proto-tests", &["proto/services.proto"]);
    begin_at_entry();
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

/// The program begins at its own entry point (`src/sys/entry`) where it has one, and a fixed address.
fn begin_at_entry() {
    let variable = |name| env::var(name).unwrap_or_default();
    let has_one = variable("CARGO_CFG_TARGET_ARCH") == "x86_64" && variable("CARGO_CFG_TARGET_ENV") == "gnu";
    if has_one && variable("CARGO_ENCODED_RUSTFLAGS").contains("relocation-model=static") {
        for flag in ["--undefined=myshim_entry", "--entry=myshim_entry"] {
            println!("cargo:rustc-link-arg-bins=-Wl,{flag}");
        }
    }
}

/// `rustc 1.95.0 (…)` without the program's name.
fn rustc_version() -> String {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.trim().trim_start_matches("rustc ").to_owned()
}
