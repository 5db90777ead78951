//! Takes the two files of Swagger UI that the service shows out of the archive that comes with utoipa, as gzip files.
//!
//! `utoipa-swagger-ui` would embed the whole archive: 1.1 MB, of which browsers load 0.5 MB. The archive's compression
//! is kept. Only the header and trailer around it are replaced.

use std::error::Error;
use std::io::{Cursor, Read};
use std::path::PathBuf;

use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED;
use zip::ZipArchive;

const FILES: [&str; 2] = ["swagger-ui-bundle.js", "swagger-ui.css"];
/// The head of a gzip file (RFC 1952): magic number, deflate, no flags, no time, unknown system.
const GZIP_HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let mut archive = ZipArchive::new(Cursor::new(SWAGGER_UI_VENDORED))?;
    for file in FILES {
        let end = format!("/dist/{file}");
        let index = (0..archive.len())
            .find(|&index| {
                archive
                    .name_for_index(index)
                    .is_some_and(|name| name.is_ok_and(|name| name.ends_with(&end)))
            })
            .ok_or_else(|| format!("no {file} in the archive of Swagger UI"))?;
        let mut entry = archive.by_index_raw(index)?;
        let mut gzip = GZIP_HEAD.to_vec();
        entry.read_to_end(&mut gzip)?;
        gzip.extend(entry.crc32().to_le_bytes());
        gzip.extend(u32::try_from(entry.size())?.to_le_bytes());
        std::fs::write(out.join(format!("{file}.gz")), gzip)?;
    }
    Ok(())
}
