'use strict';
// mysql2.

const { createReadStream } = require('node:fs');
const mysql = require('mysql2/promise');
const { line, run } = require('./sections.js');

function print([results, fields]) {
  // Several results come as arrays of results and of fields; the fields of one that has no rows are undefined.
  const isOne = !Array.isArray(results) || !Array.isArray(fields) || !fields.some((f) => Array.isArray(f) || f === undefined);
  const each = isOne ? [[results, fields]] : results.map((result, index) => [result, fields[index]]);
  for (const [result, columns] of each) {
    if (!Array.isArray(result)) {
      console.log(line(result));
      continue;
    }
    console.log('|', line((columns ?? []).map((c) => [c.name, c.columnType, c.characterSet, c.flags, c.decimals])));
    result.forEach((row) => console.log(line(row)));
  }
}

run({
  latin1: { charset: 'latin1_german1_ci' },
  connect: (options) => mysql.createConnection(options),
  close: (connection) => connection.end(),
  destroy: (connection) => connection.destroy(),
  id: (connection) => connection.threadId,
  query: async (connection, sql, values) => print(await connection.query(sql, values)),
  execute: async (connection, sql, values) => print(await connection.execute(sql, values)),
  value: async (connection, sql) => Object.values((await connection.query(sql))[0][0])[0],
  connectWithInfile: (options) => mysql.createConnection(options),
  infile: async (connection, sql, file) =>
    print(await connection.query({ sql, infileStreamFactory: () => createReadStream(file) })),
  stream: (connection, sql) => connection.connection.query(sql).stream(),
  ended: (connection) => new Promise((resolve) => connection.connection.once('error', (e) => resolve(`${e.code} ${e.message}`))),
  timeout: async (connection, sql, milliseconds) => print(await connection.query({ sql, timeout: milliseconds })),
  reset: (connection) => connection.reset(),
  pool: (options) => mysql.createPool(options),
});
