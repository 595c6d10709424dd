// node-postgres (pg): simple and extended protocol, named statements, cursors, streams, COPY, cancel, its own pool.

import { once } from 'node:events'
import net from 'node:net'
import { Readable, Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'

import { DATABASE_URL, SCHEMA, allAtOnce, atEnd, elsewhere, failsWith, load, marker, runAll, same, test, waitUntilRunning, within } from './cases.mjs'

const pg = load('pg')
process.noDeprecation = true // queries are queued on purpose, which pg 9 will not do any more
const Cursor = load('pg-cursor')
const QueryStream = load('pg-query-stream')
const { from: copyFrom, to: copyTo } = load('pg-copy-streams')

const CLIENTS = 50
const MILLION = 1_000_000
const LARGE = 50_000_000

async function connect(options = {}) {
  const client = new pg.Client({ connectionString: DATABASE_URL, ...options })
  client.on('error', () => {}) // a case that ends a connection says so itself
  await client.connect()
  atEnd(() => client.end())
  return client
}

async function one(client, query, values) {
  const config = typeof query === 'string' ? { text: query } : query
  const { rows } = await client.query({ ...config, values, rowMode: 'array' })
  return rows[0][0]
}

/** Creates a table that no other case uses. */
async function table(client, columns) {
  const name = `${SCHEMA}.${marker()}`
  await client.query(`create table ${name} (${columns})`)
  return name
}

/** Sends a CancelRequest for what `client` runs and waits, as libpq does, until the other side hangs up; in haste, hangs up first. */
async function cancel(client, { inHaste = false } = {}) {
  const socket = net.connect(client.connection.stream.remotePort, client.connection.stream.remoteAddress)
  const request = Buffer.alloc(16)
  request.writeInt32BE(16, 0)
  request.writeInt32BE(80877102, 4)
  request.writeInt32BE(client.processID, 8)
  request.writeInt32BE(client.secretKey, 12)
  if (inHaste) socket.end(request)
  else socket.write(request)
  socket.resume()
  await within(5, once(socket, 'close'))
}

// --- transactions -----------------------------------------------------------------------------------------------

test('a committed transaction stays and a rolled back one does not', async () => {
  const [a, b] = [await connect(), await connect()]
  const t = await table(a, 'n int')
  await a.query('begin')
  await a.query(`insert into ${t} values ($1)`, [1])
  await a.query('commit')
  await a.query('begin')
  await a.query(`insert into ${t} values ($1)`, [2])
  await a.query('rollback')
  same((await b.query(`select n from ${t}`)).rows, [{ n: 1 }])
})

test('a savepoint takes back its own part of the transaction only', async () => {
  const a = await connect()
  const t = await table(a, 'n int primary key')
  const insert = (n) => a.query({ name: 'insert', text: `insert into ${t} values ($1)`, values: [n] })
  await a.query('begin')
  await insert(1)
  await a.query('savepoint before')
  await failsWith('23505', insert(1))
  await a.query('rollback to before')
  await insert(2)
  await a.query('commit')
  same((await a.query(`select n from ${t} order by 1`)).rows, [{ n: 1 }, { n: 2 }])
})

// --- prepared statements ----------------------------------------------------------------------------------------

test('a named statement works on whichever server comes next', async () => {
  const a = await connect()
  const seen = new Set()
  let pid = 0
  for (let number = 0; number < 6; number += 1) {
    await elsewhere(pid, async () => {
      const { rows } = await a.query({ name: 'sum', text: 'select pg_backend_pid() as pid, $1::int + 1 as sum', values: [number] })
      same(rows[0].sum, number + 1)
      pid = rows[0].pid
    })
    seen.add(pid)
  }
  return `${seen.size} servers`
})

test('clients whose statements have one name and different texts are not confused', () =>
  allAtOnce(20, async (number) => {
    const a = await connect()
    for (let round = 0; round < 20; round += 1) {
      const { rows } = await a.query({ name: 'one', text: `select ${number} * 1000 + $1::int as found`, values: [round] })
      same(rows[0].found, number * 1000 + round)
    }
  }))

test('many clients with the same named statements each get their own answers', () =>
  allAtOnce(20, async (number) => {
    const a = await connect()
    for (let round = 0; round < 20; round += 1) {
      const { rows } = await a.query({ name: `shared ${round % 5}`, text: `select ${round % 5} + $1::int as found`, values: [number] })
      same(rows[0].found, (round % 5) + number)
    }
  }))

test('a name of any kind will do, also a very long one', async () => {
  const a = await connect()
  for (const name of ['with space', '"quoted"', 'ünïcode 🐘', 'x'.repeat(60), '_pgusher_1', '__asyncpg_stmt_1__']) {
    for (let round = 0; round < 2; round += 1) {
      same((await a.query({ name, text: 'select $1::text as name', values: [name] })).rows, [{ name }])
    }
  }
  same((await a.query({ text: `select 1 as n -- ${'long '.repeat(50_000)}`, name: 'long' })).rows, [{ n: 1 }])
})

test('a statement that fails to parse is not remembered', async () => {
  const a = await connect()
  const name = `${SCHEMA}.${marker()}`
  const query = () => a.query({ name: 'early', text: `select n from ${name} where n = $1`, values: [1] })
  await failsWith('42P01', query())
  await failsWith('42P01', query())
  await a.query(`create table ${name} (n int)`)
  same((await query()).rows, [])
})

test('a named statement whose result type changes is healed', async () => {
  const [a, b] = [await connect(), await connect()]
  const t = await table(b, 'n int')
  await b.query(`insert into ${t} values (1)`)
  const query = (name) => a.query({ name, text: `select * from ${t}`, rowMode: 'array' })
  same((await query('before')).rows, [[1]])
  await b.query(`alter table ${t} add column word text default 'two'`)
  try {
    same((await query('before')).rows, [[1, 'two']])
    return 'at once'
  } catch (error) {
    same(error.code, '0A000')
    same((await query('after')).rows, [[1, 'two']])
    return 'after 0A000, under another name, as without a pooler'
  }
})

test('DEALLOCATE ALL and DISCARD ALL forget the statements of that client only', async () => {
  const [a, b] = [await connect(), await connect()]
  for (const forget of ['deallocate all', 'discard all']) {
    const name = `of ${forget}`
    const query = (client) => client.query({ name, text: 'select $1::int as n', values: [1] })
    await query(a)
    await query(b)
    await a.query(forget)
    await failsWith('26000', query(a)) // node-postgres believes that it is still there
    same((await query(b)).rows, [{ n: 1 }])
    same(await one(a, 'select 1'), 1)
  }
})

test('a statement prepared by SQL belongs to the client that prepared it', async () => {
  const [a, b] = [await connect(), await connect()]
  await a.query('prepare mine (int) as select $1 + 1')
  await failsWith(['26000', '0A000'], b.query('execute mine (1)'))
  await b.query('prepare mine (int) as select $1 + 100')
  for (let n = 0; n < 5; n += 1) {
    same(await one(a, `execute mine (${n})`), n + 1)
    same(await one(b, `execute mine (${n})`), n + 100)
  }
}, { refusable: true })

// --- queues, streams and copy -----------------------------------------------------------------------------------

test('queries that are queued without waiting answer in order', async () => {
  const a = await connect()
  const queries = Array.from({ length: 500 }, (_, n) => one(a, 'select $1::int', [n]))
  same(await Promise.all(queries), Array.from({ length: 500 }, (_, n) => n))
})

test('pipelined queries, named and unnamed, with errors among them, answer in order', () =>
  allAtOnce(8, async (number) => {
    const a = await connect({ pipeline: true })
    for (let round = 0; round < 3; round += 1) {
      const outcomes = await Promise.allSettled(
        Array.from({ length: 100 }, (_, n) =>
          one(a, { text: 'select $1::int / $2::int', name: n % 3 ? `named ${n % 3}` : undefined }, [number * 1000 + n, n % 10 === 3 ? 0 : 1])),
      )
      outcomes.forEach(({ value, reason }, n) => {
        if (n % 10 === 3) same(reason?.code, '22012')
        else same(value, number * 1000 + n)
      })
    }
  }))

test('pipelined transactions do not leave their server half-way', () =>
  allAtOnce(8, async (number) => {
    const a = await connect({ pipeline: true })
    const t = await table(a, 'n int')
    for (let round = 0; round < 5; round += 1) {
      await Promise.all([a.query('begin'), a.query(`insert into ${t} values ($1)`, [number]), a.query('commit')])
      await Promise.all([a.query('begin'), a.query(`insert into ${t} values ($1)`, [number]), a.query('rollback')])
    }
    same(await one(a, `select count(*)::int from ${t}`), 5)
  }))

test('a cursor is read a few rows at a time between the queries of others', async () => {
  const [a, b] = [await connect(), await connect()]
  await a.query('begin')
  const cursor = a.query(new Cursor('select generate_series(1, $1::int) as n', [1000]))
  same((await cursor.read(3)).map(({ n }) => n), [1, 2, 3])
  same(await one(b, 'select 1'), 1)
  same((await cursor.read(2)).map(({ n }) => n), [4, 5])
  await cursor.close()
  same(await one(a, 'select 1'), 1)
  await a.query('commit')
})

test('a cursor outside of a transaction keeps its server until its Sync', async () => {
  const [a, b] = [await connect(), await connect()]
  const cursor = a.query(new Cursor('select generate_series(1, $1::int) as n', [1000]))
  let total = 0
  for (let rows; (rows = await cursor.read(100)).length > 0; ) {
    total += rows.length
    same(await one(b, 'select 1'), 1)
  }
  same(total, 1000)
  same(await one(a, 'select 1'), 1)
})

test('a million rows stream', async () => {
  const a = await connect()
  const stream = a.query(new QueryStream('select n from generate_series(1, $1::int) n', [MILLION], { batchSize: 20_000, rowMode: 'array' }))
  let total = 0
  for await (const [n] of stream) total += n
  same(total, (MILLION * (MILLION + 1)) / 2)
})

test('a stream that is left early leaves the connection usable', async () => {
  const a = await connect()
  const stream = a.query(new QueryStream('select generate_series(1, 1000000) as n', [], { batchSize: 100 }))
  for await (const { n } of stream) if (n === 150) break
  same(await one(a, 'select 1'), 1)
})

test('COPY in and out carries every row', async () => {
  const a = await connect()
  const t = await table(a, 'n int, word text')
  const lines = Array.from({ length: 50_000 }, (_, n) => `${n}\tgrüßt ${n}\n`)
  const into = a.query(copyFrom(`copy ${t} from stdin`))
  await pipeline(Readable.from(lines), into)
  same(into.rowCount, lines.length)
  const chunks = []
  await pipeline(a.query(copyTo(`copy (select * from ${t} order by n) to stdout`)), new Writable({
    write(chunk, _, done) {
      chunks.push(chunk)
      done()
    },
  }))
  same(Buffer.concat(chunks).toString() === lines.join(''), true, 'what came back')
})

test('a COPY that the client gives up or the server refuses leaves nothing and the connection usable', async () => {
  const a = await connect()
  const t = await table(a, 'n int')
  await failsWith('57014', pipeline(
    Readable.from((function* () {
      yield '1\n'.repeat(1000)
      throw Object.assign(new Error('the file is broken'), { code: '57014' })
    })()),
    a.query(copyFrom(`copy ${t} from stdin`)),
  ))
  same(await one(a, `select count(*)::int from ${t}`), 0)
  await failsWith('22P02', pipeline(Readable.from(['not a number\n', '1\n'.repeat(500_000)]), a.query(copyFrom(`copy ${t} from stdin`))))
  same(await one(a, `select count(*)::int from ${t}`), 0)
})

// --- errors and cancel ------------------------------------------------------------------------------------------

test('errors come with their SQLSTATE and the connection is usable after each', async () => {
  const a = await connect()
  const t = await table(a, 'n int primary key check (n > 0), word text not null')
  await a.query(`insert into ${t} values (1, 'one')`)
  for (const [sqlstate, text, values] of [
    ['42601', 'selec 1'],
    ['22012', 'select 1 / 0'],
    ['22012', 'select 1 / $1::int', [0]],
    ['42703', 'select no_such_column'],
    ['22P02', 'select $1::int', ['x']],
    ['23505', `insert into ${t} values ($1, $2)`, [1, 'again']],
    ['23514', `insert into ${t} values ($1, $2)`, [-1, 'negative']],
    ['23502', `insert into ${t} values ($1, $2)`, [2, null]],
  ]) {
    const named = marker()
    for (const name of [undefined, named, named]) {
      await failsWith(sqlstate, a.query({ name, text, values }))
      same(await one(a, 'select 1'), 1)
    }
  }
})

test('an error inside a transaction fails the rest until ROLLBACK', async () => {
  const a = await connect()
  await a.query('begin')
  const outcomes = await Promise.allSettled([a.query('select 1 / 0'), a.query('select $1::int', [1]), a.query('rollback'), a.query('select 2 as n')])
  same(outcomes.map(({ status, reason, value }) => (status === 'rejected' ? reason.code : value.rows)), ['22012', '25P02', [], [{ n: 2 }]])
})

test('several statements in one query give several results, and notices arrive', async () => {
  const a = await connect()
  const notices = []
  a.on('notice', ({ message }) => notices.push(message))
  const results = await a.query("select 1 as n; do $$ begin raise notice 'hear'; end $$; select 2 as n")
  same(results.map(({ rows }) => rows), [[{ n: 1 }], [], [{ n: 2 }]])
  same(notices, ['hear'])
  same((await a.query('')).rows, [])
  await failsWith('22012', a.query('select 1; select 1 / 0; select 2'))
  same(await one(a, 'select 1'), 1)
})

test('a CancelRequest stops the running query and the connection is usable', async () => {
  const a = await connect()
  for (const values of [undefined, [30], [30]]) {
    const word = marker()
    const query = failsWith('57014', a.query(`select pg_sleep(${values ? '$1' : '30'}) /* ${word} */`, values))
    await waitUntilRunning(word)
    await cancel(a)
    await query
    same(await one(a, 'select 1'), 1)
  }
})

test('a CancelRequest counts also when its sender hangs up at once', async () => {
  const a = await connect()
  const word = marker()
  const query = failsWith('57014', a.query(`select pg_sleep(30) /* ${word} */`))
  await waitUntilRunning(word)
  await cancel(a, { inHaste: true })
  await query
  same(await one(a, 'select 1'), 1)
})

test('a cancel with a key that nobody has is ignored', async () => {
  const a = await connect()
  const word = marker()
  const query = a.query(`select pg_sleep(0.5) /* ${word} */`)
  await waitUntilRunning(word)
  await cancel({ connection: a.connection, processID: a.processID, secretKey: a.secretKey ^ 1 })
  same((await query).rowCount, 1)
})

test('statement_timeout, also as an option of the driver, cancels and is the client\'s own', async () => {
  const [a, b] = [await connect({ statement_timeout: 60 }), await connect()]
  for (let round = 0; round < 3; round += 1) {
    await failsWith('57014', a.query('select pg_sleep(30)'))
    same((await b.query('select pg_sleep(0.1)')).rowCount, 1)
    same(await one(a, 'show statement_timeout'), '60ms')
  }
})

// --- values -----------------------------------------------------------------------------------------------------

test('one value of 50 MB comes and goes', async () => {
  const a = await connect()
  same((await one(a, "select repeat('x', $1)", [LARGE])).length, LARGE)
  same(await one(a, 'select length($1::bytea)', [Buffer.alloc(LARGE)]), LARGE)
  same(await one(a, 'select 1'), 1)
}, { deadline: 30 })

test('values of many types go there and back, as text and as binary', async () => {
  const a = await connect()
  for (const binary of [false, true, false]) {
    for (const [cast, value] of [
      ['bool', true],
      ['int4', 7],
      ['text', "Grüße, 世界 🐘 'quoted' \\ $1 --"],
      ['text', ''],
      ['text', null],
    ]) {
      // Only what is UTF-8 in binary too: pg takes every field for text on its way.
      const { rows } = await a.query({ text: `select $1::${cast} as found`, values: [value], binary })
      same(rows[0].found, value, cast)
    }
  }
  same(await one(a, 'select $1::float8', [-1.5]), -1.5)
  same(await one(a, 'select $1::bytea', [Buffer.from([0, 255, 92])]), Buffer.from([0, 255, 92]))
  same(await one(a, 'select $1::int8', ['9223372036854775807']), '9223372036854775807')
  same(await one(a, 'select $1::timestamptz', [new Date(0)]), new Date(0))
  same(await one(a, 'select $1::jsonb', [{ ключ: ['🐘', null] }]), { ключ: ['🐘', null] })
  same(await one(a, 'select $1::int[]', [[1, null, 3]]), [1, null, 3])
  same(await one(a, 'select $1::text[]', [['a', 'b"c,{}', null]]), ['a', 'b"c,{}', null])
})

// --- many clients and the session's state -----------------------------------------------------------------------

test('fifty clients over the same servers each get their own rows', () =>
  allAtOnce(CLIENTS, async (number) => {
    const a = await connect()
    const own = `client ${number} ${marker()}`
    for (let round = 0; round < 10; round += 1) {
      same(await one(a, 'select $1::text', [own]), own)
      await a.query('begin')
      await a.query("select set_config('drivers.own', $1, true)", [own])
      same(await one(a, "select current_setting('drivers.own')"), own)
      await a.query('commit')
      if (round % 4 === 0) await failsWith('22P02', a.query('select $1::text::int', [own]))
    }
  }))

test("the driver's own pool lends connections to many", async () => {
  const pool = new pg.Pool({ connectionString: DATABASE_URL, max: 20 })
  atEnd(() => pool.end())
  await allAtOnce(200, async (number) => {
    const { rows } = await pool.query({ name: 'shared', text: 'select $1::int as n', values: [number] })
    same(rows, [{ n: number }])
  })
})

test('settings follow their client while others use the same servers', () =>
  allAtOnce(20, async (number) => {
    const zones = ['UTC', 'Europe/Berlin', 'America/New_York', 'Asia/Tokyo']
    const own = {
      timezone: zones[number % zones.length],
      search_path: `own_${number}`,
      application_name: `client ${number}`,
      statement_timeout: `${100 + number}s`,
      'app.current_user_id': `00000000-0000-0000-0000-${String(number + 1).padStart(12, '0')}`,
    }
    const a = await connect({ application_name: 'not yet', options: `-c lock_timeout=${200 + number}ms` })
    for (const [name, value] of Object.entries(own)) await a.query(`set ${name} to '${value}'`)
    for (let round = 0; round < 8; round += 1) {
      for (const [name, value] of Object.entries(own)) same(await one(a, `show ${name}`), value, name)
      same(await one(a, 'show lock_timeout'), `${200 + number}ms`)
    }
  }))

test('RESET ALL and DISCARD ALL bring back what the client began with', async () => {
  const [a, b] = [await connect({ application_name: 'at the start' }), await connect()]
  const usual = await one(b, 'show statement_timeout')
  for (const reset of ['reset all', 'discard all']) {
    await a.query("set statement_timeout = '9s'; set application_name = 'later'")
    same(await one(b, 'show statement_timeout'), usual)
    await a.query(reset)
    same(await one(a, 'show statement_timeout'), usual)
    same(await one(a, 'show application_name'), 'at the start')
  }
})

test('LISTEN hears what another client says', async () => {
  const [b, a] = [await connect(), await connect()]
  const channel = marker()
  const heard = once(a, 'notification')
  await a.query(`listen ${channel}`)
  await b.query('select pg_notify($1, $2)', [channel, 'to you'])
  const [{ payload }] = await within(10, heard)
  same(payload, 'to you')
  await a.query('unlisten *')
}, { refusable: true })

test('temporary tables, held cursors and advisory locks stay with their client and go with it', async () => {
  const b = await connect()
  const a = new pg.Client(DATABASE_URL)
  await a.connect()
  const name = marker()
  const key = Number.parseInt(name.slice(-8), 16)
  await a.query(`create temp table ${name} as select 1 as n`)
  await a.query(`declare ${name} cursor with hold for select generate_series(1, 10) as n`)
  await a.query('select pg_advisory_lock($1)', [key])
  for (let round = 1; round <= 5; round += 1) {
    same(await one(a, `select n from ${name}`), 1)
    same((await a.query(`fetch 1 from ${name}`)).rows, [{ n: round }])
    same(await one(b, 'select to_regclass($1) is null', [name]), true)
    same(await one(b, 'select pg_try_advisory_xact_lock($1)', [key]), false)
    await failsWith('34000', b.query(`fetch 1 from ${name}`))
  }
  same(await one(a, 'select pg_advisory_unlock($1)', [key]), true)
  await a.end()
  for (let round = 0; round < 5; round += 1) {
    same(await one(b, 'select to_regclass($1) is null', [name]), true)
    await failsWith('34000', b.query(`fetch 1 from ${name}`))
  }
}, { refusable: true })

await runAll()
