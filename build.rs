//! Compiles the protocol at build time, in Rust alone: no protoc is needed.

use std::path::{Path, PathBuf};
use std::{env, error, fs, io};

use prost::Message as _;
use prost_types::FileDescriptorSet;

const FILES: [&str; 5] = [
    "dateline/v1/article.proto",
    "dateline/v1/article_service.proto",
    "dateline/v1/ingest_service.proto",
    "dateline/v1/change_service.proto",
    "dateline/v1/admin_service.proto",
];
const INGEST_SERVICE: &str = "dateline/v1/ingest_service.proto";
/// Messages that the daemon takes apart in two steps: `src/grpc/undecoded.rs` has them.
const UNDECODED: [&str; 2] = ["BatchIngestArticlesRequest", "IngestArticlesRequest"];

fn main() -> Result<(), Box<dyn error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true).open_files(FILES)?;
    let descriptors = compiler.file_descriptor_set();
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Served by reflection.
    fs::write(out.join("dateline.binpb"), descriptors.encode_to_vec())?;
    undecoded_ingestion(descriptors.clone(), &out.join("undecoded"))?;
    tonic_prost_build::configure().btree_map(".").compile_fds(descriptors)?;
    Ok(())
}

/// Writes the server of the ingestion once more, with requests whose articles are bytes.
fn undecoded_ingestion(mut descriptors: FileDescriptorSet, out: &Path) -> io::Result<()> {
    fs::create_dir_all(out)?;
    for file in descriptors.file.iter_mut().filter(|file| file.name() != INGEST_SERVICE) {
        file.service.clear();
    }
    let mut build = tonic_prost_build::configure().build_client(false).out_dir(out).extern_path(".dateline.v1", "crate::grpc::v1");
    for message in UNDECODED {
        build = build.extern_path(format!(".dateline.v1.{message}"), format!("crate::grpc::undecoded::{message}"));
    }
    build.compile_fds(descriptors)
}
