//! Compiles the C.
fn main() {
    let sources = [$rust_sources];
    for source in sources {
        println!("cargo:rerun-if-changed={source}");
    }
    cc::Build::new().files(sources).opt_level(2).flag_if_supported("-std=c99").compile("$name");
}
