// The console through drivers as they are: node-postgres, with its cursors, and postgres.js. DATABASE_URL is the console's.

import assert from 'node:assert/strict'

import { DATABASE_URL, load } from './cases.mjs'

const pg = load('pg')
const Cursor = load('pg-cursor')
const postgres = load('postgres')

const LISTS = 14

const client = new pg.Client({ connectionString: DATABASE_URL })
await client.connect()
assert.equal((await client.query('SHOW LISTS')).rows.length, LISTS)
for (let round = 0; round < 2; round++) {
  const { rows } = await client.query({ name: 'pools', text: 'SHOW POOLS', values: [] })
  assert.equal(typeof rows[0].cl_active, 'number')
}
const cursor = client.query(new Cursor('SHOW LISTS'))
const counts = []
for (let rows; (rows = await cursor.read(5)).length > 0; ) counts.push(rows.length)
assert.deepEqual(counts, [5, 5, 4])
await assert.rejects(client.query('SHOW NOTHING'), { code: '42601' })
await client.end()

// It asks for PostgreSQL's types when it connects, unless told not to: the console has none to tell.
const sql = postgres(DATABASE_URL, { max: 1, fetch_types: false })
assert.equal((await sql.unsafe('SHOW LISTS', [], { prepare: true })).length, LISTS)
assert.equal((await sql`SHOW LISTS`.simple()).length, LISTS)
await sql.end()
