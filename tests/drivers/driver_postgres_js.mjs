// postgres.js: prepares everything by default, pipelines on each connection, streams, COPY, listen, cancel.

import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'

import { DATABASE_URL, SCHEMA, allAtOnce, atEnd, elsewhere, failsWith, load, marker, runAll, same, test, waitUntilRunning, within } from './cases.mjs'

const postgres = load('postgres')

const CLIENTS = 50
const MILLION = 1_000_000
const LARGE = 50_000_000

/** A client; with `max: 1`, the default here, it is one connection. */
function connect(options = {}) {
  const sql = postgres(DATABASE_URL, { max: 1, onnotice: () => {}, ...options })
  atEnd(() => sql.end({ timeout: 2 }))
  return sql
}

/** Creates a table that no other case uses. */
async function table(sql, columns) {
  const name = `${SCHEMA}.${marker()}`
  await sql.unsafe(`create table ${name} (${columns})`)
  return name
}

const plain = (rows) => rows.map((row) => ({ ...row }))

// --- transactions -----------------------------------------------------------------------------------------------

test('a committed transaction stays and a rolled back one does not', async () => {
  const [a, b] = [connect(), connect()]
  const t = await table(a, 'n int')
  await a.begin((tx) => tx`insert into ${tx(t)} values (1)`)
  await failsWith('22012', a.begin(async (tx) => {
    await tx`insert into ${tx(t)} values (2)`
    await tx`select 1 / 0`
  }))
  same(plain(await b`select n from ${b(t)}`), [{ n: 1 }])
})

test('a savepoint takes back its own part of the transaction only', async () => {
  const a = connect()
  const t = await table(a, 'n int primary key')
  await a.begin('isolation level serializable', async (tx) => {
    await tx`insert into ${tx(t)} values (1)`
    await failsWith('23505', tx.savepoint(async (inner) => {
      await inner`insert into ${inner(t)} values (2)`
      await inner`insert into ${inner(t)} values (1)`
    }))
    await tx`insert into ${tx(t)} values (3)`
    same((await tx`show transaction_isolation`)[0].transaction_isolation, 'serializable')
  })
  same(plain(await a`select n from ${a(t)} order by 1`), [{ n: 1 }, { n: 3 }])
})

test('a transaction may be one pipeline', async () => {
  const a = connect()
  const found = await a.begin((tx) => Array.from({ length: 50 }, (_, n) => tx`select ${n}::int as n`))
  same(found.map(([row]) => row.n), Array.from({ length: 50 }, (_, n) => n))
})

test('a transaction is prepared on one server and committed on another', async () => {
  const a = connect()
  const [{ max_prepared_transactions: most }] = await a`show max_prepared_transactions`
  if (most === '0') return 'skipped: max_prepared_transactions is 0'
  const t = await table(a, 'n int')
  const id = marker()
  let pid
  await a.begin(async (tx) => {
    ;[{ pid }] = await tx`select pg_backend_pid() as pid`
    await tx`insert into ${tx(t)} values (1)`
    await tx.prepare(id)
  })
  await elsewhere(pid, () => a.unsafe(`commit prepared '${id}'`))
  same(plain(await a`select n from ${a(t)}`), [{ n: 1 }])
})

// --- prepared statements ----------------------------------------------------------------------------------------

test('a prepared statement works on whichever server comes next', async () => {
  const a = connect()
  const seen = new Set()
  let pid = 0
  for (let number = 0; number < 6; number += 1) {
    await elsewhere(pid, async () => {
      const [row] = await a`select pg_backend_pid() as pid, ${number}::int + 1 as sum`
      same(row.sum, number + 1)
      pid = row.pid
    })
    seen.add(pid)
  }
  return `${seen.size} servers`
})

test('many clients with the same statements each get their own answers', () =>
  allAtOnce(20, async (number) => {
    const a = connect()
    for (let round = 0; round < 20; round += 1) {
      same((await a`select ${number}::int * 1000 + ${round}::int as found`)[0].found, number * 1000 + round)
      same((await a`select ${`client ${number}`}::text as own`)[0].own, `client ${number}`)
    }
  }))

test('without prepare the unnamed statement is used, described in one round trip and run in the next', () =>
  allAtOnce(12, async (number) => {
    const a = connect({ prepare: false })
    for (let round = 0; round < 20; round += 1) {
      same((await a`select ${number}::int * 1000 + ${round}::int as found`)[0].found, number * 1000 + round)
    }
  }))

test('a statement that fails to parse is not remembered', async () => {
  const a = connect()
  const name = `${SCHEMA}.${marker()}`
  const query = () => a.unsafe(`select n from ${name} where n = $1`, [1], { prepare: true })
  await failsWith('42P01', query())
  await failsWith('42P01', query())
  await a.unsafe(`create table ${name} (n int)`)
  same(plain(await query()), [])
})

test('a prepared statement whose result type changes is healed', async () => {
  const [a, b] = [connect(), connect()]
  const t = await table(b, 'n int')
  await b`insert into ${b(t)} values (1)`
  // Not a boolean parameter: when postgres.js tries again it serializes `true` a second time, to false.
  const query = () => a`select * from ${a(t)} where ${1}::int = 1`
  same(plain(await query()), [{ n: 1 }])
  await b.unsafe(`alter table ${t} add column word text default 'two'`)
  same(plain(await query()), [{ n: 1, word: 'two' }])
  await b.unsafe(`alter table ${t} alter column n type text`)
  same(plain(await query()), [{ n: '1', word: 'two' }])
})

test('DISCARD ALL and DEALLOCATE ALL forget the statements of that client only', async () => {
  const [a, b] = [connect(), connect()]
  for (const forget of ['deallocate all', 'discard all']) {
    await a`select ${1}::int as n`
    await b`select ${1}::int as n`
    await a.unsafe(forget)
    // postgres.js prepares again when a server says 26000; without a pooler as with one.
    same(plain(await a`select ${2}::int as n`), [{ n: 2 }])
    same(plain(await b`select ${3}::int as n`), [{ n: 3 }])
  }
})

// --- pipelines, streams and copy --------------------------------------------------------------------------------

test('a thousand queries in flight on one connection answer in order, prepared and not', async () => {
  for (const prepare of [true, false]) {
    const a = connect({ prepare, max_pipeline: 100 })
    const found = await Promise.all(Array.from({ length: 1000 }, (_, n) => a`select ${n}::int as n`))
    same(found.map(([row]) => row.n), Array.from({ length: 1000 }, (_, n) => n))
  }
})

test('pipelines of many clients, with errors in them, are not mixed', () =>
  allAtOnce(12, async (number) => {
    const a = connect()
    const outcomes = await Promise.allSettled(
      Array.from({ length: 120 }, (_, n) => a`select ${number * 1000 + n}::int / ${n % 10 === 3 ? 0 : 1}::int as n`),
    )
    outcomes.forEach(({ value, reason }, n) => {
      if (n % 10 === 3) same(reason?.code, '22012')
      else same(value?.[0].n, number * 1000 + n)
    })
  }))

test('a million rows come through a cursor', async () => {
  const a = connect()
  let total = 0
  await a`select n from generate_series(1, ${MILLION}::int) n`.cursor(20_000, (rows) => {
    for (const { n } of rows) total += n
  })
  same(total, (MILLION * (MILLION + 1)) / 2)
})

test('a cursor that is left early leaves the connection usable', async () => {
  const a = connect()
  let seen = 0
  for await (const rows of a`select generate_series(1, 1000000) as n`.cursor(100)) {
    seen += rows.length
    if (seen >= 300) break
  }
  same(seen, 300)
  same(plain(await a`select 1 as n`), [{ n: 1 }])
})

test('rows are handed over one by one as they come', async () => {
  const a = connect()
  let total = 0
  await a`select generate_series(1, 100000) as n`.forEach(({ n }) => {
    total += n
  })
  same(total, 5_000_050_000)
})

test('COPY in and out carries every row', async () => {
  const a = connect()
  const t = await table(a, 'n int, word text')
  const lines = Array.from({ length: 20_000 }, (_, n) => `${n}\tgrüßt ${n}\n`)
  await pipeline(Readable.from(lines), await a`copy ${a(t)} from stdin`.writable())
  same(plain(await a`select count(*)::int as n from ${a(t)}`), [{ n: lines.length }])
  const copied = async (sql, count) => {
    const chunks = []
    for await (const chunk of await sql.unsafe(`copy (select * from ${t} order by n limit ${count}) to stdout`).readable()) chunks.push(chunk)
    same(Buffer.concat(chunks).toString() === lines.slice(0, count).join(''), true, 'what came back')
  }
  await copied(a, 500)
  same(plain(await a`select 1 as n`), [{ n: 1 }])
  // postgres.js may leave its socket paused after a COPY that filled its buffer: the last thing this connection does.
  const last = connect()
  await copied(last, lines.length)
  await last.end({ timeout: 0 })
})

// --- errors and cancel ------------------------------------------------------------------------------------------

test('errors come with their SQLSTATE and the connection is usable after each', async () => {
  const a = connect()
  const t = await table(a, 'n int primary key check (n > 0), word text not null')
  await a`insert into ${a(t)} values (1, 'one')`
  for (const [sqlstate, query] of [
    ['42601', () => a`selec 1`],
    ['22012', () => a`select 1 / 0`],
    ['22012', () => a`select 1 / ${0}::int`],
    ['42703', () => a`select no_such_column`],
    ['23505', () => a`insert into ${a(t)} values (1, 'again')`],
    ['23514', () => a`insert into ${a(t)} values (-1, ${'negative'})`],
    ['23502', () => a`insert into ${a(t)} values (2, ${null})`],
  ]) {
    for (let round = 0; round < 2; round += 1) {
      await failsWith(sqlstate, query)
      same(plain(await a`select 1 as n`), [{ n: 1 }])
    }
  }
})

test('several statements in one simple query give several results', async () => {
  const a = connect()
  const found = await a`select 1 as n; select 2 as n`.simple()
  same(found.map(plain), [[{ n: 1 }], [{ n: 2 }]])
  await failsWith('22012', a`select 1; select 1 / 0; select 2`.simple())
  same(plain(await a`select 1 as n`), [{ n: 1 }])
})

test('cancel() stops the running query and the connection is usable', async () => {
  const a = connect()
  for (let round = 0; round < 3; round += 1) {
    const word = marker()
    const query = a.unsafe(`select pg_sleep(30) /* ${word} */`)
    const outcome = failsWith('57014', query)
    await waitUntilRunning(word)
    query.cancel()
    await outcome
    same(plain(await a`select ${round}::int as n`), [{ n: round }])
  }
})

test('statement_timeout cancels and is the client\'s own', async () => {
  const [a, b] = [connect({ connection: { statement_timeout: 60 } }), connect()]
  for (let round = 0; round < 3; round += 1) {
    await failsWith('57014', a`select pg_sleep(30)`)
    same((await b`select pg_sleep(0.1)`).count, 1)
    same((await a`show statement_timeout`)[0].statement_timeout, '60ms')
  }
})

// --- values -----------------------------------------------------------------------------------------------------

test('one value of 50 MB comes and goes', async () => {
  const a = connect()
  same((await a`select repeat('x', ${LARGE}::int) as x`)[0].x.length, LARGE)
  same((await a`select length(${Buffer.alloc(LARGE)}::bytea) as n`)[0].n, LARGE)
  same(plain(await a`select 1 as n`), [{ n: 1 }])
}, { deadline: 30 })

test('values of many types go there and back', async () => {
  const a = connect()
  const bytes = Buffer.from([0, 255, 92])
  const words = "Grüße, 世界 🐘 'quoted' \\ $1 --"
  const [row] = await a`select ${true}::bool as yes, ${-7}::int as n, ${'9223372036854775807'}::int8 as big, ${1.5}::float8 as f,
    ${words}::text as words, ${''}::text as empty, ${null}::text as nothing, ${bytes}::bytea as bytes, ${new Date(0)}::timestamptz as at,
    ${a.json({ ключ: ['🐘', null] })}::jsonb as json, ${[1, 2, 3]}::int[] as list`
  same({ ...row }, {
    yes: true, n: -7, big: '9223372036854775807', f: 1.5, words, empty: '', nothing: null, bytes, at: new Date(0),
    json: { ключ: ['🐘', null] }, list: [1, 2, 3],
  })
  same((await a`select ${['a', 'b"c,{}']}::text[] as list`)[0].list, ['a', 'b"c,{}'])
})

test('rows are inserted by the thousand', async () => {
  const a = connect()
  const t = await table(a, 'n int, word text')
  const rows = Array.from({ length: 5000 }, (_, n) => ({ n, word: `word ${n}` }))
  same((await a`insert into ${a(t)} ${a(rows)} returning n`).length, 5000)
})

// --- many clients and the session's state -----------------------------------------------------------------------

test('fifty clients over the same servers each get their own rows', async () => {
  const pool = connect({ max: CLIENTS })
  await allAtOnce(CLIENTS * 2, async (number) => {
    const own = `client ${number} ${marker()}`
    for (let round = 0; round < 8; round += 1) {
      same((await pool`select ${own}::text as own`)[0].own, own)
      await pool.begin(async (tx) => {
        await tx`select set_config('drivers.own', ${own}, true)`
        same((await tx`select current_setting('drivers.own') as own`)[0].own, own)
      })
      if (round % 4 === 0) await failsWith('22P02', pool`select ${own}::text::int`)
    }
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
    const a = connect({ connection: { lock_timeout: 200 + number } })
    for (const [name, value] of Object.entries(own)) await a.unsafe(`set ${name} to '${value}'`)
    for (let round = 0; round < 8; round += 1) {
      for (const [name, value] of Object.entries(own)) {
        same((await a`select current_setting(${name}) as value`)[0].value, value, name)
      }
      same((await a`show lock_timeout`)[0].lock_timeout, `${200 + number}ms`)
    }
  }))

test('listen hears what another client says', async () => {
  const [listener, b] = [connect(), connect()]
  const channel = marker()
  let tell
  const heard = new Promise((resolve) => {
    tell = resolve
  })
  const { unlisten } = await listener.listen(channel, tell)
  await b.notify(channel, 'to you')
  same(await within(10, heard), 'to you')
  await unlisten()
}, { refusable: true })

test('a reserved connection keeps a temporary table and an advisory lock that nobody else has', async () => {
  const [a, b] = [connect(), connect()]
  const name = marker()
  const key = Number.parseInt(name.slice(-8), 16)
  const reserved = await a.reserve()
  await reserved.unsafe(`create temp table ${name} as select 1 as n`)
  await reserved`select pg_advisory_lock(${key}::bigint)`
  for (let round = 0; round < 5; round += 1) {
    same(plain(await reserved.unsafe(`select n from ${name}`)), [{ n: 1 }])
    same((await b`select to_regclass(${name}) is null as hidden`)[0].hidden, true)
    same((await b`select pg_try_advisory_xact_lock(${key}::bigint) as got`)[0].got, false)
  }
  same((await reserved`select pg_advisory_unlock(${key}::bigint) as freed`)[0].freed, true)
  reserved.release()
  await a.end()
  for (let round = 0; round < 5; round += 1) {
    same((await b`select to_regclass(${name}) is null as hidden`)[0].hidden, true)
  }
}, { refusable: true })

await runAll()
