//! What client programs are built with and run by; what comes of it is kept outside the repository.

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

/// One folder of client programs, which are built together.
#[derive(Debug)]
pub struct Toolchain {
    /// Its folder in the cache.
    pub name: &'static str,
    /// The folder in `tests/compat` with its sources.
    pub folder: &'static str,
    pub needs: &'static [Need],
    /// What the outcome depends on: while these files stay the same, nothing is built again.
    pub sources: &'static [&'static str],
    /// A shell command that builds what is in `$SOURCES` in the folder in which it is started.
    pub build: &'static str,
}

pub const SHELL: Toolchain = Toolchain {
    name: "shell",
    folder: "clients/shell",
    needs: &[Need { probe: "mariadb --version", package: "mariadb-client" }],
    sources: &[],
    build: "true",
};

pub const PYTHON: Toolchain = Toolchain {
    name: "python",
    folder: "clients/python",
    needs: &[
        Need { probe: "python3 --version", package: "python3" },
        Need { probe: "python3 -m ensurepip --version", package: "python3-venv" },
    ],
    sources: &["requirements.txt"],
    build: "python3 -m venv --clear venv &&
        venv/bin/pip install --quiet --require-hashes --requirement \"$SOURCES/requirements.txt\"",
};

pub const NODE: Toolchain = Toolchain {
    name: "node",
    folder: "clients/node",
    needs: &[
        Need { probe: "node --version", package: "nodejs" },
        Need { probe: "npm --version", package: "npm" },
    ],
    sources: &["package-lock.json"],
    build: "cp \"$SOURCES/package.json\" \"$SOURCES/package-lock.json\" . &&
        npm ci --silent --no-audit --no-fund",
};

pub const GO: Toolchain = Toolchain {
    name: "go",
    folder: "clients/go",
    needs: &[Need { probe: "go version", package: "golang-go" }],
    sources: &["go.mod", "go.sum", "main.go"],
    build: "go build -C \"$SOURCES\" -o \"$PWD/client\"",
};

pub const JAVA: Toolchain = Toolchain {
    name: "java",
    folder: "clients/java",
    needs: &[
        Need { probe: "javac -version", package: "default-jdk-headless" },
        Need { probe: "mvn --version", package: "maven" },
    ],
    sources: &["pom.xml", "Client.java"],
    build:
        "mvn -B -q -f \"$SOURCES\" dependency:copy-dependencies -DoutputDirectory=\"$PWD/jars\" &&
        javac -d classes -cp 'jars/*' \"$SOURCES/Client.java\"",
};

pub const CARGO: Toolchain = Toolchain {
    name: "sqlx",
    folder: "clients/sqlx",
    needs: &[],
    sources: &["Cargo.toml", "Cargo.lock", "src/main.rs"],
    build: "cargo build --locked --manifest-path \"$SOURCES/Cargo.toml\" --target-dir .",
};

/// MySQL's server, and its command-line client.
pub const MYSQL: Toolchain = Toolchain {
    name: "mysql",
    folder: "mysql",
    needs: &[Need { probe: "debootstrap --version", package: "debootstrap" }],
    sources: &["install"],
    build: "\"$SOURCES/install\"",
};

impl Toolchain {
    pub fn sources(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compat").join(self.folder)
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
