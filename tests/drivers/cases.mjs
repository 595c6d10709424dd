// What the Node driver tests share: named cases, a runner, and a way to make the pooler change servers.
// The same contract as cases.py, environment and output included. Packages come from TOOLS_DIR/node (see install.sh).

import { AsyncLocalStorage } from 'node:async_hooks'
import { randomBytes } from 'node:crypto'
import { createRequire } from 'node:module'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { inspect, isDeepStrictEqual } from 'node:util'

const here = dirname(fileURLToPath(import.meta.url))
const tools = process.env.TOOLS_DIR || join(here, '..', '..', '.tools')

export const load = createRequire(join(tools, 'node', 'package.json'))

const pg = load('pg')

if (!process.env.DATABASE_URL) {
  console.error('DATABASE_URL is not set: it names the database under test')
  process.exit(1)
}

export const DATABASE_URL = process.env.DATABASE_URL
export const ADMIN_URL = process.env.ADMIN_URL || DATABASE_URL
export const SCHEMA = `${basename(process.argv[1], '.mjs')}_${randomBytes(4).toString('hex')}`

const FEATURE_NOT_SUPPORTED = '0A000'
const cases = []
const closers = new AsyncLocalStorage()

/** Registers `body` as the test of `sentence`. It fails by throwing; what it returns is a remark. */
export function test(sentence, body, { deadline = 20, refusable = false } = {}) {
  cases.push({ sentence, body, deadline, refusable })
}

/** Has `close` called when the current case ends, however it ends. */
export function atEnd(close) {
  closers.getStore().push(close)
}

/** Runs the registered cases in order, inside a schema of this run's own, and exits. */
export async function runAll() {
  const wanted = cases.filter(({ sentence }) => sentence.includes(process.env.ONLY ?? ''))
  let strays = 0
  process.on('unhandledRejection', (error) => {
    strays += 1
    console.log(`FAILED an error that no case waited for: ${oneLine(error)}`)
  })
  await administer(`create schema ${SCHEMA}`)
  let failures = 0
  for (const each of wanted) failures += (await run(each)) ? 0 : 1
  // A failed case may have left a lock behind; tidying up does not wait for it.
  await administer(`set lock_timeout = '3s'; drop schema if exists ${SCHEMA} cascade`)
  process.exit(failures + strays > 0 ? 1 : 0)
}

async function run({ sentence, body, deadline, refusable }) {
  const toClose = []
  try {
    const remark = await within(deadline, closers.run(toClose, async () => body()))
    console.log(`ok ${sentence}${typeof remark === 'string' ? ` # ${remark}` : ''}`)
    return true
  } catch (error) {
    if (refusable && process.env.ALLOW_REFUSED === '1' && error?.code === FEATURE_NOT_SUPPORTED) {
      console.log(`ok ${sentence} # refused: ${oneLine(error)}`)
      return true
    }
    console.log(`FAILED ${sentence}: ${oneLine(error)}`)
    console.error(error?.stack ?? error)
    return false
  } finally {
    const closed = Promise.allSettled(toClose.reverse().map(async (close) => close()))
    await within(5, closed).catch(() => console.error(`connections of "${sentence}" did not close within 5 s`))
  }
}

async function administer(sql) {
  const client = new pg.Client(ADMIN_URL)
  try {
    await client.connect()
    await client.query(sql)
    await client.end()
  } catch (error) {
    console.log(`FAILED to set up or tidy up: ${oneLine(error)}`)
    process.exit(1)
  }
}

function oneLine(error) {
  const code = error?.code ? `${error.code} ` : ''
  return `${code}${String(error?.message ?? error).replace(/\s+/g, ' ')}`.slice(0, 500)
}

// --- what cases say ---------------------------------------------------------------------------------------------

/** Rejects if `promise` does not settle in time. */
export async function within(seconds, promise) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`did not end within ${seconds} s`)), seconds * 1000)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}

export function same(found, expected, what = 'value') {
  if (isDeepStrictEqual(found, expected)) return
  const brief = (value) => inspect(value, { breakLength: Infinity, maxStringLength: 200, maxArrayLength: 10 })
  throw new Error(`${what}: expected ${brief(expected)}, found ${brief(found)}`)
}

/** `work`, a promise or a function, must fail with one of these SQLSTATEs; returns the error. */
export async function failsWith(sqlstates, work) {
  const wanted = [sqlstates].flat()
  try {
    await (typeof work === 'function' ? work() : work)
  } catch (error) {
    if (!wanted.includes(error.code)) throw error
    return error
  }
  throw new Error(`should have failed with ${wanted.join(' or ')}, and did not`)
}

/** Runs work(0) to work(count - 1) at once. Waits for all of them, then throws what the first to fail threw. */
export async function allAtOnce(count, work) {
  const outcomes = await Promise.allSettled(Array.from({ length: count }, (_, number) => work(number)))
  const failed = outcomes.find(({ status }) => status === 'rejected')
  if (failed) throw failed.reason
  return outcomes.map(({ value }) => value)
}

/** A word that occurs nowhere else, to be found in pg_stat_activity or in a row. */
export const marker = () => `marker_${randomBytes(6).toString('hex')}`

/** Returns once a server is executing a statement that contains `word`; asks the database, over and over. */
export async function waitUntilRunning(word, seconds = 10) {
  const observer = new pg.Client(ADMIN_URL)
  await observer.connect()
  try {
    const ask = `select 1 from pg_stat_activity
      where state = 'active' and pid <> pg_backend_pid() and query like '%' || $1 || '%'`
    const end = performance.now() + seconds * 1000
    while ((await observer.query(ask, [word])).rowCount === 0) {
      if (performance.now() > end) throw new Error(`no server began to run ${word} within ${seconds} s`)
    }
  } finally {
    await observer.end()
  }
}

/**
 * Runs `work` while the next transaction of anybody runs on another server than `pid`.
 *
 * Holds two servers in transactions, so a pool of two is full, and lets go of one that is not `pid`. Nobody else may be
 * in a transaction or pinned. In a larger pool, and without a pooler, nothing is forced and nothing breaks.
 */
export async function elsewhere(pid, work) {
  const holders = [new pg.Client(DATABASE_URL), new pg.Client(DATABASE_URL)]
  try {
    const pids = []
    for (const holder of holders) {
      await holder.connect()
      await holder.query('begin')
      pids.push((await holder.query('select pg_backend_pid() as pid')).rows[0].pid)
    }
    await holders[pids[0] === pid ? 1 : 0].query('rollback')
    return await work()
  } finally {
    await Promise.allSettled(holders.map((holder) => holder.end()))
  }
}
