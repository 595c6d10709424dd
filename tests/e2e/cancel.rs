//! A cancel request reaches the query of its own client, wherever that is, and nobody else's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::harness::fake_server::Greeting;
use crate::harness::raw::cancel;
use crate::harness::{
    FakeServer, Frame, PATIENCE, Pgusher, Postgres, Raw, answer, eventually, notation, say,
};
use crate::on_every_major;

/// Long enough for an answer that should not come, short enough for many tests.
const A_WHILE: Duration = Duration::from_millis(150);

on_every_major! {
    async fn a_running_query_is_cancelled_and_the_session_kept(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut client = pgusher.client().await;
        client.send([say::query("select pg_sleep(600)")]).await;
        postgres.until_asleep(1).await;

        client.cancel().await;

        assert_eq!(notation(&client.read_until_ready().await), "T E(57014) Z(I)");
        assert_eq!(client.value("select 'kept'").await, "kept");
    }

    async fn a_query_inside_a_transaction_is_cancelled(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut client = pgusher.client().await;
        client.rows("begin").await;
        client.send([say::extended("select pg_sleep(600)", &[]), say::sync()]).await;
        postgres.until_asleep(1).await;

        client.cancel().await;

        assert_eq!(notation(&client.read_until_ready().await), "1 2 T E(57014) Z(E)");
        assert_eq!(notation(&client.query("rollback").await), "C(ROLLBACK) Z(I)");
    }

    async fn a_query_is_cancelled_though_the_pool_is_full(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);
        a.send([say::query("select pg_sleep(600)")]).await;
        postgres.until_asleep(1).await;
        b.send([say::query("select 'b'")]).await;

        a.cancel().await;

        assert_eq!(notation(&a.read_until_ready().await), "T E(57014) Z(I)");
        assert_eq!(notation(&b.read_until_ready().await), "T D C(SELECT 1) Z(I)");
    }

    async fn each_of_many_cancels_finds_its_own_query(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(6).start().await;
        let mut clients = Vec::new();
        for _ in 0..6 {
            clients.push(pgusher.client().await);
        }
        for client in &mut clients {
            client.send([say::query("select pg_sleep(600)")]).await;
        }
        postgres.until_asleep(6).await;
        let mut spared = clients.swap_remove(2);

        let cancels = clients.iter().map(Raw::cancel);
        futures_util::future::join_all(cancels).await;

        for client in &mut clients {
            assert_eq!(notation(&client.read_until_ready().await), "T E(57014) Z(I)");
        }
        postgres.until_asleep(1).await;
        spared.expect_silence(A_WHILE).await;
        spared.cancel().await;
        assert_eq!(notation(&spared.read_until_ready().await), "T E(57014) Z(I)");
    }

    async fn a_client_that_waits_for_a_server_is_cancelled_where_it_waits(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut a, mut b, mut c) = (pgusher.client().await, pgusher.client().await, pgusher.client().await);
        a.rows("begin").await;

        b.send([say::query("create table never ()")]).await;
        let simple = cancelled(&mut b).await;
        b.send([say::extended("create table never ()", &[]), say::sync()]).await;
        let extended = cancelled(&mut b).await;
        c.send([say::query("select to_regclass('never') is null")]).await;
        a.rows("commit").await;

        assert_eq!((simple.as_str(), extended.as_str()), ("E(57014) Z(I)", "E(57014) Z(I)"));
        let answer = c.read_until_ready().await;
        assert_eq!(answer[1].row(), [Some("t".to_owned())]);
        assert_eq!(b.value("select 'kept'").await, "kept");
    }

    async fn cancels_that_free_the_server_others_wait_for_are_all_heeded(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(2).start().await;
        let mut clients = Vec::new();
        for _ in 0..8 {
            clients.push(pgusher.client().await);
        }

        for _ in 0..25 {
            for client in &mut clients {
                client.send([say::query("select pg_sleep(600)")]).await;
            }
            postgres.until_asleep(2).await;
            futures_util::future::join_all(clients.iter().map(Raw::cancel)).await;
            for client in &mut clients {
                let answer = client.read_until_ready().await;
                assert!(notation(&answer).ends_with("E(57014) Z(I)"), "{}", notation(&answer));
            }
        }
    }

    async fn a_wrong_key_cancels_nothing(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(2).start().await;
        let (mut client, other) = (pgusher.client().await, pgusher.client().await);
        client.send([say::query("select pg_sleep(600)")]).await;
        postgres.until_asleep(1).await;
        let right = client.key.clone().unwrap().to_vec();
        let other = other.key.clone().unwrap().to_vec();
        let mut flipped = right.clone();
        flipped[7] ^= 1;
        let address = &pgusher.target().address;

        for wrong in [
            flipped,
            [&right[..4], &other[4..]].concat(),
            [&other[..4], &right[4..]].concat(),
            [&right[..], &[0]].concat(),
            [&right[..4], &[0; 32]].concat(),
            other,
        ] {
            cancel(address, &wrong).await;
        }

        client.expect_silence(A_WHILE).await;
        client.cancel().await;
        assert_eq!(notation(&client.read_until_ready().await), "T E(57014) Z(I)");
    }

    async fn a_long_key_of_protocol_3_2_cancels(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut modern = Raw::login(&pgusher.target().protocol(3, 2)).await;
        let old = pgusher.client().await;

        modern.send([say::query("select pg_sleep(600)")]).await;
        postgres.until_asleep(1).await;
        modern.cancel().await;

        assert_eq!(notation(&modern.read_until_ready().await), "T E(57014) Z(I)");
        assert_eq!(modern.key.as_ref().unwrap().len(), 4 + 32);
        assert_eq!(old.key.as_ref().unwrap().len(), 4 + 4);
    }

    async fn a_late_cancel_never_reaches_the_next_client(postgres: Postgres) {
        let gate = CancelGate::before(postgres.address()).await;
        let pgusher = Pgusher::before(&postgres).via(gate.address).pool_size(1).start().await;
        let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);
        let pid = b.server_pid().await;
        a.send([say::query("select pg_sleep(600)")]).await;
        postgres.until_asleep(1).await;

        gate.close();
        let (address, key) = (pgusher.target().address, a.key.clone().unwrap());
        let request = tokio::spawn(async move { cancel(&address, &key).await });
        gate.until_held(1).await;
        // The query ends by itself while the request is under way.
        postgres.sql("select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()").await;
        assert_eq!(notation(&a.read_until_ready().await), "T E(57014) Z(I)");
        b.send([say::query("select pg_backend_pid(), pg_sleep(0.2)")]).await;
        b.expect_silence(A_WHILE).await;
        gate.open();

        let answer = b.read_until_ready().await;
        assert_eq!(notation(&answer), "T D C(SELECT 1) Z(I)");
        assert_eq!(answer[1].row()[0], Some(pid));
        request.await.unwrap();
    }

    async fn a_server_whose_cancel_got_lost_is_not_lent_again(postgres: Postgres) {
        let gate = CancelGate::before(postgres.address()).await;
        let pgusher = Pgusher::before(&postgres).via(gate.address).pool_size(1).start().await;
        let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);
        let pid = b.server_pid().await;
        a.send([say::query("select pg_sleep(600)")]).await;
        postgres.until_asleep(1).await;

        gate.close();
        let (address, key) = (pgusher.target().address, a.key.clone().unwrap());
        let request = tokio::spawn(async move { cancel(&address, &key).await });
        gate.until_held(1).await;
        postgres.sql("select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()").await;
        a.read_until_ready().await;
        // Nobody answers the request for as long as the pooler is willing to wait.
        b.send([say::query("select pg_backend_pid()")]).await;
        let answer = b.read_until_ready().await;
        b.send([say::query("select pg_sleep(0.2)")]).await;
        gate.open();

        assert_ne!(answer[1].row()[0], Some(pid));
        assert_eq!(notation(&b.read_until_ready().await), "T D C(SELECT 1) Z(I)");
        request.await.unwrap();
    }

    async fn cancels_that_come_at_any_time_harm_nobody_else(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);

        for round in 0..100 {
            let (address, key) = (pgusher.target().address, a.key.clone().unwrap());
            a.send([say::query("select pg_sleep(0.002)")]).await;
            b.send([say::query("select count(*) from generate_series(1, 10000)")]).await;
            let request = tokio::spawn(async move { cancel(&address, &key).await });
            let (mine, others) = (a.read_until_ready().await, b.read_until_ready().await);
            request.await.unwrap();

            let mine = notation(&mine);
            let possible =
                ["T D C(SELECT 1) Z(I)", "T D E(57014) Z(I)", "T E(57014) Z(I)", "E(57014) Z(I)"];
            assert!(possible.contains(&&*mine), "{mine}");
            assert_eq!(notation(&others), "T D C(SELECT 1) Z(I)", "round {round}");
        }
    }
}

#[tokio::test]
async fn the_key_of_the_server_is_repeated_whole_whatever_its_length() {
    for length in [4, 8, 32, 252] {
        let secret: Vec<u8> = (0..length).map(|byte| u8::try_from(byte).unwrap() ^ 0xa5).collect();
        let (heard, mut cancelled) = watch::channel(None);
        let given = secret.clone();
        let server = FakeServer::start(move |mut peer| {
            let (given, heard, mut cancelled) = (given.clone(), heard.clone(), heard.subscribe());
            async move {
                match peer.greeting().await {
                    Some(Greeting::Cancel(key)) => {
                        heard.send_replace(Some(key));
                    }
                    Some(Greeting::Startup(..)) => {
                        peer.send([
                            answer::authentication_ok(),
                            answer::parameter_status("server_version", "18.4"),
                            answer::backend_key_data(77, &given),
                            answer::ready(b'I'),
                        ])
                        .await;
                        while peer.read_until(b'Q').await.is_some() {
                            cancelled.wait_for(Option::is_some).await.unwrap();
                            peer.send([answer::error_of("ERROR", "57014", "canceled"), answer::ready(b'I')])
                                .await;
                        }
                    }
                    _ => {}
                }
            }
        })
        .await;
        let pgusher = Pgusher::before_address(server.address()).pool_size(1).start().await;
        let mut client = pgusher.client().await;
        client.send([say::query("sleep")]).await;

        let heard = eventually("the server hears of it", PATIENCE, async || {
            client.cancel().await; // the first may come before the query has a server
            cancelled.borrow_and_update().clone()
        })
        .await;

        assert_eq!(heard, [&77_i32.to_be_bytes()[..], &secret].concat());
        assert_eq!(notation(&client.read_until_ready().await), "E(57014) Z(I)");
    }
}

#[tokio::test]
async fn a_cancel_for_a_server_without_a_key_does_nothing() {
    let (release, released) = watch::channel(false);
    let server = FakeServer::start(move |mut peer| {
        let mut released = released.clone();
        async move {
            let Some(Greeting::Startup(..)) = peer.greeting().await else { return };
            peer.send([answer::authentication_ok(), answer::ready(b'I')]).await;
            while peer.read_until(b'Q').await.is_some() {
                released.wait_for(|released| *released).await.unwrap();
                peer.send([answer::one_value("a", "1")]).await;
            }
        }
    })
    .await;
    let pgusher = Pgusher::before_address(server.address()).pool_size(1).start().await;
    let mut client = pgusher.client().await;
    client.send([say::query("select a")]).await;

    client.cancel().await;
    client.expect_silence(A_WHILE).await;
    release.send_replace(true);

    assert_eq!(notation(&client.read_until_ready().await), "T D C(SELECT 1) Z(I)");
    assert_eq!(client.value("select a").await, "1");
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn the_key_of_a_client_that_has_left_cancels_nothing() {
    let postgres = Postgres::shared(18).await;
    let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
    let gone = pgusher.client().await;
    let key = gone.key.clone().unwrap();
    gone.terminate().await;
    let mut client = pgusher.client().await;
    client.send([say::query("select pg_sleep(600)")]).await;
    postgres.until_asleep(1).await;

    cancel(&pgusher.target().address, &key).await;

    client.expect_silence(A_WHILE).await;
}

/// Asks for it until it is answered: a request that comes before its query is for nothing, as in PostgreSQL.
async fn cancelled(client: &mut Raw) -> String {
    let first: Frame = eventually("the waiting client is answered", PATIENCE, async || {
        client.cancel().await;
        client.try_read_within(Duration::from_millis(100)).await.flatten()
    })
    .await;
    let mut frames = vec![first];
    frames.extend(client.read_until_ready().await);
    notation(&frames)
}

/// A network that lets everything pass but, while closed, cancel requests.
struct CancelGate {
    address: SocketAddr,
    open: watch::Sender<bool>,
    held: watch::Receiver<usize>,
    accepting: JoinHandle<()>,
}

impl CancelGate {
    async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let open = watch::Sender::new(true);
        let (holding, held) = watch::channel(0);
        let (holding, is_open) = (Arc::new(holding), open.subscribe());
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(pass(stream, server, is_open.clone(), Arc::clone(&holding)));
            }
        });
        Self { address, open, held, accepting }
    }

    fn close(&self) {
        self.open.send_replace(false);
    }

    fn open(&self) {
        self.open.send_replace(true);
    }

    async fn until_held(&self, count: usize) {
        let mut held = self.held.clone();
        tokio::time::timeout(PATIENCE, held.wait_for(|held| *held >= count)).await.unwrap().unwrap();
    }
}

impl Drop for CancelGate {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass(
    mut client: TcpStream,
    server: SocketAddr,
    mut is_open: watch::Receiver<bool>,
    holding: Arc<watch::Sender<usize>>,
) {
    let mut first = [0; 8];
    if client.read_exact(&mut first).await.is_err() {
        return;
    }
    if i32::from_be_bytes(first[4..].try_into().unwrap()) == 80_877_102 {
        if !*is_open.borrow() {
            holding.send_modify(|held| *held += 1);
        }
        let _ = is_open.wait_for(|open| *open).await;
    }
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let _ = server.set_nodelay(true);
    let _ = client.set_nodelay(true);
    let _ = server.write_all(&first).await;
    let _ = copy_bidirectional(&mut client, &mut server).await;
}
