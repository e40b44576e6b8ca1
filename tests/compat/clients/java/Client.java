// MySQL Connector/J and MariaDB Connector/J: one program, two drivers.
//
//   Client mysql|mariadb PORT USER PASSWORD DATABASE FILES TLS

import com.mysql.cj.jdbc.JdbcConnection;
import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.sql.BatchUpdateException;
import java.sql.CallableStatement;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.SQLWarning;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Types;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashSet;
import java.util.HexFormat;
import java.util.List;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

public class Client {
    static final String SESSION =
        "SELECT @@character_set_client, @@character_set_results, @@collation_connection";
    static final String ATTRIBUTES =
        "SELECT attr_name, IF(attr_name IN ('_pid', '_thread'), '', attr_value)"
            + " FROM performance_schema.session_connect_attrs"
            + " WHERE processlist_id = CONNECTION_ID() ORDER BY attr_name";

    static boolean isMariaDb;
    static String url;
    static String user;
    static String password;
    static String database;
    static Path files;
    static boolean tls;

    interface Body {
        void run() throws Exception;
    }

    interface With {
        void run(Connection connection) throws Exception;
    }

    static class Unsupported extends Exception {
        static final long serialVersionUID = 1;

        Unsupported(String why) {
            super(why);
        }
    }

    public static void main(String[] arguments) {
        isMariaDb = arguments[0].equals("mariadb");
        url = "jdbc:" + arguments[0] + "://127.0.0.1:" + arguments[1] + "/";
        user = arguments[2];
        password = arguments[3];
        database = arguments[4];
        files = Path.of(arguments[5]);
        tls = arguments[6].equals("tls");

        section("auth.right", with(c -> show(c, "SELECT CURRENT_USER(), DATABASE(), VERSION()")));
        section("auth.wrong_password", refused(user, "wrong", database));
        section("auth.unknown_user", refused("nobody", password, database));
        section("auth.unknown_database", refused(user, password, "nowhere"));
        section("query.text", with(Client::queryText));
        section("query.prepared", with(Client::queryPrepared, "useServerPrepStmts", "true"));
        section("query.error", with(Client::queryError));
        section("transaction", with(Client::transaction));
        section("results.statements", with(Client::resultsStatements, "allowMultiQueries", "true"));
        section("results.procedure", with(Client::resultsProcedure));
        section("big.upload", () -> {
            System.out.println(digest(big().getBytes()));
            with(c -> prepared(c, "SELECT SHA2(?, 256) AS v", big())).run();
            with(c -> prepared(c, "SELECT SHA2(?, 256) AS v", big()), "useServerPrepStmts", "true").run();
        });
        section("big.echo", () -> {
            with(c -> prepared(c, "SELECT ? AS v", big())).run();
            with(c -> prepared(c, "SELECT ? AS v", big()), "useServerPrepStmts", "true").run();
        });
        section("infile", with(Client::infile, "allowLoadLocalInfile", "true", "allowLocalInfile", "true"));
        section("types.text", with(Client::types));
        section("types.prepared", with(Client::types, "useServerPrepStmts", "true"));
        section("streaming", () -> {
            with(c -> streaming(c, isMariaDb ? 100 : Integer.MIN_VALUE)).run();
            // A cursor on the server.
            with(c -> streaming(c, 100), "useCursorFetch", "true").run();
        });
        section("compression", with(c -> {
            show(c, "SHOW STATUS LIKE 'Compression'");
            prepared(c, "SELECT ? AS v", big().substring(0, 1_000_000));
        }, "useCompression", "true"));
        section("charset", with(c -> {
            show(c, SESSION);
            prepared(c, "SELECT HEX(?) AS h", "ünï😀");
            show(c, "SELECT name FROM letters ORDER BY name COLLATE utf8mb4_bin");
            show(c, "SELECT name FROM letters WHERE name = 'b' COLLATE utf8mb4_general_ci");
        }));
        section("kill.query", () -> killedWhileBusy("KILL QUERY"));
        section("kill.busy", () -> killedWhileBusy("KILL"));
        section("kill.idle", Client::killedWhileIdle);
        section("timeout.server", with(c -> {
            boolean is = value(c, "SELECT VERSION()").contains("MariaDB");
            String slow = is
                ? "SET STATEMENT max_statement_time = 0.2 FOR SELECT SLEEP(60) AS slept"
                : "SELECT /*+ MAX_EXECUTION_TIME(200) */ SLEEP(60) AS slept";
            attempt(() -> show(c, slow));
            show(c, "SELECT 'still there'");
        }));
        section("timeout.client", Client::timeoutClient);
        section("reset_connection", with(c -> {
            show(c, "SET @mine = 1");
            show(c, "CREATE TEMPORARY TABLE fleeting (id INT)");
            if (isMariaDb) {
                c.unwrap(org.mariadb.jdbc.Connection.class).reset();
            } else {
                c.unwrap(JdbcConnection.class).resetServerState();
            }
            show(c, "SELECT @mine, DATABASE()");
            attempt(() -> show(c, "SELECT * FROM fleeting"));
        }, "useResetConnection", "true"));
        section("change_user", with(c -> {
            if (isMariaDb) {
                throw new Unsupported("no change of user");
            }
            show(c, "SET @mine = 1");
            c.setCatalog("information_schema");
            c.unwrap(JdbcConnection.class).changeUser("other", "flow");
            show(c, "SELECT CURRENT_USER(), @mine");
            attempt(() -> c.unwrap(JdbcConnection.class).changeUser("other", "ebb"));
            attempt(() -> show(c, "SELECT CURRENT_USER()"));
        }));
        section("attributes", with(c -> show(c, ATTRIBUTES), "connectionAttributes", "compat:ünï"));
        section("parallel", Client::parallel);
        section("pool", Client::pool);
        section("dropped", Client::dropped);
        System.out.flush();
        // Nobody closes what the last one holds.
        Runtime.getRuntime().halt(0);
    }

    static void section(String name, Body body) {
        System.out.println("== " + name);
        try {
            body.run();
        } catch (Unsupported error) {
            System.out.println("unsupported: " + error.getMessage());
        } catch (Exception error) {
            System.out.println("failed: " + shown(error));
            error.printStackTrace();
        }
    }

    static String shown(Throwable error) {
        String state = error instanceof SQLException sql ? sql.getErrorCode() + " " + sql.getSQLState() + " " : "";
        // What follows the first line tells how long ago things were.
        return error.getClass().getName() + " " + state + String.valueOf(error.getMessage()).split("\n")[0];
    }

    /** For what may or must fail. */
    static void attempt(Body body) {
        try {
            body.run();
        } catch (Exception error) {
            System.out.println(shown(error));
        }
    }

    static Connection connect(String user, String password, String database, String... options) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", user);
        properties.setProperty("password", password);
        properties.putAll(always());
        for (int index = 0; index < options.length; index += 2) {
            properties.setProperty(options[index], options[index + 1]);
        }
        return DriverManager.getConnection(url + database, properties);
    }

    static Properties always() {
        Properties properties = new Properties();
        // MySQL's default plugin needs its key where there is no TLS.
        properties.setProperty("allowPublicKeyRetrieval", "true");
        String trusting = isMariaDb ? "trust" : "REQUIRED";
        properties.setProperty("sslMode", tls ? trusting : isMariaDb ? "disable" : "DISABLED");
        return properties;
    }

    static Connection connect() throws SQLException {
        return connect(user, password, database);
    }

    static Body with(With body, String... options) {
        return () -> {
            try (Connection connection = connect(user, password, database, options)) {
                body.run(connection);
            }
        };
    }

    static Body refused(String user, String password, String database) {
        return () -> attempt(() -> {
            connect(user, password, database).close();
            System.out.println("failed: let in");
        });
    }

    static void show(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            showResults(statement, statement.execute(sql));
        }
    }

    static void prepared(Connection connection, String sql, Object... values) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int index = 0; index < values.length; index++) {
                statement.setObject(index + 1, values[index]);
            }
            showResults(statement, statement.execute());
        }
    }

    static void showResults(Statement statement, boolean hasRows) throws SQLException {
        while (true) {
            int count = statement.getUpdateCount();
            if (hasRows) {
                showRows(statement.getResultSet());
            } else if (count >= 0) {
                System.out.println(count + " affected");
            } else {
                break;
            }
            hasRows = statement.getMoreResults();
        }
        for (SQLWarning warning = statement.getWarnings(); warning != null; warning = warning.getNextWarning()) {
            System.out.println("warning " + warning.getErrorCode() + " " + warning.getMessage());
        }
    }

    static void showRows(ResultSet rows) throws SQLException {
        ResultSetMetaData columns = rows.getMetaData();
        List<String> names = new ArrayList<>();
        for (int index = 1; index <= columns.getColumnCount(); index++) {
            names.add(columns.getColumnLabel(index) + " " + columns.getColumnTypeName(index) + " "
                + columns.getPrecision(index) + " " + columns.getScale(index) + " " + columns.isNullable(index));
        }
        System.out.println("| " + String.join(", ", names));
        while (rows.next()) {
            System.out.println(line(rows));
        }
        rows.close();
    }

    static String line(ResultSet rows) throws SQLException {
        List<String> values = new ArrayList<>();
        for (int index = 1; index <= rows.getMetaData().getColumnCount(); index++) {
            // A Time is a time of day; the server's may be longer.
            boolean isTime = rows.getMetaData().getColumnType(index) == Types.TIME;
            Object value = isTime ? rows.getString(index) : rows.getObject(index);
            if (value instanceof byte[] bytes) {
                values.add(bytes.length > 300 ? digest(bytes) : "x" + HexFormat.of().formatHex(bytes));
            } else if (value instanceof String text && text.length() > 300) {
                values.add(digest(text.getBytes()));
            } else {
                values.add(String.valueOf(value));
            }
        }
        return String.join(" | ", values);
    }

    static String value(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
            rows.next();
            return rows.getString(1);
        }
    }

    static String digest(byte[] bytes) {
        try {
            byte[] hash = MessageDigest.getInstance("SHA-256").digest(bytes);
            return bytes.length + " bytes " + HexFormat.of().formatHex(hash);
        } catch (java.security.NoSuchAlgorithmException error) {
            throw new IllegalStateException(error);
        }
    }

    static String big() throws java.io.IOException {
        return Files.readString(files.resolve("big.txt"));
    }

    static void queryText(Connection c) throws Exception {
        show(c, "SELECT 1 AS one, 'two' AS two, NULL AS n, 3.50 AS d, '' AS e");
        prepared(c, "SELECT ? AS a, ? AS b, ? AS c", "it's \\ ?", null, 2.5);
        show(c, "CREATE TABLE made (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(20))");
        try (Statement statement = c.createStatement()) {
            String insert = "INSERT INTO made (v) VALUES ('one'), ('two'), (NULL)";
            System.out.println(statement.executeUpdate(insert, Statement.RETURN_GENERATED_KEYS) + " inserted");
            showRows(statement.getGeneratedKeys());
        }
        show(c, "UPDATE made SET v = 'more' WHERE id > 1");
        show(c, "SELECT * FROM made ORDER BY id");
        show(c, "SELECT * FROM made WHERE id > 100");
        show(c, "SELECT CAST('12x' AS SIGNED) AS warned");
        System.out.println("valid: " + c.isValid(5));
        showRows(c.getMetaData().getColumns(database, null, "letters", "%"));
    }

    static void queryPrepared(Connection c) throws Exception {
        String sql = "SELECT id, name FROM letters WHERE id > ? AND name <> ?";
        try (PreparedStatement statement = c.prepareStatement(sql)) {
            for (Object[] values : new Object[][] {{2, "c"}, {6, "😀"}, {100, ""}}) {
                statement.setObject(1, values[0]);
                statement.setObject(2, values[1]);
                showResults(statement, statement.execute());
            }
        }
        prepared(c, "SELECT ? IS NULL AS n, ? AS d, ? AS b", null, 2.5, new byte[] {0, -1});
        try (PreparedStatement statement = c.prepareStatement("INSERT INTO moves VALUES (?)")) {
            for (int id : new int[] {7, 8, 7}) {
                statement.setInt(1, id);
                statement.addBatch();
            }
            System.out.println(statement.executeBatch().length + " inserted");
        } catch (BatchUpdateException error) {
            System.out.println(shown(error));
        }
    }

    static void queryError(Connection c) throws Exception {
        for (String wrong : new String[] {
            "SELEC 1",
            "SELECT * FROM missing",
            "SELECT missing FROM letters",
            "INSERT INTO letters VALUES (1, 'again')",
            "INSERT INTO letters VALUES (99, NULL)",
        }) {
            attempt(() -> show(c, wrong));
        }
        attempt(() -> prepared(c, "SELECT ? FROM missing", 1));
        show(c, "SELECT 'still there'");
    }

    static void transaction(Connection c) throws Exception {
        try (Connection other = connect()) {
            c.setAutoCommit(false);
            c.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
            show(c, "INSERT INTO moves VALUES (1)");
            show(other, "SELECT COUNT(*) FROM moves");
            c.rollback();
            show(c, "SELECT COUNT(*) FROM moves");
            show(c, "INSERT INTO moves VALUES (1)");
            Savepoint here = c.setSavepoint();
            show(c, "INSERT INTO moves VALUES (2)");
            c.rollback(here);
            c.commit();
            show(other, "SELECT * FROM moves");
        }
    }

    static void resultsStatements(Connection c) throws Exception {
        show(c, "SELECT 1 AS a; INSERT INTO moves VALUES (5); SELECT id FROM moves; SELECT 'b'");
        attempt(() -> show(c, "SELECT 1 AS a; SELECT 1 FROM none"));
        show(c, "SELECT 'still there'");
    }

    static void resultsProcedure(Connection c) throws Exception {
        try (CallableStatement call = c.prepareCall("{CALL two_results(?)}")) {
            call.setInt(1, 5);
            showResults(call, call.execute());
        }
        attempt(() -> show(c, "CALL failing()"));
    }

    static void infile(Connection c) throws Exception {
        show(c, "LOAD DATA LOCAL INFILE '" + files.resolve("rows.tsv") + "' INTO TABLE loaded");
        show(c, "SELECT COUNT(*), SUM(id), MAX(name) FROM loaded");
        attempt(() -> show(c, "LOAD DATA LOCAL INFILE '/nowhere' INTO TABLE loaded"));
        attempt(() -> show(c, "SELECT 'still there'"));
    }

    static void types(Connection c) throws Exception {
        prepared(c, "SELECT * FROM types ORDER BY id");
        // Not every server has these types.
        attempt(() -> prepared(c, "SELECT * FROM places ORDER BY id"));
    }

    static void streaming(Connection c, int fetch) throws Exception {
        String sql = "SELECT id, name FROM numbers ORDER BY id";
        try (Statement statement = c.createStatement(ResultSet.TYPE_FORWARD_ONLY, ResultSet.CONCUR_READ_ONLY)) {
            statement.setFetchSize(fetch);
            ResultSet rows = statement.executeQuery(sql);
            MessageDigest total = MessageDigest.getInstance("SHA-256");
            int count = 0;
            for (; rows.next(); count++) {
                total.update(line(rows).getBytes());
            }
            System.out.println(count + " rows " + HexFormat.of().formatHex(total.digest()));
            rows = statement.executeQuery(sql);
            rows.next();
            System.out.println("left after " + line(rows));
            rows.close();
        }
        show(c, "SELECT 'still there'");
    }

    static void until(Connection connection, String sql, String expected) throws Exception {
        while (!value(connection, sql).equals(expected)) {
            Thread.sleep(5);
        }
    }

    static String there(String id) {
        return "SELECT COUNT(*) FROM information_schema.processlist WHERE id = " + id;
    }

    static void killedWhileBusy(String kill) throws Exception {
        try (Connection victim = connect(); Connection killer = connect()) {
            String id = value(victim, "SELECT CONNECTION_ID()");
            Thread busy = new Thread(() -> attempt(() -> show(victim, "SELECT SLEEP(60) AS slept")));
            busy.start();
            until(killer, there(id) + " AND info LIKE 'SELECT SLEEP%'", "1");
            // Prints nothing: the other thread may print just now.
            killer.createStatement().execute(kill + " " + id);
            busy.join();
            attempt(() -> show(victim, "SELECT 'still there'"));
        }
    }

    static void killedWhileIdle() throws Exception {
        Connection victim = connect();
        try (Connection killer = connect()) {
            String id = value(victim, "SELECT CONNECTION_ID()");
            show(killer, "KILL " + id);
            until(killer, there(id), "0");
            attempt(() -> show(victim, "SELECT 'still there'"));
            System.out.println("valid: " + victim.isValid(5));
            attempt(() -> show(killer, "KILL 4000000000"));
        }
    }

    static void dropped() throws Exception {
        Connection connection = connect();
        show(connection, "START TRANSACTION");
        show(connection, "UPDATE letters SET name = 'held' WHERE id = 1");
        show(connection, "SELECT name FROM letters WHERE id = 1");
    }

    static void timeoutClient() throws Exception {
        with(c -> {
            try (Statement statement = c.createStatement()) {
                statement.setQueryTimeout(1);
                attempt(() -> showResults(statement, statement.execute("SELECT SLEEP(60) AS slept")));
            }
            show(c, "SELECT 'still there'");
        }).run();
        with(c -> {
            attempt(() -> show(c, "SELECT SLEEP(60) AS slept"));
            attempt(() -> show(c, "SELECT 'still there'"));
        }, "socketTimeout", "300").run();
    }

    static <T> List<T> all(int threads, int tasks, java.util.function.IntFunction<java.util.concurrent.Callable<T>> task)
        throws Exception {
        ExecutorService executor = Executors.newFixedThreadPool(threads);
        try {
            List<Future<T>> futures = new ArrayList<>();
            for (int number = 0; number < tasks; number++) {
                futures.add(executor.submit(task.apply(number)));
            }
            List<T> found = new ArrayList<>();
            for (Future<T> future : futures) {
                found.add(future.get());
            }
            return found;
        } finally {
            executor.shutdown();
        }
    }

    static void parallel() throws Exception {
        List<String> sums = all(50, 50, number -> () -> {
            try (Connection connection = connect()) {
                return value(connection, "SELECT SUM(id) + " + number + " FROM numbers");
            }
        });
        Collections.sort(sums);
        System.out.println(sums.size() + " connections " + digest(String.join(" ", sums).getBytes()));
    }

    static void pool() throws Exception {
        HikariConfig config = new HikariConfig();
        config.setJdbcUrl(url + database);
        config.setUsername(user);
        config.setPassword(password);
        config.setDataSourceProperties(always());
        config.setMaximumPoolSize(4);
        try (HikariDataSource pool = new HikariDataSource(config)) {
            List<String> served = all(8, 40, number -> () -> {
                try (Connection connection = pool.getConnection()) {
                    return value(connection, "SELECT CONCAT(CONNECTION_ID(), ' ', " + number + " + 1)");
                }
            });
            int sum = 0;
            Set<String> ids = new HashSet<>();
            for (String each : served) {
                ids.add(each.split(" ")[0]);
                sum += Integer.parseInt(each.split(" ")[1]);
            }
            System.out.println("sum " + sum + " at most 4 connections: " + (ids.size() <= 4));
        }
    }
}
