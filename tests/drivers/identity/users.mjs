// The two users of docker/postgres/init.sql, what each may see, and a crowd of requests that come from both at once.

import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const tools = process.env.TOOLS_DIR || join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..', '.tools')

/** Packages come from TOOLS_DIR/node (see install.sh). */
export const load = createRequire(join(tools, 'node', 'package.json'))

const ADA = '11111111-1111-1111-1111-111111111111'
const BOB = '22222222-2222-2222-2222-222222222222'
const PLANS = { [ADA]: ['enterprise', 'team'], [BOB]: ['free'] }

assert(process.env.DATABASE_URL, "DATABASE_URL is not set: saas_user's, through pgusher")
export const URL = process.env.DATABASE_URL

/** Runs `request(user)` for many requests at once, whose neighbours differ; each must see its own user's plans only. */
export async function check(request) {
  const users = Array.from({ length: 40 }, (_, number) => (number % 2 ? BOB : ADA))
  const answers = await Promise.all(users.map(request))
  answers.forEach((rows, number) => assert.deepEqual(rows.map(({ plan }) => plan).sort(), PLANS[users[number]]))
  console.log(`ok ${answers.length} requests of two users each saw their own rows`)
}
