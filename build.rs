//! Compiles the protocol at build time, in Rust alone: no protoc is needed.

use std::path::{Path, PathBuf};
use std::{env, error, fs, io};

use prost::Message as _;
use prost_types::FileDescriptorSet;
use prost_types::field_descriptor_proto::Type;

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
/// Messages that hold an article, whose long texts are bytes there.
const WITH_TEXTS: [&str; 2] = ["Article", "IngestItem"];
/// The long texts.
const TEXTS: [&str; 3] = ["title", "lead", "body"];

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

/// Writes the server of the ingestion once more, with requests whose articles are bytes, and these articles with texts that are.
fn undecoded_ingestion(mut descriptors: FileDescriptorSet, out: &Path) -> io::Result<()> {
    fs::create_dir_all(out)?;
    let mut build = tonic_prost_build::configure().build_client(false).out_dir(out).btree_map(".").bytes(".");
    for file in descriptors.file.iter_mut().filter(|file| file.package() == "dateline.v1") {
        if file.name() != INGEST_SERVICE {
            file.service.clear();
        }
        for message in &mut file.message_type {
            if WITH_TEXTS.contains(&message.name()) {
                let texts = message.field.iter_mut().filter(|field| TEXTS.contains(&field.name()));
                texts.for_each(|field| field.set_type(Type::Bytes));
            }
        }
        let messages = file.message_type.iter().map(|message| message.name());
        for name in messages.chain(file.enum_type.iter().map(|enumeration| enumeration.name())) {
            let module = if UNDECODED.contains(&name) { "crate::grpc::undecoded" } else { "crate::grpc::v1" };
            if !WITH_TEXTS.contains(&name) {
                build = build.extern_path(format!(".dateline.v1.{name}"), format!("{module}::{name}"));
            }
        }
    }
    build.compile_fds(descriptors)
}
