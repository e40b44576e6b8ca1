//! What client programs are built with and run by.

use crate::support::toolchain::{Need, Toolchain};

pub const SHELL: Toolchain = Toolchain {
    name: "shell",
    folder: "compat/clients/shell",
    needs: &[Need { probe: "mariadb --version", package: "mariadb-client" }],
    sources: &[],
    build: "true",
};

pub const PYTHON: Toolchain = Toolchain {
    name: "python",
    folder: "compat/clients/python",
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
    folder: "compat/clients/node",
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
    folder: "compat/clients/go",
    needs: &[Need { probe: "go version", package: "golang-go" }],
    sources: &["go.mod", "go.sum", "main.go"],
    build: "go build -C \"$SOURCES\" -o \"$PWD/client\"",
};

pub const JAVA: Toolchain = Toolchain {
    name: "java",
    folder: "compat/clients/java",
    needs: &[
        Need { probe: "javac -version", package: "default-jdk-headless" },
        Need { probe: "mvn --version", package: "maven" },
    ],
    sources: &["pom.xml", "Client.java"],
    build:
        "mvn -B -q -f \"$SOURCES\" dependency:copy-dependencies -DoutputDirectory=\"$PWD/jars\" &&
        javac -encoding UTF-8 -d classes -cp 'jars/*' \"$SOURCES/Client.java\"",
};

pub const CARGO: Toolchain = Toolchain {
    name: "sqlx",
    folder: "compat/clients/sqlx",
    needs: &[],
    sources: &["Cargo.toml", "Cargo.lock", "src/main.rs"],
    build: "cargo build --locked --manifest-path \"$SOURCES/Cargo.toml\" --target-dir .",
};
