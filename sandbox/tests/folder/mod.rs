//! A folder for a test's database file.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use sandbox::{Delius, Timings};

/// A separate folder for each test. It is removed at the end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(test: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("sandbox-{test}-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    pub fn file(&self) -> PathBuf {
        self.0.join("delius.sqlite")
    }

    pub fn open(&self) -> Result<Delius> {
        Delius::open(&self.file(), Timings::default())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
