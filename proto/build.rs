//! Compiles `kernex/v1/*.proto` with protox, so that no `protoc` is needed.

use std::{env, fs, path::PathBuf};

const FILES: [&str; 12] = [
    "kernex/v1/access.proto",
    "kernex/v1/agent.proto",
    "kernex/v1/audit.proto",
    "kernex/v1/bundle.proto",
    "kernex/v1/configuration.proto",
    "kernex/v1/deployment.proto",
    "kernex/v1/device.proto",
    "kernex/v1/fleet.proto",
    "kernex/v1/phase.proto",
    "kernex/v1/plan.proto",
    "kernex/v1/rollout.proto",
    "kernex/v1/schedule.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::Compiler::new(["."])?
        .include_source_info(true)
        .include_imports(true)
        .open_files(FILES)?
        .file_descriptor_set();
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(
        out.join("descriptors.bin"),
        prost::Message::encode_to_vec(&descriptors),
    )?;
    tonic_prost_build::configure()
        .codec_path("crate::codec::SmallCodec")
        // Sorted, so that what says the same has the same bytes.
        .btree_map(".kernex.v1")
        // Bundle bytes and already encoded payloads travel without a copy.
        .bytes(".kernex.v1")
        // An open session has room for any message of its device, and this is the largest.
        .boxed(".kernex.v1.Outcome.active")
        .compile_fds(descriptors)?;
    Ok(())
}
