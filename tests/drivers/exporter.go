// What prometheus-community's pgbouncer_exporter 0.11 asks of a console, through the driver it has (lib/pq), and what it needs of the
// answers: a connection with one statement after the other, columns found by name, and a number in each that it exports.
// DATABASE_URL is the console's. It prints each number as `table{labels} column value`.

package main

import (
	"database/sql"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"

	"github.com/lib/pq"
)

type table struct {
	name    string
	labels  []string
	numbers []string
}

var tables = []table{
	{"databases", []string{"name", "host", "port", "database", "force_user", "pool_mode"},
		[]string{"pool_size", "max_connections", "current_connections", "paused", "disabled"}},
	{"stats_totals", []string{"database"},
		[]string{"query_count", "query_time", "bytes_received", "bytes_sent", "wait_time", "xact_count", "xact_time",
			"client_parse_count", "server_parse_count", "bind_count"}},
	{"pools", []string{"database", "user"},
		[]string{"cl_active", "cl_active_cancel_req", "cl_waiting", "cl_waiting_cancel_req", "sv_active", "sv_active_cancel",
			"sv_being_canceled", "sv_idle", "sv_used", "sv_tested", "sv_login", "maxwait"}},
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// As database/sql gives it: integers, bytes where lib/pq does not know the type, and text.
func number(value interface{}) (float64, error) {
	switch value := value.(type) {
	case int64:
		return float64(value), nil
	case float64:
		return value, nil
	case []byte:
		return strconv.ParseFloat(string(value), 64)
	case string:
		return strconv.ParseFloat(value, 64)
	default:
		return 0, fmt.Errorf("%T is no number", value)
	}
}

// A label of a type that the exporter does not know is "<invalid>" there.
func label(value interface{}) (string, error) {
	switch value := value.(type) {
	case int64:
		return strconv.FormatInt(value, 10), nil
	case string:
		return value, nil
	case nil:
		return "", nil
	default:
		return "", fmt.Errorf("%T is no label", value)
	}
}

func show(db *sql.DB, what table) {
	rows, err := db.Query("SHOW " + what.name + ";")
	must(err)
	defer rows.Close()
	columns, err := rows.Columns()
	must(err)
	values := make([]interface{}, len(columns))
	targets := make([]interface{}, len(columns))
	for at := range values {
		targets[at] = &values[at]
	}
	for rows.Next() {
		must(rows.Scan(targets...))
		found := map[string]interface{}{}
		for at, column := range columns {
			found[column] = values[at]
		}
		var labels []string
		for _, name := range what.labels {
			text, err := label(found[name])
			must(err)
			labels = append(labels, text)
		}
		for _, name := range what.numbers {
			value, known := found[name]
			if !known {
				log.Fatalf("%s has no column %s", what.name, name)
			}
			count, err := number(value)
			if err != nil {
				log.Fatalf("%s.%s: %v", what.name, name, err)
			}
			fmt.Printf("%s{%s} %s %v\n", what.name, strings.Join(labels, ","), name, count)
		}
	}
	must(rows.Err())
}

// Two tables that have their numbers in rows.
func rows(db *sql.DB, statement string, width int) map[string]string {
	rows, err := db.Query(statement)
	must(err)
	defer rows.Close()
	columns, err := rows.Columns()
	must(err)
	if len(columns) != width {
		log.Fatalf("%s has %d columns, not %d", statement, len(columns), width)
	}
	found := map[string]string{}
	for rows.Next() {
		var key, last string
		var value, standard sql.RawBytes
		if width == 2 {
			must(rows.Scan(&key, &value))
		} else {
			must(rows.Scan(&key, &value, &standard, &last))
		}
		found[key] = string(value)
	}
	must(rows.Err())
	return found
}

func main() {
	connector, err := pq.NewConnector(os.Getenv("DATABASE_URL"))
	must(err)
	db := sql.OpenDB(connector)
	defer db.Close()
	first, err := db.Query("SHOW STATS")
	must(err)
	must(first.Close())
	db.SetMaxOpenConns(1)
	db.SetMaxIdleConns(1)
	var version string
	must(db.QueryRow("SHOW VERSION;").Scan(&version))
	fmt.Println("version", version)
	lists := rows(db, "SHOW LISTS;", 2)
	for _, name := range []string{"databases", "users", "pools", "free_clients", "used_clients", "login_clients", "free_servers",
		"used_servers", "dns_names", "dns_zones", "dns_queries"} {
		count, err := strconv.ParseFloat(lists[name], 64)
		must(err)
		fmt.Println("lists", name, count)
	}
	config := rows(db, "SHOW CONFIG;", 4)
	for _, name := range []string{"max_client_conn", "max_user_connections"} {
		count, err := strconv.ParseFloat(config[name], 64)
		must(err)
		fmt.Println("config", name, count)
	}
	for _, what := range tables {
		show(db, what)
	}
}
