//! The flags of `lint`.

use clap::Args;

/// Flags of `lint`.
#[derive(Debug, Args)]
pub struct Lint {
    /// cloudflared's config.yml, wrangler.toml or .jsonc, a Worker's source, a shell script, Markdown, a
    /// .env file, or mysql://… itself.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<String>,

    /// Prints one JSON object instead of lines.
    #[arg(long)]
    pub json: bool,
}
