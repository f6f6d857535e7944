//! A pool of RSA-4096 device keys: generating one takes seconds, so they are made once and reused
//! by every run.

use std::{fs, path::PathBuf};

use parking_lot::Mutex;

use rsa::{
    PrivateKey,
    pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, LineEnding},
    traits::{PrivateKeyParts as _, PublicKeyParts as _},
};

use crate::binaries::target_folder;

// Two tests that need the same new key at once make it once.
static MAKING: Mutex<()> = Mutex::new(());

/// Key number `index` of the pool as PKCS#8 PEM.
///
/// # Panics
/// When the pool cannot be read or written.
#[must_use]
pub fn pem(index: usize) -> String {
    let folder = target_folder().join("test-keys");
    let path = folder.join(format!("{index:03}.pem"));
    if let Ok(text) = fs::read_to_string(&path) {
        return text;
    }
    let _one_at_a_time = MAKING.lock();
    if let Ok(text) = fs::read_to_string(&path) {
        return text;
    }
    fs::create_dir_all(&folder).expect("the pool's folder can be made");
    let key = PrivateKey::new(&mut rand::rng(), 4096).expect("a key can be generated");
    let text = key
        .to_pkcs8_pem(LineEnding::LF)
        .expect("a key can be written");
    store(&path, &text);
    text.to_string()
}

/// Key number `index` of the pool, ready to sign.
///
/// # Panics
/// When the pool is damaged.
#[must_use]
pub fn key(index: usize) -> PrivateKey {
    PrivateKey::from_pkcs8_pem(&pem(index)).expect("the pool holds keys")
}

/// So many keys in a moment, made of the primes of a few pool keys: no two are the same, and no
/// pool key is among them. Whoever has two of them can factor both, which does no harm here.
///
/// # Panics
/// When the pool is damaged.
#[must_use]
pub fn derived(count: usize) -> Vec<PrivateKey> {
    let mut found = Vec::with_capacity(count);
    let mut pool: Vec<PrivateKey> = Vec::new();
    for index in 0.. {
        let newest = key(index);
        for other in &pool {
            let pairs = other
                .primes()
                .iter()
                .flat_map(|p| newest.primes().iter().map(move |q| (p, q)));
            for (p, q) in pairs {
                let made = PrivateKey::from_p_q(
                    p.as_ref().clone(),
                    q.as_ref().clone(),
                    newest.e().clone(),
                );
                found.extend(made.ok().filter(|made| made.n().bit_width() == 4096));
                if found.len() == count {
                    return found;
                }
            }
        }
        pool.push(newest);
    }
    found
}

/// The same as PKCS#8 PEM, for agents of their own process.
///
/// # Panics
/// When the pool is damaged.
#[must_use]
pub fn derived_pems(count: usize) -> Vec<String> {
    let pem = |key: PrivateKey| key.to_pkcs8_pem(LineEnding::LF).map(|pem| pem.to_string());
    let pems: Result<_, _> = derived(count).into_iter().map(pem).collect();
    pems.expect("a key can be written")
}

fn store(path: &PathBuf, text: &str) {
    // Another test program may write the same file. The last rename wins, and both keys are good.
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&temporary, text).expect("the pool can be written");
    fs::rename(&temporary, path).expect("the pool can be written");
}
