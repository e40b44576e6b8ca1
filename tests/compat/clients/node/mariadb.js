'use strict';
// MariaDB Connector/Node.js.

const { createReadStream } = require('node:fs');
const mariadb = require('mariadb');
const { line, run } = require('./sections.js');

// MySQL's default plugin needs its key where there is no TLS.
const always = { allowPublicKeyRetrieval: true, metaAsArray: true, rowsAsArray: true };

function print([results, fields]) {
  // With several results there is an array of fields for each, and null for one without rows.
  const isOne = !Array.isArray(fields) || !fields.some((f) => Array.isArray(f) || f === null);
  const each = isOne ? [[results, fields]] : results.map((result, index) => [result, fields[index]]);
  for (const [result, columns] of each) {
    if (!Array.isArray(result)) {
      console.log(line(result));
      continue;
    }
    console.log('|', line((columns ?? []).map((c) => [c.name(), c.type, c.collation.name, c.flags, c.scale])));
    result.forEach((row) => console.log(line(row)));
  }
}

async function both(promise) {
  print(await promise);
}

run({
  latin1: { charset: 'latin1' },
  large: { maxAllowedPacket: 2 ** 30 },
  connect: (options) => mariadb.createConnection({ ...options, ...always }),
  close: (connection) => connection.end(),
  destroy: (connection) => connection.destroy(),
  id: (connection) => connection.threadId,
  query: (connection, sql, values) => both(connection.query(sql, values)),
  execute: (connection, sql, values) => both(connection.execute(sql, values)),
  value: async (connection, sql) => (await connection.query({ sql, metaAsArray: false, rowsAsArray: true }))[0][0],
  connectWithInfile: (options) => mariadb.createConnection({ ...options, ...always, permitLocalInfile: true }),
  infile: (connection, sql, file) => both(connection.query({ sql, infileStreamFactory: () => createReadStream(file) })),
  stream: (connection, sql) => connection.queryStream(sql),
  ended: (connection) => new Promise((resolve) => connection.once('error', (e) => resolve(`${e.code} ${e.message}`))),
  timeout: (connection, sql, milliseconds) => both(connection.query({ sql, timeout: milliseconds })),
  reset: (connection) => connection.reset(),
  pool: (options) => mariadb.createPool({ ...options, allowPublicKeyRetrieval: true }),
});
