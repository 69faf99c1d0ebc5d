// net/http and pgx, as a good team would write it: a connection pool, prepared statements, one transaction per order.
// Like the other peers, it has no keys, no log and no journal. It builds against Debian's packages (golang-go and
// golang-github-jackc-pgx-v4-dev), so it needs neither modules nor a module proxy.
package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

const columns = `id::text, sku, name, description, price::text, currency, quantity, attributes::text, version,
  created_at, updated_at`

const place = `
with lines as (
  select * from unnest($7::int[], $8::text[]::uuid[], $9::text[], $10::text[], $11::int[], $12::text[]::numeric[],
      $13::text[]::numeric[], $14::int[], $15::int[])
    as t (line_no, item_id, sku, name, quantity, unit_price, amount, remaining, version)
), updated_items as (
  update items i set quantity = remaining, version = lines.version, updated_at = $6
  from lines where i.id = lines.item_id
), placed as (
  insert into orders (id, status, customer_id, reference, currency, total, version, created_at)
  values ($1::text::uuid, 'placed', $2, $3, $4, $5::text::numeric, 1, $6)
), ledger_rows as (
  insert into transactions (id, order_id, kind, amount, currency, created_at)
  values ($16::text::uuid, $1::text::uuid, 'sale', $5::text::numeric, $4, $6)
), inserted_lines as (
  insert into order_lines (order_id, line_no, item_id, sku, name, quantity, unit_price, amount)
  select $1::text::uuid, line_no, item_id, sku, name, quantity, unit_price, amount from lines
)
insert into movements (item_id, version, cause, delta, resulting_quantity, order_id, created_at)
select item_id, version, 'order', -quantity, remaining, $1::text::uuid, $6 from lines`

type item struct {
	ID          string          `json:"id"`
	SKU         string          `json:"sku"`
	Name        string          `json:"name"`
	Description *string         `json:"description"`
	Price       string          `json:"price"`
	Currency    string          `json:"currency"`
	Quantity    int32           `json:"quantity"`
	Attributes  json.RawMessage `json:"attributes"`
	Version     int32           `json:"version"`
	CreatedAt   time.Time       `json:"created_at"`
	UpdatedAt   time.Time       `json:"updated_at"`
}

type page struct {
	Data       []item  `json:"data"`
	NextCursor *string `json:"next_cursor"`
}

type itemPatch struct {
	Name  *string `json:"name"`
	Price *string `json:"price"`
}

type newOrder struct {
	CustomerID string  `json:"customer_id"`
	Reference  *string `json:"reference"`
	Lines      []struct {
		ItemID   string `json:"item_id"`
		Quantity int32  `json:"quantity"`
	} `json:"lines"`
}

type line struct {
	ItemID    string `json:"item_id"`
	SKU       string `json:"sku"`
	Name      string `json:"name"`
	Quantity  int32  `json:"quantity"`
	UnitPrice string `json:"unit_price"`
	Amount    string `json:"amount"`
}

type order struct {
	ID         string    `json:"id"`
	Status     string    `json:"status"`
	CustomerID string    `json:"customer_id"`
	Reference  *string   `json:"reference"`
	Currency   string    `json:"currency"`
	Total      string    `json:"total"`
	Lines      []line    `json:"lines"`
	Version    int32     `json:"version"`
	CreatedAt  time.Time `json:"created_at"`
}

type stocked struct {
	id, sku, name, price, currency string
	quantity, version              int32
}

var errNotFound = errors.New("NOT_FOUND")
var errUnknownItem = errors.New("UNKNOWN_ITEM")
var errInsufficientStock = errors.New("INSUFFICIENT_STOCK")
var errInvalid = errors.New("VALIDATION_FAILED")

var statuses = map[error]int{errNotFound: 404, errUnknownItem: 422, errInsufficientStock: 409, errInvalid: 422}

type service struct{ pool *pgxpool.Pool }

func main() {
	port := flag.Int("port", 8000, "port to listen on")
	workers := flag.Int("workers", 1, "processor cores to use")
	flag.Parse()
	runtime.GOMAXPROCS(*workers)
	config, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	size, _ := strconv.Atoi(os.Getenv("POOL_SIZE"))
	config.MaxConns = int32(size)
	pool, err := pgxpool.ConnectConfig(context.Background(), config)
	if err != nil {
		log.Fatal(err)
	}
	s := service{pool}
	routes := http.NewServeMux()
	routes.HandleFunc("/items", s.items)
	routes.HandleFunc("/items/", s.item)
	routes.HandleFunc("/orders", s.orders)
	server := http.Server{Addr: fmt.Sprintf("127.0.0.1:%d", *port), Handler: routes}
	interrupted, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	go func() {
		if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
			log.Fatal(err)
		}
	}()
	<-interrupted.Done()
	_ = server.Shutdown(context.Background())
}

func (s service) item(w http.ResponseWriter, r *http.Request) {
	id := strings.TrimPrefix(r.URL.Path, "/items/")
	if r.Method == http.MethodPatch {
		var patch itemPatch
		if json.NewDecoder(r.Body).Decode(&patch) != nil {
			fail(w, errInvalid)
			return
		}
		found, err := scan(s.pool.QueryRow(r.Context(), `update items set name = coalesce($2, name),
		  price = coalesce($3::text::numeric, price), version = version + 1, updated_at = now()
		  where id = $1::text::uuid returning `+columns, id, patch.Name, patch.Price))
		answer(w, 200, found, err)
		return
	}
	found, err := scan(s.pool.QueryRow(r.Context(), "select "+columns+" from items where id = $1::text::uuid", id))
	answer(w, 200, found, err)
}

func (s service) items(w http.ResponseWriter, r *http.Request) {
	limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil {
		limit = 50
	}
	var cursor *string
	if given := r.URL.Query().Get("cursor"); given != "" {
		cursor = &given
	}
	rows, err := s.pool.Query(r.Context(), "select "+columns+` from items
	  where $1::text::uuid is null or id < $1::text::uuid order by id desc limit $2`, cursor, limit+1)
	if err != nil {
		fail(w, err)
		return
	}
	defer rows.Close()
	result := page{Data: make([]item, 0, limit)}
	for rows.Next() {
		found, err := scan(rows)
		if err != nil {
			fail(w, err)
			return
		}
		if len(result.Data) == limit {
			result.NextCursor = &result.Data[limit-1].ID
			break
		}
		result.Data = append(result.Data, found)
	}
	answer(w, 200, result, rows.Err())
}

func (s service) orders(w http.ResponseWriter, r *http.Request) {
	var wanted newOrder
	if json.NewDecoder(r.Body).Decode(&wanted) != nil || len(wanted.Lines) == 0 {
		fail(w, errInvalid)
		return
	}
	var placed order
	err := s.pool.BeginFunc(r.Context(), func(transaction pgx.Tx) (err error) {
		placed, err = placeOrder(r.Context(), transaction, wanted)
		return err
	})
	answer(w, 201, placed, err)
}

func placeOrder(ctx context.Context, transaction pgx.Tx, wanted newOrder) (order, error) {
	quantities := map[string]int32{}
	for _, line := range wanted.Lines {
		quantities[line.ItemID] += line.Quantity
	}
	ids := make([]string, 0, len(quantities))
	for id := range quantities {
		ids = append(ids, id)
	}
	stock, err := lock(ctx, transaction, ids)
	if err != nil {
		return order{}, err
	}
	if len(stock) < len(ids) {
		return order{}, errUnknownItem
	}
	for _, item := range stock {
		if item.quantity < quantities[item.id] {
			return order{}, errInsufficientStock
		}
	}
	sold := sell(wanted, stock, quantities)
	return sold, store(ctx, transaction, sold, stock)
}

func lock(ctx context.Context, transaction pgx.Tx, ids []string) ([]stocked, error) {
	rows, err := transaction.Query(ctx, `select id::text, sku, name, price::text, currency, quantity, version from items
	  where id = any($1::text[]::uuid[]) order by id for no key update`, ids)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var stock []stocked
	for rows.Next() {
		var one stocked
		if err := rows.Scan(&one.id, &one.sku, &one.name, &one.price, &one.currency, &one.quantity, &one.version); err != nil {
			return nil, err
		}
		stock = append(stock, one)
	}
	return stock, rows.Err()
}

func sell(wanted newOrder, stock []stocked, quantities map[string]int32) order {
	lines, total := make([]line, len(stock)), int64(0)
	for n, item := range stock {
		amount := cents(item.price) * int64(quantities[item.id])
		total += amount
		lines[n] = line{item.id, item.sku, item.name, quantities[item.id], item.price, money(amount)}
	}
	return order{
		ID: uuid7(), Status: "placed", CustomerID: wanted.CustomerID, Reference: wanted.Reference, Currency: stock[0].currency,
		Total: money(total), Lines: lines, Version: 1, CreatedAt: time.Now().UTC(),
	}
}

func store(ctx context.Context, transaction pgx.Tx, sold order, stock []stocked) error {
	count := len(sold.Lines)
	numbers, quantities, remaining, versions := make([]int32, count), make([]int32, count), make([]int32, count), make([]int32, count)
	ids, skus, names, prices, amounts := make([]string, count), make([]string, count), make([]string, count), make([]string, count), make([]string, count)
	for n, line := range sold.Lines {
		numbers[n], quantities[n] = int32(n+1), line.Quantity
		remaining[n], versions[n] = stock[n].quantity-line.Quantity, stock[n].version+1
		ids[n], skus[n], names[n], prices[n], amounts[n] = line.ItemID, line.SKU, line.Name, line.UnitPrice, line.Amount
	}
	_, err := transaction.Exec(ctx, place, sold.ID, sold.CustomerID, sold.Reference, sold.Currency, sold.Total, sold.CreatedAt,
		numbers, ids, skus, names, quantities, prices, amounts, remaining, versions, uuid7())
	return err
}

func scan(row pgx.Row) (item, error) {
	var found item
	var attributes *string
	err := row.Scan(&found.ID, &found.SKU, &found.Name, &found.Description, &found.Price, &found.Currency, &found.Quantity,
		&attributes, &found.Version, &found.CreatedAt, &found.UpdatedAt)
	if attributes != nil {
		found.Attributes = json.RawMessage(*attributes)
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return found, errNotFound
	}
	return found, err
}

func answer(w http.ResponseWriter, status int, body interface{}, err error) {
	if err != nil {
		fail(w, err)
		return
	}
	encoded, err := json.Marshal(body)
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(encoded)
}

func fail(w http.ResponseWriter, err error) {
	status, known := statuses[err]
	if !known {
		log.Print(err)
		status, err = 500, errors.New("INTERNAL_ERROR")
	}
	http.Error(w, fmt.Sprintf(`{"error":{"code":"%v"}}`, err), status)
}

func cents(price string) int64 {
	amount, _ := strconv.ParseInt(strings.Replace(price, ".", "", 1), 10, 64)
	return amount
}

func money(amount int64) string { return fmt.Sprintf("%d.%02d", amount/100, amount%100) }

func uuid7() string {
	var id [16]byte
	_, _ = rand.Read(id[6:])
	var now [8]byte
	binary.BigEndian.PutUint64(now[:], uint64(time.Now().UnixMilli())<<16)
	copy(id[:6], now[:6])
	id[6], id[8] = id[6]&0x0f|0x70, id[8]&0x3f|0x80
	text := hex.EncodeToString(id[:])
	return text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:]
}
