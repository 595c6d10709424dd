// pgx: its pool says who the user is whenever a connection is taken from it.

package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"reflect"
	"sort"

	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

const (
	ada = "11111111-1111-1111-1111-111111111111"
	bob = "22222222-2222-2222-2222-222222222222"
)

var plansOf = map[string][]string{ada: {"enterprise", "team"}, bob: {"free"}}

type userKey struct{}

func userOf(ctx context.Context) string {
	user, _ := ctx.Value(userKey{}).(string)
	return user
}

func main() {
	config, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	config.MaxConns = 8
	config.BeforeAcquire = func(ctx context.Context, conn *pgx.Conn) bool {
		_, err := conn.Exec(ctx, "select set_config('app.current_user_id', $1, false)", userOf(ctx))
		return err == nil
	}
	pool, err := pgxpool.ConnectConfig(context.Background(), config)
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	failures := make(chan error)
	const requests = 80
	for number := 0; number < requests; number++ {
		user := []string{ada, bob}[number%2]
		go func() { failures <- request(context.WithValue(context.Background(), userKey{}, user), pool) }()
	}
	for number := 0; number < requests; number++ {
		if err := <-failures; err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println("ok", requests, "requests of two users each saw their own rows")
}

func request(ctx context.Context, pool *pgxpool.Pool) error {
	rows, err := pool.Query(ctx, "select plan from billing.subscriptions")
	if err != nil {
		return err
	}
	defer rows.Close()
	var plans []string
	for rows.Next() {
		var plan string
		if err := rows.Scan(&plan); err != nil {
			return err
		}
		plans = append(plans, plan)
	}
	sort.Strings(plans)
	if user := userOf(ctx); !reflect.DeepEqual(plans, plansOf[user]) {
		return fmt.Errorf("%s saw %v", user, plans)
	}
	return rows.Err()
}
