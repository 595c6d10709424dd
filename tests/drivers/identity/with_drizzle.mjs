// Drizzle over postgres.js: say who the user is first in the transaction.

import { URL, check, load } from './users.mjs'

const postgres = load('postgres')
const { sql } = load('drizzle-orm')
const { drizzle } = load('drizzle-orm/postgres-js')
const { pgSchema, text, uuid } = load('drizzle-orm/pg-core')

const subscriptions = pgSchema('billing').table('subscriptions', { id: uuid().primaryKey(), plan: text() })
const client = postgres(URL, { max: 8 })
const db = drizzle(client)

const as = (user, work) =>
  db.transaction(async (tx) => {
    await tx.execute(sql`select set_config('app.current_user_id', ${user}, true)`)
    return work(tx)
  })

await check((user) => as(user, (tx) => tx.select({ plan: subscriptions.plan }).from(subscriptions)))
await client.end()
