//! sqlx and tokio-postgres: how to say who the user is. The two users are those of docker/postgres/init.sql.

use futures_util::future::try_join_all;
use sqlx::postgres::PgPoolOptions;
use tokio_postgres::{Config, NoTls};

const ADA: &str = "11111111-1111-1111-1111-111111111111";
const BOB: &str = "22222222-2222-2222-2222-222222222222";

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// sqlx: first in the transaction.
pub(crate) async fn with_sqlx(url: &str) -> Result<(), Failure> {
    let pool = PgPoolOptions::new().max_connections(8).connect(url).await?;

    let request = async |user: &'static str| {
        let mut transaction = pool.begin().await?;
        sqlx::query("select set_config('app.current_user_id', $1, true)")
            .bind(user)
            .execute(&mut *transaction)
            .await?;
        let plans: Vec<String> =
            sqlx::query_scalar("select plan from billing.subscriptions").fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        Ok::<_, Failure>((user, plans))
    };

    check(&try_join_all(requests().map(request)).await?)
}

/// tokio-postgres: when connecting, or on its own and outside a transaction.
pub(crate) async fn with_tokio_postgres(url: &str) -> Result<(), Failure> {
    let mut config: Config = url.parse()?;
    config.options(format!("-c app.current_user_id={ADA}"));
    let (client, connection) = config.connect(NoTls).await?;
    let driven = tokio::spawn(connection);

    let mut answers = Vec::new();
    for (number, user) in requests().enumerate() {
        if number > 0 {
            client.execute("select set_config('app.current_user_id', $1, false)", &[&user]).await?;
        }
        let rows = client.query("select plan from billing.subscriptions", &[]).await?;
        answers.push((user, rows.iter().map(|row| row.get(0)).collect()));
    }

    drop(client);
    driven.await??;
    check(&answers)
}

/// Whose request each is.
fn requests() -> impl Iterator<Item = &'static str> {
    [ADA, BOB].into_iter().cycle().take(40)
}

/// Every request must have seen its own user's plans and nothing else.
fn check(answers: &[(&str, Vec<String>)]) -> Result<(), Failure> {
    if answers.len() != requests().count() {
        return Err(format!("{} answers", answers.len()).into());
    }
    for (user, plans) in answers {
        let mut plans = plans.clone();
        plans.sort();
        let own: &[&str] = if *user == ADA { &["enterprise", "team"] } else { &["free"] };
        if plans != own {
            return Err(format!("{user} saw {plans:?}").into());
        }
    }
    Ok(())
}
