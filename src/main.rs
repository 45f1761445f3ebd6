//! The binary containerd launches; everything is in the library.

fn main() -> std::process::ExitCode {
    myshim::shim::main()
}
