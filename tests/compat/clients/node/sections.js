'use strict';
// The sections, written once; a driver's own program fills in the rest.

const { createHash } = require('node:crypto');
const { readFileSync } = require('node:fs');
const { join } = require('node:path');
const { setTimeout: sleep } = require('node:timers/promises');

const [port, user, password, database, files, tls] = process.argv.slice(2);
const ssl = tls === 'tls' ? { rejectUnauthorized: false } : undefined;
const place = { host: '127.0.0.1', port: Number(port), user, password, database, ssl };
const rowsFile = join(files, 'rows.tsv');

const SESSION = 'SELECT @@character_set_client, @@character_set_results, @@collation_connection';
// A program ends with it, and leaves the server to find out.
const HOLD = [
  'START TRANSACTION',
  "UPDATE letters SET name = 'held' WHERE id = 1",
  'SELECT name FROM letters WHERE id = 1',
];
const ATTRIBUTES =
  "SELECT attr_name, IF(attr_name = '_pid', '', attr_value) AS attr_value " +
  'FROM performance_schema.session_connect_attrs ' +
  'WHERE processlist_id = CONNECTION_ID() ORDER BY attr_name';

class Unsupported extends Error {}

async function section(name, body) {
  console.log(`== ${name}`);
  try {
    await body();
  } catch (error) {
    if (error instanceof Unsupported) {
      console.log(`unsupported: ${error.message}`);
    } else {
      console.log(`failed: ${shown(error)}`);
      console.error(error);
    }
  }
}

function shown(error) {
  const { name, code, errno, sqlState, fatal, message } = error;
  return JSON.stringify({ name, code, errno, sqlState, fatal, message });
}

function digest(value) {
  const bytes = Buffer.from(value);
  return `${bytes.length} bytes ${createHash('sha256').update(bytes).digest('hex')}`;
}

function line(value) {
  return JSON.stringify(value, function (key, _converted) {
    const original = this[key];
    if (Buffer.isBuffer(original)) return original.length > 300 ? digest(original) : `x${original.toString('hex')}`;
    if (typeof original === 'string' && original.length > 300) return digest(original);
    if (typeof original === 'bigint') return `${original}n`;
    if (typeof original === 'number' && !Number.isFinite(original)) return String(original);
    if (original instanceof Date) return Number.isNaN(original.getTime()) ? 'no date' : original.toISOString();
    return original;
  });
}

// A driver has: connect(options) and, of what that returns, query(connection, sql, values) and
// execute(connection, sql, values), which print results by `print`; value(connection, sql); id(connection);
// close(connection); and what else is called here. Whatever it lacks is unsupported.
async function run(driver) {
  const can = (name) => {
    if (!driver[name]) throw new Unsupported(`no ${name}`);
    return driver[name].bind(driver);
  };
  const connect = (options) => driver.connect({ ...place, ...options });
  const show = (connection, sql, values) => driver.query(connection, sql, values);
  const attempt = async (promise) => {
    try {
      await promise;
    } catch (error) {
      console.log(shown(error));
    }
  };
  const refused = (options) => async () => {
    await attempt(connect(options).then(() => console.log('failed: let in')));
  };
  const until = async (connection, sql, expected) => {
    while (Number(await driver.value(connection, sql)) !== expected) await sleep(5);
  };
  const big = () => readFileSync(join(files, 'big.txt'), 'latin1');
  const busy = (id) =>
    `SELECT COUNT(*) FROM information_schema.processlist WHERE id = ${id} AND info LIKE 'SELECT SLEEP%'`;
  const there = (id) => `SELECT COUNT(*) FROM information_schema.processlist WHERE id = ${id}`;

  await section('auth.right', async () => {
    const connection = await connect();
    await show(connection, 'SELECT CURRENT_USER(), DATABASE(), VERSION()');
    await driver.close(connection);
  });
  await section('auth.wrong_password', refused({ password: 'wrong' }));
  await section('auth.unknown_user', refused({ user: 'nobody' }));
  await section('auth.unknown_database', refused({ database: 'nowhere' }));

  await section('query.text', async () => {
    const connection = await connect();
    await show(connection, "SELECT 1 AS one, 'two' AS two, NULL AS n, 3.50 AS d, '' AS e");
    await show(connection, 'SELECT ? AS a, ? AS b, ? AS c', ["it's \\ ?", null, 2.5]);
    await show(connection, 'CREATE TABLE made (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(20))');
    await show(connection, "INSERT INTO made (v) VALUES ('one'), ('two'), (NULL)");
    await show(connection, "UPDATE made SET v = 'more' WHERE id > 1");
    await show(connection, 'SELECT * FROM made ORDER BY id');
    await show(connection, 'SELECT * FROM made WHERE id > 100');
    await show(connection, "SELECT CAST('12x' AS SIGNED) AS warned");
    await show(connection, 'SHOW WARNINGS');
    await connection.ping();
    await driver.close(connection);
  });

  await section('query.prepared', async () => {
    const connection = await connect();
    const sql = 'SELECT id, name FROM letters WHERE id > ? AND name <> ?';
    await driver.execute(connection, sql, [2, 'c']);
    await driver.execute(connection, sql, [6, '😀']);
    await driver.execute(connection, sql, [100, '']);
    const values = [null, 2.5, Buffer.from([0, 255])];
    await driver.execute(connection, 'SELECT ? IS NULL AS n, ? AS d, ? AS b', values);
    await driver.execute(connection, 'INSERT INTO moves VALUES (?), (?)', [7, 8]);
    await driver.close(connection);
  });

  await section('query.error', async () => {
    const connection = await connect();
    for (const wrong of [
      'SELEC 1',
      'SELECT * FROM missing',
      'SELECT missing FROM letters',
      "INSERT INTO letters VALUES (1, 'again')",
      'INSERT INTO letters VALUES (99, NULL)',
    ]) {
      await attempt(show(connection, wrong));
    }
    await attempt(driver.execute(connection, 'SELECT ? FROM missing', [1]));
    await show(connection, "SELECT 'still there'");
    await driver.close(connection);
  });

  await section('transaction', async () => {
    const connection = await connect();
    const other = await connect();
    await connection.beginTransaction();
    await show(connection, 'INSERT INTO moves VALUES (1)');
    await show(other, 'SELECT COUNT(*) FROM moves');
    await connection.rollback();
    await show(connection, 'SELECT COUNT(*) FROM moves');
    await connection.beginTransaction();
    await show(connection, 'INSERT INTO moves VALUES (1)');
    await show(connection, 'SAVEPOINT here');
    await show(connection, 'INSERT INTO moves VALUES (2)');
    await show(connection, 'ROLLBACK TO SAVEPOINT here');
    await connection.commit();
    await show(other, 'SELECT * FROM moves');
    await driver.close(other);
    await driver.close(connection);
  });

  await section('results.statements', async () => {
    const connection = await connect({ multipleStatements: true });
    await show(connection, "SELECT 1 AS a; INSERT INTO moves VALUES (5); SELECT id FROM moves; SELECT 'b'");
    await attempt(show(connection, 'SELECT 1 AS a; SELECT 1 FROM none'));
    await show(connection, "SELECT 'still there'");
    await driver.close(connection);
  });

  await section('results.procedure', async () => {
    const connection = await connect();
    await show(connection, 'CALL two_results(5)');
    await driver.execute(connection, 'CALL two_results(?)', [6]);
    await attempt(show(connection, 'CALL failing()'));
    await driver.close(connection);
  });

  await section('big.upload', async () => {
    const connection = await connect(driver.large);
    console.log(digest(big()));
    await show(connection, 'SELECT SHA2(?, 256) AS text_', [big()]);
    await driver.execute(connection, 'SELECT SHA2(?, 256) AS prepared', [big()]);
    await driver.close(connection);
  });

  await section('big.echo', async () => {
    const connection = await connect(driver.large);
    await show(connection, 'SELECT ? AS v', [big()]);
    await driver.execute(connection, 'SELECT ? AS v', [big()]);
    await driver.close(connection);
  });

  await section('infile', async () => {
    const connection = await can('connectWithInfile')({ ...place });
    const load = (file) => `LOAD DATA LOCAL INFILE '${file}' INTO TABLE loaded`;
    await driver.infile(connection, load(rowsFile), rowsFile);
    await show(connection, 'SELECT COUNT(*), SUM(id), MAX(name) FROM loaded');
    await attempt(driver.infile(connection, load('/nowhere'), '/nowhere'));
    await attempt(show(connection, "SELECT 'still there'"));
    await attempt(driver.close(connection));
  });

  for (const how of ['text', 'prepared']) {
    await section(`types.${how}`, async () => {
      const connection = await connect();
      const select = (sql) => (how === 'text' ? show(connection, sql) : driver.execute(connection, sql, []));
      await select('SELECT * FROM types ORDER BY id');
      // Not every server has these types.
      await attempt(select('SELECT * FROM places ORDER BY id'));
      await driver.close(connection);
    });
  }

  await section('streaming', async () => {
    const connection = await connect();
    const total = createHash('sha256');
    let count = 0;
    for await (const row of can('stream')(connection, 'SELECT id, name FROM numbers ORDER BY id')) {
      total.update(line(row));
      count += 1;
    }
    console.log(`${count} rows ${total.digest('hex')}`);
    await show(connection, "SELECT 'still there'");
    await driver.close(connection);
  });

  await section('compression', async () => {
    const connection = await connect({ compress: true });
    await show(connection, "SHOW STATUS LIKE 'Compression'");
    await show(connection, 'SELECT ? AS v', [big().slice(0, 1_000_000)]);
    await driver.close(connection);
  });

  await section('charset', async () => {
    for (const options of [{}, driver.latin1]) {
      const connection = await connect(options);
      await show(connection, SESSION);
      await show(connection, 'SELECT HEX(?) AS h', ['ünï']);
      await show(connection, 'SELECT name FROM letters WHERE id < 6 ORDER BY name COLLATE utf8mb4_bin');
      await show(connection, 'SELECT name, HEX(name) AS h FROM letters WHERE id IN (4, 5) ORDER BY id');
      await driver.close(connection);
    }
  });

  const killedWhileBusy = (kill) => async () => {
    const victim = await connect();
    const killer = await connect();
    const waiting = attempt(show(victim, 'SELECT SLEEP(60) AS slept'));
    await until(killer, busy(driver.id(victim)), 1);
    // Prints nothing: the victim may print before.
    await killer.query(`${kill} ${driver.id(victim)}`);
    await waiting;
    await attempt(show(victim, "SELECT 'still there'"));
    await attempt(driver.close(victim));
    await driver.close(killer);
  };
  await section('kill.query', killedWhileBusy('KILL QUERY'));
  await section('kill.busy', killedWhileBusy('KILL'));

  await section('kill.idle', async () => {
    const victim = await connect();
    const killer = await connect();
    const ended = driver.ended(victim);
    await show(killer, `KILL ${driver.id(victim)}`);
    console.log(await ended);
    await until(killer, there(driver.id(victim)), 0);
    await attempt(show(victim, "SELECT 'still there'"));
    await attempt(show(killer, 'KILL 4000000000'));
    await attempt(driver.close(victim));
    await driver.close(killer);
  });

  await section('timeout.server', async () => {
    const connection = await connect();
    const isMariaDb = String(await driver.value(connection, 'SELECT VERSION()')).includes('MariaDB');
    const slow = isMariaDb
      ? 'SET STATEMENT max_statement_time = 0.2 FOR SELECT SLEEP(60) AS slept'
      : 'SELECT /*+ MAX_EXECUTION_TIME(200) */ SLEEP(60) AS slept';
    await attempt(show(connection, slow));
    await show(connection, "SELECT 'still there'");
    await driver.close(connection);
  });

  await section('timeout.client', async () => {
    const connection = await connect();
    await attempt(can('timeout')(connection, 'SELECT SLEEP(60) AS slept', 200));
    driver.destroy(connection);
  });

  await section('reset_connection', async () => {
    const connection = await connect();
    await show(connection, 'SET @mine = 1');
    await show(connection, 'CREATE TEMPORARY TABLE fleeting (id INT)');
    try {
      await can('reset')(connection);
      await show(connection, 'SELECT @mine, DATABASE()');
      await attempt(show(connection, 'SELECT * FROM fleeting'));
    } finally {
      await driver.close(connection);
    }
  });

  await section('change_user', async () => {
    const connection = await connect();
    await show(connection, 'SET @mine = 1');
    await connection.changeUser({ user: 'other', password: 'flow', database: 'information_schema' });
    await show(connection, 'SELECT CURRENT_USER(), @mine');
    await attempt(connection.changeUser({ user: 'other', password: 'ebb', database: 'information_schema' }));
    await attempt(show(connection, 'SELECT CURRENT_USER()'));
    driver.destroy(connection);
  });

  await section('attributes', async () => {
    for (const options of [{}, { connectAttributes: { compat: 'ünï' } }]) {
      const connection = await connect(options);
      await show(connection, ATTRIBUTES);
      await driver.close(connection);
    }
  });

  await section('parallel', async () => {
    const one = async (number) => {
      const connection = await connect();
      const sum = await driver.value(connection, `SELECT SUM(id) + ${number} FROM numbers`);
      await driver.close(connection);
      return String(sum);
    };
    const sums = await Promise.all(Array.from({ length: 50 }, (_, number) => one(number)));
    console.log(`${sums.length} connections ${digest(sums.join(' '))}`);
  });

  await section('pool', async () => {
    const pool = driver.pool({ ...place, connectionLimit: 4 });
    const one = async (number) => {
      const connection = await pool.getConnection();
      const sum = await driver.value(connection, `SELECT ${number} + 1`);
      const id = driver.id(connection);
      connection.release();
      return [Number(sum), id];
    };
    const served = await Promise.all(Array.from({ length: 40 }, (_, number) => one(number)));
    const sum = served.reduce((total, [number]) => total + number, 0);
    const connections = new Set(served.map(([, id]) => id)).size;
    console.log(`sum ${sum}, at most 4 connections: ${connections <= 4}`);
    await pool.end();
  });

  await section('dropped', async () => {
    const connection = await connect();
    for (const statement of HOLD) await show(connection, statement);
  });

  // The last one, and what failed may have left others: none of them is closed.
  process.exit(0);
}

module.exports = { line, run };
