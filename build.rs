//! Generates the gRPC code from the protos with protox, so that no protoc is needed.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "cargo speaks to build scripts by variables and listens to their output"
)]

use std::{env, fs, path::PathBuf};

use prost::Message as _;

const PROTOS: [&str; 2] = ["daybook/v1/command_service.proto", "daybook/v1/query_service.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out_dir.join("daybook_descriptor.bin"), descriptors.encode_to_vec())?;
    // What clients see: messages, and services that can be called.
    let configured = || tonic_prost_build::configure().codec_path("crate::proto::SliceCodec");
    configured()
        .extern_path(".google.rpc", "::tonic_types")
        .build_server(false)
        .compile_fds(descriptors.clone())?;
    // The services that can be provided. There some messages are nothing but bytes.
    let services = out_dir.join("services");
    fs::create_dir_all(&services)?;
    configured()
        .extern_path(".daybook.v1", "crate::proto")
        .extern_path(".daybook.v1.TailEventsResponse", "crate::proto::TailMessage")
        .extern_path(".daybook.v1.ExecuteBatchRequest", "crate::proto::BatchMessage")
        .extern_path(".daybook.v1.ExecuteStreamRequest", "crate::proto::BatchMessage")
        .build_client(false)
        .out_dir(services)
        .compile_fds(descriptors)?;
    Ok(())
}
