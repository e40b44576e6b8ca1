//! The system variables of the embedded backend: those that clients read as they connect.

use super::query::MAX_REPEAT;

/// A variable's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Integer(u64),
    Text(String),
}

/// What a session's variables depend on.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The backend's name: `@@hostname` tells which endpoint answered.
    pub hostname: &'a str,
    pub version: &'a str,
    pub port: u16,
    pub autocommit: bool,
}

/// Whether there is a variable of this (lower case) name.
pub fn known(name: &str) -> bool {
    let facts = Facts { hostname: "", version: "", port: 0, autocommit: true };
    value(name, facts).is_some()
}

/// The value of the variable of this (lower case) name.
pub fn value(name: &str, facts: Facts) -> Option<Value> {
    let integer = |value| Some(Value::Integer(value));
    let text = |value: &str| Some(Value::Text(value.to_owned()));
    match name {
        "hostname" => text(facts.hostname),
        "version" => text(facts.version),
        "version_comment" => text("tidegate demo backend"),
        "version_compile_os" => text("Linux"),
        "license" => text("Apache License 2.0"),
        "port" => integer(facts.port.into()),
        "protocol_version" => integer(10),
        "server_id" => integer(1),
        "autocommit" => integer(facts.autocommit.into()),
        "max_allowed_packet" => integer(MAX_REPEAT),
        // No path: mysql_async would leave the TCP connection for a socket that it can open.
        "socket" => Some(Value::Null),
        "wait_timeout" | "interactive_timeout" => integer(28_800),
        "net_read_timeout" => integer(30),
        "net_write_timeout" => integer(60),
        "net_buffer_length" => integer(16_384),
        "lower_case_table_names" => integer(2),
        "auto_increment_increment" | "auto_increment_offset" => integer(1),
        "foreign_key_checks" | "unique_checks" => integer(1),
        "read_only" | "super_read_only" | "performance_schema" => integer(0),
        "transaction_read_only" | "tx_read_only" => integer(0),
        "query_cache_size" => integer(0),
        "query_cache_type" => text("OFF"),
        "sql_mode" => text("STRICT_TRANS_TABLES"),
        "transaction_isolation" | "tx_isolation" => text("REPEATABLE-READ"),
        "time_zone" => text("SYSTEM"),
        "system_time_zone" => text("UTC"),
        "init_connect" => text(""),
        "default_storage_engine" => text("InnoDB"),
        "default_authentication_plugin" => text("mysql_native_password"),
        "character_set_client"
        | "character_set_connection"
        | "character_set_database"
        | "character_set_results"
        | "character_set_server" => text("utf8mb4"),
        "collation_connection" | "collation_database" | "collation_server" => {
            text("utf8mb4_general_ci")
        }
        _ => None,
    }
}
