//! Servers in TLS.

use crate::harness::Pgusher;
use crate::on_every_major;

on_every_major! {
    async fn every_sslmode_reaches_a_server_that_has_tls(postgres: Postgres) {
        let directory = tempfile::tempdir().unwrap();
        let ca = postgres.ca().file(directory.path()).display().to_string();
        for (mode, is_encrypted) in [
            ("disable", false),
            ("allow", false),
            ("prefer", true),
            ("require", true),
            ("verify-ca", true),
            ("verify-full", true),
        ] {
            let pgusher = Pgusher::before(&postgres)
                .sslmode(mode)
                .text("tls.server", "sslrootcert", &ca)
                .pool_size(1)
                .start()
                .await;
            let mut client = pgusher.client().await;

            let encrypted = client.value("select ssl from pg_stat_ssl where pid = pg_backend_pid()").await;

            assert_eq!(encrypted == "t", is_encrypted, "{mode}");
        }
    }
}
