//! The flags of `doctor`.

use clap::Args;

use super::Settings;

/// Flags of `doctor`. As in [`Settings`], an argument's id is its key's name.
#[derive(Debug, Args)]
pub struct Doctor {
    /// User to log in as; without one nobody logs in. On TiDB Cloud it has the prefix of its cluster.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,

    /// File with the password; without it there is none.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_PASSWORD_FILE")]
    pub password_file: Option<String>,

    /// Database to begin in.
    #[arg(long, value_name = "NAME")]
    pub database: Option<String>,

    /// Where the metadata service of EC2 is asked, whatever host this is [default: on EC2 alone, at
    /// 169.254.169.254:80].
    #[arg(long, value_name = "IP:PORT")]
    pub metadata: Option<String>,

    /// Prints one object of JSON, at the end.
    #[arg(long)]
    pub json: bool,

    /// What `run` would run on.
    #[command(flatten)]
    pub settings: Settings,
}
