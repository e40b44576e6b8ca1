//! Writes down what real servers and a real client say to each other, for the tests of the packet code.
//!
//! A transcript is text: `S ` or `C `, for server or client, and in hexadecimal what that side said until
//! the other one spoke. Lines that begin with `#` are comments. The accounts are throwaway ones, so
//! there is no secret in a scramble.

use std::fmt::Write as _;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{ChangeUserOpts, Compression, Conn, OptsBuilder, SslOpts, WhiteListFsHandler};

use crate::relay::{self, Onward, Sender};
use crate::servers::{DATABASE, Server};
use crate::support::mariadb::{PASSWORD, USER};
use crate::support::runtime;

type Said = Arc<Mutex<Vec<(Sender, Vec<u8>)>>>;

/// Records every session with a server into the folder of its name.
pub fn record(name: &str, server: &Server) -> Result<(), String> {
    server.seed(false, true)?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compat/transcripts").join(name);
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    runtime().block_on(every_session(&Recorder { folder, server }));
    Ok(())
}

struct Recorder<'a> {
    folder: PathBuf,
    server: &'a Server,
}

async fn every_session(recorder: &Recorder<'_>) {
    // The data has been laid out anew, after which MySQL has forgotten that it knows the password.
    recorder.session("full_login", login).await;
    recorder.session("login", login).await;
    recorder.session("wrong_password", |opts| login(opts.pass(Some("wrong")))).await;
    recorder.session("unknown_database", |opts| login(opts.db_name(Some("nowhere")))).await;
    recorder.session("query", query).await;
    recorder.session("multi_result", multi_result).await;
    recorder.session("prepared", prepared).await;
    recorder.session("change_user", change_user).await;
    recorder.session("reset_connection", reset_connection).await;
    recorder.session("local_infile", local_infile).await;
    recorder.session("compression", |opts| login(opts.compression(Compression::default()))).await;
    let tls = SslOpts::default().with_danger_accept_invalid_certs(true);
    // The greeting and how TLS begins; the rest is not MySQL's.
    recorder.beginning(2, "tls", |opts| login(opts.ssl_opts(tls))).await;
    recorder.too_many_connections().await.expect("a server that can be filled");
}

impl Recorder<'_> {
    /// Runs a session by way of a relay that listens, and writes down what was said. What the session
    /// comes to is part of that.
    async fn session<F: Future<Output = mysql_async::Result<()>>>(
        &self,
        name: &str,
        session: impl FnOnce(OptsBuilder) -> F,
    ) {
        self.beginning(usize::MAX, name, session).await;
    }

    /// The same of so many first turns.
    async fn beginning<F: Future<Output = mysql_async::Result<()>>>(
        &self,
        turns: usize,
        name: &str,
        session: impl FnOnce(OptsBuilder) -> F,
    ) {
        let said = Said::default();
        let hears = Arc::clone(&said);
        let port = relay::start(self.server.address(), move |sender, bytes| {
            let mut said = hears.lock().expect("nobody panics with it");
            match said.last_mut() {
                Some((last, all)) if *last == sender => all.extend_from_slice(bytes),
                _ => said.push((sender, bytes.to_vec())),
            }
            Onward::Pass
        });
        let _ = session(self.opts(port)).await;
        // The farewell may still be on its way.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let text = {
            let said = said.lock().expect("nobody panics with it");
            transcript(name, &said[..said.len().min(turns)])
        };
        fs::write(self.folder.join(name).with_extension("txt"), text).expect("a file");
    }

    async fn too_many_connections(&self) -> mysql_async::Result<()> {
        let mut first = Conn::new(self.opts(self.server.port)).await?;
        first.query_drop("SET GLOBAL max_connections = 10").await?;
        let mut all = Vec::new();
        // One more than that is let in if it may do everything, as this account may.
        while let Ok(conn) = Conn::new(self.opts(self.server.port)).await {
            all.push(conn);
        }
        self.session("too_many_connections", login).await;
        first.query_drop("SET GLOBAL max_connections = 151").await?;
        Ok(())
    }

    fn opts(&self, port: u16) -> OptsBuilder {
        let opts = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(port);
        let opts = opts.prefer_socket(false).user(Some(USER)).pass(Some(PASSWORD));
        // Without these it asks the server for them, and says where the program is.
        let opts = opts.max_allowed_packet(Some(1 << 24)).wait_timeout(Some(60));
        opts.connect_attribute("program_name", "tidegate").db_name(Some(DATABASE))
    }
}

async fn login(opts: OptsBuilder) -> mysql_async::Result<()> {
    let mut conn = Conn::new(opts).await?;
    conn.ping().await?;
    conn.disconnect().await
}

async fn query(opts: OptsBuilder) -> mysql_async::Result<()> {
    let mut conn = Conn::new(opts).await?;
    conn.query_drop("SELECT id, name FROM letters WHERE id < 4").await?;
    let _ = conn.query_drop("SELECT 1 FROM missing").await;
    conn.disconnect().await
}

async fn multi_result(opts: OptsBuilder) -> mysql_async::Result<()> {
    let mut conn = Conn::new(opts).await?;
    conn.query_drop("SELECT 1 AS a; DO 1; SELECT 2 AS b").await?;
    conn.query_drop("CALL two_results(6)").await?;
    conn.disconnect().await
}

async fn prepared(opts: OptsBuilder) -> mysql_async::Result<()> {
    let mut conn = Conn::new(opts).await?;
    let statement = conn.prep("SELECT id, name FROM letters WHERE id > ?").await?;
    conn.exec_drop(&statement, (5,)).await?;
    conn.close(statement).await?;
    conn.disconnect().await
}

async fn change_user(opts: OptsBuilder) -> mysql_async::Result<()> {
    let mut conn = Conn::new(opts).await?;
    let other = ChangeUserOpts::new().with_user(Some("other".into()));
    let other = other.with_pass(Some("flow".into())).with_db_name(None);
    conn.change_user(other.clone()).await?;
    conn.change_user(other.with_pass(Some("ebb".into()))).await
}

async fn reset_connection(opts: OptsBuilder) -> mysql_async::Result<()> {
    let mut conn = Conn::new(opts).await?;
    conn.reset().await?;
    conn.disconnect().await
}

async fn local_infile(opts: OptsBuilder) -> mysql_async::Result<()> {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let file = folder.path().join("rows.tsv");
    fs::write(&file, "1\tone\n2\ttwo\n").expect("a scratch file");
    let handler = WhiteListFsHandler::new([file.clone()]);
    let mut conn = Conn::new(opts.local_infile_handler(Some(handler))).await?;
    conn.query_drop(format!("LOAD DATA LOCAL INFILE '{}' INTO TABLE loaded", file.display()))
        .await?;
    conn.disconnect().await
}

fn transcript(name: &str, said: &[(Sender, Vec<u8>)]) -> String {
    let mut text = format!("# {name}\n");
    for (sender, bytes) in said {
        let side = if *sender == Sender::Server { 'S' } else { 'C' };
        write!(text, "{side} ").expect("memory");
        bytes.iter().for_each(|byte| write!(text, "{byte:02x}").expect("memory"));
        text.push('\n');
    }
    text
}
