//! PEM files, read again when they change.
//!
//! # Promises
//! - A change is seen by modification time, length and inode of what the path leads to, so that a swap of Kubernetes' `..data`
//!   symlink is one.
//! - A stamp is older than what was read: a file that changes while it is read is read again.
//! - What cannot be used is reported once for each change, and what was there before stays.
//!
//! # Refuses
//! To watch: a change is looked for when something is about to be encrypted, and at reload.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::net::tls::Certificate;
use crate::net::tls::failure::FileError;

/// Reads the whole of a file.
pub(super) type ReadFile = dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// A file, and when the certificate in it ends.
pub(super) type Expiry = (PathBuf, SystemTime);

/// Something made of files, made again when they change.
pub(super) struct Watched<T> {
    files: Vec<PathBuf>,
    make: Box<dyn Fn() -> Result<T, FileError> + Send + Sync>,
    known: Mutex<Known<T>>,
}

struct Known<T> {
    stamps: Vec<Option<Stamp>>,
    /// Absent only until the files could be used for the first time.
    made: Option<Arc<T>>,
    /// Why the files as they are now are not what was made of them.
    failure: Option<Arc<FileError>>,
}

/// What tells one version of a file from the next.
#[derive(PartialEq, Eq)]
struct Stamp {
    modified: (i64, i64),
    length: u64,
    inode: u64,
}

impl<T> Watched<T> {
    pub(super) fn new(
        files: Vec<PathBuf>,
        make: impl Fn() -> Result<T, FileError> + Send + Sync + 'static,
    ) -> Self {
        let known = Known { stamps: Vec::new(), made: None, failure: None };
        let watched = Self { files, make: Box::new(make), known: Mutex::new(known) };
        watched.remake(&mut watched.lock(), watched.stamps());
        watched
    }

    /// As the files are now; as they were if they are of no use.
    pub(super) fn current(&self) -> Result<Arc<T>, Arc<FileError>> {
        let stamps = self.stamps();
        let mut known = self.lock();
        if known.stamps != stamps {
            self.remake(&mut known, stamps);
        }
        match (&known.made, &known.failure) {
            (Some(made), _) => Ok(made.clone()),
            (None, Some(failure)) => Err(failure.clone()),
            (None, None) => Err(Arc::new(FileError::NoSystemRoots)),
        }
    }

    /// Reads the files again, changed or not.
    pub(super) fn reload(&self) -> Result<(), Arc<FileError>> {
        let mut known = self.lock();
        self.remake(&mut known, self.stamps());
        known.failure.clone().map_or(Ok(()), Err)
    }

    fn remake(&self, known: &mut Known<T>, stamps: Vec<Option<Stamp>>) {
        known.stamps = stamps;
        match (self.make)() {
            Ok(made) => {
                let is_news = known.made.is_some();
                (known.made, known.failure) = (Some(Arc::new(made)), None);
                if is_news {
                    tracing::info!(files = ?self.files, "certificates read again");
                }
            }
            Err(error) => {
                let old_stays = known.made.is_some();
                tracing::error!(%error, old_stays, "certificates cannot be used");
                known.failure = Some(Arc::new(error));
            }
        }
    }

    fn stamps(&self) -> Vec<Option<Stamp>> {
        self.files.iter().map(|path| stamp(path)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Known<T>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("files", &self.files).finish_non_exhaustive()
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some(Stamp {
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        length: metadata.len(),
        inode: metadata.ino(),
    })
}

/// The certificates of a PEM file, at least one.
pub(super) fn certificates(path: &Path, read: &ReadFile) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let pem = read(path).map_err(|error| FileError::Unreadable(path.to_owned(), error))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|_| FileError::BadCertificate(path.to_owned()))?;
    if found.is_empty() {
        return Err(FileError::NoCertificate(path.to_owned()));
    }
    Ok(found)
}

/// A certificate with its chain, and the key that belongs to it.
pub(super) fn pair(
    certificate: &Path,
    key: &Path,
    provider: &CryptoProvider,
    read: &ReadFile,
) -> Result<CertifiedKey, FileError> {
    let chain = certificates(certificate, read)?;
    let leaf = chain.first().and_then(|leaf| Certificate::read(leaf));
    if leaf.is_none() {
        return Err(FileError::BadCertificate(certificate.to_owned()));
    }
    let pem = read(key).map_err(|error| FileError::Unreadable(key.to_owned(), error))?;
    let pem = zeroize::Zeroizing::new(pem);
    let secret = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| FileError::NoKey(key.to_owned()))?;
    CertifiedKey::from_der(chain, secret, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            FileError::Mismatch { certificate: certificate.to_owned(), key: key.to_owned() }
        }
        rustls::Error::InvalidCertificate(_) => FileError::BadCertificate(certificate.to_owned()),
        _ => FileError::BadKey(key.to_owned()),
    })
}

/// The CAs of a PEM file, as they are and as what is believed.
pub(super) fn roots(
    path: &Path,
    read: &ReadFile,
) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), FileError> {
    let found = certificates(path, read)?;
    let mut store = RootCertStore::empty();
    for certificate in &found {
        store.add(certificate.clone()).map_err(|_| FileError::BadCertificate(path.to_owned()))?;
    }
    Ok((store, found))
}

/// The CAs this machine believes; those that cannot be read are not among them.
pub(super) fn system_roots() -> Result<RootCertStore, FileError> {
    let mut store = RootCertStore::empty();
    let (known, _) = store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if known == 0 { Err(FileError::NoSystemRoots) } else { Ok(store) }
}

/// When the first certificate of a chain ends.
pub(super) fn expiry(path: &Path, chain: &[CertificateDer<'_>]) -> Option<Expiry> {
    let leaf = Certificate::read(chain.first()?)?;
    Some((path.to_owned(), leaf.not_after()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_watched_is_made_again_when_it_changes_and_only_then() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        fs::write(&path, "1").unwrap();
        let from = path.clone();
        let watched = Watched::new(vec![path.clone()], move || {
            let read =
                fs::read_to_string(&from).map_err(|error| FileError::Unreadable(from.clone(), error))?;
            if read == "bad" { Err(FileError::NoKey(from.clone())) } else { Ok(read) }
        });

        let first = watched.current().unwrap();
        assert!(Arc::ptr_eq(&first, &watched.current().unwrap()));

        fs::write(&path, "bad").unwrap();
        assert!(Arc::ptr_eq(&first, &watched.current().unwrap()), "what was there stays");
        assert!(matches!(*watched.reload().unwrap_err(), FileError::NoKey(_)));

        fs::write(&path, "second").unwrap();
        assert_eq!(*watched.current().unwrap(), "second");
        assert!(watched.reload().is_ok());

        fs::remove_file(&path).unwrap();
        assert_eq!(*watched.current().unwrap(), "second");
    }

    #[test]
    fn what_never_was_of_use_says_why() {
        let watched: Watched<()> =
            Watched::new(vec!["/gone".into()], || Err(FileError::NoCertificate("/gone".into())));

        assert_eq!(watched.current().unwrap_err().to_string(), "/gone holds no certificate in PEM");
    }
}
