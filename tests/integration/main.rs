//! The shim as containerd and its clients see it, on a real kernel: one binary, one module per subject.
//!
//! Every test holds for containerd-shim-runc-v2 as well (`SHIM_UNDER_TEST=runc`), but for the table of differences in
//! `support/differences.rs`. Run through `hack/test.sh`, which also looks for leaks at the end.

mod support;

mod api_bad_input;
mod api_bootstrap;
mod api_devices;
mod api_errors;
mod api_events;
mod api_exec;
mod api_fallback;
mod api_features;
mod api_hooks;
mod api_identity;
mod api_idle;
mod api_idmap;
mod api_labels;
mod api_lifecycle;
mod api_log;
mod api_memory;
mod api_mount_helper;
mod api_mounts;
mod api_namespaces;
mod api_net_devices;
mod api_placement;
mod api_propagation;
mod api_resources;
mod api_rootfs;
mod api_rootless;
mod api_scheduling;
mod api_seccomp;
mod api_spec;
mod api_start;
mod api_stats;
mod api_stdio;
mod api_stop;
mod api_systemd;
mod api_userns;
mod api_view;
mod api_view_exec;
mod cancel;
mod coverage;
mod ctr_run;
mod ctr_tasks;
mod cve_mounts;
mod cve_process;
mod cve_program;
mod exhaustion;
mod faults;
mod faults_child;
mod in_flight;
mod model;
mod race;
mod soak;
mod soak_containerd;
mod soak_daemon;
mod stuck;
