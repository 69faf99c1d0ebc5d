// Fastify 5 and postgres.js, as a good team would write it: schemas for requests and replies, prepared statements, one
// transaction per order. Like the other peers, it has no keys, no log and no journal.
import cluster from 'node:cluster'
import { parseArgs } from 'node:util'

import Fastify from 'fastify'
import postgres from 'postgres'
import { v7 as uuid7 } from 'uuid'

const HOST = '127.0.0.1'
const COLUMNS = `id, sku, name, description, price::text, currency, quantity, attributes, version, created_at, updated_at`

const TEXT = { type: 'string' }
const NULLABLE_TEXT = { type: ['string', 'null'] }
const ID = { type: 'object', properties: { id: { type: 'string', format: 'uuid' } } }
const ITEM = {
  type: 'object',
  properties: {
    id: TEXT, sku: TEXT, name: TEXT, description: NULLABLE_TEXT, price: TEXT, currency: TEXT, quantity: { type: 'integer' },
    attributes: { type: ['object', 'null'], additionalProperties: true }, version: { type: 'integer' },
    created_at: { type: 'string', format: 'date-time' }, updated_at: { type: 'string', format: 'date-time' },
  },
}
const PAGE_QUERY = { type: 'object', properties: { limit: { type: 'integer', default: 50, maximum: 200 }, cursor: TEXT } }
const PAGE = { type: 'object', properties: { data: { type: 'array', items: ITEM }, next_cursor: NULLABLE_TEXT } }
const ITEM_PATCH = { type: 'object', properties: { name: TEXT, price: TEXT } }
const NEW_LINE = {
  type: 'object', required: ['item_id', 'quantity'], properties: { item_id: TEXT, quantity: { type: 'integer', minimum: 1 } },
}
const NEW_ORDER = {
  type: 'object',
  required: ['customer_id', 'lines'],
  properties: { customer_id: TEXT, reference: NULLABLE_TEXT, lines: { type: 'array', minItems: 1, items: NEW_LINE } },
}
const LINE = {
  type: 'object',
  properties: { item_id: TEXT, sku: TEXT, name: TEXT, quantity: { type: 'integer' }, unit_price: TEXT, amount: TEXT },
}
const ORDER = {
  type: 'object',
  properties: {
    id: TEXT, status: TEXT, customer_id: TEXT, reference: NULLABLE_TEXT, currency: TEXT, total: TEXT,
    lines: { type: 'array', items: LINE }, version: { type: 'integer' }, created_at: { type: 'string', format: 'date-time' },
  },
}

const { values: options } = parseArgs({ options: { port: { type: 'string' }, workers: { type: 'string', default: '1' } } })
const workers = Number(options.workers)
process.on('SIGINT', () => process.exit(0))

if (workers > 1 && cluster.isPrimary) {
  for (let started = 0; started < workers; started++) cluster.fork()
} else {
  await serve(Number(options.port))
}

async function serve(port) {
  const sql = connect(process.env.DATABASE_URL, Number(process.env.POOL_SIZE))
  const app = Fastify()
  app.get('/items/:id', { schema: { params: ID, response: { 200: ITEM } } }, (request, reply) => readItem(sql, request, reply))
  app.get('/items', { schema: { querystring: PAGE_QUERY, response: { 200: PAGE } } }, (request) => listItems(sql, request.query))
  app.patch('/items/:id', { schema: { params: ID, body: ITEM_PATCH, response: { 200: ITEM } } }, (request, reply) =>
    patchItem(sql, request, reply))
  app.post('/orders', { schema: { body: NEW_ORDER, response: { 201: ORDER } } }, (request, reply) => placeOrder(sql, request, reply))
  await app.listen({ host: HOST, port })
}

function connect(address, max) {
  const url = new URL(address.replace('@/', '@localhost/')) // a socket's URL has no host, which URL does not allow
  const directory = url.searchParams.get('host')
  const place = directory ? { path: `${directory}/.s.PGSQL.${url.port || 5432}` } : { host: url.hostname, port: Number(url.port) }
  const NUMERIC = 1700
  return postgres({
    ...place,
    max,
    database: url.pathname.slice(1),
    username: url.username,
    password: url.password,
    types: { numeric: { to: NUMERIC, from: [NUMERIC], serialize: String, parse: String } },
  })
}

async function readItem(sql, request, reply) {
  const [item] = await sql`select ${sql.unsafe(COLUMNS)} from items where id = ${request.params.id}`
  return item ?? reply.code(404).send({ error: { code: 'NOT_FOUND' } })
}

async function listItems(sql, { limit, cursor }) {
  const rows = cursor
    ? await sql`select ${sql.unsafe(COLUMNS)} from items where id < ${cursor} order by id desc limit ${limit + 1}`
    : await sql`select ${sql.unsafe(COLUMNS)} from items order by id desc limit ${limit + 1}`
  const data = rows.slice(0, limit)
  return { data, next_cursor: rows.length > limit ? data.at(-1).id : null }
}

async function patchItem(sql, request, reply) {
  const { name = null, price = null } = request.body
  const [item] = await sql`
    update items set name = coalesce(${name}, name), price = coalesce(${price}::text::numeric, price),
      version = version + 1, updated_at = now()
    where id = ${request.params.id} returning ${sql.unsafe(COLUMNS)}`
  return item ?? reply.code(404).send({ error: { code: 'NOT_FOUND' } })
}

async function placeOrder(sql, request, reply) {
  const wanted = new Map()
  for (const line of request.body.lines) wanted.set(line.item_id, (wanted.get(line.item_id) ?? 0) + line.quantity)
  const { status, body } = await sql.begin(async (transaction) => {
    const stock = await transaction`
      select id, sku, name, price, currency, quantity, version from items
      where id = any(${[...wanted.keys()]}::uuid[]) order by id for no key update`
    if (stock.length < wanted.size) return { status: 422, body: { error: { code: 'UNKNOWN_ITEM' } } }
    if (stock.some((item) => item.quantity < wanted.get(item.id))) {
      return { status: 409, body: { error: { code: 'INSUFFICIENT_STOCK' } } }
    }
    const order = sell(request.body, stock, wanted)
    await store(transaction, order, stock)
    return { status: 201, body: order }
  })
  return reply.code(status).send(body)
}

function sell({ customer_id, reference = null }, stock, wanted) {
  const lines = stock.map((item) => {
    const quantity = wanted.get(item.id)
    const amount = money(cents(item.price) * BigInt(quantity))
    return { item_id: item.id, sku: item.sku, name: item.name, quantity, unit_price: item.price, amount }
  })
  const total = money(lines.reduce((sum, line) => sum + cents(line.amount), 0n))
  const currency = stock[0].currency
  return { id: uuid7(), status: 'placed', customer_id, reference, currency, total, lines, version: 1, created_at: new Date() }
}

async function store(transaction, order, stock) {
  const column = (name) => order.lines.map((line) => line[name])
  await transaction`
    with lines as (
      select * from unnest(${order.lines.map((_, index) => index + 1)}::int[], ${column('item_id')}::uuid[],
          ${column('sku')}::text[], ${column('name')}::text[], ${column('quantity')}::int[],
          ${column('unit_price')}::numeric[], ${column('amount')}::numeric[],
          ${stock.map((item, index) => item.quantity - order.lines[index].quantity)}::int[],
          ${stock.map((item) => item.version + 1)}::int[])
        as t (line_no, item_id, sku, name, quantity, unit_price, amount, remaining, version)
    ), updated_items as (
      update items i set quantity = remaining, version = lines.version, updated_at = ${order.created_at}
      from lines where i.id = lines.item_id
    ), placed as (
      insert into orders (id, status, customer_id, reference, currency, total, version, created_at)
      values (${order.id}, 'placed', ${order.customer_id}, ${order.reference}, ${order.currency}, ${order.total}, 1,
        ${order.created_at})
    ), ledger_rows as (
      insert into transactions (id, order_id, kind, amount, currency, created_at)
      values (${uuid7()}, ${order.id}, 'sale', ${order.total}, ${order.currency}, ${order.created_at})
    ), inserted_lines as (
      insert into order_lines (order_id, line_no, item_id, sku, name, quantity, unit_price, amount)
      select ${order.id}::uuid, line_no, item_id, sku, name, quantity, unit_price, amount from lines
    )
    insert into movements (item_id, version, cause, delta, resulting_quantity, order_id, created_at)
    select item_id, version, 'order', -quantity, remaining, ${order.id}::uuid, ${order.created_at}::timestamptz from lines`
}

function cents(price) {
  return BigInt(price.replace('.', ''))
}

function money(amount) {
  const digits = amount.toString().padStart(3, '0')
  return `${digits.slice(0, -2)}.${digits.slice(-2)}`
}
