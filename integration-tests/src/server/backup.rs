//! Copies of all that a server keeps, and going back to one.

use std::{fs, io, path::PathBuf};

use tokio::task::block_in_place;

use super::TestServer;
use crate::{agent, postgres};

/// What a server kept at one moment: its folder and, where that is elsewhere, its database.
#[derive(Debug)]
pub struct Backup {
    folder: PathBuf,
    database: Option<String>,
}

impl TestServer {
    /// Stops the server, copies what it keeps, and starts it again. There is one backup at a time.
    ///
    /// # Errors
    /// When the folder or the database cannot be copied.
    pub async fn back_up(&mut self) -> io::Result<Backup> {
        let folder = self.scratch().join("backup");
        self.stop();
        let data = self.data();
        block_in_place(|| {
            if folder.exists() {
                fs::remove_dir_all(&folder)?;
            }
            agent::copy_folder(&data, &folder)
        })?;
        let mut database = None;
        if let Some(url) = self.database_url() {
            let name = format!("{}_backup", postgres::database_of(url));
            database = Some(postgres::duplicate(url, &name).await.map_err(other)?);
        }
        self.start_again().await;
        Ok(Backup { folder, database })
    }

    /// Kills the server and puts the backup back. The server is not started.
    ///
    /// # Errors
    /// When the folder or the database cannot be put back.
    pub async fn restore(&mut self, backup: &Backup) -> io::Result<()> {
        self.kill();
        let data = self.data();
        block_in_place(|| {
            fs::remove_dir_all(&data)?;
            agent::copy_folder(&backup.folder, &data)
        })?;
        if let (Some(url), Some(copy)) = (self.database_url(), &backup.database) {
            let name = postgres::database_of(url).to_owned();
            postgres::duplicate(copy, &name).await.map_err(other)?;
        }
        Ok(())
    }
}

fn other(error: sqlx::Error) -> io::Error {
    io::Error::other(format!("PostgreSQL refused a copy: {error}"))
}
