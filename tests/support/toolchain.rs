//! Programs that tests need and Debian does not have: what comes of building them is kept outside the
//! repository.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Something that has to be there.
#[derive(Debug)]
pub struct Need {
    /// A shell command that succeeds where it is.
    pub probe: &'static str,
    /// The Debian package that has it.
    pub package: &'static str,
}

/// Programs that are fetched or built together.
#[derive(Debug)]
pub struct Toolchain {
    /// Its folder in the cache.
    pub name: &'static str,
    /// The folder in `tests` with its sources.
    pub folder: &'static str,
    pub needs: &'static [Need],
    /// What the outcome depends on: while these files stay the same, nothing is built again.
    pub sources: &'static [&'static str],
    /// A shell command that builds what is in `$SOURCES` in the folder in which it is started.
    pub build: &'static str,
}

impl Toolchain {
    pub fn sources(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(self.folder)
    }

    /// Builds what has not been built yet, and says where; or says why not.
    pub fn prepare(&self) -> Result<PathBuf, String> {
        if let Some(need) = self.needs.iter().find(|need| !need.is_met()) {
            return Err(format!("not installed: {}", need.package));
        }
        let built = cache().join(self.name);
        let stamp = built.join("built-from");
        let text = self.text();
        if fs::read_to_string(&stamp).is_ok_and(|of| of == text) {
            return Ok(built);
        }
        println!("== preparing {}", self.name);
        fs::create_dir_all(&built).map_err(|error| format!("{}: {error}", built.display()))?;
        let mut build = Command::new("sh");
        build.args(["-c", self.build]).env("SOURCES", self.sources()).current_dir(&built);
        let output = build.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
            return Err(format!("{} cannot be built: {last}", self.name));
        }
        fs::write(stamp, text).map_err(|error| error.to_string())?;
        Ok(built)
    }

    /// All that the outcome depends on.
    fn text(&self) -> String {
        let read = |name: &&str| fs::read_to_string(self.sources().join(name)).unwrap_or_default();
        self.sources.iter().map(read).chain([self.build.to_owned()]).collect()
    }
}

impl Need {
    pub fn is_met(&self) -> bool {
        let mut probe = Command::new("sh");
        probe.args(["-c", self.probe]).stdin(Stdio::null());
        probe.stdout(Stdio::null()).stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    }
}

/// The folder for what is installed and built: it outlives the build folder, as it takes long.
pub fn cache() -> PathBuf {
    let folder = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = folder("XDG_CACHE_HOME")
        .or_else(|| folder("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(env::temp_dir);
    caches.join("tidegate-compat")
}
