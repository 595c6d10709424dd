// node-postgres: say who the user is on the client that the pool hands out.

import { URL, check, load } from './users.mjs'

const pg = load('pg')
const pool = new pg.Pool({ connectionString: URL, max: 8 })

async function as(user, work) {
  const client = await pool.connect()
  try {
    await client.query("select set_config('app.current_user_id', $1, false)", [user])
    return await work(client)
  } finally {
    client.release()
  }
}

await check((user) => as(user, async (client) => (await client.query('select plan from billing.subscriptions')).rows))
await pool.end()
